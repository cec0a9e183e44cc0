"""The record of a model bundle, `bundle.json`: what predictions depend on besides the network, and where it comes from."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Literal, Self

from pydantic import Field, ValidationError, model_validator

from xraytune.base.errors import ArtifactError, Problem
from xraytune.base.files import read_bytes
from xraytune.base.records import Compute
from xraytune.data.decoding import InputFormat
from xraytune.data.images import SINGLE_CLASS
from xraytune.space.backbones import BACKBONES
from xraytune.space.rules import RULES
from xraytune.space.settings import HeadName, LossName, TaskName
from xraytune.space.strict_model import StrictModel
from xraytune.stats.intervals import Bounds

_LARGEST_SIDE_PX = 1024
_TRAIN_AGAIN = "train the model again with this version"


class TrainedOn(StrictModel):
    """The images that a model was trained on, and their patients.

    Attributes:
        kept_images: Images kept for validation.
        of_images: Images of the data folder without `test/`.
        changes: What differs from the exported trial, one line each.
    """

    images: int
    patients: int
    kept_images: int
    kept_patients: int
    of_images: int
    of_patients: int
    changes: tuple[str, ...]


class CardMetric(StrictModel):
    """A metric on the validation images, with its 95 % interval over patients, or None if that is undefined."""

    name: str
    value: float | None
    interval: Bounds | None


class BundleRecord(StrictModel):
    """The content of `bundle.json`; scores, threshold and `best_epoch` are those of `FinalTraining`.

    Attributes:
        class_names: Classes or findings, in the order of the network's outputs; for a segmenter, only `image`.
        positive: The positive class; None for a segmenter and for findings.
        threshold: The probability from which an image is positive (two classes), or a pixel belongs to the mask.
        thresholds: The probability from which each finding is present; empty without findings.
        input_format: How decoded pixels become the network's input.
        loss: Training loss; `bce` has one output neuron.
        group_regex: Regular expression that reads patients from file names; None: the rules for public data sets.
        study: The study that the configuration was exported from, relative to the bundle.
        overrides: `--set` options of the training.
        packages: Package versions, and those of extensions such as `backbone tiny_net`.
        metrics: The metrics of the model card.
    """

    version: Literal[1] = 1
    task: TaskName
    class_names: Annotated[tuple[str, ...], Field(max_length=1000)]
    positive: str | None
    threshold: float
    thresholds: dict[str, float] = Field(default={})
    input_format: InputFormat
    backbone: Annotated[str, BACKBONES]
    input_channels: Literal[1, 3]
    head: HeadName
    loss: LossName
    arm: str
    val_score: float
    val_b_score: float
    best_epoch: int
    trained_on: TrainedOn
    train_fingerprint: str
    test_fingerprint: str | None
    group_regex: str | None
    study: Annotated[str, Field(pattern=r"^[^\x00]*$")] | None
    trial: int | None
    overrides: tuple[str, ...]
    compute: Compute
    packages: dict[str, str]
    metrics: tuple[CardMetric, ...]

    @model_validator(mode="after")
    def _has_classes_or_masks(self) -> Self:
        names = self.class_names
        has_classes = len(names) > 1 and len({*names}) == len(names) and self.positive in names
        has_masks = names == SINGLE_CLASS and self.positive is None
        has_findings = len(names) > 1 and {*names} == {*self.thresholds} and self.positive is None
        if not {"segmentation": has_masks, "findings": has_findings}.get(self.task, has_classes):
            raise ValueError("class_names: not valid for this task")
        return self

    @model_validator(mode="after")
    def _can_be_used(self) -> Self:
        form = self.input_format
        values = {"task": self.task, "backbone": self.backbone, "data.image_size": form.image_size_px}
        is_possible = 0 < form.image_size_px <= _LARGEST_SIDE_PX
        if not is_possible or any(rule.refusal(values) for rule in RULES if values.keys() >= {*rule.reads}):
            raise ValueError("input_format: unsupported image size, or a backbone that is no encoder of a U-Net")
        if {len(form.mean), len(form.std)} != {self.input_channels}:
            raise ValueError("input_format: needs one mean and std per channel")
        return self

    @property
    def positive_name(self) -> str:
        """A classifier's positive class."""
        assert self.positive is not None, "a segmenter and findings have none"
        return self.positive


def not_valid(file: Path) -> ArtifactError:
    """Return the error for a model file that is not valid in this version."""
    return ArtifactError(Problem("this file is not valid in this version of xraytune", file, _TRAIN_AGAIN))


def read_record(file: Path) -> BundleRecord:
    """Read a `bundle.json`; raise ArtifactError if it is not valid in this version."""
    try:
        return BundleRecord.model_validate_json(read_bytes(file))
    except ValidationError as error:
        first = error.errors()[0]
        if first["type"] != "literal_error" or first["loc"] not in {("version",), ("backbone",)}:
            raise not_valid(file) from error
        what = f"the backbone {first['input']!r} is not part of xraytune, and no installed package provides it"
        fix = "install its package"
        if first["loc"] == ("version",):
            what = f"its format has version {first['input']!r}, but this xraytune reads version 1"
            fix = "update xraytune"
        raise ArtifactError(Problem(what, file, f"{fix}, or {_TRAIN_AGAIN}")) from error
