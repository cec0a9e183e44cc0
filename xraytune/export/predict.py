"""Predict images: their classes, in a CSV file with the probability of each class, or their masks (`segmentation.py`)."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path, PurePosixPath

import numpy as np

from xraytune.data.decoding import BrokenImage
from xraytune.data.layout import list_images, pair_folders
from xraytune.errors import ConfigError, DataError, Problem
from xraytune.export.bundle import Bundle, open_bundle
from xraytune.export.outputs import ImageFiles, map_outputs
from xraytune.export.segmentation import PredictedMasks, predict_masks
from xraytune.files import csv_table, require_new, write_text
from xraytune.metrics.classification import Floats, Labels, predicted_classes
from xraytune.metrics.threshold import fewest_positives, sensitivity_threshold
from xraytune.models.train import predict_probabilities
from xraytune.records import Progress, ignore_progress


def predict_images(bundle: Bundle, images: ImageFiles) -> tuple[tuple[str, ...], Floats, tuple[BrokenImage, ...]]:
    """Predict classes; raises what `map_outputs` does.

    Return the files that could be decoded, in order, with their probabilities, float64 [N, C], and the broken images.
    """
    results, broken = map_outputs(
        bundle, images, predict_probabilities, lambda file, row: (file, row), title="classifying images"
    )
    used, rows = zip(*results, strict=True)
    return used, np.stack(rows), broken


def predictions_csv(
    class_names: Sequence[str], files: Sequence[str], probabilities: Floats, predicted: Labels, **about: Sequence[str]
) -> str:
    """Return the table of predictions: `file`, the columns of `about`, `probability_CLASS` of each class, `predicted`."""
    columns: dict[str, Sequence[PurePosixPath | str | float]] = {
        "file": [PurePosixPath(file) for file in files],
        **about,
    }
    columns |= {f"probability_{name}": probabilities[:, label].tolist() for label, name in enumerate(class_names)}
    columns["predicted"] = [class_names[label] for label in predicted]
    return csv_table([*columns], zip(*columns.values(), strict=True))


def threshold_of(bundle: Bundle, sensitivity: float | None) -> float:
    """Return the bundle's threshold, or the one that reaches a sensitivity on its validation images.

    Raises:
        ConfigError: The sensitivity is out of range, or there are too few validation images for it.
    """
    record = bundle.record
    if sensitivity is None:
        return record.threshold
    where, fix = f"--at-sensitivity {sensitivity:g}", "leave it out to use the model's own threshold"
    if not 0 < sensitivity < 1:
        raise ConfigError(Problem("the sensitivity must be above 0 and below 1", where, "give e.g. 0.95"))
    if record.validation is None:
        raise ConfigError(Problem("only classifiers with two classes have a sensitivity", where, "leave it out"))
    scores = record.validation[bundle.positive_name].scores
    threshold = sensitivity_threshold(np.array(scores), sensitivity)
    if threshold is None:
        needed = fewest_positives(sensitivity)
        what = f"needs {needed} validation scores of {bundle.positive_name}, but the model has {len(scores)}"
        raise ConfigError(Problem(what, where, f"give a lower sensitivity, or {fix}"))
    return threshold


@dataclass(frozen=True, slots=True, kw_only=True)
class Predicted:
    """Summary of a prediction.

    Attributes:
        counts: Images predicted as each class.
        positive: The positive class of two; None with more classes.
        threshold: Its probability from which an image is positive; None with more classes.
        broken: Images that were left out.
    """

    path: Path
    images: int
    counts: dict[str, int]
    positive: str | None
    threshold: float | None
    broken: tuple[BrokenImage, ...]


def predict(
    model: Path,
    images: Path,
    *,
    out: Path,
    skip_broken: bool = False,
    sensitivity: float | None = None,
    on_progress: Progress = ignore_progress,
) -> Predicted | PredictedMasks:
    """Predict classes, written to a CSV file (`file`, `probability_CLASS` for each class, `predicted`), or masks.

    Args:
        model: Model bundle.
        images: One image, or a folder with images at any depth; `file` is relative to it, sorted.
        out: CSV file to write, or for a segmenter the folder to create (`export/segmentation.py`).
        skip_broken: Leave out broken images.
        sensitivity: Use the threshold that reaches this sensitivity on validation images; for classifiers with two classes.
        on_progress: Called with progress.

    Raises:
        ConfigError: `out` exists, or there is no threshold for `sensitivity`.
        ArtifactError: The bundle is missing or damaged.
        DataError: There are no images, or broken ones, or the folder contains pairs.
        MachineError: The packages of a segmenter are not installed.
    """
    require_new(out)
    bundle = open_bundle(model)
    threshold = threshold_of(bundle, sensitivity)
    if len(pairs := pair_folders(images)) == 2:
        what = "this is a folder of pairs, and masks are not X-rays"
        raise DataError(Problem(what, images, f"give only its images: {pairs['images']}"))
    root, files = images.parent, [images.name]
    if not images.is_file():
        root, files = images, [file.relative_to(images).as_posix() for file in list_images(images)]
    given = ImageFiles(root=root, files=files, skip_broken=skip_broken, on_progress=on_progress)
    if bundle.record.task == "segmentation":
        return predict_masks(bundle, given, out, threshold=threshold)
    used, probabilities, broken = predict_images(bundle, given)
    names, is_binary = bundle.record.class_names, len(bundle.record.class_names) == 2
    labels = predicted_classes(probabilities, positive=bundle.positive, threshold=threshold)
    write_text(out, predictions_csv(names, used, probabilities, labels))
    counts = np.bincount(labels, minlength=len(names)).tolist()
    return Predicted(
        path=out,
        images=len(labels),
        counts=dict(zip(names, counts, strict=True)),
        positive=bundle.positive_name if is_binary else None,
        threshold=threshold if is_binary else None,
        broken=broken,
    )
