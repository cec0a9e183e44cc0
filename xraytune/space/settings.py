"""All settings of a study, and those of one trial, as strict and frozen pydantic models.

`Settings` is everything in a space file except the parameters; its blocks are declared in
`data_settings.py`, `task_settings.py` and `search_settings.py`. `Parameters`, in `parameters.py`,
are the parameters of one trial. Both together are an `Experiment`. Each setting has its type,
bounds and default, and beside it what it refuses.
"""

from __future__ import annotations

from typing import Annotated, Any, Literal, Self, get_args

from pydantic import Field, NonNegativeInt, PositiveFloat, ValidationInfo, field_validator

from xraytune.base.records import Json
from xraytune.space.contract import DECLARED, Rule
from xraytune.space.data_settings import DataSettings
from xraytune.space.parameters import (
    Alpha,
    Augmentation,
    Degrees,
    Imbalance,
    OptimizerName,
    Parameters,
    ScheduleName,
    Trainable,
    ViewCount,
)
from xraytune.space.paths import FilePath, is_path
from xraytune.space.search_settings import (
    Budget,
    Confirm,
    QualitySettings,
    Resources,
    SamplerSettings,
    SchedulerSettings,
    Tracking,
)
from xraytune.space.source_settings import GanSettings
from xraytune.space.strict_model import ImageSize, OptionalCount, StrictModel, list_fields
from xraytune.space.task_settings import (
    CLASS_TASKS,
    OBJECTIVE_NAMES,
    TASK_RULES,
    Objective,
    TaskName,
)

DonorControl = Literal["donor", "donor_start", "synthetic_only"]
"""Controls of images from elsewhere. `donor`: the classifier that their hospital sent.
`donor_start`: the study's own training, started at it.
`synthetic_only`: a training on these images alone."""


class ExportedFrom(StrictModel):
    """The trial that this file was exported from, so that a final training finds its study."""

    study: FilePath
    trial: NonNegativeInt
    images: OptionalCount = None
    """Training images of the trial, by which `budget.steps_per_epoch` is scaled; null if the file
    repeats the trial bit for bit, instead of training a final model."""


class FinalSettings(StrictModel):
    """Settings that `train` compares with the trial's, which each of them replaces."""

    image_size: ImageSize | None = None
    """`data.image_size`. A generator is trained at this size if it supports it; otherwise, its
    images are enlarged."""
    max_epochs: OptionalCount = None
    """`budget.max_epochs`. If it is given, an epoch is one pass over the real images, and
    `budget.steps_per_epoch` is ignored."""
    trainable: Trainable | None = None
    augmentation: Augmentation | None = None
    degrees: Degrees | None = None
    views: ViewCount | None = None
    mixup: Alpha | None = None
    imbalance: Imbalance | None = None
    lr: PositiveFloat | None = None
    optimizer: OptimizerName | None = None
    schedule: ScheduleName | None = None

    def __str__(self) -> str:
        settings = self.model_dump(exclude_none=True)
        return ", ".join(f"{name}: {value}" for name, value in settings.items())

    def values(self) -> dict[str, Any]:
        """Return the parameters that it gives, by dotted name."""
        values = self.model_dump(exclude={"image_size", "max_epochs"}, exclude_none=True)
        if self.image_size:
            values["input_size"] = self.image_size
        if self.image_size in get_args(GanSettings.model_fields["image_size"].annotation):
            values["gan.image_size"] = self.image_size
        return values

    def settings_of(self, settings: Settings) -> Settings:
        """Return the settings of a training with them."""
        changes: dict[str, Any] = {"final": None}
        if self.image_size:
            changes["data.image_size"] = self.image_size
        if self.max_epochs:
            changes |= {"budget.max_epochs": self.max_epochs, "budget.steps_per_epoch": None}
        return settings.with_values(changes)


class Settings(StrictModel):
    """Everything in a space file except the parameters."""

    name: Annotated[str, Field(pattern=r"^[A-Za-z0-9][A-Za-z0-9._-]{0,63}$")]
    seed: int = 0
    task: TaskName = "classification"
    """`findings` trains a classifier of several findings in one image (docs/findings.md),
    `segmentation` a U-Net on images with masks (docs/segmentation.md)."""
    weights_dir: FilePath | None = None
    data: DataSettings
    objective: Objective = Field(
        default_factory=lambda values: Objective(
            metric=TASK_RULES[values.get("task", "classification")].objectives[0]
        )
    )
    budget: Budget = Budget()
    scheduler: SchedulerSettings = SchedulerSettings()
    sampler: SamplerSettings = SamplerSettings()
    resources: Resources = Resources()
    quality: QualitySettings = QualitySettings()
    confirm: Confirm = Confirm()
    tracking: Tracking = Tracking()
    exported_from: ExportedFrom | None = None
    final: FinalSettings | None = None

    def identity(self) -> dict[str, Json]:
        """Return what must not change when a study resumes, as plain JSON.

        The number of trials, time limits, resources, tracking and locations of files may change.
        """
        notes = {"resources", "tracking", "weights_dir", "exported_from", "final"}
        content = self.model_dump(mode="json", exclude=notes)
        del content["data"]["path"]
        for name in ("trials", "hours"):
            del content["budget"][name]
        return content

    def for_all_patients(self) -> Self:
        """Return the settings of a final training, which leaves no patient unused."""
        changes = {"data.train_patients": None, "confirm.test": "auto", "confirm.leave_out": "none"}
        return self.with_values(changes)

    def of_size(self, size_px: int) -> Self:
        """Return the settings with images of another size."""
        return self.with_values({"data.image_size": size_px})

    @property
    def metric(self) -> str:
        """The display name of the study's objective, such as AUROC."""
        name = OBJECTIVE_NAMES[self.objective.metric]
        return f"macro {name}" if self.task == "findings" else name

    @property
    def idle_asha(self) -> str:
        """Why ASHA cannot stop any trial; "" if it can, or is not used."""
        grace = self.scheduler.grace
        last = self.budget.max_epochs
        if self.scheduler.name != "asha" or grace < last:
            return ""
        return f"ASHA stops no trial: scheduler.grace is {grace}, and budget.max_epochs is {last}"


def _applies_only(name: str, other: str, *values: str) -> Rule:
    """Return the rule that a setting has an effect only where another one has these values."""
    default = list_fields(Settings)[name].default
    reason = f"`{name}` has an effect only with `{other}: {' or '.join(values)}`."

    def check(value: object, other_value: str) -> bool:
        return value != default and other_value not in values

    return Rule(names=(name, other), why=reason, check=check, instead=default, is_useless=True)


def _normalises_a_file(name: str) -> Rule:
    """Return the rule that a constant of pixels has an effect only on weights given as a file."""

    def check(value: float | None, weights: str) -> bool:
        return value is not None and not is_path("weights", weights)

    reason = "Only weights given as a file need the pixels that they expect."
    return Rule(names=(name, "weights"), why=reason, check=check, is_useless=True)


RULES: tuple[Rule, ...] = (
    *DECLARED,
    *map(_normalises_a_file, ("pixel_mean", "pixel_std")),
    _applies_only("data.classes", "task", *CLASS_TASKS),
    _applies_only("data.positive", "task", *CLASS_TASKS),
    _applies_only("data.uncertain", "task", "findings"),
    _applies_only("data.empty", "task", "findings"),
    _applies_only("confirm.replicates", "confirm.leave_out", "none"),
    _applies_only("scheduler.grace", "scheduler.name", "asha"),
    _applies_only("scheduler.reduction", "scheduler.name", "asha"),
    _applies_only("scheduler.within", "scheduler.name", "asha"),
    _applies_only("sampler.startup_trials", "sampler.name", "tpe", "GPSampler"),
)
"""All that a study may refuse."""


class Experiment(StrictModel):
    """The complete settings of one trial or one final training."""

    parameters: Parameters
    settings: Settings
    """The settings of the study, with the size of the trial's images as `data.image_size`."""
    draw: NonNegativeInt | None = None
    """The draw of unused patients that a replicate of a confirmation is trained on; None for the
    search's patients."""
    has_real_extra: bool = False
    """Whether its extra images are real ones of other patients, in the place of perfect synthetic
    images."""
    real_pool_size: OptionalCount = None
    """How many real images of other patients there are; None for as many as the ratio adds."""
    control: DonorControl | None = None
    """What it is if its finalist's extra images are from elsewhere."""
    donor: FilePath | None = None
    """The folder of the classifier that `donor` and `donor_start` start at."""

    @field_validator("settings")
    @classmethod
    def _size_images(cls, settings: Settings, info: ValidationInfo) -> Settings:
        """Make a trial equal to one of a study with images of its size alone."""
        parameters: Parameters | None = info.data.get("parameters")  # None if they are invalid
        return settings.of_size(parameters.size_px(settings.data)) if parameters else settings

    def identity(self) -> dict[str, Json]:
        """Return what determines its results, as plain JSON; see `Settings.identity`."""
        content = self.model_dump(mode="json", exclude={"settings"})
        return {"settings": self.settings.identity(), **content}
