"""The record of a model bundle, `bundle.json`: its outputs, thresholds, metrics and origin."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Literal

from pydantic import ValidationError

from xraytune.base.errors import ArtifactError
from xraytune.base.files import read_bytes
from xraytune.base.records import Compute
from xraytune.data.decoding import InputFormat
from xraytune.space.backbones import BackboneName
from xraytune.space.domains import Value
from xraytune.space.parameters import HeadName, LossName
from xraytune.space.strict_model import StrictModel
from xraytune.space.task_settings import TaskName
from xraytune.stats.intervals import Bounds, Measured


class TrainedOn(StrictModel):
    """The images that a model was trained on, and their patients.

    Attributes:
        folds: Number of networks that the scores are means of, each on patients that it was not
            trained on.
        validated_images: Number of images that these networks scored.
        of_images: Number of images of the data folder without `test/`.
        changes: Differences from the exported trial, one line each.
    """

    images: int
    patients: int
    folds: int
    validated_images: int
    validated_patients: int
    of_images: int
    of_patients: int
    changes: tuple[str, ...]


class CardMetric(StrictModel):
    """A metric on the validation images, with its 95 % interval; undefined values are None."""

    name: str
    value: float | None
    interval: Bounds | None

    @classmethod
    def of(cls, measured: Measured, metric: str, name: str) -> CardMetric:
        """Return a measured metric under another name."""
        value = measured.metrics[metric]
        return cls(name=name, value=value, interval=measured.intervals.get(metric))


class BundleRecord(StrictModel):
    """The content of `bundle.json`.

    Scores, threshold and `best_epoch` are those of `TrialResult`, over all folds.

    Attributes:
        class_names: Classes or findings, in the order of the network's outputs; for a segmenter,
            only `image`.
        positive: The positive class; None for a segmenter and for findings.
        threshold: The probability from which an image is positive (two classes), or a pixel belongs
            to the mask.
        thresholds: The probability from which each finding is present; empty without findings.
        input_format: How decoded pixels become the network's input.
        loss: Training loss; `bce` has one output neuron.
        group_regex: Regular expression that reads patients from file names; if None, the rules for
            public data sets are used.
        study: The study that the configuration was exported from, relative to the bundle.
        overrides: `--set` options of the training.
        members: Number of networks whose probabilities are averaged. `best_epoch` is the best epoch
            of the first network.
        packages: Versions of packages and of extensions, such as `backbone tiny_net`.
        metrics: The metrics of the model card.
    """

    version: Literal[1] = 1
    task: TaskName
    class_names: tuple[str, ...]
    positive: str | None
    threshold: float
    thresholds: dict[str, float]
    input_format: InputFormat
    backbone: BackboneName
    backbone_settings: Mapping[str, Value] = {}
    input_channels: Literal[1, 3]
    head: HeadName
    loss: LossName
    arm: str
    members: int
    val_score: float
    val_b_score: float
    best_epoch: int
    trained_on: TrainedOn
    train_fingerprint: str
    test_fingerprint: str | None
    group_regex: str | None
    study: str | None
    trial: int | None
    overrides: tuple[str, ...]
    compute: Compute
    packages: dict[str, str]
    metrics: tuple[CardMetric, ...]

    @property
    def positive_number(self) -> int:
        """The number of a classifier's positive class; if there is none, a meaningless 0."""
        return self.class_names.index(self.positive) if self.positive else 0


def read_record(file: Path) -> BundleRecord:
    """Read a `bundle.json`; raise ArtifactError if it is not valid in this version."""
    try:
        return BundleRecord.model_validate_json(read_bytes(file))
    except ValidationError as error:
        first = error.errors()[0]
        where = ".".join(map(str, first["loc"]))
        raise ArtifactError(
            f"not valid in this version of xraytune: {where}: {first['msg']}",
            file,
            "update xraytune, or train the model again with this version",
        ) from error
