"""Verify a model bundle: its checksums, its images, and the numbers of its model card."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from xraytune.config.load import load_space
from xraytune.data.masks import read_mask, square_mask
from xraytune.errors import ConfigError, DataError, Problem, join_names
from xraytune.export.bundle import card_metrics, prepared_of
from xraytune.export.predict import ImageFiles, map_outputs
from xraytune.pipeline.bundle import Bundle, open_bundle
from xraytune.pipeline.prepare import missing_images
from xraytune.pipeline.task import task_of
from xraytune.pipeline.trial import Validated
from xraytune.records import Progress, ignore_progress

TOLERANCE = 0.001
"""One in the last digit that the model card shows."""


@dataclass(frozen=True, slots=True, kw_only=True)
class VerifiedNumber:
    """A number of the model card, as recorded and as recomputed; `differs` means by more than `TOLERANCE`."""

    name: str
    recorded: float
    recomputed: float
    differs: bool


def verify(model: Path, *, data: Path, on_progress: Progress = ignore_progress) -> tuple[VerifiedNumber, ...]:
    """Verify the checksums of a bundle, and recompute its scores, threshold, metrics and intervals.

    Args:
        model: Model bundle.
        data: The image folder or data file that the model was trained on; it may have moved.
        on_progress: Called with progress.

    Raises:
        ArtifactError: The bundle is missing or damaged.
        ConfigError: The numbers are out-of-fold, from networks that are not in the bundle.
        DataError: Images are missing or have changed.
    """
    bundle = open_bundle(model)
    prepared, form = prepared_of(bundle), bundle.record.input_format
    kept = [image for side in ("val_a", "val_b") for image in prepared.images if image.side == side]
    if not kept:
        what = "the checksums match, but its numbers are out-of-fold, from networks that are not in the bundle"
        raise ConfigError(Problem(what, model, "score it on other images with `xraytune evaluate`"))
    settings = load_space(model / "config.yaml", data=data).experiment().settings
    index = task_of(settings).read_index(settings.data, on_progress=on_progress)
    if missing := missing_images(prepared, index.images):
        what = f"{len(missing)} of {len(prepared.images)} images are missing or have changed: {join_names(missing, 3)}"
        raise DataError(Problem(what, data, "give the data folder that the model was trained on"))
    by_file = {image.file: image for image in index.images}

    def result(file: str, output: NDArray[Any]) -> NDArray[Any]:
        if not prepared.has_masks:
            return output
        true = square_mask(read_mask(index.root, by_file[file].masks), form.image_size_px, form.resize) > 0
        found = output >= bundle.record.threshold
        return np.array([2 * (found & true).sum() / (found.sum() + true.sum())])

    files = [image.file for image in kept]
    given = ImageFiles(root=index.root, files=files, skip_broken=False, on_progress=on_progress)
    results, _ = map_outputs(bundle.predictor(), given, result, title="computing the model's numbers")
    labels = np.array([image.label for image in kept], dtype=np.int64)
    patients = tuple(image.patient for image in kept)
    validated = Validated(labels=labels, results=np.stack(results), patients=patients)
    return tuple(
        VerifiedNumber(name=name, recorded=old, recomputed=new, differs=not abs(old - new) <= TOLERANCE)
        for name, old, new in _numbers(bundle, validated)
    )


def _numbers(bundle: Bundle, again: Validated) -> Iterator[tuple[str, float, float]]:
    """Yield the name of each number, its recorded value and its recomputed value."""
    record, prepared, task = bundle.record, prepared_of(bundle), task_of(bundle.experiment().settings)
    end = len(prepared.side("val_a").rows)
    sides = (("val-A", record.val_score, slice(end)), ("val-B", record.val_b_score, slice(end, None)))
    for name, score, side in sides:
        if score is not None:
            value = task.score(again.labels[side], again.results[side], positive=prepared.positive)
            yield f"score on {name}", score, value
    threshold = task.threshold(again.labels, again.results, prepared.positive)
    yield "threshold", record.threshold, threshold
    for old, new in zip(record.metrics, card_metrics(prepared, threshold, again), strict=False):
        yield old.name, old.value, new.value
        for name, low, high in zip(("low", "high"), old.interval or (), new.interval or (), strict=False):
            yield f"{old.name}, {name}", low, high
