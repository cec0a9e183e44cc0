"""The plan of a confirmation: which arms are compared, which trials tune the controls, and the runs of each replicate.

`plan.json` only ever grows: a later call with more seeds appends runs, so that a run keeps its number and nothing is trained
twice. If seeds are added after a verdict was seen, the plan records it.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from itertools import islice, product
from pathlib import Path
from typing import Literal, NamedTuple

from pydantic import NonNegativeInt, ValidationError

from xraytune.base.errors import Problem, StudyError
from xraytune.base.files import read_bytes, write_json
from xraytune.base.seeding import derive_seed
from xraytune.space.fields import flat_values, parameters_from
from xraytune.space.settings import Experiment, Parameters, Settings, without_gate
from xraytune.space.space import Space
from xraytune.space.strict_model import StrictModel
from xraytune.study.journal import random_parameters
from xraytune.study.row import Outcome, RunRow, Status, TrialRecord, TrialRow, ranked_on_val_b

CONFIRM_FOLDER = "confirm"
REHEARSAL_FOLDER = "rehearsal"
TOP_UP_FOLDER = "top_up"
PLAN_FILE = "plan.json"
FORECAST_FILE = "forecast.json"
VERDICT_FILE = "verdict.json"
VERDICT_FIX = "run the same `xraytune confirm` again: it rewrites the file without training"
_DRAWS = 5000

Role = Literal["finalist", "matched", "tuned", "ratio"]


class FinishedTrial(TrialRecord):
    """A trial of the search (`#12`) or a top-up (`top-up 3`) that has ended."""

    name: str
    number: NonNegativeInt = 0
    status: Status = "complete"

    @classmethod
    def of_row(cls, name: str, parameters: Parameters, row: TrialRow | RunRow) -> FinishedTrial:
        """Return a trial from its row of results."""
        outcome = row.model_dump(include={*Outcome.model_fields})
        return cls(**{**outcome, "name": name, "parameters": parameters})


class Arm(StrictModel):
    """One side of a comparison."""

    name: str
    """Such as `gan #12`, `none, matched to #12`, `tuned classical #3`."""
    role: Role
    trial: str
    """The trial with these settings; for a matched control or another ratio, its finalist's."""
    resolution_px: int | None = None
    """The finalist's resolution, which all images are rescaled through; None: no resolution matching."""
    parameters: Parameters

    @property
    def content(self) -> tuple[Parameters, int | None]:
        """What its replicates, all trained in full, depend on besides their seeds; equal ones are trained only once."""
        parameters = self.parameters.model_copy(update={"early_stop_epochs": None})
        return parameters, self.resolution_px


class PlannedRun(NamedTuple):
    """One replicate of an arm."""

    arm: str
    gan_seed: NonNegativeInt
    classifier_seed: NonNegativeInt


class Plan(StrictModel):
    """The arms and their runs, in the order of their numbers; every arm has the same seed pairs."""

    gan_seeds: NonNegativeInt = 0
    classifier_seeds: NonNegativeInt = 0
    """Number per GAN seed."""
    notes: tuple[str, ...] = ()
    exploratory: tuple[str, ...] = ()
    """Why the verdict is not confirmatory; empty if it is."""
    arms: tuple[Arm, ...] = ()
    """Finalists by val-B, each followed by its matched controls; the ratio response of the first; the tuned controls."""
    runs: tuple[PlannedRun, ...] = ()

    @property
    def finalists(self) -> tuple[Arm, ...]:
        """The arms of the finalists, best on val-B first."""
        return tuple(arm for arm in self.arms if arm.role == "finalist")

    def arm(self, name: str) -> Arm:
        """Return the arm of this name."""
        return next(arm for arm in self.arms if arm.name == name)

    def controls(self, finalist: Arm) -> tuple[Arm, ...]:
        """Return the controls that a finalist is compared with."""
        return tuple(
            arm for arm in self.arms if arm.role == "tuned" or (arm.role == "matched" and arm.trial == finalist.trial)
        )

    def pairs(self) -> Iterator[tuple[Arm, Arm]]:
        """Yield each finalist with each of its controls."""
        return ((finalist, control) for finalist in self.finalists for control in self.controls(finalist))

    def numbers(self, arm: str) -> dict[tuple[int, int], int]:
        """Return the run of each (GAN seed, classifier seed) of an arm."""
        return {(run.gan_seed, run.classifier_seed): number for number, run in enumerate(self.runs) if run.arm == arm}

    def grown(self, arms: Sequence[Arm], gan_seeds: int, classifier_seeds: int) -> Plan:
        """Return the plan with further arms and seeds. Existing runs keep their numbers; no seeds are removed."""
        known = {arm.name for arm in self.arms}
        every = (*self.arms, *(arm for arm in arms if arm.name not in known))
        # One replicate of every arm at a time, so that an early look compares like with like.
        order = product(range(gan_seeds), range(classifier_seeds), every)
        wanted = (PlannedRun(arm.name, gan_seed, classifier_seed) for gan_seed, classifier_seed, arm in order)
        changes = {
            "gan_seeds": max(gan_seeds, self.gan_seeds),
            "classifier_seeds": max(classifier_seeds, self.classifier_seeds),
            "arms": every,
            "runs": tuple(dict.fromkeys((*self.runs, *wanted))),
        }
        return self.model_copy(update=changes)


def replicate(arm: Arm, settings: Settings, gan_seed: int, classifier_seed: int) -> Experiment:
    """Return what trains an arm with fresh seeds, each counted from 0, to its last step.

    A pair of seeds gives the same stream of real images in every arm, with or without a generator.
    """
    seed = derive_seed(settings.seed, "confirm", gan_seed, classifier_seed) % 2**31
    parameters, resolution_px = arm.content
    if parameters.generator is not None:
        own = derive_seed(parameters.generator.seed, "confirm", gan_seed) % 2**31
        parameters = parameters.with_generator(seed=own)
    return Experiment(
        # Without gates: excluding replicates would select among them.
        settings=without_gate(settings.model_copy(update={"seed": seed})),
        parameters=parameters,
        inherited_resolution_px=resolution_px,
    )


def write_plan(plan: Plan, folder: Path) -> None:
    """Write `plan.json`, with paths relative to its folder."""
    write_json(folder / PLAN_FILE, plan.model_dump(mode="json", context=folder))


def read_plan(folder: Path) -> Plan | None:
    """Return the plan of an earlier call, if there is one; raise StudyError if it is damaged."""
    file = folder / PLAN_FILE
    if not file.exists():
        return None
    try:
        plan = Plan.model_validate_json(read_bytes(file, "JSON file"), context=folder)
        if {run.arm for run in plan.runs} - {arm.name for arm in plan.arms}:
            raise ValueError("a run of an unknown arm")
    except ValueError as error:
        fix = f"restore it from a backup, or move {folder.name}/ away to start the confirmation from scratch"
        raise StudyError(Problem("the plan of this confirmation is damaged", file, fix)) from error
    return plan


def pruned_to_finish(
    trials: Iterable[FinishedTrial], is_wanted: Callable[[Parameters], bool], count: int
) -> tuple[FinishedTrial, ...]:
    """Choose pruned trials to train to the end, if no trial with wanted settings is complete.

    The first `count` different ones in the order of epochs trained, then AUROC on val-A.
    """
    wanted = [trial for trial in trials if is_wanted(trial.parameters)]
    if any(trial.status == "complete" for trial in wanted):
        return ()
    pruned = [trial for trial in wanted if trial.status == "pruned"]
    return _different(sorted(pruned, key=lambda trial: (-trial.epochs, -(trial.value or 0))))[:count]


def finished_label(name: str) -> str:
    """Return the label of the run that trains a pruned trial, such as `#12`, to the end."""
    return f"{name} to its end"


def choose_finalists(trials: Iterable[FinishedTrial], count: int, study: Path) -> tuple[FinishedTrial, ...]:
    """Return complete trials with synthetic images and different settings, best on val-B first; raise StudyError if none.

    Among equals, the simpler trial comes first (`Parameters.simplicity`).
    """
    complete = [trial for trial in trials if trial.status == "complete"]
    if not complete:
        fix = "continue the search until a trial is complete; `xraytune status` shows its progress"
        raise StudyError(Problem("no trial is complete, so there is nothing to confirm", study, fix))
    synthetic = [trial for trial in complete if trial.parameters.has_synthetic_images]
    if not synthetic:
        what = "no complete trial has synthetic images, so there is no finalist to confirm"
        fix = "continue the search (--set budget.trials=N), or add source: gan to the space"
        raise StudyError(Problem(what, study, fix))
    return _different(ranked_on_val_b(synthetic))[:count]


def _different(trials: Iterable[FinishedTrial]) -> tuple[FinishedTrial, ...]:
    """Drop trials with the settings of an earlier one."""
    first: dict[Parameters, FinishedTrial] = {}
    for trial in trials:
        first.setdefault(trial.parameters, trial)
    return tuple(first.values())


def compared_arms(finalists: Sequence[FinishedTrial], settings: Settings) -> list[Arm]:
    """Return the finalists with their matched controls, the first one's followed by its ratio response."""
    confirm, arms = settings.confirm, list[Arm]()
    # The ratio response is measured against the matched control without extra images.
    ratios = confirm.ratios if "none" in confirm.controls.matched else ()
    for place, finalist in enumerate(finalists):
        resolution_px = Experiment(settings=settings, parameters=finalist.parameters).resolution_px
        own = finalist_arm(finalist, resolution_px)
        arms += [own, *filter(None, (matched_control(own, source) for source in confirm.controls.matched))]
        if place == 0:
            planned = [arm.content for arm in arms]
            arms += [arm for arm in ratio_arms(own, ratios) if arm.content not in planned]
    return arms


def finalist_arm(finalist: FinishedTrial, resolution_px: int | None) -> Arm:
    """Return a finalist's own arm."""
    parameters, name = finalist.parameters, f"{finalist.parameters.arm} {finalist.name}"
    return Arm(name=name, role="finalist", parameters=parameters, trial=finalist.name, resolution_px=resolution_px)


def matched_control(finalist: Arm, source: str) -> Arm | None:
    """Return the finalist with `source` `none` or `duplicate`, or None if the settings exclude it.

    `duplicate` with `mixing: replace` would be the same as `none`, which is compared anyway.
    """
    values = {name: value for name, value in flat_values(finalist.parameters).items() if "." not in name}
    try:
        parameters = parameters_from({**values, "source": source})
    except ValidationError:
        return None
    name = f"{source}, matched to {finalist.trial}"
    return finalist.model_copy(update={"name": name, "role": "matched", "parameters": parameters})


def belongs_to_control(parameters: Parameters, control: str) -> bool:
    """Return whether settings belong to a tuned control's arm: `real_only`, `classical` or (classical) `duplicate`."""
    if control == "duplicate":
        return parameters.source == "duplicate"
    return parameters.source == "none" and (parameters.classical > 0) == (control == "classical")


def missing_trials(sampled: Sequence[Parameters], finalists: Iterable[FinishedTrial], control: str) -> int:
    """Return how many trials a tuned control's arm lacks to have as many sampled ones as a finalist's source.

    `gan` and `classical+gan` are one source; with several sources, the one with the most trials counts. `sampled` has the
    settings of all trials of the search: complete, pruned and failed.
    """
    sources = {finalist.parameters.source for finalist in finalists}
    wanted = max(sum(parameters.source == source for parameters in sampled) for source in sources)
    return max(0, wanted - sum(belongs_to_control(parameters, control) for parameters in sampled))


def draw_control(space: Space, control: str, count: int, known: Iterable[Parameters]) -> tuple[Parameters, ...]:
    """Sample up to `count` new, different settings of a control's arm; fewer if the space has no more.

    A random sampler draws from the whole space and the arm's settings are kept, so that every condition of the space holds.
    The seed is derived from the space's: the same study always gets the same top-ups.
    """
    seen, sampled = set(known), list[Parameters]()
    seed = derive_seed(space.settings.seed, "confirm", "top up", control) % 2**32
    for parameters in islice(random_parameters(space, seed), _DRAWS if count else 0):
        if belongs_to_control(parameters, control) and parameters not in seen:
            seen.add(parameters)
            sampled.append(parameters)
            if len(sampled) == count:
                break
    return tuple(sampled)


def tuned_control(trials: Iterable[FinishedTrial], control: str) -> Arm | None:
    """Return the best complete trial of a control's arm by val-B, if there is one; of equals the simpler one."""
    own = (trial for trial in trials if belongs_to_control(trial.parameters, control))
    best = next(iter(ranked_on_val_b(own)), None)
    if best is None:
        return None
    name = f"tuned {best.parameters.arm} {best.name}"
    return Arm(name=name, role="tuned", parameters=best.parameters, trial=best.name)


def ratio_arms(finalist: Arm, ratios: Sequence[float]) -> tuple[Arm, ...]:
    """Return the finalist at other ratios, and at each ratio, including its own, the same with `source: duplicate`.

    The matched control without extra images serves as ratio 0. With `mixing: replace` there are no duplicates.
    """
    own, arms = finalist.parameters.synthetic_ratio, list[Arm]()
    for ratio in sorted({own, *ratios} if ratios else ()):
        try:
            parameters = parameters_from({**flat_values(finalist.parameters), "synthetic_ratio": ratio})
        except ValidationError:  # rounds to no extra image, or leaves no real one
            continue
        name = f"r={ratio:g}, as {finalist.trial}"
        arm = finalist.model_copy(update={"name": name, "role": "ratio", "parameters": parameters})
        if ratio != own:
            arms.append(arm)
        if duplicate := matched_control(arm, "duplicate"):
            arms.append(duplicate.model_copy(update={"name": f"duplicate {name}", "role": "ratio"}))
    return tuple(arms)
