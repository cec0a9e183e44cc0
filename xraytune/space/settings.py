"""Every setting with its type, bounds and default, as strict and frozen pydantic models.

`Settings` is everything in a space file except the parameters. `Parameters` are the parameters of
one trial. Both together are an `Experiment`.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, Any, Literal, Self, get_args

from pydantic import (
    AfterValidator,
    BeforeValidator,
    Field,
    NonNegativeFloat,
    NonNegativeInt,
    PositiveFloat,
    PositiveInt,
    model_validator,
)

from xraytune.base.records import Json
from xraytune.space.backbones import BACKBONES, BackboneName
from xraytune.space.extensions import Extensions
from xraytune.space.paths import FilePath, WeightsName
from xraytune.space.strict_model import Several, StrictModel

OptionalCount = PositiveInt | None
Fraction = Annotated[float, Field(gt=0, lt=1)]
ImageSize = Annotated[int, Field(ge=32, le=1024)]
Strength = Annotated[int, Field(ge=0, le=3)]
Trainable = Literal["head", "last_stage", "all"]
OptimizerName = Literal["adam", "adamw", "sgd"]
ScheduleName = Literal["constant", "cosine", "plateau"]
FOLDER_NAME = r"^[^/\\\x00-\x1f\x7f.][^/\\\x00-\x1f\x7f]{0,63}$"
"""Allowed names of classes: images are written into folders of that name."""
ClassName = Annotated[str, Field(pattern=FOLDER_NAME)]

SOURCES = Extensions("source", ("none", "duplicate", "statistics", "folder", "generator", "gan"))
"""The sources of extra images, the cheapest first; those of other packages cost more."""
UncertainUse = Literal["ignore", "zeros", "ones"]
HeadName = Literal["linear", "vgg16_two_class"]
LossName = Literal["cross_entropy", "bce"]
Balance = Literal["natural", "equal"]
DonorControl = Literal["donor", "donor_start", "synthetic_only"]
"""Controls of images from elsewhere. `donor`: the head that their hospital sent. `donor_start`: the
study's own training, started at that head. `synthetic_only`: a training on these images alone."""
TaskName = Literal["classification", "findings", "segmentation"]
ObjectiveName = Literal["val_auroc", "val_auprc", "val_sensitivity", "val_dice"]
OBJECTIVES: Mapping[TaskName, tuple[ObjectiveName, ...]] = {
    "classification": ("val_auroc", "val_auprc", "val_sensitivity"),
    "findings": ("val_auroc", "val_auprc"),
    "segmentation": ("val_dice",),
}
"""The objectives of each task; the first is the default."""
_OBJECTIVE_NAMES: Mapping[ObjectiveName, str] = {
    "val_auroc": "AUROC",
    "val_auprc": "AUPRC",
    "val_sensitivity": "sensitivity",
    "val_dice": "Dice",
}
"""The display name of each objective."""
PACKAGES: Mapping[str, tuple[str, ...]] = {
    "segmentation": ("segmentation-models-pytorch",),
    "timm": ("timm",),
}
"""The packages that a task or backbone needs beyond the base installation.

The extra has its name.
"""


class SplitSettings(StrictModel):
    """The split of the training images into train, val-A and val-B, by patient."""

    val_a: Fraction = 0.1
    val_b: Fraction = 0.1
    seed: int = 0
    group_regex: str | None = None
    """A regular expression for the path relative to the data folder.

    Its first group is the patient.
    """


_LISTED = BeforeValidator(
    lambda texts: (texts,) if isinstance(texts, str) else texts,
    json_schema_input_type=str | tuple[str, ...],
)
OneOrMore = Annotated[Several[str], _LISTED, Field(min_length=1)]
"""A list of texts, or a single one."""


class TableSides(StrictModel):
    """The training and test images of a table by lists; at least one of them."""

    train: str | None = None
    """A file with one image per line, or a folder.

    If it is given, images in no list are left out.
    """
    test: str | None = None
    """Like `train`; if only `test` is given, all other images are training images."""


class TableSettings(StrictModel):
    """A table of images: its columns for the image, the patient, the label and the side."""

    file: OneOrMore
    """A CSV file relative to `data.path`, or several that are read as one."""
    image: str
    """The column of the image: its path, the end of that, or its name, with or without suffix."""
    patient: str | None = None
    """The column of the patient; without it, the patient is found as in a folder."""
    label: str | None = None
    """The column of the label, or of several labels in each cell, with `|` between them."""
    labels: dict[str, ClassName] = Field(default={})
    """The class of each label; the first entry that applies to a row of the image decides. Without
    `label`, the labels are columns: 1 is yes."""
    rows: dict[str, OneOrMore] = Field(default={})
    """The rows to use, by the cells of a column: `{view: [PA, AP]}`; other images are left out."""
    side: str | TableSides | None = None
    """Which images are train, val and test: a column with these words, or lists; without it, the
    folders of these names decide."""

    @property
    def side_column(self) -> str | None:
        """The column of the side."""
        return self.side if isinstance(self.side, str) else None

    @property
    def gives_classes(self) -> bool:
        """Whether the table gives the classes, rather than the folders."""
        return self.label is not None or bool(self.labels)


class ShiftSettings(StrictModel):
    """How another hospital's images differ from the files.

    Applied to all images of `data.path`, in this order.
    """

    blur_px: NonNegativeFloat = 0.0
    """Standard deviation of a Gaussian blur, at `image_size`."""
    gamma: PositiveFloat = 1.0
    """Exponent of the grey values, from 0 to 1."""
    contrast: float = 1.0
    """Factor of the differences from mid-grey; -1 inverts."""
    noise: NonNegativeFloat = 0.0
    """Standard deviation of Gaussian noise, where white is 1."""


class DataSettings(StrictModel):
    """The images, their classes and their size."""

    path: FilePath
    classes: Literal["binary", "three", "auto"] = "binary"
    positive: str | None = None
    """The positive class of two, for sensitivity.

    Not needed beside one called NORMAL, healthy or the like.
    """
    image_size: ImageSize = 128
    resize: Literal["squash", "crop"] = "squash"
    """`squash` ignores the aspect ratio.

    `crop` scales the shorter side to the size and crops the centre.
    """
    shift: ShiftSettings | None = None
    """Simulates another scanner, to ask what another hospital should send.

    A given generator, folder or classifier is not shifted.
    """
    table: TableSettings | None = None
    """A table of labels and patients; without it, folders and `patients.csv` give them."""
    findings: Several[str] | Literal["auto"] | None = None
    """For `task: findings`, the columns of the table or, with `table.label`, the labels of a cell;
    `auto`: all of them. `No Finding` without such a column is the absence of all others. With
    classes, findings of a data file are not used."""
    uncertain: UncertainUse | dict[str, UncertainUse] = "ignore"
    """Uncertain findings (-1) are unknown (`ignore`), absent (`zeros`) or present (`ones`).

    All of them, or by name.
    """
    empty: Literal["ignore", "zeros"] = "ignore"
    """Findings with an empty cell are unknown (`ignore`) or absent (`zeros`)."""
    split: SplitSettings = SplitSettings()
    train_patients: OptionalCount = None
    """Number of patients of the train side to use; null: all of them."""


class Objective(StrictModel):
    """The validation metric that the search maximises."""

    metric: ObjectiveName = "val_auroc"
    """Classification: `val_auroc` (default), `val_auprc` or `val_sensitivity`, the highest
    sensitivity at any threshold with a specificity of at least .9. Findings: `val_auroc` (default)
    or `val_auprc`, means over the findings. Segmentation: `val_dice`, the mean over images."""


class GanSettings(StrictModel):
    """A GAN. The defaults suit a few hundred images."""

    architecture: Literal["dcgan", "pca"] = "pca"
    """`dcgan`: as published, with noise as latent codes, batch norm and binary cross-entropy.
    `pca`: latent codes are principal components of training images, which it also learns to
    reconstruct; spectral norm, a hinge loss, shifts of all images that the discriminator sees, and
    an average of the generator's weights. See docs/generators.md."""
    image_size: Literal[32, 64, 128, 256] = 64
    steps: NonNegativeInt = 10_000
    batch_size: Annotated[int, Field(ge=2, le=4096)] = 16
    features: FilePath | None = None
    """ImageNet weights of a MobileNetV2, whose features generated images then keep, too: for a
    generator that is to help a classifier of other patients. Half of the components are then those
    of the features, so `z_dim` should be 128."""
    z_dim: Annotated[int, Field(ge=1, le=512)] = 64
    """Size of the latent code; with `architecture: pca`, the number of principal components."""
    width: Annotated[int, Field(ge=4, le=512)] = 64
    """Feature maps of the generator's last and of the discriminator's first layer."""
    lr_g: PositiveFloat = 6e-4
    lr_d: PositiveFloat = 1e-3
    """Suits `pca`; with `dcgan`, use 2e-4 for both networks."""
    start_from: FilePath | None = None
    """A folder from `xraytune generator train` whose weights training starts from.

    Then, `steps` may be 0.
    """
    seed: int = 0

    @property
    def betas(self) -> tuple[float, float]:
        """Adam's momentum and the decay of its squared gradients."""
        return (0.5, 0.999) if self.architecture == "dcgan" else (0.0, 0.99)

    @property
    def shifts_images(self) -> bool:
        """Whether all images that the discriminator sees are shifted: DiffAugment's translation."""
        return self.architecture == "pca"

    @property
    def ema_half_life_images(self) -> int | None:
        """Half-life of the average of the generator's weights, in training images.

        None: no average.
        """
        return None if self.architecture == "dcgan" else 10_000


class FolderSettings(StrictModel):
    """Extra images from a folder with one subfolder per class.

    With findings, from a data file (YAML) of their table.
    """

    path: FilePath
    seen: FilePath | None = None
    """Folder of the images that the extra ones were made from, or a text file with the SHA-256 of
    one per line; null: those that `generator sample` recorded, otherwise unknown."""


class GivenFolder(StrictModel):
    """A folder from `xraytune generator train`.

    A generator, which is not trained further, or statistics.
    """

    path: FilePath


_NEED_IMAGES = ("synthetic_ratio", "synthetic_weight", "balance", "mixing")
_UNUSED_BY: Mapping[TaskName, tuple[str, ...]] = {
    "classification": ("pos_weight",),
    "findings": ("head", "loss"),
    "segmentation": ("balance", "head", "loss", "pos_weight", "dropout"),
}


def has_effect_with(source: object, name: str) -> bool:
    """Return whether a parameter or block has an effect with a source.

    `Parameters` and spaces drop it otherwise.
    """
    return source == name if name in BLOCKS else source != "none" or name not in _NEED_IMAGES


def has_effect_in(task: TaskName, name: str) -> bool:
    """Return whether a parameter, by its dotted name, can have an effect in a task."""
    return name not in _UNUSED_BY[task]


def extra_images(synthetic_ratio: float, real_count: int) -> int:
    """Return how many extra images there are for so many real ones: r·N, rounded half up."""
    return int(synthetic_ratio * real_count + 0.5)


class Parameters(StrictModel):
    """The parameters of one trial: everything that a space can search.

    A source with settings has a field of its own name for their block.
    """

    source: Annotated[str, AfterValidator(SOURCES.check)] = "none"
    synthetic_ratio: Annotated[float, Field(ge=0, le=100)] = 1.0
    """Extra images per real image; 0 for `source: none`."""
    synthetic_weight: Annotated[float, Field(gt=0, le=100)] = 1.0
    """Weight of an extra image in the loss, where a real one has 1.

    At a weight of 1, r extra images per real one have r/(1+r) of the loss.
    """
    balance: Balance = "natural"
    mixing: Literal["additive", "pretrain"] = "additive"
    """`additive`: a step draws extra images on top of its real ones; `pretrain`: the first r/(1+r)
    of all steps draw only extra images, the remaining ones only real images."""
    gan: GanSettings | None = None
    folder: FolderSettings | None = None
    generator: GivenFolder | None = None
    statistics: GivenFolder | None = None
    classical: Strength = 0
    """Strength of classical augmentation.

    1 only flips; 2 and 3 also rotate, shift, scale and change the contrast.
    """
    views: Annotated[int, Field(ge=1, le=64)] = 8
    """Augmented versions per image, drawn in advance."""
    backbone: BackboneName = "resnet50"
    weights: WeightsName = "imagenet"
    """`imagenet`, a specific set (`IMAGENET1K_V1`, `IMAGENET1K_V2`), `hub` for those of timm on the
    Hugging Face Hub, `none`, or the path of a file."""
    input_channels: Literal[1, 3] = 3
    trainable: Trainable = "all"
    head: HeadName = "linear"
    """`vgg16_two_class`: 256 hidden units, ReLU, dropout, log-softmax, as published with VGG-16."""
    loss: LossName = "cross_entropy"
    """`bce`: one output unit and binary cross entropy, for two classes."""
    pos_weight: Literal["none", "balanced"] = "none"
    """`balanced`: in the loss of a finding, positives weigh as much as negatives.

    By their numbers among the real images.
    """
    dropout: Annotated[float, Field(ge=0, lt=1)] = 0.0
    lr: PositiveFloat = 1e-4
    optimizer: OptimizerName = "adam"
    weight_decay: NonNegativeFloat = 0.0
    batch_size: Annotated[int, Field(ge=1, le=4096)] = 32
    schedule: ScheduleName = "constant"
    early_stop_epochs: OptionalCount = None
    """A trial ends after so many epochs without a better val-A score, whatever ASHA says."""

    @model_validator(mode="before")
    @classmethod
    def _drop_unused(cls, given: Any) -> Any:
        """Make trials equal if they differ only in parameters that their source does not use."""
        if not isinstance(given, dict):
            return given
        source = given.get("source", "none")
        kept = {name: value for name, value in given.items() if has_effect_with(source, name)}
        if source == "none":
            kept["synthetic_ratio"] = 0.0
        block = BLOCKS.get(source)
        if block and not any(field.is_required() for field in block.model_fields.values()):
            kept.setdefault(source, {})
        return kept

    def with_gan(self, **changes: object) -> Self:
        """Return a copy with changed settings of the GAN."""
        assert self.gan is not None, "the source trains a GAN"
        return self.model_copy(update={"gan": self.gan.model_copy(update=changes)})

    @property
    def extra_per_step(self) -> int:
        """Extra images per optimiser step: r·B, rounded half up.

        With `mixing: pretrain`, B during pretraining.
        """
        if self.mixing == "pretrain":
            return self.batch_size
        return extra_images(self.synthetic_ratio, self.batch_size)

    def pretraining_steps(self, total_steps: int) -> int:
        """Return how many of `total_steps`, those of a full run, draw only extra images.

        r/(1+r) of them, rounded half up.
        """
        ratio = self.synthetic_ratio
        return extra_images(ratio / (1 + ratio), total_steps) if self.mixing == "pretrain" else 0

    @property
    def donor(self) -> Path | None:
        """The folder of another hospital that its extra images come from, if it is known."""
        given = self.generator or self.statistics
        if given:
            return given.path
        return self.gan.start_from if self.gan else None

    @property
    def has_synthetic_images(self) -> bool:
        """Whether the trial trains on images other than the real ones.

        `confirm` tests such trials.
        """
        return self.source not in ("none", "duplicate")

    @property
    def has_synthetic_pixels(self) -> bool:
        """Whether these are images, which can be looked at, and not features."""
        return self.has_synthetic_images and self.source != "statistics"

    @property
    def simplicity(self) -> tuple[int, int, float]:
        """A sort key that puts the simpler and cheaper arm first.

        The choice among trials with equal AUROCs.

        real_only, classical, then sources in the order of `SOURCES`, those of other packages last;
        the smaller ratio first.
        """
        rank, ratio = self.mix_simplicity
        return rank, self.classical, ratio

    @property
    def mix_simplicity(self) -> tuple[int, float]:
        """A sort key of mixes alone: by source, then by ratio.

        Equal for trials with the same source and ratio.
        """
        rank = [*SOURCES.built_in, self.source].index(self.source)
        return rank, self.synthetic_ratio

    @property
    def arm(self) -> str:
        """The arm (docs/glossary.md): `real_only`, `classical`, `gan`, `classical+folder` ..."""
        if self.source == "none":
            return "classical" if self.classical else "real_only"
        return f"classical+{self.source}" if self.classical else self.source


BLOCKS: Mapping[str, type[StrictModel]] = {
    name: block
    for name, field in Parameters.model_fields.items()
    for block in get_args(field.annotation)
    if isinstance(block, type) and issubclass(block, StrictModel)
}
"""The blocks of parameters; the source of the same name uses them."""


def extensions_of(backbone: str, source: str) -> dict[str, str]:
    """Return the identity of each backbone or source that has a version of its own.

    By names like `backbone tiny_net`.
    """
    chosen = ((BACKBONES, backbone), (SOURCES, source))
    return {
        f"{kind.kind} {name}": kind.identity(name)
        for kind, name in chosen
        if kind.identity(name) != name
    }


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


class SamplerSettings(StrictModel):
    """The Optuna sampler."""

    name: Literal["tpe", "random", "grid"] = "tpe"
    startup_trials: NonNegativeInt = 10
    seed: int = 0


class Resources(StrictModel):
    """Resources of a trial, and the number of concurrent trials."""

    gpus_per_trial: Literal["auto"] | NonNegativeFloat = "auto"
    cpus_per_trial: PositiveInt = 1
    concurrent: OptionalCount = None


class QualitySettings(StrictModel):
    """Which synthetic images are refused. No setting changes the images."""

    allow_memorised: bool = False
    """Use synthetic images even if too many of them are near-duplicates of training images."""


class Controls(StrictModel):
    """The control arms that a finalist is compared with."""

    matched: Several[Literal["none", "duplicate"]] = ("none", "duplicate")
    """The finalist's settings with another source."""
    tuned: Several[Literal["real_only", "classical", "duplicate"]] = (
        "real_only",
        "classical",
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
    patients, and `test/` is scored. `auto`: `unused` if at least 300 are left to score."""
    rope: Annotated[float, Field(gt=0, lt=0.5)] = 0.01
    """Equivalence margin: smaller differences in AUROC do not matter."""


class WandbSettings(StrictModel):
    """Weights & Biases: one run per trial, grouped by study; offline without an API key."""

    project: str = "xraytune"


class Tracking(StrictModel):
    """Experiment trackers; `epochs.jsonl` is always written."""

    wandb: WandbSettings | None = None


class ExportedFrom(StrictModel):
    """The trial that this file was exported from, so that a final training finds its study."""

    study: FilePath
    trial: NonNegativeInt
    images: OptionalCount = None
    """Training images of the trial, by which `budget.steps_per_epoch` is scaled.

    None if the file repeats the trial bit for bit, instead of training a final model.
    """


class FinalSettings(StrictModel):
    """How a study's final model is trained: each setting given here overrides the trial's own."""

    image_size: ImageSize | None = None
    """`data.image_size`.

    A generator is trained at this size if it supports it; otherwise, its images are enlarged.
    """
    max_epochs: OptionalCount = None
    """`budget.max_epochs`.

    If given, an epoch is one pass over the real images; `budget.steps_per_epoch` is ignored.
    """
    trainable: Trainable | None = None
    classical: Strength | None = None
    lr: PositiveFloat | None = None
    optimizer: OptimizerName | None = None
    schedule: ScheduleName | None = None

    def settings_of(self, settings: Settings) -> Settings:
        """Return the settings of the final training, on all patients."""
        size_px = self.image_size or settings.data.image_size
        data = settings.data.model_copy(update={"image_size": size_px, "train_patients": None})
        budget = settings.budget
        if self.max_epochs:
            budget = budget.model_copy(
                update={"max_epochs": self.max_epochs, "steps_per_epoch": None}
            )
        return settings.model_copy(update={"data": data, "budget": budget, "final": None})


class PixelConstants(StrictModel):
    """The mean and standard deviation of pixels, in [0, 1], that pretrained weights expect."""

    mean: float
    std: PositiveFloat


class Settings(StrictModel):
    """Everything in a space file except the parameters."""

    name: Annotated[str, Field(pattern=r"^[A-Za-z0-9][A-Za-z0-9._-]{0,63}$")]
    seed: int = 0
    task: TaskName = "classification"
    """`findings` trains a classifier of several findings in one image (docs/findings.md),
    `segmentation` a U-Net on images with masks (docs/segmentation.md)."""
    weights_dir: FilePath | None = None
    weights_pixels: PixelConstants | None = None
    """How `weights` given as a file normalise pixels; null: as the backbone's own weights. For an
    encoder of pixels from -1024 to 1024, `{mean: 0.5, std: 0.00048828125}`."""
    data: DataSettings
    objective: Objective = Field(
        default_factory=lambda given: Objective(
            metric=OBJECTIVES[given.get("task", "classification")][0]
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

    @property
    def metric(self) -> str:
        """The display name of the study's objective, such as AUROC."""
        name = _OBJECTIVE_NAMES[self.objective.metric]
        return f"macro {name}" if self.task == "findings" else name

    @property
    def idle_asha(self) -> str:
        """Why ASHA cannot stop any trial: trials end at or before the first rung.

        "" if it can, or is not used.
        """
        grace = self.scheduler.grace
        last = self.budget.max_epochs
        if self.scheduler.name != "asha" or grace < last:
            return ""
        return f"ASHA stops no trial: scheduler.grace is {grace}, and budget.max_epochs is {last}"


def without_gate(settings: Settings) -> Settings:
    """Return settings that refuse no synthetic images."""
    return settings.model_copy(
        update={"quality": settings.quality.model_copy(update={"allow_memorised": True})}
    )


class Experiment(StrictModel):
    """The complete settings of one trial or one final training."""

    settings: Settings
    parameters: Parameters
    draw: NonNegativeInt | None = None
    """For a replicate of a confirmation, the draw of unused patients that it is trained on.

    None: the search's patients.
    """
    has_real_extra: bool = False
    """Whether its extra images are real ones of other patients.

    These are in the place of perfect synthetic images.
    """
    control: DonorControl | None = None
    """What it is if its finalist's extra images are from elsewhere."""
    donor: FilePath | None = None
    """For `donor` and `donor_start`: the folder of the head that it starts at."""

    def identity(self) -> dict[str, Json]:
        """Return what determines its results, as plain JSON; see `Settings.identity`."""
        content = self.model_dump(mode="json", exclude={"settings"})
        return {"settings": self.settings.identity(), **content}
