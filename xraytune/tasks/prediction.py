"""Run a model on image files, one batch at a time."""

from collections.abc import Callable, Sequence
from itertools import islice
from operator import itemgetter
from pathlib import Path
from typing import Any, TypeAlias, TypeVar

import numpy as np
from numpy.typing import NDArray

from xraytune.base.cores import map_on_cores
from xraytune.base.files import csv_table
from xraytune.base.records import Progress, frozen
from xraytune.data.decoding import BrokenImage, decode_files
from xraytune.data.pixels import broken_images_error
from xraytune.stats.classification import Floats
from xraytune.tasks.bundle_record import BundleRecord

Pixels: TypeAlias = NDArray[np.uint8]
Columns: TypeAlias = dict[str, Sequence[str | float]]
"""Columns of a table of predictions, by name."""
Result = TypeVar("Result")
_BATCH_SIZE = 64


@frozen
class Predictor:
    """A network with its record.

    Attributes:
        run: Maps square grey images, uint8 [n, S, S], to probabilities: of each class, [n, C], or
            of the mask, [n, S, S]. Raises ArtifactError if an output is not finite.
    """

    record: BundleRecord
    run: Callable[[Pixels], NDArray[Any]]


@frozen
class Predicted:
    """Summary of predictions.

    Attributes:
        counts: Images predicted as each class, or as having each finding; or `empty` masks.
        threshold: That of the `positive` one of two classes, or of a mask's pixels.
        summary: The same as a line of text.
    """

    path: Path
    images: int
    counts: dict[str, int]
    broken: tuple[BrokenImage, ...]
    positive: str | None = None
    threshold: float | None = None
    summary: str


@frozen
class ImageFiles:
    """Files below `root` to predict; broken images are left out or an error."""

    root: Path
    files: Sequence[str]
    skip_broken: bool
    on_progress: Progress


def map_outputs(
    model: Predictor, images: ImageFiles, use: Callable[[tuple[str, Any]], Result], *, title: str
) -> tuple[dict[str, Result], tuple[BrokenImage, ...]]:
    """Apply `use`, on all cores, to each pair of a file and the model's output.

    Return the results by file, in order, and broken images.

    Raises:
        DataError: Images are broken, unless `skip_broken` leaves them out and others remain.
        ArtifactError: The network's output is not finite.
    """
    form = model.record.input_format
    broken: list[BrokenImage] = []
    results: dict[str, Result] = {}
    decoded = decode_files(
        images.root,
        images.files,
        form.image_size_px,
        form.resize,
        on_progress=lambda _, done, total: images.on_progress(title, done, total),
    )
    for start in range(0, len(images.files), _BATCH_SIZE):
        batch: dict[str, NDArray[np.uint8]] = {}
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

    Raises what `map_outputs` does.
    """
    rows, broken = map_outputs(model, images, itemgetter(1), title="classifying images")
    return [*rows], np.stack([*rows.values()]), broken


def predictions_csv(
    columns: Columns, names: Sequence[str], probabilities: Floats, predicted: Columns
) -> str:
    """Return a table: `columns`, `probability_NAME` of each output, and what is `predicted`."""
    table = {**columns}
    for name, column in zip(names, probabilities.T, strict=True):
        table[f"probability_{name}"] = column.tolist()
    table |= predicted
    return csv_table([*table], zip(*table.values(), strict=True))
