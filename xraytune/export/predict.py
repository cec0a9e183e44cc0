"""The classes of any images, as a table: one row for each file, with the probability of every class."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from pathlib import Path, PurePosixPath

import numpy as np

from xraytune.data.decoding import BrokenImage
from xraytune.data.layout import list_images
from xraytune.export.bundle import Bundle, open_bundle
from xraytune.export.predictions import Predictions, decide, predict_images, threshold_of
from xraytune.files import csv_table, require_new, write_text
from xraytune.records import Json, Progress, ignore_progress


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
