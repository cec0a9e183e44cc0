"""The parameters of a trial, which a space searches, and what they refuse."""

from collections import ChainMap
from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, Any, Literal, get_args

from pydantic import (
    AfterValidator,
    ConfigDict,
    Field,
    NonNegativeFloat,
    PositiveFloat,
    model_validator,
)

from xraytune.space.backbones import BACKBONES, ENCODERS, BackboneName, has_weights, identity_of
from xraytune.space.contract import Change, Unless, refuses
from xraytune.space.data_settings import DataSettings
from xraytune.space.domains import Value
from xraytune.space.encoders import ONE_CHANNEL, XRAY_ENCODERS, expected_images
from xraytune.space.extensions import AUGMENTATIONS, EXTENSIONS, SOURCES
from xraytune.space.paths import WeightsName
from xraytune.space.program import Program
from xraytune.space.source_settings import FolderSettings, GanSettings, GivenFolder
from xraytune.space.strict_model import ImageSize, OptionalCount, StrictModel
from xraytune.space.task_settings import CLASS_TASKS, TASK_RULES, TaskName

Trainable = Literal["head", "last_stage", "all"]
OptimizerName = Literal["adam", "adamw", "sgd"]
ScheduleName = Literal["constant", "cosine", "plateau"]
HeadName = Literal["linear", "vgg16_two_class"]
LossName = Literal["cross_entropy", "bce"]
Balance = Literal["natural", "equal"]
Labels = Literal["class", "donor"]
Augmentation = Annotated[str, AfterValidator(AUGMENTATIONS.check)]
Degrees = Annotated[float, Field(gt=0, le=45)]
ViewCount = Annotated[int, Field(ge=1, le=64)]
Alpha = Annotated[float, Field(ge=0, le=10)]
Imbalance = Literal["none", "weighted", "oversample", "focal"]


_NO_EXTRA_IMAGES = Unless("source", ("none",))
_ONLY_AFFINE = Unless("augmentation", ("affine",), is_inverse=True)


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
    input_size: ImageSize | None = None
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
        return rank, len(self.classical_methods), ratio

    @property
    def mix_simplicity(self) -> tuple[int, float]:
        """A sort key of mixes, which is equal for trials with the same source and ratio."""
        rank = [*SOURCES.built_in, self.source].index(self.source)
        return rank, self.synthetic_ratio

    @property
    def arm(self) -> str:
        """The arm (docs/glossary.md): `real_only`, `augmented`, `gan`, `augmented+folder` ..."""
        if self.source == "none":
            return "augmented" if self.classical_methods else "real_only"
        return f"augmented+{self.source}" if self.classical_methods else self.source

    @property
    def classical_methods(self) -> tuple[str, ...]:
        """The methods of a trial that need no extra images, such as `affine` or `mixup 0.2`."""
        words = []
        for name in CLASSICAL_METHODS:
            value = getattr(self, name)
            if value not in ("none", 0):
                words.append(value if isinstance(value, str) else f"{name} {value:g}")
        return tuple(words)

    @property
    def rung_group(self) -> str:
        """The group within which ASHA compares trials: those of the same arm and mixing.

        A pretrained network sees real images late, so that it learns later, but not worse.
        """
        return self.arm if self.mixing == "additive" else f"{self.arm}, {self.mixing}"


CLASSICAL_METHODS = ("augmentation", "mixup", "cutmix", "imbalance")
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


def unless_of(name: str) -> Unless | None:
    """Return where a parameter, also one of a block, has no effect."""
    block = name.partition(".")[0]
    if block in BLOCKS:
        return Unless(EXTENSIONS.kind_of(block), (block,), is_inverse=True)
    metadata = Parameters.model_fields[name].metadata
    return next((each for each in metadata if isinstance(each, Unless)), None)


def has_effect(name: str, values: Mapping[str, Any]) -> bool:
    """Return whether a parameter has an effect at some values of others."""
    unless = unless_of(name)
    if unless is None or unless.parameter not in values:
        return True
    return unless.permits(values[unless.parameter])


@refuses("source", "folder.path", "generator.path", "statistics.path")
def _give_path(
    source: str, folder: str | None, generator: str | None, statistics: str | None
) -> Change:
    """A source of given images needs their path."""
    paths = {"folder": folder, "generator": generator, "statistics": statistics}
    return {f"{source}.path": "PATH"} if paths.get(source, "") is None else {}


@refuses("source", "task", instead="gan")
def _suit_task(source: str, task: TaskName) -> bool:
    """Statistics have neither findings nor masks."""
    return source in TASK_RULES[task].unused_sources


@refuses("source", "task", instead="gan")
def _draw_classes(source: str, task: TaskName) -> bool:
    """A program makes images of classes, without masks or findings; a class can make both."""
    return task not in CLASS_TASKS and isinstance(EXTENSIONS.code.get(source), Program)


@refuses("augmentation", "task", instead="affine")
def _move_masks(augmentation: str, task: TaskName) -> bool:
    """An augmentation of your own changes an image, and not its mask."""
    return AUGMENTATIONS.has(augmentation) and task == "segmentation"


@refuses("trainable", "backbone", instead="all")
def _find_last_stage(trainable: Trainable, backbone: str) -> bool:
    """The backbone does not say where its last stage starts (`last_stage`)."""
    code = EXTENSIONS.code.get(backbone)
    is_unknown = code is not None and not getattr(code, "last_stage", "")
    return trainable == "last_stage" and is_unknown


@refuses("trainable", "source", instead="head")
def _train_on_features(trainable: Trainable, source: str) -> bool:
    """Statistics yield features, on which only a head can be trained."""
    return trainable != "head" and source == "statistics"


@refuses("labels", "task", instead="class")
def _label_images(labels: Labels, task: TaskName) -> bool:
    """A classifier cannot say what a mask is."""
    return labels == "donor" and task == "segmentation"


@refuses("labels", "source", "folder.donor", "gan.start_from", instead="class")
def _have_a_donor(labels: Labels, source: str, of_folder: str | None, of_start: str | None) -> bool:
    """Only a folder of another hospital has a classifier that can label its images."""
    donors = {"folder": of_folder, "gan": of_start, "generator": source}
    return labels == "donor" and donors.get(source) is None


@refuses("balance", "source", "task", instead="natural", is_useless=True)
def _keep_proportions(balance: Balance, source: str, task: TaskName) -> bool:
    """Images of a folder are used as they come, with whatever findings they have."""
    return balance != "natural" and source == "folder" and task == "findings"


@refuses("synthetic_ratio", "batch_size", "mixing", "source", instead=1.0)
def _add_images(ratio: float, batch_size: int, mixing: str, source: str) -> bool:
    """Steps would have no extra images."""
    per_step = extra_image_count(ratio, batch_size)
    is_empty = ratio == 0 or (mixing == "additive" and per_step == 0)
    return source != "none" and is_empty


@refuses("synthetic_ratio", "pool_size", "source", "training_images")
def _add_an_image(ratio: float, pool_size: int | None, source: str, training_images: int) -> Change:
    """The training set would have no extra image."""
    is_empty = pool_size is None and extra_image_count(ratio, training_images) == 0
    least_ratio = float(f"{1 / training_images:.2g}")
    return {"synthetic_ratio": least_ratio} if source != "none" and is_empty else {}


@refuses("synthetic_ratio", "mixing", "total_steps", instead=1.0)
def _leave_both_phases(ratio: float, mixing: str, total_steps: int) -> bool:
    """Pretraining and the training after it need at least a step each."""
    is_split = 0 < pretraining_steps(ratio, total_steps) < total_steps
    return mixing == "pretrain" and not is_split


@refuses("synthetic_weight", "mixing", instead=1.0)
def _weigh_pretraining(weight: float, mixing: str) -> bool:
    """Pretraining has no real images in a step that extra ones could be weighed against."""
    return weight != 1 and mixing == "pretrain"


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


@refuses("backbone", "task", instead="resnet34")
def _encode(backbone: str, task: TaskName) -> bool:
    """A U-Net cannot have this backbone as its encoder."""
    return task == "segmentation" and backbone not in ENCODERS


@refuses("pixel_mean", "pixel_std")
def _normalise_by_both(mean: float | None, std: float | None) -> Change:
    """Pixels are normalised by their mean and their standard deviation."""
    is_incomplete = (mean is None) != (std is None)
    return {"pixel_mean": None, "pixel_std": None} if is_incomplete else {}


@refuses("mixup", "cutmix", "batch_size")
def _mix_pairs(mixup: float, cutmix: float, batch_size: int) -> Change:
    """A step with a single image has none to mix it with."""
    return {"batch_size": 2} if (mixup or cutmix) and batch_size == 1 else {}


@refuses("cutmix", "trainable", "task", instead=0.0)
def _cut_pixels(cutmix: float, trainable: Trainable, task: TaskName) -> bool:
    """Cached features have no pixels to replace."""
    return cutmix > 0 and trainable == "head" and task != "segmentation"


@refuses("loss", "class_count", instead="cross_entropy")
def _have_two_classes(loss: LossName, class_count: int) -> bool:
    """One output unit tells two classes apart."""
    return loss == "bce" and class_count != 2


@refuses("early_stop_epochs", "budget.max_epochs", instead=None, is_useless=True)
def _stop_early(epochs: int | None, max_epochs: int) -> bool:
    """A trial that may wait for so many epochs never ends early."""
    return epochs is not None and epochs >= max_epochs


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
