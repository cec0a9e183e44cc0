"""Settings of a search and its confirmation: budget, sampler, resources, controls."""

from collections.abc import Mapping
from typing import Annotated, Literal

from pydantic import (
    AfterValidator,
    Field,
    NonNegativeFloat,
    NonNegativeInt,
    PositiveFloat,
    PositiveInt,
    field_validator,
)

from xraytune.space.contract import refuses
from xraytune.space.extensions import Kind
from xraytune.space.strict_model import OptionalCount, Several, StrictModel


class Budget(StrictModel):
    """The limits of a search; it ends at the first one it reaches."""

    trials: PositiveInt = 60
    max_epochs: PositiveInt = 27
    steps_per_epoch: OptionalCount = None
    """Optimiser steps per epoch; by default one pass at 32 images per step, at least 8."""
    hours: PositiveFloat | None = None
    """Wall time of the search, over all its starts."""


class SchedulerSettings(StrictModel):
    """ASHA: a trial continues past a rung if it is among the best 1/reduction there."""

    name: Literal["asha", "none"] = "asha"
    grace: PositiveInt = 1
    """Epochs before the first rung."""
    reduction: Annotated[int, Field(ge=2)] = 3
    """Each rung is this many times as far as the last one."""
    within: Literal["arm", "all"] = "arm"
    """The trials that a trial is compared with: those of its arm, of which the first two always
    continue, or all trials, as in Ray Tune."""


SAMPLERS = Kind("sampler", ("tpe", "random", "grid", "GPSampler", "NSGAIISampler", "QMCSampler"))
_OTHER_SAMPLERS = {
    "BruteForceSampler": "write grid, which evaluates all points",
    "CmaEsSampler": "it needs a further package; GPSampler also models numbers",
    "GridSampler": "write grid, which evaluates all points",
    "NSGAIIISampler": "it is for several objectives; write NSGAIISampler",
    "PartialFixedSampler": "give the parameter a value in the space",
    "RandomSampler": "write random",
    "TPESampler": "write tpe",
}
"""Why a class of optuna.samplers is no name of a sampler here."""


class SamplerSettings(StrictModel):
    """The Optuna sampler, also of another package (the entry points `xraytune.samplers`)."""

    name: Annotated[str, AfterValidator(SAMPLERS.check)] = "tpe"
    startup_trials: NonNegativeInt = 10
    seed: int = 0
    options: Mapping[str, bool | int | float | str] = {}
    """Further arguments of the sampler's class."""

    @field_validator("name", mode="before")
    @classmethod
    def _explain(cls, name: object) -> object:
        if isinstance(name, str) and name in _OTHER_SAMPLERS:
            raise ValueError(_OTHER_SAMPLERS[name])
        return name


@refuses("sampler.options", "sampler.name", instead={}, is_useless=True)
def _take_options(options: Mapping[str, object], name: str) -> bool:
    """This sampler has no options."""
    return bool(options) and name in ("random", "grid")


@refuses("sampler.seed", "sampler.name", instead=0, is_useless=True)
def _sample_points(seed: int, name: str) -> bool:
    """A grid has nothing to sample."""
    return seed != 0 and name == "grid"


class GeneratorResources(StrictModel):
    """Resources that an extension holds while it trains; null for those of a trial."""

    gpus: OptionalCount = None
    cpus: OptionalCount = None


class Resources(StrictModel):
    """Resources of a trial, and the number of concurrent trials."""

    gpus_per_trial: Literal["auto"] | NonNegativeFloat = "auto"
    cpus_per_trial: PositiveInt = 1
    concurrent: OptionalCount = None
    generator: GeneratorResources = GeneratorResources()


@refuses("resources.gpus_per_trial", instead=1)
def _train_on_one_gpu(gpus: Literal["auto"] | float) -> bool:
    """A trial trains on one GPU; an extension may train on several (`resources.generator`)."""
    return gpus != "auto" and gpus > 1


class QualitySettings(StrictModel):
    """Which synthetic images are refused. No setting changes the images."""

    allow_memorised: bool = False
    """Use synthetic images even if too many of them are near-duplicates of training images."""


class Controls(StrictModel):
    """The control arms that a finalist is compared with."""

    matched: Several[Literal["none", "duplicate"]] = ("none", "duplicate")
    """The finalist's settings with another source."""
    tuned: Several[Literal["real_only", "augmented", "duplicate"]] = (
        "real_only",
        "augmented",
        "duplicate",
    )
    """The best trial of each of these arms, from the search and the top-ups."""


class Confirm(StrictModel):
    """How `confirm` compares the finalists with their controls."""

    controls: Controls = Controls()
    finalists: PositiveInt = 3
    replicates: Annotated[int, Field(ge=2)] = 5
    """Trainings of each arm, with new seeds each."""
    test: Literal["auto", "unused", "folder"] = "auto"
    """`unused`: with `data.train_patients`, each replicate trains on other patients that the search
    never used, and the rest of them are scored. `folder`: all replicates train on the search's
    patients, and `test/` is scored. `auto`: `unused` if at least 300 are left to score, or if there
    are no test images."""
    leave_out: Literal["none", "site"] = "none"
    """`site`: each replicate leaves one site out (`data.split.site`). It trains on unused patients
    of the others and chooses its epoch on those of val-A, and the unused patients of the site are
    scored. The verdict is over sites, of which there are three or more."""
    rope: Annotated[float, Field(gt=0, lt=0.5)] = 0.01
    """Equivalence margin: smaller differences in the score do not matter."""


@refuses("confirm.controls.matched", "confirm.controls.tuned", instead="[none, duplicate]")
def _compare(matched: tuple[str, ...], tuned: tuple[str, ...]) -> bool:
    """A verdict needs a control."""
    return not (matched or tuned)


@refuses("confirm.test", "data.train_patients", instead="auto")
def _leave_patients(test: str, train_patients: int | None) -> bool:
    """All patients are trained on, so that none are left to score."""
    return test == "unused" and train_patients is None


@refuses("confirm.test", "confirm.leave_out", instead="unused")
def _score_left_out(test: str, leave_out: str) -> bool:
    """Where a site is left out, its unused patients are scored, and not the test folder."""
    return leave_out == "site" and test == "folder"


@refuses("data.train_patients", "confirm.leave_out", instead=100)
def _leave_patients_of_sites(train_patients: int | None, leave_out: str) -> bool:
    """Where a site is left out, patients that the search has not used are trained on and scored."""
    return leave_out == "site" and train_patients is None


class WandbSettings(StrictModel):
    """Weights & Biases: one run per trial, grouped by study; offline without an API key."""

    project: str = "xraytune"


class MlflowSettings(StrictModel):
    """MLflow: one run per trial, at a server or in a database; default: `MLFLOW_TRACKING_URI`."""

    uri: str | None = None
    experiment: str = "xraytune"


class Tracking(StrictModel):
    """Experiment trackers; `epochs.jsonl` is always written."""

    wandb: WandbSettings | None = None
    mlflow: MlflowSettings | None = None
    tensorboard: bool = False
