"""Predict the classes of images, and write them to a CSV file with the probability of each class."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path, PurePosixPath

import numpy as np
import torch
from numpy.typing import NDArray

from xraytune.compute import compute_like, pin
from xraytune.cores import cpu_count
from xraytune.data.decoding import BrokenImage
from xraytune.data.layout import list_images
from xraytune.data.pixels import broken_images_error, decode_images
from xraytune.errors import ArtifactError, ConfigError, DataError, Problem
from xraytune.export.bundle import Bundle, open_bundle
from xraytune.files import csv_table, require_new, write_text
from xraytune.metrics.classification import Floats, Labels, predicted_classes
from xraytune.metrics.threshold import fewest_positives, sensitivity_threshold
from xraytune.models.inputs import normalise, to_unit
from xraytune.models.train import predict_probabilities
from xraytune.records import Progress, ignore_progress

_BATCH_SIZE = 64


@dataclass(frozen=True, slots=True, kw_only=True)
class Predictions:
    """Probabilities, float64 [n, C], of the files that could be decoded, in the given order."""

    files: tuple[str, ...]
    probabilities: NDArray[np.float64]
    broken: tuple[BrokenImage, ...]


def predict_images(
    bundle: Bundle,
    root: Path,
    files: Sequence[str],
    *,
    skip_broken: bool = False,
    on_progress: Progress = ignore_progress,
) -> Predictions:
    """Predict files below `root`, one batch in memory at a time.

    Raises:
        DataError: Broken images, unless `skip_broken` leaves them out and others remain.
        ArtifactError: The network's output is not finite.
    """
    compute = compute_like(bundle.record.compute, threads=cpu_count())
    pin(compute)
    network, form = bundle.classifier(compute), bundle.record.input_format
    used: list[str] = []
    broken: list[BrokenImage] = []
    batch: list[NDArray[np.uint8]] = []
    rows: list[NDArray[np.float64]] = []

    def predict_batch() -> None:
        pixels = torch.from_numpy(np.stack(batch)).to(compute.device)
        inputs = normalise(to_unit(pixels, form), form)
        rows.append(predict_probabilities(network, [inputs], compute=compute, error=ArtifactError, where=bundle.path))
        batch.clear()

    decoded = decode_images(
        root,
        files,
        form.image_size_px,
        workers=cpu_count(),
        resize=form.resize,
        on_progress=lambda _, done, total: on_progress("classifying images", done, total),
    )
    for file, image in zip(files, decoded, strict=True):
        if isinstance(image, BrokenImage):
            broken.append(image)
        elif skip_broken or not broken:  # after a broken image, the others are only decoded, to list all broken ones
            used.append(file)
            batch.append(image)
            if len(batch) == _BATCH_SIZE:
                predict_batch()
    if broken and not skip_broken:
        raise broken_images_error(broken, root)
    if not used:
        raise DataError(Problem(f"all {len(files)} images are broken", root, f"the first one: {broken[0].reason}"))
    if batch:
        predict_batch()
    return Predictions(files=tuple(used), probabilities=np.concatenate(rows), broken=tuple(broken))


def predictions_csv(
    class_names: Sequence[str],
    files: Sequence[str],
    probabilities: Floats,
    predicted: Labels,
    *,
    patients: Sequence[str] | None = None,
    labels: Labels | None = None,
) -> str:
    """Return the table of predictions: `file`, `patient` and `label` where given, `probability_CLASS`, `predicted`."""
    columns: dict[str, Sequence[PurePosixPath | str | float]] = {"file": [PurePosixPath(file) for file in files]}
    if patients is not None:
        columns["patient"] = patients
    if labels is not None:
        columns["label"] = [class_names[label] for label in labels]
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
        raise ConfigError(Problem("a model of more than two classes has no threshold", where, "leave it out"))
    scores = record.validation[record.positive].scores
    threshold = sensitivity_threshold(np.array(scores), sensitivity)
    if threshold is None:
        needed = fewest_positives(sensitivity)
        what = f"needs {needed} validation scores of {record.positive}, but the model has {len(scores)}"
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
) -> Predicted:
    """Write a CSV file with the columns `file`, `probability_CLASS` for each class, and `predicted`.

    Args:
        model: Model bundle.
        images: One image, or a folder with images at any depth; `file` is relative to it, sorted.
        out: CSV file to write.
        skip_broken: Leave out broken images.
        sensitivity: Use the threshold that reaches this sensitivity on the model's validation images.
        on_progress: Called with progress.

    Raises:
        ConfigError: `out` exists, or there is no threshold for `sensitivity`.
        ArtifactError: The bundle is missing or damaged.
        DataError: There are no images, or broken ones.
    """
    require_new(out)
    bundle = open_bundle(model)
    threshold = threshold_of(bundle, sensitivity)
    root, files = images.parent, [images.name]
    if not images.is_file():
        root, files = images, [file.relative_to(images).as_posix() for file in list_images(images)]
    predictions = predict_images(bundle, root, files, skip_broken=skip_broken, on_progress=on_progress)
    names, positive = bundle.record.class_names, bundle.positive
    is_binary = len(names) == 2
    labels = predicted_classes(predictions.probabilities, positive=positive, threshold=threshold)
    write_text(out, predictions_csv(names, predictions.files, predictions.probabilities, labels))
    counts = np.bincount(labels, minlength=len(names)).tolist()
    return Predicted(
        path=out,
        images=len(labels),
        counts=dict(zip(names, counts, strict=True)),
        positive=names[positive] if is_binary else None,
        threshold=threshold if is_binary else None,
        broken=predictions.broken,
    )
