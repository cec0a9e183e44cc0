"""What a confirm does, decided before it starts and written down: arms, top-ups, and the runs of each replicate.

`plan.json` is written once and only ever grows: a later start with more seeds adds runs at its end, so that a run keeps its
number and nothing is trained twice. That seeds were added after the verdict had been seen is noted in it.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, replace
from itertools import islice
from pathlib import Path
from typing import Any, Literal

from pydantic import NonNegativeInt, ValidationError

from xraytune.config.domains import Value
from xraytune.config.fields import flat_values, parameters_from, stored_parameters
from xraytune.config.resolved import absolute_path, is_path, relative_value
from xraytune.config.settings import Model, Parameters
from xraytune.config.space import Space
from xraytune.errors import Problem, StudyError
from xraytune.files import read_bytes, write_json
from xraytune.search.sampler import random_parameters
from xraytune.seeding import derive_seed

Role = Literal["finalist", "matched", "tuned", "ratio"]
RESPONSE_RATIOS = (0.25, 0.5, 1.0, 2.0, 4.0)
_DRAWS = 5000


@dataclass(frozen=True, slots=True, kw_only=True)
class Candidate:
    """A trial that ran to its end.

    Attributes:
        name: `#12` of the search, or `top-up 3`.
        parameters: Its settings.
        val_b_auroc: What it is chosen by.
    """

    name: str
    parameters: Parameters
    val_b_auroc: float


@dataclass(frozen=True, slots=True, kw_only=True)
class Stopped:
    """A trial that ASHA stopped.

    Attributes:
        name: `#12` of the search, or `top-up 3`.
        parameters: Its settings.
        epochs: That it had.
        val_auroc: Its best on val-A in them.
    """

    name: str
    parameters: Parameters
    epochs: int
    val_auroc: float


@dataclass(frozen=True, slots=True, kw_only=True)
class Trials:
    """Trials that have ended, of a search or among the top-ups.

    Attributes:
        complete: Those that ran to their end.
        pruned: Those that ASHA stopped.
        failed: The settings of those that failed.
    """

    complete: tuple[Candidate, ...] = ()
    pruned: tuple[Stopped, ...] = ()
    failed: tuple[Parameters, ...] = ()

    @property
    def sampled(self) -> tuple[Parameters, ...]:
        """The settings of all of them."""
        ended: Sequence[Candidate | Stopped] = (*self.complete, *self.pruned)
        return (*(trial.parameters for trial in ended), *self.failed)

    def __add__(self, other: Trials) -> Trials:
        return Trials(
            complete=self.complete + other.complete,
            pruned=self.pruned + other.pruned,
            failed=self.failed + other.failed,
        )


@dataclass(frozen=True, slots=True, kw_only=True)
class Arm:
    """One side of a comparison.

    Attributes:
        name: Such as `gan #12`, `none, matched to #12`, `tuned classical #3`.
        role: What it is for.
        parameters: What is trained.
        resolution_px: Inherited from the finalist by its matched controls; None: its own.
        trial: The trial whose settings these are, or, of a matched control, its finalist's.
    """

    name: str
    role: Role
    parameters: Parameters
    trial: str
    resolution_px: int | None = None


def to_be_finished(trials: Trials, is_wanted: Callable[[Parameters], bool], count: int) -> tuple[Stopped, ...]:
    """Choose pruned trials to train to their end, because ASHA let none of the wanted ones get there.

    The furthest ones, and of these the best on val-A, no two with the same settings; none where a wanted one is complete.

    Args:
        trials: All that ended.
        is_wanted: Whether settings are of the arm that lacks a complete trial.
        count: How many at most.
    """
    if any(is_wanted(trial.parameters) for trial in trials.complete):
        return ()
    different: list[Stopped] = []
    ranked = sorted(trials.pruned, key=lambda trial: (-trial.epochs, -trial.val_auroc))
    for trial in (trial for trial in ranked if is_wanted(trial.parameters)):
        if all(trial.parameters != other.parameters for other in different):
            different.append(trial)
    return tuple(different[:count])


def choose_finalists(trials: Iterable[Candidate], count: int, study: Path) -> tuple[Candidate, ...]:
    """The trials with synthetic images, the best by val-B first, no two with the same settings.

    Raises:
        StudyError: There is none.
    """
    ended = list(trials)
    if not ended:
        fix = "let the search go on until a trial has ended; `xraytune status` shows how far it is"
        raise StudyError(Problem("no trial ran to its end, so there is nothing to confirm", study, fix))
    synthetic = [trial for trial in ended if trial.parameters.has_synthetic_images]
    if not synthetic:
        what = "no trial with GAN images (or a folder of them) ran to its end: there is no finalist to confirm"
        fix = "search on (--set budget.trials=N), or give the space a GAN source"
        raise StudyError(Problem(what, study, fix))
    different: list[Candidate] = []
    for trial in sorted(synthetic, key=lambda trial: -trial.val_b_auroc):  # of equals the earlier, as they come
        if all(trial.parameters != other.parameters for other in different):
            different.append(trial)
    return tuple(different[:count])


def finalist_arm(finalist: Candidate) -> Arm:
    """A finalist's own arm."""
    parameters = finalist.parameters
    return Arm(name=f"{parameters.arm} {finalist.name}", role="finalist", parameters=parameters, trial=finalist.name)


def matched_control(finalist: Candidate, source: str, resolution_px: int | None) -> Arm | None:
    """The finalist with another source of extra images; None where the two do not go together.

    `duplicate` with `mixing: replace` would be `none`, which is compared anyway.

    Args:
        finalist: The finalist.
        source: `none` or `duplicate`.
        resolution_px: The finalist's band, which its controls inherit.
    """
    values = {name: value for name, value in flat_values(finalist.parameters).items() if "." not in name}
    try:
        parameters = parameters_from({**values, "source": source})
    except ValidationError:
        return None
    name = f"{source}, matched to {finalist.name}"
    return Arm(name=name, role="matched", parameters=parameters, trial=finalist.name, resolution_px=resolution_px)


def is_of(parameters: Parameters, control: str) -> bool:
    """Whether settings are of a tuned control's arm: `real_only`, `classical`, or `duplicate` with or without classical."""
    if control == "duplicate":
        return parameters.source == "duplicate"
    return parameters.source == "none" and (parameters.classical > 0) == (control == "classical")


def missing_trials(sampled: Sequence[Parameters], finalists: Iterable[Candidate], control: str) -> int:
    """How many more trials a control's arm needs to have as many sampled ones as a finalist's source.

    `gan` and `classical+gan` are one source; of several sources it is the one with the most trials.

    Args:
        sampled: The settings of every trial of the search, complete, pruned or failed.
        finalists: Whose sources count.
        control: A tuned control's arm.
    """
    sources = {finalist.parameters.source for finalist in finalists}
    wanted = max(sum(parameters.source == source for parameters in sampled) for source in sources)
    return max(0, wanted - sum(is_of(parameters, control) for parameters in sampled))


def draw_control(space: Space, control: str, count: int, known: Iterable[Parameters]) -> tuple[Parameters, ...]:
    """`count` different settings of a control's arm, drawn from the space; fewer where it has no more.

    The draws are those of a random sampler over the whole space, of which the arm's are kept, so that any condition of the
    space holds. They follow from the space's seed: the same study is topped up with the same trials.
    """
    if count == 0:
        return ()
    seen = list(known)
    drawn: list[Parameters] = []
    seed = derive_seed(space.settings.seed, "confirm", "top up", control) % 2**32
    for parameters in islice(random_parameters(space, seed), _DRAWS):
        if is_of(parameters, control) and parameters not in seen:
            seen.append(parameters)
            drawn.append(parameters)
            if len(drawn) == count:
                break
    return tuple(drawn)


def tuned_control(trials: Iterable[Candidate], control: str) -> Arm | None:
    """The best trial of a control's arm by val-B, as an arm; None where there is none."""
    best = max((t for t in trials if is_of(t.parameters, control)), key=lambda t: t.val_b_auroc, default=None)
    if best is None:
        return None
    name = f"tuned {best.parameters.arm} {best.name}"
    return Arm(name=name, role="tuned", parameters=best.parameters, trial=best.name)


def ratio_arms(finalist: Candidate, resolution_px: int | None) -> tuple[Arm, ...]:
    """The finalist at other ratios, and beside it at each ratio, its own too, the same with `source: duplicate`.

    Its matched control without extra images is the ratio 0. With `mixing: replace` there are no duplicates.
    """
    own, arms = finalist.parameters.synthetic_ratio, []
    for ratio in sorted({own, *RESPONSE_RATIOS}):
        try:
            parameters = parameters_from({**flat_values(finalist.parameters), "synthetic_ratio": ratio})
        except ValidationError:  # rounds to no extra image, or leaves no real one
            continue
        at_ratio = replace(finalist, parameters=parameters)
        if ratio != own:
            arms.append(
                replace(finalist_arm(at_ratio), name=f"r={ratio:g}, as {finalist.name}", resolution_px=resolution_px)
            )
        if duplicate := matched_control(at_ratio, "duplicate", resolution_px):
            arms.append(replace(duplicate, name=f"duplicate r={ratio:g}, as {finalist.name}"))
    return tuple(replace(arm, role="ratio") for arm in arms)


CONFIRM_FOLDER = "confirm"
TOP_UP_FOLDER = "top_up"
PLAN_FILE = "plan.json"
FORECAST_FILE = "forecast.json"
VERDICT_FILE = "verdict.json"
EARLIER_TOP_UP = (
    "the tuned controls of this confirm were chosen by the rule of an earlier version: their arms were given as many fully "
    "trained trials as a finalist's source had, not as many sampled ones, which favours a source that was pruned more"
)


@dataclass(frozen=True, slots=True, kw_only=True)
class PlannedRun:
    """One replicate of one arm."""

    arm: str
    gan_seed: int
    classifier_seed: int


@dataclass(frozen=True, slots=True, kw_only=True)
class Plan:
    """What is compared.

    Attributes:
        arms: Finalists, their matched controls, the tuned controls, the points of the ratio response.
        gan_seeds: G.
        classifier_seeds: K, of each GAN seed.
        runs: In the order of their numbers.
        notes: What a person should know of it.
        exploratory: Why the verdict is no longer a confirmation; empty where it is one.
    """

    arms: tuple[Arm, ...]
    gan_seeds: int
    classifier_seeds: int
    runs: tuple[PlannedRun, ...]
    notes: tuple[str, ...] = ()
    exploratory: tuple[str, ...] = ()

    def arm(self, name: str) -> Arm:
        """The arm of a name."""
        return next(arm for arm in self.arms if arm.name == name)

    def numbers(self, arm: str) -> dict[tuple[int, int], int]:
        """The run of each (GAN seed, classifier seed) of an arm."""
        return {(run.gan_seed, run.classifier_seed): number for number, run in enumerate(self.runs) if run.arm == arm}

    def grown(self, arms: Sequence[Arm], gan_seeds: int, classifier_seeds: int) -> Plan:
        """The plan with further arms and seeds; what it has keeps its place."""
        known = {arm.name for arm in self.arms}
        every = (*self.arms, *(arm for arm in arms if arm.name not in known))
        there = set(self.runs)
        further = [run for run in _runs(every, gan_seeds, classifier_seeds) if run not in there]
        return replace(
            self,
            arms=every,
            gan_seeds=max(gan_seeds, self.gan_seeds),
            classifier_seeds=max(classifier_seeds, self.classifier_seeds),
            runs=(*self.runs, *further),
        )


def _runs(arms: Iterable[Arm], gan_seeds: int, classifier_seeds: int) -> list[PlannedRun]:
    """A replicate at a time, so that an early look at the figures compares like with like."""
    every = list(arms)
    return [
        PlannedRun(arm=arm.name, gan_seed=gan_seed, classifier_seed=classifier_seed)
        for gan_seed in range(gan_seeds)
        for classifier_seed in range(classifier_seeds)
        for arm in every
    ]


def new_plan() -> Plan:
    """A plan with nothing in it."""
    return Plan(arms=(), gan_seeds=0, classifier_seeds=0, runs=())


def write_plan(plan: Plan, folder: Path) -> None:
    """Write `plan.json`."""
    arms = [
        {
            "name": arm.name,
            "role": arm.role,
            "trial": arm.trial,
            "resolution_px": arm.resolution_px,
            "parameters": {
                name: relative_value(name, value, folder) for name, value in flat_values(arm.parameters).items()
            },
        }
        for arm in plan.arms
    ]
    content: dict[str, Any] = {
        "version": 2,
        "gan_seeds": plan.gan_seeds,
        "classifier_seeds": plan.classifier_seeds,
        "notes": list(plan.notes),
        "exploratory": list(plan.exploratory),
        "arms": arms,
        "runs": [[run.arm, run.gan_seed, run.classifier_seed] for run in plan.runs],
    }
    write_json(folder / PLAN_FILE, content)


class _StoredArm(Model):
    """An arm as the file has it, its parameters by dotted name."""

    name: str
    role: Role
    trial: str
    resolution_px: int | None
    parameters: dict[str, Value]

    def arm(self, folder: Path) -> Arm:
        values = {
            name: absolute_path(str(value), folder) if is_path(name, value) else value
            for name, value in self.parameters.items()
        }
        return Arm(
            name=self.name,
            role=self.role,
            parameters=stored_parameters(values),
            trial=self.trial,
            resolution_px=self.resolution_px,
        )


class _StoredPlan(Model):
    """What the file holds."""

    version: Literal[1, 2]
    gan_seeds: NonNegativeInt
    classifier_seeds: NonNegativeInt
    notes: tuple[str, ...]
    exploratory: tuple[str, ...]
    arms: tuple[_StoredArm, ...]
    runs: tuple[tuple[str, NonNegativeInt, NonNegativeInt], ...]


def read_plan(folder: Path) -> Plan | None:
    """The plan of an earlier start; None where there is none. One of an earlier version says so in its notes.

    Raises:
        StudyError: The file is damaged.
    """
    file = folder / PLAN_FILE
    if not file.exists():
        return None
    try:
        stored = _StoredPlan.model_validate_json(read_bytes(file, "JSON file"))
        plan = Plan(
            arms=tuple(arm.arm(folder) for arm in stored.arms),
            gan_seeds=stored.gan_seeds,
            classifier_seeds=stored.classifier_seeds,
            runs=tuple(PlannedRun(arm=arm, gan_seed=g, classifier_seed=c) for arm, g, c in stored.runs),
            notes=stored.notes,
            exploratory=stored.exploratory,
        )
        if {run.arm for run in plan.runs} - {arm.name for arm in plan.arms}:
            raise ValueError("a run of no arm")
        if stored.version == 1 and any(arm.role == "tuned" for arm in plan.arms):
            plan = replace(plan, notes=(*plan.notes, EARLIER_TOP_UP))
    except ValueError as error:
        fix = f"put it back from a copy, or move {folder.name}/ away to begin the confirm anew"
        raise StudyError(Problem("the plan of this confirm is damaged", file, fix)) from error
    return plan
