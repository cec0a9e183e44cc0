"""The classes of any images, as a table: one row for each file, with the probability of every class."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path, PurePosixPath

import numpy as np
import torch
from numpy.typing import NDArray

from xraytune.classifier.inputs import normalise, to_unit
from xraytune.classifier.train import predict_probabilities
from xraytune.compute import compute_like, pin
from xraytune.cores import cpu_count
from xraytune.data.decoding import BrokenImage
from xraytune.data.layout import list_images
from xraytune.data.pixels import broken_images_error, decode_images
from xraytune.errors import ArtifactError, ConfigError, DataError, Problem
from xraytune.export.bundle import Bundle, open_bundle
from xraytune.files import csv_table, require_new, write_text
from xraytune.metrics.threshold import fewest_positives, sensitivity_threshold
from xraytune.records import Json, Progress, ignore_progress

_BATCH = 64


@dataclass(frozen=True, slots=True, kw_only=True)
class Predictions:
    """Probabilities of the files that decode, in their order.

    Attributes:
        files: As they were asked for.
        probabilities: float64 [n, C].
        broken: The files that were left out.
    """

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
    """Predict files below `root`; no more than a batch of them is in memory at once.

    Raises:
        DataError: Broken images, unless `skip_broken` leaves them out and others remain.
        ArtifactError: The network's output is not finite.
    """
    compute = compute_like(bundle.record.compute, threads=cpu_count())
    pin(compute)
    network, form = bundle.classifier(compute), bundle.record.input_format
    known: list[str] = []
    broken: list[BrokenImage] = []
    waiting: list[NDArray[np.uint8]] = []
    rows: list[NDArray[np.float64]] = []

    def predict_waiting() -> None:
        pixels = torch.from_numpy(np.stack(waiting)).to(compute.device)
        batch = normalise(to_unit(pixels, form), form)
        rows.append(predict_probabilities(network, [batch], compute=compute, error=ArtifactError, where=bundle.path))
        waiting.clear()

    decoded = decode_images(
        root,
        files,
        form.image_size_px,
        workers=cpu_count(),
        resize=form.resize,
        on_progress=lambda _, done, total: on_progress("predict images", done, total),
    )
    for file, image in zip(files, decoded, strict=True):
        if isinstance(image, BrokenImage):
            broken.append(image)
            continue
        if broken and not skip_broken:  # the rest is decoded all the same, so that all broken ones are listed
            continue
        known.append(file)
        waiting.append(image)
        if len(waiting) == _BATCH:
            predict_waiting()
    if broken and not skip_broken:
        raise broken_images_error(broken, root)
    if not known:
        raise DataError(Problem(f"all {len(files)} images are broken", root, f"the first: {broken[0].reason}"))
    if waiting:
        predict_waiting()
    return Predictions(files=tuple(known), probabilities=np.concatenate(rows), broken=tuple(broken))


def threshold_of(bundle: Bundle, sensitivity: float | None) -> float:
    """The bundle's threshold, or the one for a sensitivity, from the scores of its validation images.

    Raises:
        ConfigError: No such sensitivity, or the model's validation images cannot tell its threshold.
    """
    record = bundle.record
    if sensitivity is None:
        return record.threshold
    where, fix = f"--at-sensitivity {sensitivity:g}", "leave it out, for the model's own threshold"
    if not 0 < sensitivity < 1:
        raise ConfigError(Problem("a sensitivity lies above 0 and below 1", where, "give one such as 0.95"))
    if len(record.class_names) > 2:
        raise ConfigError(Problem("a model of more than two classes has no threshold", where, "leave it out"))
    if record.validation is None:
        what = f"{bundle.path} holds no validation scores: it was trained by an earlier version"
        raise ConfigError(Problem(what, where, f"train it again with this version, or {fix}"))
    positives = record.validation[record.positive]
    threshold = sensitivity_threshold(np.array(positives.scores), sensitivity)
    if threshold is None:
        few = f"{len(positives.scores)} of {record.positive}"
        what = f"it takes {fewest_positives(sensitivity)} positive validation scores, and the model holds {few}"
        raise ConfigError(Problem(what, where, f"give a lower sensitivity, or {fix}"))
    return threshold


def decide(bundle: Bundle, probabilities: NDArray[np.float64], threshold: float) -> NDArray[np.int64]:
    """The class of each image, int64 [n]: two classes by the threshold, more by the largest probability."""
    if probabilities.shape[1] > 2:
        return np.asarray(probabilities.argmax(axis=1))
    positive = bundle.positive
    return np.where(probabilities[:, positive] >= threshold, positive, 1 - positive)


@dataclass(frozen=True, slots=True, kw_only=True)
class Predicted:
    """What was predicted.

    Attributes:
        path: The table.
        counts: Images called each class.
        positive: Of two classes, the one that an image is called from the threshold on; else None.
        threshold: Probability of that class; None with more classes, where the most probable one is called.
        broken: Images that were left out.
    """

    path: Path
    counts: dict[str, int]
    positive: str | None
    threshold: float | None
    broken: tuple[BrokenImage, ...]

    def to_json(self) -> dict[str, Json]:
        """The record as JSON values."""
        return {
            "path": str(self.path),
            "images": sum(self.counts.values()),
            "counts": {**self.counts},
            "positive": self.positive,
            "threshold": self.threshold,
            "broken": [asdict(image) for image in self.broken],
        }


def predict(
    model: Path,
    images: Path,
    *,
    out: Path,
    skip_broken: bool = False,
    sensitivity: float | None = None,
    on_progress: Progress = ignore_progress,
) -> Predicted:
    """Write a CSV with the columns `file`, `probability_CLASS` for each class, and `predicted`.

    Args:
        model: The bundle.
        images: One image, or a folder of images at any depth, which are taken sorted; `file` is relative to it.
        out: The table.
        skip_broken: Leave broken images out, and say which.
        sensitivity: Call images positive at the threshold for this sensitivity instead of the model's own.
        on_progress: Told how far it is.

    Raises:
        ConfigError: `out` exists, or the validation images cannot tell the threshold for `sensitivity`.
        ArtifactError: The bundle is missing or damaged.
        DataError: No images, or broken ones.
        MachineError: The disk is full.
    """
    require_new(out)
    bundle = open_bundle(model)
    threshold = threshold_of(bundle, sensitivity)
    root, files = (
        (images.parent, [images.name])
        if images.is_file()
        else (images, [file.relative_to(images).as_posix() for file in list_images(images)])
    )
    predictions = predict_images(bundle, root, files, skip_broken=skip_broken, on_progress=on_progress)
    called = decide(bundle, predictions.probabilities, threshold).tolist()
    names = bundle.record.class_names
    write_text(out, _table(bundle, predictions, [names[label] for label in called]))
    counts = np.bincount(called, minlength=len(names)).tolist()
    is_binary = len(names) == 2
    return Predicted(
        path=out,
        counts=dict(zip(names, counts, strict=True)),
        positive=names[bundle.positive] if is_binary else None,
        threshold=threshold if is_binary else None,
        broken=predictions.broken,
    )


def _table(bundle: Bundle, predictions: Predictions, called: list[str]) -> str:
    header = ["file", *(f"probability_{name}" for name in bundle.record.class_names), "predicted"]
    rows = zip(predictions.files, predictions.probabilities.tolist(), called, strict=True)
    return csv_table(header, ([PurePosixPath(file), *probabilities, name] for file, probabilities, name in rows))
