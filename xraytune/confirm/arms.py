"""Who is compared with whom: finalists from the search, and the controls that each of them has to beat.

A *finalist* is a trial with synthetic images that ran to its end, the best by val-B first. A *matched* control keeps all of
a finalist's settings and takes its synthetic images away, or draws real ones again in their place. A *tuned* control is the
best trial of an arm without synthetic images; so that it was tuned as much as the finalists, the arm is first given as many
sampled trials as ended with a finalist's source. Pure decisions on trials that have ended; nothing is run here.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from itertools import islice
from pathlib import Path
from typing import Literal

from pydantic import ValidationError

from xraytune.config.fields import flat_values, parameters_from
from xraytune.config.settings import Parameters
from xraytune.config.space import Space
from xraytune.errors import Problem, StudyError
from xraytune.search.draws import random_draws
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
        name: `#12` of the search.
        parameters: Its settings.
        epochs: That it had.
        val_auroc: Its best on val-A in them.
    """

    name: str
    parameters: Parameters
    epochs: int
    val_auroc: float


@dataclass(frozen=True, slots=True, kw_only=True)
class Arm:
    """One side of a comparison.

    Attributes:
        name: Such as `gan #12`, `none, matched to #12`, `tuned classical #3`.
        role: What it is for.
        parameters: What is trained.
        bandwidth_px: Inherited from the finalist by its matched controls; None: its own.
        trial: The trial whose settings these are, or, of a matched control, its finalist's.
    """

    name: str
    role: Role
    parameters: Parameters
    trial: str
    bandwidth_px: int | None = None


def to_be_finished(trials: Iterable[Candidate], stopped: Iterable[Stopped], count: int) -> tuple[Stopped, ...]:
    """The trials to train to their end first, because ASHA let none with synthetic images get there.

    The furthest ones, and of these the best on val-A, no two with the same settings; none where a finalist is there.
    """
    if any(trial.parameters.has_synthetic_images for trial in trials):
        return ()
    different: list[Stopped] = []
    ranked = sorted(stopped, key=lambda trial: (-trial.epochs, -trial.val_auroc))
    for trial in (trial for trial in ranked if trial.parameters.has_synthetic_images):
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


def matched_control(finalist: Candidate, source: str, bandwidth_px: int | None) -> Arm | None:
    """The finalist with another source of extra images; None where the two do not go together.

    `duplicate` with `matching: total` would be `none`, which is compared anyway.

    Args:
        finalist: The finalist.
        source: `none` or `duplicate`.
        bandwidth_px: The finalist's band, which its controls inherit.
    """
    values = {name: value for name, value in flat_values(finalist.parameters).items() if "." not in name}
    try:
        parameters = parameters_from({**values, "source": source})
    except ValidationError:
        return None
    name = f"{source}, matched to {finalist.name}"
    return Arm(name=name, role="matched", parameters=parameters, trial=finalist.name, bandwidth_px=bandwidth_px)


def is_of(parameters: Parameters, control: str) -> bool:
    """Whether settings are of a tuned control's arm: `real_only`, `classical`, or `duplicate` with or without classical."""
    if control == "duplicate":
        return parameters.source == "duplicate"
    return parameters.source == "none" and (parameters.classical > 0) == (control == "classical")


def missing_trials(trials: Sequence[Candidate], finalists: Iterable[Candidate], control: str) -> int:
    """How many more trials a control's arm needs to have as many that ran to their end as have a finalist's source.

    `gan` and `classical+gan` are one source; of several sources it is the one with the most trials.
    """
    sources = {finalist.parameters.source for finalist in finalists}
    wanted = max(sum(trial.parameters.source == source for trial in trials) for source in sources)
    return max(0, wanted - sum(is_of(trial.parameters, control) for trial in trials))


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
    for parameters in islice(random_draws(space, seed), _DRAWS):
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


def ratio_arms(finalist: Candidate, bandwidth_px: int | None) -> tuple[Arm, ...]:
    """A finalist at other ratios; its matched control without extra images is the ratio 0."""
    arms = []
    for ratio in RESPONSE_RATIOS:
        if ratio == finalist.parameters.synthetic_ratio:
            continue
        try:
            parameters = parameters_from({**flat_values(finalist.parameters), "synthetic_ratio": ratio})
        except ValidationError:  # rounds to no extra image, or leaves no real one
            continue
        name = f"r={ratio:g}, as {finalist.name}"
        arms.append(Arm(name=name, role="ratio", parameters=parameters, trial=finalist.name, bandwidth_px=bandwidth_px))
    return tuple(arms)
