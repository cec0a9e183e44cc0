"""Every setting with its type, bounds and default, as strict and frozen pydantic models.

`Settings` is everything in a space file except the parameters. `Parameters` are the parameters of
one trial. Both together are an `Experiment`.
"""

from __future__ import annotations

import re
from collections import ChainMap
from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, Any, Literal, Self, get_args

from pydantic import (
    AfterValidator,
    BeforeValidator,
    ConfigDict,
    Field,
    NonNegativeFloat,
    NonNegativeInt,
    PositiveFloat,
    PositiveInt,
    ValidationInfo,
    field_validator,
    model_validator,
)
from pydantic.fields import FieldInfo

from xraytune.base.records import Json, frozen
from xraytune.space.backbones import BACKBONES, ENCODERS, BackboneName, has_weights, identity_of
from xraytune.space.contract import Change, Listed, Rule, Unless, refuses
from xraytune.space.domains import Value
from xraytune.space.encoders import ONE_CHANNEL, XRAY_ENCODERS, DataSet, expected_images
from xraytune.space.extensions import AUGMENTATIONS, EXTENSIONS, SOURCES, Kind
from xraytune.space.paths import FilePath, WeightsName, is_path
from xraytune.space.strict_model import Several, StrictModel, list_fields

OptionalCount = PositiveInt | None
Fraction = Annotated[float, Field(gt=0, lt=1)]
ImageSize = Annotated[int, Field(ge=32, le=1024)]
Trainable = Literal["head", "last_stage", "all"]
OptimizerName = Literal["adam", "adamw", "sgd"]
ScheduleName = Literal["constant", "cosine", "plateau"]
FOLDER_NAME = r"^[^/\\\x00-\x1f\x7f.][^/\\\x00-\x1f\x7f]{0,63}$"
"""Allowed names of classes; images are written into folders with these names."""
ClassName = Annotated[str, Field(pattern=FOLDER_NAME)]

UncertainUse = Literal["ignore", "zeros", "ones"]
HeadName = Literal["linear", "vgg16_two_class"]
LossName = Literal["cross_entropy", "bce"]
Balance = Literal["natural", "equal"]
Labels = Literal["class", "donor"]
Augmentation = Annotated[str, AfterValidator(AUGMENTATIONS.check)]
Degrees = Annotated[float, Field(gt=0, le=45)]
ViewCount = Annotated[int, Field(ge=1, le=64)]
Alpha = Annotated[float, Field(ge=0, le=10)]
Imbalance = Literal["none", "weighted", "oversample", "focal"]
DonorControl = Literal["donor", "donor_start", "synthetic_only"]
"""Controls of images from elsewhere. `donor`: the classifier that their hospital sent.
`donor_start`: the study's own training, started at it.
`synthetic_only`: a training on these images alone."""
TaskName = Literal["classification", "findings", "segmentation"]
ObjectiveName = Literal["val_auroc", "val_auprc", "val_sensitivity", "val_dice"]


@frozen
class TaskRules:
    """The values that a task accepts.

    Attributes:
        objectives: The objectives of the task; the first is the default.
        unused_sources: The sources of extra images that the task cannot use.
        unused: The parameters that have no effect.
        has_classes: Whether an image has one of several classes.
    """

    objectives: tuple[ObjectiveName, ...]
    unused_sources: tuple[str, ...] = ()
    unused: tuple[str, ...] = ()
    has_classes: bool = True


TASK_RULES: Mapping[TaskName, TaskRules] = {
    "classification": TaskRules(objectives=("val_auroc", "val_auprc", "val_sensitivity")),
    "findings": TaskRules(
        objectives=("val_auroc", "val_auprc"),
        unused_sources=("statistics",),
        unused=("head", "loss"),
        has_classes=False,
    ),
    "segmentation": TaskRules(
        objectives=("val_dice",),
        unused_sources=("statistics",),
        unused=("balance", "head", "loss", "imbalance", "dropout"),
        has_classes=False,
    ),
}
CLASS_TASKS = tuple(name for name, rules in TASK_RULES.items() if rules.has_classes)
_OBJECTIVE_NAMES: Mapping[ObjectiveName, str] = {
    "val_auroc": "AUROC",
    "val_auprc": "AUPRC",
    "val_sensitivity": "sensitivity",
    "val_dice": "Dice",
}
"""The display name of each objective."""
PACKAGES: Mapping[str, tuple[str, ...]] = {
    "mlflow": ("mlflow-skinny", "sqlalchemy"),
    "segmentation": ("segmentation-models-pytorch",),
    "timm": ("timm",),
}
"""The further packages that a task, tracker or backbone needs, by name of the extra."""


class SplitSettings(StrictModel):
    """The split of the training images into train, val-A and val-B, by patient."""

    val_a: Fraction = 0.1
    val_b: Fraction = 0.1
    seed: int = 0
    group_regex: str | None = None
    """A regular expression for the path relative to the data folder; its first group is the
    patient."""
    site: Annotated[str, Field(min_length=1)] | None = None
    """Where an image's site, such as its hospital, is written: `folder`, the outermost folder; a
    column of the table or of `patients.csv`; a DICOM keyword, such as `InstitutionName`; or a
    regular expression for the path, whose group is the site. null: the outermost folders, if all of
    them contain the same class folders."""


@refuses("data.split.val_a", "data.split.val_b")
def _leave_training_images(val_a: float, val_b: float) -> Change:
    """Less than a tenth of the patients would be left to train on."""
    too_much = val_a + val_b >= 0.9
    return {"data.split.val_a": 0.1, "data.split.val_b": 0.1} if too_much else {}


def _count_groups(expression: str) -> int:
    """Return the number of groups of a regular expression, or 0 if it is invalid."""
    try:
        return re.compile(expression).groups
    except re.error:
        return 0


@refuses("data.split.group_regex")
def _find_patients(group_regex: str | None) -> Change:
    """A regular expression for patients needs a group, in parentheses, around what names them."""
    is_valid = group_regex is None or _count_groups(group_regex) > 0
    return {} if is_valid else {"data.split.group_regex": "(p[0-9]+)_"}


@refuses("data.split.site")
def _find_sites(site: str | None) -> Change:
    """A regular expression for sites needs one group, in parentheses, around what names them."""
    is_valid = site is None or "(" not in site or _count_groups(site) == 1
    return {} if is_valid else {"data.split.site": "(site[0-9]+)/"}


_LISTED = BeforeValidator(
    lambda texts: (texts,) if isinstance(texts, str) else texts,
    json_schema_input_type=str | tuple[str, ...],
)
OneOrMore = Annotated[Several[str], _LISTED, Field(min_length=1)]
"""A list of texts, or a single one."""


class TableSides(StrictModel):
    """The training and test images of a table by lists; at least one of them."""

    train: str | None = None
    """A file with one image per line, or a folder; if it is given, images in no list are left
    out."""
    test: str | None = None
    """Like `train`; if only `test` is given, all other images are training images."""


def _require_lists(side: Any) -> Any:
    if isinstance(side, dict) and not (side.keys() <= {"train", "test"} and any(side.values())):
        raise ValueError("give lists, {train: LIST, test: LIST}, or the name of a column alone")
    return side


class TableSettings(StrictModel):
    """A table of images: its columns for the image, the patient, the label and the side."""

    file: OneOrMore
    """A CSV file relative to `data.path`, or several that are read as one."""
    image: str
    """The column of the image: its path, the end of that, or its name, with or without suffix."""
    patient: str | None = None
    """The column of the patient; without it, the patient is found as in a folder."""
    label: str | None = None
    """The column of the label, or of several labels in each cell."""
    separator: Annotated[str, Field(min_length=1)] | None = None
    """What is between the labels of a cell. Without it, `|`; where no cell has one, the first of
    `; , # / +` between labels that other cells have alone."""
    labels: dict[str, ClassName] = Field(default={})
    """The class of each label; the first entry that applies to a row of the image decides. Without
    `label`, the labels are columns: 1 is yes."""
    rows: dict[str, OneOrMore] = Field(default={})
    """The rows to use, by the cells of a column: `{view: [PA, AP]}`; other images are left out."""
    side: Annotated[str | TableSides | None, BeforeValidator(_require_lists)] = None
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

    The changes are applied to all images of `data.path`, in this order.
    """

    blur_px: NonNegativeFloat = 0.0
    """Standard deviation of a Gaussian blur, at `image_size`."""
    gamma: PositiveFloat = 1.0
    """Exponent of the grey values, from 0 to 1."""
    contrast: float = 1.0
    """Factor of the differences from mid-grey; -1 inverts."""
    noise: NonNegativeFloat = 0.0
    """Standard deviation of Gaussian noise, where white is 1."""


@refuses("data.shift.contrast")
def _keep_contrast(contrast: float | None) -> Change:
    """Without contrast, all images are the same grey."""
    return {"data.shift.contrast": 1.0} if contrast == 0 else {}


class DataSettings(StrictModel):
    """The images, their classes and their size."""

    path: FilePath
    set: DataSet | None = None
    """The public data set that they come from, or `other`: the verdict is exploratory if an encoder
    was pretrained on it, or may have been."""
    classes: Literal["binary", "three", "auto"] = "auto"
    """`binary` is NORMAL and PNEUMONIA, `three` normal, bacterial and viral. `auto` is `binary` if
    all images are of these two, and else one class per folder, or per name in the table."""
    positive: str | None = None
    """The positive class of two, for sensitivity. It need not be given if the other one is called
    NORMAL, healthy or the like."""
    image_size: ImageSize = 128
    resize: Literal["squash", "crop"] = "squash"
    """`squash` ignores the aspect ratio; `crop` scales the shorter side to the size and crops the
    centre."""
    shift: ShiftSettings | None = None
    """Simulates another scanner, to ask what another hospital should send. A given generator,
    folder or classifier is not shifted."""
    table: TableSettings | None = None
    """A table of labels and patients; without it, folders and `patients.csv` give them."""
    findings: Several[str] | Literal["auto"] | None = None
    """For `task: findings`, the columns of the table or, with `table.label`, the labels of a cell;
    `auto`: all of them. `No Finding` without such a column is the absence of all others. With
    classes, findings of a data file are not used."""
    uncertain: UncertainUse | dict[str, UncertainUse] = "ignore"
    """Whether uncertain findings (-1) are unknown (`ignore`), absent (`zeros`) or present (`ones`):
    one word for all findings, or one for each name."""
    empty: Literal["ignore", "zeros"] = "ignore"
    """Findings with an empty cell are unknown (`ignore`) or absent (`zeros`)."""
    split: SplitSettings = SplitSettings()
    train_patients: OptionalCount = None
    """Number of patients of the train side to use; null: all of them."""


@refuses("data.positive", "class_count", is_useless=True)
def _choose_one_of_two(positive: str | None, class_count: int) -> Change:
    """Only one of two classes can be positive."""
    return {"data.positive": None} if positive is not None and class_count != 2 else {}


@refuses("task", "data.findings", "data.table")
def _describe_findings(task: str, findings: object, table: object) -> Change:
    """A list of findings is for `task: findings`, which needs it and a table."""
    if task != "findings":
        return {"task": "findings"} if findings is not None else {}
    if findings is None:
        return {"data.findings": "auto"}
    return {"data.table": "{file: labels.csv, image: file}"} if table is None else {}


class Objective(StrictModel):
    """The validation metric that the search maximises."""

    metric: ObjectiveName = "val_auroc"
    """Classification: `val_auroc` (default), `val_auprc` or `val_sensitivity`, the highest
    sensitivity at any threshold with a specificity of at least .9. Findings: `val_auroc` (default)
    or `val_auprc`, means over the findings. Segmentation: `val_dice`, the mean over images."""


@refuses("objective.metric", "task")
def _score_task(metric: ObjectiveName, task: TaskName) -> Change:
    """A task has its own objectives."""
    objectives = TASK_RULES[task].objectives
    return {} if metric in objectives else {"objective.metric": objectives[0]}


@refuses("objective.metric", "class_count")
def _find_sensitivity(metric: str, class_count: int) -> Change:
    """Sensitivity is that of two classes."""
    is_defined = metric != "val_sensitivity" or class_count == 2
    return {} if is_defined else {"objective.metric": "val_auprc"}


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
    features: Literal["imagenet"] | FilePath | None = None
    """ImageNet weights of a MobileNetV2, whose features generated images then keep, too: for a
    generator that is to help a classifier of other patients. `imagenet` is the official file, as
    for a backbone. Half of the components are then those of the features, so `z_dim` should be
    128."""
    z_dim: Annotated[int, Field(ge=1, le=512)] = 64
    """Size of the latent code; with `architecture: pca`, the number of principal components."""
    width: Annotated[int, Field(ge=4, le=512)] = 64
    """Feature maps of the generator's last and of the discriminator's first layer."""
    lr_g: PositiveFloat = 6e-4
    lr_d: PositiveFloat = 1e-3
    """Suits `pca`; with `dcgan`, use 2e-4 for both networks."""
    start_from: FilePath | None = None
    """A folder from `xraytune generator train` whose weights training starts from; with it,
    `steps` may be 0."""
    seed: int = 0

    @property
    def length(self) -> float:
        """The setting by which trainings of one generator differ in length."""
        return self.steps

    @property
    def lineage(self) -> Self:
        """All settings but the length: a longer run continues a shorter one of its lineage."""
        return self.model_copy(update={"steps": 0})

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
        """Half-life of the average of the generator's weights, in images; None without average."""
        return None if self.architecture == "dcgan" else 10_000


@refuses("gan.steps", "gan.start_from")
def _train_gan(steps: int | None, start_from: str | None) -> Change:
    """An untrained generator makes noise."""
    return {"gan.steps": 1000} if steps == 0 and start_from is None else {}


@refuses("gan.architecture", "gan.features")
def _reconstruct_features(architecture: str | None, features: str | None) -> Change:
    """Features are those of reconstructed images, which only `pca` makes."""
    return {"gan.architecture": "pca"} if features and architecture != "pca" else {}


@refuses("gan.z_dim", "gan.features")
def _halve_components(z_dim: int | None, features: str | None) -> Change:
    """Half of the components are those of the features, so their number is even."""
    return {"gan.z_dim": 128} if features and z_dim is not None and z_dim % 2 else {}


class FolderSettings(StrictModel):
    """Extra images from a folder with one subfolder per class.

    With findings, they are those of a table, whose data file (YAML) is given.
    """

    path: FilePath
    seen: FilePath | None = None
    """Folder of the images that the extra ones were made from, or a text file with the SHA-256 of
    one per line; null: those that `generator sample` recorded, otherwise unknown."""
    donor: FilePath | None = None
    """A folder from `xraytune generator train` or `xraytune train`, with a classifier of the
    hospital that the extra images come from."""


class GivenFolder(StrictModel):
    """A folder from `xraytune generator train`, with a generator to use as it is, or statistics."""

    path: FilePath


_NO_EXTRA_IMAGES = Unless("source", ("none",))
_ONLY_AFFINE = Unless("augmentation", ("affine",), is_inverse=True)


def unless_of(field: FieldInfo) -> list[Unless]:
    """Return where a parameter has no effect."""
    return [condition for condition in field.metadata if isinstance(condition, Unless)]


def extra_image_count(synthetic_ratio: float, real_count: int) -> int:
    """Return the number of extra images for `real_count` real ones: r·N, rounded half up."""
    return int(synthetic_ratio * real_count + 0.5)


def pretraining_steps(synthetic_ratio: float, total_steps: int) -> int:
    """Return the number of pretraining steps: r/(1+r) of all steps, rounded half up."""
    return extra_image_count(synthetic_ratio / (1 + synthetic_ratio), total_steps)


def side_px(backbone: str, weights: str, input_size: int | None, image_size: int) -> int:
    """Return the side of a trial's images: as given, as the weights expect, or as in the study."""
    images = expected_images(backbone, weights)
    return input_size or (images.side_px if images else image_size)


class Parameters(StrictModel):
    """The parameters of one trial: everything that a space can search.

    A source with settings has a field of its own name for their block; that of an extension is a
    mapping of all its settings.
    """

    model_config = ConfigDict(extra="allow")

    source: Annotated[str, AfterValidator(SOURCES.check)] = "none"
    synthetic_ratio: Annotated[float, Field(ge=0, le=100), _NO_EXTRA_IMAGES] = 1.0
    """Extra images per real image; 0 for `source: none`."""
    pool_size: Annotated[OptionalCount, Unless("source", ("none", "duplicate"))] = None
    """How many different extra images there are; null: as many as the ratio adds to the real ones.
    With few real images, a larger pool lets a generator show others in each step."""
    synthetic_weight: Annotated[float, Field(gt=0, le=100), _NO_EXTRA_IMAGES] = 1.0
    """Weight of an extra image in the loss, where a real one has 1. At a weight of 1, r extra
    images per real one have r/(1+r) of the loss."""
    balance: Annotated[Balance, _NO_EXTRA_IMAGES] = "natural"
    labels: Annotated[Labels, Unless("source", ("none", "duplicate", "statistics"))] = "class"
    """`class`: an extra image has the class that it was made for, or the label of its folder;
    `donor`: it has the probabilities that the classifier of its hospital predicts for it."""
    mixing: Annotated[Literal["additive", "pretrain"], _NO_EXTRA_IMAGES] = "additive"
    """`additive`: a step shows extra images on top of its real ones; `pretrain`: the first r/(1+r)
    of all steps show only extra images, the remaining ones only real images."""
    gan: GanSettings | None = None
    folder: FolderSettings | None = None
    generator: GivenFolder | None = None
    statistics: GivenFolder | None = None
    augmentation: Augmentation = "none"
    """How real and extra images are changed. `flip`: half of the views are mirrored, with the heart
    on the right. `affine`: they are rotated, shifted, scaled, and changed in contrast and
    brightness. `trivial`: TrivialAugment with the operations that suit grey X-rays: a shift, shear,
    rotation, or change of brightness, contrast or sharpness by a random amount, or none of them.
    Others are extensions (docs/your_augmentation.md)."""
    degrees: Annotated[Degrees, _ONLY_AFFINE] = 10.0
    """The largest rotation of `affine`; other changes grow with it: at 15 degrees, shifts up to a
    tenth of a side, scales by a fifth, contrasts by three tenths and brightness by .15."""
    with_flips: Annotated[bool, _ONLY_AFFINE] = False
    """Half of the views of `affine` are mirrored, too."""
    views: Annotated[ViewCount, Unless("augmentation", ("none",))] = 8
    """Augmented versions per image, sampled in advance."""
    mixup: Alpha = 0.0
    """Images of a step are blended in pairs, real and extra ones alike, and their labels with them,
    by a share from the Beta distribution with this alpha; 0: never. Cached features are blended."""
    cutmix: Alpha = 0.0
    """Likewise, but a rectangle of an image is replaced by that of another."""
    backbone: BackboneName = "resnet50"
    weights: WeightsName = "imagenet"
    """`imagenet`, a specific set (`IMAGENET1K_V1`, `IMAGENET1K_V2`), `hub` for those of timm on the
    Hugging Face Hub, `none`, or the path of a file, or of a model of `xraytune train`."""
    pixel_mean: float | None = None
    """Mean of the pixels, in [0, 1], that a file of `weights` expects; null: the backbone's."""
    pixel_std: PositiveFloat | None = None
    """Standard deviation of these pixels."""
    input_channels: Annotated[Literal[1, 3], Unless("backbone", ONE_CHANNEL)] = 3
    """An encoder of grey images always gets one channel."""
    input_size: Annotated[ImageSize | None, Listed("images are decoded at every size")] = None
    """Side of the images in pixels; null: what a model of `xraytune train`, or an encoder of X-rays
    (docs/spaces.md), was trained on, otherwise `data.image_size`."""
    trainable: Trainable = "all"
    head: HeadName = "linear"
    """`vgg16_two_class`: 256 hidden units, ReLU, dropout, log-softmax, as published with VGG-16."""
    loss: LossName = "cross_entropy"
    """`bce`: one output unit and binary cross entropy, for two classes."""
    imbalance: Imbalance = "none"
    """What is done for rare classes or findings. `weighted`: in the loss, classes or the positives
    and negatives of a finding weigh equally, by their numbers among the real images. `oversample`:
    steps show real images of each class, or rarest finding, equally often. `focal`: the focal
    loss."""
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
    def _drop_unused(cls, parameters: Any) -> Any:
        """Make trials equal if they differ only in parameters without an effect."""
        if not isinstance(parameters, dict):
            return parameters
        values = {name: field.default for name, field in cls.model_fields.items()} | parameters
        effective = {
            name: value
            for name, value in parameters.items()
            if name not in {*cls.model_fields, *BLOCKS} or has_effect(name, values)
        }
        if values["source"] == "none":
            effective["synthetic_ratio"] = 0.0
        for name in (values[kind] for kind in KINDS):
            block = BLOCKS.get(name)
            if block and not any(field.is_required() for field in block.model_fields.values()):
                effective.setdefault(name, {})
        for name in effective.keys() - cls.model_fields:
            if name not in EXTENSIONS.blocks:
                raise ValueError(f"there is no parameter {name!r}")
            effective[name] = EXTENSIONS.blocks[name].model_validate(effective[name]).model_dump()
        return effective

    def with_gan(self, **changes: object) -> Self:
        """Return a copy with changed settings of the GAN."""
        assert self.gan is not None, "the source trains a GAN"
        return self.with_values({f"gan.{name}": value for name, value in changes.items()})

    def size_px(self, data: DataSettings) -> int:
        """Return the side of the images that a trial is trained on."""
        return side_px(self.backbone, self.weights, self.input_size, data.image_size)

    @property
    def channels(self) -> int:
        """The number of channels of the network's images."""
        return 1 if self.backbone in ONE_CHANNEL else self.input_channels

    @property
    def extra_per_step(self) -> int:
        """Extra images per optimiser step: r·B, rounded half up, or B in pretraining."""
        if self.mixing == "pretrain":
            return self.batch_size
        return extra_image_count(self.synthetic_ratio, self.batch_size)

    def pretraining_steps(self, total_steps: int) -> int:
        """Return how many of the `total_steps` of a full run show only extra images."""
        is_pretrained = self.mixing == "pretrain"
        return pretraining_steps(self.synthetic_ratio, total_steps) if is_pretrained else 0

    @property
    def donor(self) -> Path | None:
        """The folder of another hospital that the extra images come from, if it is known."""
        donor_block = self.generator or self.statistics
        if donor_block:
            return donor_block.path
        if self.folder:
            return self.folder.donor
        return self.gan.start_from if self.gan else None

    @property
    def is_augmented(self) -> bool:
        """Whether images are shown in views of xraytune, and not in those of an extension."""
        return self.augmentation != "none" and not AUGMENTATIONS.has(self.augmentation)

    @property
    def extensions(self) -> list[str]:
        """The names of the extensions that the trial uses."""
        names = (getattr(self, kind) for kind in KINDS)
        return [name for name in names if name in EXTENSIONS.declared]

    def settings_of(self, extension: str) -> Mapping[str, Value]:
        """Return the settings of an extension; they are empty if it has none, or is not used."""
        settings: Mapping[str, Value] = (self.model_extra or {}).get(extension, {})
        return settings

    @property
    def trains_generator(self) -> bool:
        """Whether the trial trains a generator, or uses one that another trial has trained."""
        return self.gan is not None or SOURCES.has(self.source)

    @property
    def has_synthetic_images(self) -> bool:
        """Whether a trial trains on other images than the real ones, so that `confirm` tests it."""
        return self.source not in ("none", "duplicate")

    @property
    def has_synthetic_pixels(self) -> bool:
        """Whether the extra images have pixels that can be looked at, and not only features."""
        return self.has_synthetic_images and self.source != "statistics"

    @property
    def simplicity(self) -> tuple[int, int, float]:
        """A sort key that puts the simpler and cheaper arm first, to choose among equal scores.

        The order is real_only, augmented, and then sources in the order of `SOURCES`, with sources
        of other packages last; of one source, the smaller ratio comes first.
        """
        rank, ratio = self.mix_simplicity
        return rank, len(self.rivals), ratio

    @property
    def mix_simplicity(self) -> tuple[int, float]:
        """A sort key of mixes, which is equal for trials with the same source and ratio."""
        rank = [*SOURCES.built_in, self.source].index(self.source)
        return rank, self.synthetic_ratio

    @property
    def arm(self) -> str:
        """The arm (docs/glossary.md): `real_only`, `augmented`, `gan`, `augmented+folder` ..."""
        if self.source == "none":
            return "augmented" if self.rivals else "real_only"
        return f"augmented+{self.source}" if self.rivals else self.source

    @property
    def rivals(self) -> tuple[str, ...]:
        """The methods of a trial that need no extra images, such as `affine` or `mixup 0.2`."""
        words = []
        for name in RIVALS:
            value = getattr(self, name)
            if value not in ("none", 0):
                words.append(value if isinstance(value, str) else f"{name} {value:g}")
        return tuple(words)

    @property
    def peers(self) -> str:
        """The trials that ASHA compares a trial with: trials of the same arm and mixing.

        A pretrained network sees real images late, so that it learns later, but not worse.
        """
        return self.arm if self.mixing == "additive" else f"{self.arm}, {self.mixing}"


RIVALS = ("augmentation", "mixup", "cutmix", "imbalance")
"""The parameters that may improve a network without extra images."""
KINDS = ("source", "augmentation", "backbone")
"""The parameters whose value may be an extension."""
for _kind in (SOURCES, AUGMENTATIONS, BACKBONES):
    EXTENSIONS.reserved.update(Parameters.model_fields, _kind.built_in)
_BUILT_IN_BLOCKS = {
    name: block
    for name, field in Parameters.model_fields.items()
    for block in get_args(field.annotation)
    if isinstance(block, type) and issubclass(block, StrictModel)
}
BLOCKS: Mapping[str, type[StrictModel]] = ChainMap(EXTENSIONS.blocks, _BUILT_IN_BLOCKS)
"""The blocks of parameters; the source or extension of the same name uses them."""


def has_effect(name: str, values: Mapping[str, Any]) -> bool:
    """Return whether a parameter, also one of a block, has an effect at some values of others."""
    block = name.partition(".")[0]
    if block in BLOCKS:
        kind = EXTENSIONS.kind_of(block)
        return kind not in values or values[kind] == block
    return all(
        unless.parameter not in values or unless.permits(values[unless.parameter])
        for unless in unless_of(Parameters.model_fields[name])
    )


REQUIRED = tuple(
    f"{name}.{field}"
    for name, block in _BUILT_IN_BLOCKS.items()
    for field, info in block.model_fields.items()
    if info.is_required()
)
"""The parameters that a source cannot do without."""


@refuses("source", *REQUIRED)
def _give_paths(source: str, *paths: str | None) -> Change:
    """A source of given images needs their path."""
    path_of = dict(zip(REQUIRED, paths, strict=True))
    needed = f"{source}.path"
    return {needed: "PATH"} if path_of.get(needed, "") is None else {}


@refuses("source", "task")
def _suit_task(source: str, task: TaskName) -> Change:
    """Statistics have neither findings nor masks."""
    return {"source": "gan"} if source in TASK_RULES[task].unused_sources else {}


@refuses("augmentation", "task")
def _move_masks(augmentation: str, task: TaskName) -> Change:
    """An augmentation of your own changes an image, and not its mask."""
    is_extension = AUGMENTATIONS.has(augmentation)
    return {"augmentation": "affine"} if is_extension and task == "segmentation" else {}


@refuses("trainable", "source")
def _train_on_features(trainable: Trainable, source: str) -> Change:
    """Statistics yield features, on which only a head can be trained."""
    is_head = trainable == "head"
    return {} if is_head or source != "statistics" else {"trainable": "head"}


@refuses("labels", "task")
def _label_images(labels: Labels, task: TaskName) -> Change:
    """A classifier cannot say what a mask is."""
    return {"labels": "class"} if (labels, task) == ("donor", "segmentation") else {}


@refuses("labels", "source", "folder.donor", "gan.start_from")
def _have_a_donor(
    labels: Labels, source: str, of_folder: str | None, of_start: str | None
) -> Change:
    """Only a folder of another hospital has a classifier that can label its images."""
    donors = {"folder": of_folder, "gan": of_start, "generator": source}
    is_useless = source in ("none", "duplicate", "statistics")
    has_donor = is_useless or donors.get(source) is not None
    return {} if labels == "class" or has_donor else {"labels": "class"}


@refuses("balance", "source", "task", is_useless=True)
def _keep_proportions(balance: Balance, source: str, task: TaskName) -> Change:
    """Images of a folder are used as they come, with whatever findings they have."""
    is_useless = (source, task) == ("folder", "findings")
    return {"balance": "natural"} if balance != "natural" and is_useless else {}


@refuses("synthetic_ratio", "batch_size", "mixing", "source")
def _add_images(ratio: float, batch_size: int, mixing: str, source: str) -> Change:
    """Steps would have no extra images."""
    per_step = extra_image_count(ratio, batch_size)
    is_empty = ratio == 0 or (mixing == "additive" and per_step == 0)
    return {"synthetic_ratio": 1.0} if source != "none" and is_empty else {}


@refuses("synthetic_ratio", "pool_size", "source", "training_images")
def _add_an_image(ratio: float, pool_size: int | None, source: str, training_images: int) -> Change:
    """The training set would have no extra image."""
    is_empty = pool_size is None and extra_image_count(ratio, training_images) == 0
    fewest = float(f"{1 / training_images:.2g}")
    return {"synthetic_ratio": fewest} if source != "none" and is_empty else {}


@refuses("synthetic_ratio", "mixing", "source", "total_steps")
def _leave_both_phases(ratio: float, mixing: str, source: str, total_steps: int) -> Change:
    """Pretraining and the training after it need at least a step each."""
    if source == "none" or mixing == "additive":
        return {}
    is_split = 0 < pretraining_steps(ratio, total_steps) < total_steps
    return {} if is_split else {"synthetic_ratio": 1.0}


@refuses("synthetic_weight", "mixing", "source")
def _weigh_pretraining(weight: float, mixing: str, source: str) -> Change:
    """Pretraining has no real images in a step that extra ones could be weighed against."""
    is_weighed = weight != 1 and mixing == "pretrain" and source != "none"
    return {"synthetic_weight": 1.0} if is_weighed else {}


@refuses("weights", "backbone")
def _have_weights(weights: str, backbone: str) -> Change:
    """The backbone has no weights of this name."""
    if has_weights(weights, backbone):
        return {}
    names = [name for name in ("imagenet", "hub") if has_weights(name, backbone)]
    other = "PATH" if backbone in XRAY_ENCODERS else "none"
    return {"weights": [*names, other][0]}


@refuses("gan.image_size", "data.image_size", "input_size", "backbone", "weights")
def _enlarge_generated(
    generated_px: int | None, image_size: int, input_size: int | None, backbone: str, weights: str
) -> Change:
    """Generated images are enlarged to the size of the real ones, but not reduced."""
    real_px = side_px(backbone, weights, input_size, image_size)
    if generated_px is None or generated_px <= real_px:
        return {}
    return {"data.image_size" if real_px == image_size else "input_size": generated_px}


@refuses("trainable", "weights", "source")
def _train_random_layers(trainable: Trainable, weights: str, source: str) -> Change:
    """Random layers would stay untrained."""
    if trainable == "all" or weights != "none":
        return {}
    return {"weights": "PATH"} if source == "statistics" else {"trainable": "all"}


@refuses("backbone", "task")
def _encode(backbone: str, task: TaskName) -> Change:
    """A U-Net cannot have this backbone as its encoder."""
    is_unsuitable = task == "segmentation" and backbone not in ENCODERS
    return {"backbone": "resnet34"} if is_unsuitable else {}


@refuses("pixel_mean", "pixel_std")
def _normalise_by_both(mean: float | None, std: float | None) -> Change:
    """Pixels are normalised by their mean and their standard deviation."""
    is_incomplete = (mean is None) != (std is None)
    return {"pixel_mean": None, "pixel_std": None} if is_incomplete else {}


@refuses("mixup", "cutmix", "batch_size")
def _mix_pairs(mixup: float, cutmix: float, batch_size: int) -> Change:
    """A step with a single image has none to mix it with."""
    return {"batch_size": 2} if (mixup or cutmix) and batch_size == 1 else {}


@refuses("cutmix", "trainable", "task")
def _cut_pixels(cutmix: float, trainable: Trainable, task: TaskName) -> Change:
    """Cached features have no pixels to replace."""
    is_cached = trainable == "head" and task != "segmentation"
    return {"cutmix": 0.0} if cutmix and is_cached else {}


@refuses("loss", "class_count")
def _have_two_classes(loss: LossName, class_count: int) -> Change:
    """One output unit tells two classes apart."""
    return {"loss": "cross_entropy"} if loss == "bce" and class_count != 2 else {}


@refuses("early_stop_epochs", "budget.max_epochs", is_useless=True)
def _stop_early(epochs: int | None, max_epochs: int) -> Change:
    """A trial that may wait for so many epochs never ends early."""
    return {"early_stop_epochs": None} if epochs and epochs >= max_epochs else {}


def network_identity(parameters: Parameters) -> str:
    """Return the identity of a backbone, with its settings if it is an extension that has any."""
    settings = parameters.settings_of(parameters.backbone).items()
    return " ".join(
        [identity_of(parameters.backbone), *(f"{key}={value}" for key, value in settings)]
    )


def identities_of(parameters: Parameters) -> dict[str, str]:
    """Return the identity of each extension, and of a backbone of a library.

    The keys are names like `backbone tiny_net`.
    """
    identities = {
        "backbone": identity_of(parameters.backbone),
        "source": SOURCES.identity(parameters.source),
        "augmentation": AUGMENTATIONS.identity(parameters.augmentation),
    }
    named = ((kind, getattr(parameters, kind), identity) for kind, identity in identities.items())
    return {f"{kind} {name}": identity for kind, name, identity in named if identity != name}


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
        if name in _OTHER_SAMPLERS:
            raise ValueError(_OTHER_SAMPLERS[str(name)])
        return name


@refuses("sampler.options", "sampler.name", is_useless=True)
def _take_options(options: Mapping[str, object], name: str) -> Change:
    """This sampler has no options."""
    return {"sampler.options": {}} if options and name in ("random", "grid") else {}


@refuses("sampler.seed", "sampler.name", is_useless=True)
def _sample_points(seed: int, name: str) -> Change:
    """A grid has nothing to sample."""
    return {"sampler.seed": 0} if seed and name == "grid" else {}


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


@refuses("resources.gpus_per_trial")
def _train_on_one_gpu(gpus: Literal["auto"] | float) -> Change:
    """A trial trains on one GPU; an extension may train on several (`resources.generator`)."""
    return {"resources.gpus_per_trial": 1} if gpus != "auto" and gpus > 1 else {}


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


@refuses("confirm.controls.matched", "confirm.controls.tuned")
def _compare(matched: tuple[str, ...], tuned: tuple[str, ...]) -> Change:
    """A verdict needs a control."""
    is_missing = not (matched or tuned)
    return {"confirm.controls.matched": "[none, duplicate]"} if is_missing else {}


@refuses("confirm.test", "data.train_patients")
def _leave_patients(test: str, train_patients: int | None) -> Change:
    """All patients are trained on, so that none are left to score."""
    is_empty = test == "unused" and train_patients is None
    return {"confirm.test": "auto"} if is_empty else {}


@refuses("confirm.test", "confirm.leave_out")
def _score_left_out(test: str, leave_out: str) -> Change:
    """Where a site is left out, its unused patients are scored, and not the test folder."""
    return {"confirm.test": "unused"} if leave_out == "site" and test == "folder" else {}


@refuses("data.train_patients", "confirm.leave_out")
def _leave_patients_of_sites(train_patients: int | None, leave_out: str) -> Change:
    """Where a site is left out, patients that the search has not used are trained on and scored."""
    lacks_unused = leave_out == "site" and train_patients is None
    return {"data.train_patients": 100} if lacks_unused else {}


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
        sizes = get_args(GanSettings.model_fields["image_size"].annotation)
        return values | ({"gan.image_size": self.image_size} if self.image_size in sizes else {})

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
        name = _OBJECTIVE_NAMES[self.objective.metric]
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

    def check(value: object, other_value: str) -> Change:
        return {} if value == default or other_value in values else {name: default}

    return Rule(names=(name, other), why=reason, check=check, is_useless=True)


def _normalises_a_file(name: str) -> Rule:
    """Return the rule that a constant of pixels has an effect only on weights given as a file."""

    def check(value: float | None, weights: str) -> Change:
        return {} if value is None or is_path("weights", weights) else {name: None}

    reason = "Only weights given as a file need the pixels that they expect."
    return Rule(names=(name, "weights"), why=reason, check=check, is_useless=True)


RULES: tuple[Rule, ...] = (
    *(rule for rule in [*vars().values()] if isinstance(rule, Rule)),
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
"""All that a study may refuse, from the rules beside the settings above."""


def without_gate(settings: Settings) -> Settings:
    """Return settings that refuse no synthetic images."""
    return settings.with_values({"quality.allow_memorised": True})


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
