"""Run a model on image files, one batch at a time.

A mask has the size of its image: the network's probabilities, S x S, are resized bilinearly and
compared with the threshold. With `resize: crop`, everything outside the crop is background.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from itertools import islice
from pathlib import Path
from typing import Any, TypeAlias, TypeVar

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from xraytune.base.cores import map_on_cores
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
        counts: Images predicted as each class, or as having each finding; or `empty` masks.
        summary: The same as a line of text.
    """

    path: Path
    images: int
    counts: dict[str, int]
    broken: tuple[BrokenImage, ...]
    summary: str


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

    pairs = zip(images.files, decoded, strict=True)
    while batch := [*islice(pairs, _BATCH_SIZE)]:
        broken += [image for _, image in batch if isinstance(image, BrokenImage)]
        usable = [(file, image) for file, image in batch if not isinstance(image, BrokenImage)]
        if usable and (images.skip_broken or not broken):
            outputs = model.run(np.stack([image.pixels for _, image in usable]))
            named = [(file, output) for (file, _), output in zip(usable, outputs, strict=True)]
            results += map_on_cores(lambda pair: use(*pair), named)
    if broken and not (images.skip_broken and results):
        raise broken_images_error(broken, images.root)
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
    files: Sequence[str],
    about: Mapping[str, Sequence[str]],
    class_names: Sequence[str],
    probabilities: Floats,
    predicted: Columns,
) -> str:
    """Return the table: `file`, `about`, `probability_CLASS` of each class, and `predicted`."""
    columns: Columns = {"file": files, **about}
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
    counts = Counter(map(folded, stems.values()))
    return {
        file: f"{stem if counts[folded(stem)] == 1 else file}.png" for file, stem in stems.items()
    }
