"""Run a model on image files, one batch at a time, and calibrate a model."""

import logging
from collections.abc import Callable, Mapping, Sequence
from itertools import islice
from operator import itemgetter
from pathlib import Path
from typing import Any, TypeAlias, TypeVar

import numpy as np
from scipy.special import expit  # type: ignore[import-untyped]

from xraytune.base.arrays import AnyArray, UInt8Array
from xraytune.base.cores import map_on_cores
from xraytune.base.errors import DataError
from xraytune.base.files import csv_table
from xraytune.base.records import Progress, frozen
from xraytune.data.decoding import BrokenImage, decode_files
from xraytune.data.index import LabelledImages
from xraytune.data.pixels import broken_images_error
from xraytune.stats.classification import Floats
from xraytune.stats.threshold import logits_of, platt_scaling
from xraytune.tasks.bundle_record import BundleRecord

Columns: TypeAlias = dict[str, Sequence[str | float]]
"""The columns of a table of predictions, by name."""
Result = TypeVar("Result")
_BATCH_SIZE = 64
_logger = logging.getLogger(__name__)


@frozen
class Predictor:
    """A network with its record.

    Attributes:
        run: Maps square grey images, uint8 [n, S, S], to the probabilities of classes or findings,
            [n, C], or of the mask, [n, S, S]. Raises ArtifactError if an output is not finite.
    """

    record: BundleRecord
    run: Callable[[UInt8Array], AnyArray]


@frozen
class Predicted:
    """Summary of predictions.

    Attributes:
        path: The file, or for a segmenter the folder, that was written; None if none was.
        images: Number of predicted images.
        counts: Number of images predicted as each class or as having each finding, or of `empty`
            masks.
        broken: Images that cannot be decoded and were left out.
        probabilities: Probability of each class or finding, if there is one image.
        threshold: The threshold of the `positive` one of two classes, or of a mask's pixels.
        summary: The summary as a line of text.
    """

    path: Path | None
    images: int
    counts: dict[str, int]
    broken: tuple[BrokenImage, ...]
    probabilities: Mapping[str, float] | None = None
    positive: str | None = None
    threshold: float | None
    summary: str


@frozen
class ImageFiles:
    """The files below `root` to predict; broken images are left out or raise an error."""

    root: Path
    files: Sequence[str]
    skip_broken: bool
    on_progress: Progress


def map_outputs(
    model: Predictor, images: ImageFiles, use: Callable[[tuple[str, Any]], Result], *, title: str
) -> tuple[dict[str, Result], tuple[BrokenImage, ...]]:
    """Apply `use`, on all cores, to each pair of a file and the model's output.

    Returns the results by file, in order, and the broken images.

    Raises:
        DataError: Images are broken, unless `skip_broken` leaves them out and others remain.
        ArtifactError: The network's output is not finite.
    """
    input_format = model.record.input_format
    broken: list[BrokenImage] = []
    results: dict[str, Result] = {}
    decoded = decode_files(
        images.root,
        images.files,
        input_format.image_size_px,
        input_format.resize,
        on_progress=lambda _, done, total: images.on_progress(title, done, total),
    )
    for start in range(0, len(images.files), _BATCH_SIZE):
        batch: dict[str, UInt8Array] = {}
        files = images.files[start : start + _BATCH_SIZE]
        for file, image in zip(files, islice(decoded, len(files)), strict=True):
            if isinstance(image, BrokenImage):
                broken.append(image)
            else:
                batch[file] = image.pixels
        if batch and (images.skip_broken or not broken):
            outputs = model.run(np.stack([*batch.values()]))
            mapped = map_on_cores(use, [*zip(batch, outputs, strict=True)])
            results.update(zip(batch, mapped, strict=True))
    if broken and not (images.skip_broken and results):
        raise broken_images_error(broken, images.root)
    return results, tuple(broken)


def predict_images(
    model: Predictor, images: ImageFiles
) -> tuple[list[str], Floats, tuple[BrokenImage, ...]]:
    """Return the decoded files, their probabilities, float64 [N, C], and the broken images.

    The errors are those of `map_outputs`.
    """
    rows, broken = map_outputs(model, images, itemgetter(1), title="classifying images")
    return [*rows], np.stack([*rows.values()]), broken


def predictions_csv(
    columns: Columns, names: Sequence[str], probabilities: Floats, predicted: Columns
) -> str:
    """Return a CSV table of `columns`, a `probability_NAME` for each output, and `predicted`."""
    table = {**columns}
    for name, column in zip(names, probabilities.T, strict=True):
        table[f"probability_{name}"] = column.tolist()
    table |= predicted
    return csv_table([*table], zip(*table.values(), strict=True))


@frozen
class Calibration:
    """Adapts the probabilities of two classes to a hospital, with a few of its images.

    Scores are usually shifted at another hospital. Platt scaling, a logistic regression of the
    class on the logit of the model's probability, corrects this shift and keeps the ranking of the
    images. The calibrated probability is sigmoid(slope * logit(p) + intercept), where p is the
    model's probability.

    Attributes:
        images: The number of images that the calibration was fitted to; `patients` is the number of
            their patients.
        threshold: The share of positives among these images, which is the calibrated probability
            with the best balanced accuracy.
    """

    images: int
    patients: int
    slope: float
    intercept: float
    threshold: float

    def apply(self, model: Predictor) -> Predictor:
        """Return the model with calibrated probabilities and the threshold for them."""
        positive = model.record.positive_number

        def run(pixels: UInt8Array) -> Floats:
            probabilities = model.run(pixels)
            logits = logits_of(probabilities[:, positive])
            probabilities[:, positive] = expit(self.slope * logits + self.intercept)
            probabilities[:, 1 - positive] = 1 - probabilities[:, positive]
            return probabilities

        record = model.record.with_values({"threshold": self.threshold})
        return Predictor(record=record, run=run)


def fit_calibration(model: Predictor, labelled: LabelledImages, images: ImageFiles) -> Calibration:
    """Fit a calibration of two classes to labelled images.

    Raises DataError if the calibrated probability does not increase with the model's.
    """
    positive = model.record.positive_number
    files, probabilities, broken = predict_images(model, images)
    for left_out in broken:
        _logger.warning("left out: %s: %s", images.root / left_out.file, left_out.reason)
    image_of = {image.file: image for image in labelled.images}
    predicted = [image_of[file] for file in files]
    is_positive = np.array([image.label == positive for image in predicted])
    slope, intercept = platt_scaling(is_positive, probabilities[:, positive])
    if slope <= 0 or is_positive.all() or not is_positive.any():
        raise DataError(
            f"their probabilities do not increase with {model.record.positive}",
            images.root,
            "calibrate on images of both classes that can be read, with correct labels",
        )
    return Calibration(
        images=len(is_positive),
        patients=len({image.patient for image in predicted}),
        slope=slope,
        intercept=intercept,
        threshold=float(is_positive.mean()),
    )
