"""Run a model on image files, one batch at a time.

A mask has the size of its image: the network's probabilities, S x S, are resized bilinearly and
compared with the threshold. With `resize: crop`, everything outside the crop is background.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import islice
from pathlib import Path, PurePosixPath
from typing import Any, TypeAlias, TypeVar

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from xraytune.base.cores import map_on_cores
from xraytune.base.errors import DataError, Problem
from xraytune.base.files import csv_table
from xraytune.base.records import Progress
from xraytune.data.decoding import BrokenImage, Resize, decode_files, read_image, square_box
from xraytune.data.formats import LARGEST_SIDE_PX, without_suffix
from xraytune.data.guesses import folded
from xraytune.data.pixels import broken_images_error
from xraytune.stats.classification import Floats
from xraytune.stats.segmentation import Masks
from xraytune.tasks.bundle_record import BundleRecord

Pixels: TypeAlias = NDArray[np.uint8]
Columns: TypeAlias = dict[str, Sequence[str | float]]
"""Columns of a table of predictions, by name."""
Result = TypeVar("Result")
_BATCH_SIZE = 64


@dataclass(frozen=True, slots=True, kw_only=True)
class Predictor:
    """A network with its record.

    Attributes:
        run: Maps square grey images, uint8 [n, S, S], to probabilities: of each class, [n, C], or
            of the mask, [n, S, S]. Raises ArtifactError if an output is not finite.
    """

    record: BundleRecord
    run: Callable[[Pixels], NDArray[Any]]


@dataclass(frozen=True, slots=True, kw_only=True)
class Predicted:
    """Summary of predictions.

    Attributes:
        counts: Images predicted as each class, or as having each finding.
        positive: The positive class of two, predicted from the probability `threshold`; both None
            with more classes.
    """

    path: Path
    images: int
    counts: dict[str, int]
    positive: str | None
    threshold: float | None
    broken: tuple[BrokenImage, ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class PredictedMasks:
    """Summary of masks: how many are `empty`, and the mean share that they cover (`area`)."""

    path: Path
    images: int
    empty: int
    area: float
    broken: tuple[BrokenImage, ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class ImageFiles:
    """Files below `root` to predict; broken images are left out or an error."""

    root: Path
    files: Sequence[str]
    skip_broken: bool
    on_progress: Progress


def map_outputs(
    model: Predictor, images: ImageFiles, use: Callable[[str, Any], Result], *, title: str
) -> tuple[list[Result], tuple[BrokenImage, ...]]:
    """Apply `use`, on all cores, to each file and the model's output.

    Return the results in order, and broken images.

    Raises:
        DataError: Images are broken, unless `skip_broken` leaves them out and others remain.
        ArtifactError: The network's output is not finite.
    """
    form = model.record.input_format
    broken: list[BrokenImage] = []
    results: list[Result] = []
    decoded = decode_files(
        images.root,
        images.files,
        form.image_size_px,
        form.resize,
        on_progress=lambda _, done, total: images.on_progress(title, done, total),
    )

    def find_usable() -> Iterator[tuple[str, Pixels]]:
        for file, image in zip(images.files, decoded, strict=True):
            if isinstance(image, BrokenImage):
                broken.append(image)
            elif images.skip_broken or not broken:
                yield file, image.pixels  # otherwise only decoded, to list all broken ones

    usable = find_usable()
    while batch := [*islice(usable, _BATCH_SIZE)]:
        files, pixels = zip(*batch, strict=True)
        outputs = model.run(np.stack(pixels))
        results += map_on_cores(lambda output: use(*output), [*zip(files, outputs, strict=True)])
    if broken and not images.skip_broken:
        raise broken_images_error(broken, images.root)
    if len(broken) == len(images.files):
        what = f"all {len(broken)} images are broken"
        raise DataError(Problem(what, images.root, f"the first one: {broken[0].reason}"))
    return results, tuple(broken)


def predict_images(
    model: Predictor, images: ImageFiles
) -> tuple[tuple[str, ...], Floats, tuple[BrokenImage, ...]]:
    """Return the decoded files, their probabilities, float64 [N, C], and the broken images.

    Raises what `map_outputs` does.
    """
    results, broken = map_outputs(
        model, images, lambda file, row: (file, row), title="classifying images"
    )
    used, rows = zip(*results, strict=True)
    return used, np.stack(rows), broken


def predictions_csv(
    class_names: Sequence[str],
    files: Sequence[str],
    probabilities: Floats,
    predicted: Columns,
    *,
    about: Mapping[str, Sequence[str]] | None = None,
) -> str:
    """Return the table: `file`, `about`, `probability_CLASS` of each class, and `predicted`."""
    columns: dict[str, Sequence[PurePosixPath | str | float]] = {
        "file": [*map(PurePosixPath, files)],
        **(about or {}),
    }
    for name, column in zip(class_names, probabilities.T, strict=True):
        columns[f"probability_{name}"] = column.tolist()
    columns |= predicted
    return csv_table([*columns], zip(*columns.values(), strict=True))


def map_predicted(
    model: Predictor, images: ImageFiles, use: Callable[[str, NDArray[np.uint8], Masks], Result]
) -> tuple[list[Result], tuple[BrokenImage, ...]]:
    """Apply `use` to each file, its image in its own size, [H, W], and the predicted mask, [H, W].

    Return the results in order, and the broken images; raises what `map_outputs` does.
    """
    resize = model.record.input_format.resize
    threshold = model.record.threshold

    def use_one(file: str, probabilities: NDArray[np.float32]) -> Result:
        image = np.asarray(read_image(images.root / file, LARGEST_SIDE_PX).image)
        height, width = image.shape
        mask = whole_mask(probabilities, width, height, resize=resize, threshold=threshold)
        return use(file, image, mask)

    return map_outputs(model, images, use_one, title="segmenting images")


def whole_mask(
    probabilities: NDArray[np.float32],
    width_px: int,
    height_px: int,
    *,
    resize: Resize,
    threshold: float,
) -> Masks:
    """Return the mask of an image of any size, [H, W], from the network's probabilities, [S, S]."""
    side_px = len(probabilities)
    size = (width_px, height_px)
    left, upper, right, lower = square_box(size, size, side_px, resize) or (0, 0, *size)
    x = side_px / (right - left)
    y = side_px / (lower - upper)
    extent = (-left * x, -upper * y, (width_px - left) * x, (height_px - upper) * y)
    resized = Image.fromarray(probabilities).transform(
        size, Image.Transform.EXTENT, extent, Image.Resampling.BILINEAR
    )
    mask: Masks = np.asarray(resized) >= threshold
    return mask


def name_pictures(files: Sequence[str]) -> dict[str, str]:
    """Return each file's picture: without the file's suffix, unless another file has that name."""
    stems = {file: without_suffix(file) for file in files}
    claims = Counter(
        claim for file, stem in stems.items() for claim in {folded(stem), folded(file)}
    )
    return {
        file: f"{stem if claims[folded(stem)] == 1 else file}.png" for file, stem in stems.items()
    }
