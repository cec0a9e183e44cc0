"""Predict with a trained model, in PyTorch (`bundle.py`) or onnxruntime (`onnx_model.py`), and read its record.

Neither this module nor anything else that `predict` needs, besides a PyTorch network, imports torch.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any, Literal, Self, TypeAlias, TypeVar

import numpy as np
from numpy.typing import NDArray
from pydantic import Field, ValidationError, model_validator

from xraytune.config.settings import Model, TaskName
from xraytune.data.decoding import InputFormat
from xraytune.errors import ArtifactError, ConfigError, Problem
from xraytune.metrics.classification import Floats
from xraytune.metrics.shift import ClassSample
from xraytune.metrics.threshold import ThresholdRule, fewest_positives, sensitivity_threshold

Pixels: TypeAlias = NDArray[np.uint8]
Record = TypeVar("Record", bound="ModelRecord")
_TRAIN_AGAIN = "train the model again with this version"


class ValidationScores(Model):
    """Images of one class on val-A and val-B together.

    `scores` are probabilities of the positive class, ascending; more than 1,000 are summarized by 1,000 quantiles.
    """

    images: Annotated[int, Field(ge=1)]
    patients: Annotated[int, Field(ge=1)]
    scores: Annotated[tuple[Annotated[float, Field(ge=0, le=1)], ...], Field(min_length=1)]

    def sample(self) -> ClassSample:
        """Return a sample for comparison with the same class in another folder."""
        return ClassSample(scores=np.array(self.scores), images=self.images, patients=self.patients)


class ModelRecord(Model):
    """What predictions depend on, besides the network.

    Attributes:
        class_names: In the order of the network's outputs; for a segmenter, only `image`.
        positive: The positive class; None for a segmenter.
        threshold: The probability from which an image is positive (two classes), or a pixel belongs to the mask.
        validation: With two classes, the scores that set the threshold, by class; else None.
        input_format: How decoded pixels become the network's input.
    """

    version: Literal[1] = 1
    task: TaskName
    class_names: tuple[str, ...]
    positive: str | None
    threshold: float
    threshold_rule: ThresholdRule
    validation: dict[str, ValidationScores] | None
    input_format: InputFormat

    @model_validator(mode="after")
    def _has_classes_or_masks(self) -> Self:
        names = self.class_names
        has_classes = len(names) > 1 and len({*names}) == len(names) and self.positive in names
        has_masks = names == ("image",) and self.positive is None
        if not (has_masks if self.task == "segmentation" else has_classes):
            raise ValueError("class_names: not valid for this task")
        if self.validation is not None and {*self.validation} != {*names}:
            raise ValueError("validation: needs scores of each class")
        return self

    @property
    def positive_name(self) -> str:
        """A classifier's positive class."""
        assert self.positive is not None, "a segmenter has none"
        return self.positive


def not_valid(file: Path) -> ArtifactError:
    """Return the error for a model file that is not valid in this version."""
    return ArtifactError(Problem("this file is not valid in this version of xraytune", file, _TRAIN_AGAIN))


def read_record(kind: type[Record], content: bytes | str, file: Path) -> Record:
    """Read a record from JSON; raise ArtifactError, with the name of `file`, if it is not valid in this version."""
    try:
        return kind.model_validate_json(content)
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


@dataclass(frozen=True, slots=True, kw_only=True)
class Predictor:
    """A network with its record.

    Attributes:
        run: Maps square grey images, uint8 [n, S, S], to probabilities: of each class, [n, C], or of the mask, [n, S, S].
            Raises ArtifactError if an output is not finite.
        maps: Maps them to the Grad-CAM maps of the predicted classes, in [0, 1], [n, S, S]; None if there are none.
    """

    record: ModelRecord
    run: Callable[[Pixels], NDArray[Any]]
    maps: Callable[[Pixels], Floats] | None = None


def threshold_of(record: ModelRecord, sensitivity: float | None) -> float:
    """Return the model's threshold, or the one that reaches a sensitivity on its validation images.

    Raises:
        ConfigError: The sensitivity is out of range, or there are too few validation images for it.
    """
    if sensitivity is None:
        return record.threshold
    where, fix = f"--at-sensitivity {sensitivity:g}", "leave it out to use the model's own threshold"
    if not 0 < sensitivity < 1:
        raise ConfigError(Problem("the sensitivity must be above 0 and below 1", where, "give e.g. 0.95"))
    if record.validation is None:
        raise ConfigError(Problem("only classifiers with two classes have a sensitivity", where, "leave it out"))
    scores = record.validation[record.positive_name].scores
    threshold = sensitivity_threshold(np.array(scores), sensitivity)
    if threshold is None:
        needed = fewest_positives(sensitivity)
        what = f"needs {needed} validation scores of {record.positive_name}, but the model has {len(scores)}"
        raise ConfigError(Problem(what, where, f"give a lower sensitivity, or {fix}"))
    return threshold
