"""The settings a person may write, each with its type, its bounds and its default, which lives here and nowhere else.

`Settings` is everything in the file but the parameters; `Parameters` are one trial's; both together are an
`Experiment`. The models are strict and frozen: what is wrong is refused at the edge, and never checked again.
"""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Literal, Self, get_args

from pydantic import BaseModel, ConfigDict, Field, model_validator

from xraytune.config.backbone_names import BACKBONES, BackboneName, is_of_torchvision
from xraytune.config.extensions import Extensions
from xraytune.records import Json

Count = Annotated[int, Field(ge=1)]
Fraction = Annotated[float, Field(gt=0, lt=1)]
Positive = Annotated[float, Field(gt=0)]
NonNegative = Annotated[float, Field(ge=0)]

Source = Literal["none", "duplicate", "gan", "folder"]
SOURCES = Extensions("source", get_args(Source))
"""These, and what other packages bring."""
HeadName = Literal["linear", "vgg16_two_class"]
LossName = Literal["cross_entropy", "bce"]
OBJECTIVE_METRIC = "val_auroc"


class Model(BaseModel):
    """A strict, frozen model: unknown keys, wrong types, NaN and infinity are refused."""

    model_config = ConfigDict(
        strict=True, frozen=True, extra="forbid", allow_inf_nan=False, use_attribute_docstrings=True
    )


class SplitSettings(Model):
    """How the training images are divided: by patient, into train, val-A and val-B."""

    by: Literal["patient"] = "patient"
    val_a: Fraction = 0.1
    val_b: Fraction = 0.1
    seed: int = 0
    group_regex: str | None = None
    """A regular expression over the path below the data folder; its first group is the patient."""

    @model_validator(mode="after")
    def _train_part_remains(self) -> Self:
        if self.val_a + self.val_b >= 0.9:
            raise ValueError("val_a and val_b together leave less than a tenth of the images for training; lower one")
        return self


class DataSettings(Model):
    """Which images, which classes, at which size."""

    path: Path
    classes: Literal["binary", "three", "auto"] = "binary"
    positive: str | None = None
    """The class that sensitivity is about; by default the last one by name."""
    image_size: Annotated[int, Field(ge=32, le=1024)] = 128
    resize: Literal["squash", "crop"] = "squash"
    """How an image becomes square: squashed, or its shorter side scaled to the size and its centre cut out."""
    split: SplitSettings = SplitSettings()
    train_patients: Count | None = None


class Objective(Model):
    """What the search maximises; always a validation metric, never one of the test folder."""

    metric: Literal["val_auroc"] = "val_auroc"
    goal: Literal["maximize"] = "maximize"


class GanSettings(Model):
    """One DCGAN. The defaults are what works on a few hundred images."""

    image_size: Literal[32, 64, 128, 256] = 64
    steps: Count = 10_000
    batch_size: Annotated[int, Field(ge=2, le=4096)] = 64
    z_dim: Annotated[int, Field(ge=1, le=4096)] = 100
    width: Annotated[int, Field(ge=4, le=512)] = 64
    """Feature maps of the generator's last and the discriminator's first layer."""
    lr_g: Positive = 3e-4
    lr_d: Positive = 1e-3
    """Spectral norm lets the discriminator learn faster than the generator; without it, take 2e-4 for both."""
    beta1: Annotated[float, Field(ge=0, lt=1)] = 0.5
    loss: Literal["bce", "non_saturating", "hinge"] = "hinge"
    spectral_norm: bool = True
    diffaugment: bool = True
    ema_half_life_images: Count | None = 10_000
    """Half-life of the generator's moving average, in images shown; none: the last weights are used."""
    conditional: bool = True
    """One network told the class; false: one network for each class."""
    seed: int = 0
    allow_memorised: bool = False
    """Use its images even where too many are near copies of training images; it changes no image."""


class FolderSettings(Model):
    """Extra images that somebody else made, in class folders."""

    path: Path


class Parameters(Model):
    """The settings of one trial: everything that a space may search."""

    source: Annotated[Source, SOURCES] = "none"
    synthetic_ratio: Annotated[float, Field(ge=0, le=100)] = 1.0
    """Extra images per real image; without a source it is 0."""
    balance: Literal["natural", "equal"] = "natural"
    mixing: Literal["additive", "replace"] = "additive"
    match_resolution: Literal["auto", "on", "off"] = "auto"
    """Whether all images are scaled through a smaller GAN's size; `on` is another word for `auto`."""
    gan: GanSettings | None = None
    folder: FolderSettings | None = None
    classical: Annotated[int, Field(ge=0, le=3)] = 0
    """Strength of classical augmentation: 1 flips alone, 2 and 3 also turn, shift, scale and change the contrast."""
    views: Annotated[int, Field(ge=0, le=64)] = 8
    """With `classical`, looks of each image that are drawn beforehand; 0: a new one at each step, and no cached features."""
    backbone: Annotated[BackboneName, BACKBONES] = "resnet50"
    weights: str = "imagenet"
    """`imagenet`, one of its sets (`IMAGENET1K_V1`, `IMAGENET1K_V2`), `none`, or the path of a file."""
    input_channels: Literal[1, 3] = 3
    trainable: Literal["head", "last_stage", "all"] = "all"
    batch_norm: Literal["mix", "real", "moving"] = "mix"
    """Running statistics of trained batch norms: estimated after each epoch on the training mix, or on its real images
    alone; `moving`: the moving average that training leaves."""
    head: HeadName = "linear"
    """`vgg16_two_class`: 256 hidden neurons, ReLU, dropout and log-softmax, as published with a VGG-16."""
    loss: LossName = "cross_entropy"
    """`bce`: one output neuron and binary cross entropy, for two classes."""
    dropout: Annotated[float, Field(ge=0, lt=1)] = 0.0
    lr: Positive = 1e-4
    optimizer: Literal["adam", "adamw", "sgd"] = "adam"
    weight_decay: NonNegative = 0.0
    batch_size: Annotated[int, Field(ge=1, le=4096)] = 32
    schedule: Literal["constant", "cosine", "plateau"] = "constant"
    early_stop_epochs: Count | None = None

    @model_validator(mode="before")
    @classmethod
    def _drop_what_the_source_does_not_use(cls, values: dict[str, object]) -> dict[str, object]:
        """`source: none` collapses the GAN's settings and the mix: such trials are one and the same."""
        source = values.get("source", "none")
        kept = dict(values)
        if source == "none":
            kept.update(synthetic_ratio=0.0, balance="natural", mixing="additive")
        if source == "gan":
            kept.setdefault("gan", {})
        else:
            kept.pop("gan", None)
        if source != "folder":
            kept.pop("folder", None)
        return kept

    @model_validator(mode="after")
    def _settings_go_together(self) -> Self:
        if self.source == "folder" and self.folder is None:
            raise ValueError("source: folder needs the folder of extra images; give folder.path")
        if self.source != "none" and self.synthetic_ratio == 0:
            raise ValueError("synthetic_ratio: 0 is source: none; give a ratio above 0")
        if self.source == "duplicate" and self.mixing == "replace":
            raise ValueError("source: duplicate with mixing: replace is source: none; use mixing: additive")
        if self.balance == "equal" and self.match_resolution == "off":
            raise ValueError(
                "balance: equal with match_resolution: off lets an extra image's missing detail hint at its class; "
                "use match_resolution: auto"
            )
        if self.weights == "imagenet" and not is_of_torchvision(self.backbone):
            raise ValueError(f"backbone: {self.backbone} has no ImageNet weights; set weights: none")
        if self.weights == "none" and self.trainable != "all":
            raise ValueError(
                f"trainable: {self.trainable} with weights: none leaves random layers untrained; use trainable: all"
            )
        if self.extra_per_step == 0 and self.source != "none":
            raise ValueError(
                f"synthetic_ratio: {self.synthetic_ratio:g} of batch_size: {self.batch_size} rounds to no extra image; "
                "raise one of them"
            )
        if self.real_per_step == 0:
            raise ValueError(f"synthetic_ratio: {self.synthetic_ratio:g} leaves no real image in a batch; lower it")
        return self

    @property
    def extra_per_step(self) -> int:
        """Extra images in each optimiser step, half up: r·B, or with `mixing: replace` the share r/(1+r) of B."""
        share = self.synthetic_ratio if self.mixing == "additive" else self.synthetic_ratio / (1 + self.synthetic_ratio)
        return int(share * self.batch_size + 0.5)

    @property
    def real_per_step(self) -> int:
        """Real images in each optimiser step: B, or with `mixing: replace` what the extra ones leave."""
        return self.batch_size if self.mixing == "additive" else self.batch_size - self.extra_per_step

    @property
    def has_synthetic_images(self) -> bool:
        """Whether its extra images are others than the real ones drawn again: what a `confirm` is about."""
        return self.source not in ("none", "duplicate")

    @property
    def arm(self) -> str:
        """The arm, as docs/glossary.md names it: `real_only`, `classical`, `gan`, `classical+gan`, `duplicate` ..."""
        if self.source == "none":
            return "classical" if self.classical else "real_only"
        return f"classical+{self.source}" if self.classical else self.source


def extensions_of(backbone: str, source: str) -> dict[str, str]:
    """`backbone tiny_net` -> which one, for what comes from other packages."""
    chosen = ((BACKBONES, backbone), (SOURCES, source))
    return {f"{kind.kind} {name}": kind.identity(name) for kind, name in chosen if kind.has(name)}


class Budget(Model):
    """How much a search may use; whichever ends first ends it."""

    trials: Count = 60
    max_epochs: Count = 27
    steps_per_epoch: Count | None = None
    """Optimiser steps of an epoch; by default one pass of 32 images a step, at least 8."""
    hours: Positive | None = None
    gpu_hours: Positive | None = None


class SchedulerSettings(Model):
    """ASHA: a trial goes on past a rung when it is in the best 1/reduction there."""

    name: Literal["asha", "none"] = "asha"
    grace: Count = 1
    """Epochs that every trial gets."""
    reduction: Annotated[int, Field(ge=2)] = 3


class SamplerSettings(Model):
    """How Optuna chooses the next trial."""

    name: Literal["tpe", "random", "grid"] = "tpe"
    startup_trials: Annotated[int, Field(ge=0)] = 10
    seed: int = 0


class Resources(Model):
    """What one trial occupies, and how many run at once."""

    gpus_per_trial: Literal["auto"] | NonNegative = "auto"
    cpus_per_trial: Count = 1
    concurrent: Count | None = None
    retries: Annotated[int, Field(ge=0)] = 2
    """How often a trial is tried again from its last epoch after a fault that is not of its settings."""
    hang_minutes: Annotated[float, Field(gt=0)] = 30.0
    """A trial whose process says nothing for so long is ended as a fault."""


class Controls(Model):
    """The arms that a finalist has to beat."""

    matched: tuple[Literal["none", "duplicate"], ...] = ("none", "duplicate")
    """The finalist's own settings with another source."""
    tuned: tuple[Literal["real_only", "classical", "duplicate"], ...] = ("real_only", "classical", "duplicate")
    """The best trials of these arms, of the search and of the top-ups."""

    @model_validator(mode="after")
    def _something_to_beat(self) -> Self:
        if not self.matched and not self.tuned:
            raise ValueError("without a control there is nothing to compare with; leave one in matched or tuned")
        return self


class Confirm(Model):
    """How `confirm` compares the finalists with their controls."""

    controls: Controls = Controls()
    finalists: Count = 3
    gan_seeds: Annotated[int, Field(ge=2)] = 5
    classifier_seeds: Count = 2
    rope: Annotated[float, Field(gt=0, lt=0.5)] = 0.01
    """Differences in AUROC up to this count as none."""


class WandbSettings(Model):
    """Weights & Biases: one run for each trial, grouped by study."""

    project: str = "xraytune"
    mode: Literal["auto", "online", "offline"] = "auto"
    """`auto`: online with a key, else offline."""


class Tracking(Model):
    """What is told to others; `epochs.jsonl` is always written."""

    wandb: WandbSettings | None = None


class ExportedFrom(Model):
    """The trial that `export` wrote this file from: how a final training finds its study."""

    study: Path
    trial: Annotated[int, Field(ge=0)]


class Settings(Model):
    """Everything in the file but the parameters."""

    version: Literal[1] = 1
    name: Annotated[str, Field(pattern=r"^[A-Za-z0-9][A-Za-z0-9._-]{0,63}$")]
    seed: int = 0
    task: Literal["classification"] = "classification"
    weights_dir: Path | None = None
    data: DataSettings
    objective: Objective = Objective()
    budget: Budget = Budget()
    scheduler: SchedulerSettings = SchedulerSettings()
    sampler: SamplerSettings = SamplerSettings()
    resources: Resources = Resources()
    confirm: Confirm = Confirm()
    tracking: Tracking = Tracking()
    exported_from: ExportedFrom | None = None

    def identity(self) -> dict[str, Json]:
        """All of them that make a study the one that it is, as plain JSON.

        Trials, hours, resources and tracking may change between two starts; where the images and the official weights
        lie is a location, and so is the study that the file was exported from.
        """
        content: dict[str, Json] = self.model_dump(
            mode="json",
            exclude={
                **dict.fromkeys(("resources", "tracking", "weights_dir", "exported_from"), True),
                "budget": {"trials", "hours", "gpu_hours"},
                "data": {"path"},
            },
        )
        return content

    @property
    def has_idle_asha(self) -> bool:
        """Whether ASHA is asked for and can stop no trial, since each has reached its last epoch at the first rung."""
        return self.scheduler.name == "asha" and self.scheduler.grace >= self.budget.max_epochs


class Experiment(Model):
    """One trial, or one final training: settings in which nothing is left to choose."""

    settings: Settings
    parameters: Parameters
    inherited_resolution_px: Count | None = None
    """The band of the GAN trial that this one is the matched control of."""

    def identity(self) -> dict[str, Json]:
        """All that its numbers follow from, as plain JSON; see `Settings.identity`."""
        content = self.model_dump(mode="json", exclude={"settings"})
        return {"settings": self.settings.identity(), **content}

    @property
    def resolution_px(self) -> int | None:
        """The side that all images are scaled through, so that all have a GAN's sampling grid; None: as they are."""
        gan = self.parameters.gan
        if self.inherited_resolution_px is not None:
            return self.inherited_resolution_px
        if gan is None or self.parameters.match_resolution == "off" or gan.image_size >= self.settings.data.image_size:
            return None
        return gan.image_size
