"""Read masks, which mark the pixels of an image that belong to a structure, such as the lungs.

A mask is a PNG, TIFF, BMP or GIF of the same size as its image, with two values: 0 for the
background and one other. Several masks of one image, such as left and right lung, are merged. Masks
that are probably wrong (more than two values, empty, full or inverted) are refused, since a
segmenter would silently learn them.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from functools import partial
from pathlib import Path
from typing import TypeVar

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from xraytune.base.cores import map_on_cores
from xraytune.base.errors import DataError, Problem, join_names
from xraytune.data.decoding import BrokenImage, Resize, read_image, square_box
from xraytune.data.formats import LARGEST_SIDE_PX, ignore_decoder_warnings
from xraytune.data.images import ImageFile

Result = TypeVar("Result")
_TWO_VALUES = (
    "save it with 0 for the background and one other value, or leave it out with --skip-broken"
)
OUTLINE_RGB = (230, 159, 0)
"""Stands out on grey, also for colour-blind readers."""


def read_mask(
    root: Path, masks: Sequence[str], *, size_px: tuple[int, int] | None = None
) -> NDArray[np.bool_]:
    """Read the masks of an image below `root`, and merge them, [H, W], upright.

    `size_px` is the width and height of the image; None skips the check.

    Raises DataError with one problem for each mask that cannot be read, has another size or not two
    values; or for a merged mask that is empty, full or looks inverted.
    """
    masks_read: list[NDArray[np.bool_]] = []
    problems: list[Problem] = []
    for mask in masks:
        try:
            masks_read.append(
                _foreground(
                    root / mask, size_px or (masks_read[0].shape[::-1] if masks_read else None)
                )
            )
        except DataError as error:
            problems += error.problems
    if problems:
        raise DataError(*problems)
    united: NDArray[np.bool_] = np.logical_or.reduce(masks_read)
    _refuse_implausible(united, root / masks[0])
    return united


def _foreground(path: Path, size_px: tuple[int, ...] | None) -> NDArray[np.bool_]:
    image = read_image(path, LARGEST_SIDE_PX).image
    if size_px is not None and image.size != size_px:
        what = "the mask has {} x {} pixels, but its image has {} x {}".format(
            *image.size, *size_px
        )
        raise DataError(Problem(what, path, "export it at the size of the image"))
    levels = np.asarray(image)
    values = np.flatnonzero(np.bincount(levels.ravel(), minlength=256)).tolist()
    if len(values) > 2 or (len(values) == 2 and values[0]):
        shown = join_names([str(value) for value in values], 5)
        what = f"the mask has {len(values)} values ({shown}); it needs two: 0 and one other"
        raise DataError(Problem(what, path, _TWO_VALUES))
    return levels > 0


def _refuse_implausible(mask: NDArray[np.bool_], where: Path) -> None:
    border = np.concatenate([mask[0], mask[-1], mask[:, 0], mask[:, -1]])
    if not mask.any():
        raise DataError(
            Problem(
                "the mask is empty", where, "draw it, or leave its image out with --skip-broken"
            )
        )
    if mask.all():
        raise DataError(Problem("the mask is full: it covers the whole image", where, _TWO_VALUES))
    if mask.mean() > 0.5 and border.mean() > 0.5:
        shares = f"it covers {mask.mean():.0%} of the image and {border.mean():.0%} of its border"
        fix = "swap its values, so that the background is 0"
        raise DataError(Problem(f"the mask looks inverted: {shares}; {fix}", where))


def square_mask(mask: NDArray[np.bool_], image_size_px: int, resize: Resize) -> NDArray[np.uint8]:
    """Resize a mask, [H, W], like its image, to uint8 [S, S].

    A pixel is 255 if the mask covers at least half of it, else 0.

    Raises DataError if the result is empty.
    """
    area = Image.fromarray(mask.astype(np.float32))
    box = square_box(area.size, area.size, image_size_px, resize)
    shares = np.asarray(area.resize((image_size_px, image_size_px), Image.Resampling.BOX, box))
    if not (shares >= 0.5).any():
        what = f"the mask is empty after resizing to {image_size_px} x {image_size_px} pixels"
        raise DataError(Problem(what, fix="raise data.image_size, or use data.resize: squash"))
    return np.where(shares >= 0.5, np.uint8(255), np.uint8(0))


def connected_parts(mask: NDArray[np.bool_]) -> int:
    """Count the connected components of a mask, [H, W].

    Pixels that touch only at a corner are not connected.
    """
    from scipy.ndimage import label  # type: ignore[import-untyped]  # trials need none

    return int(label(mask)[1])


def outlined(
    images: NDArray[np.uint8], masks: NDArray[np.uint8] | NDArray[np.bool_]
) -> NDArray[np.uint8]:
    """Return grey images [..., H, W] in colour, with a line around each mask [..., H, W]."""
    from scipy.ndimage import maximum_filter

    width_px, inside = 2 * round(max(images.shape[-2:]) / 500) + 3, masks > 0
    widened = maximum_filter(inside.astype(np.uint8), size=width_px, axes=(-2, -1)) > 0
    coloured = np.repeat(images[..., None], 3, axis=-1)
    coloured[widened & ~inside] = OUTLINE_RGB
    return coloured


def map_masks(
    root: Path, images: Sequence[ImageFile], use: Callable[[NDArray[np.bool_]], Result]
) -> Iterator[Result | list[BrokenImage]]:
    """Call `use` on the mask of each image below `root`, on all cores.

    Return the results in order.
    """
    ignore_decoder_warnings()
    return map_on_cores(partial(use_mask, root, use=use), images)


def use_mask(
    root: Path, image: ImageFile, use: Callable[[NDArray[np.bool_]], Result]
) -> Result | list[BrokenImage]:
    """Apply `use`, which may raise DataError, to the merged mask of an image, [H, W].

    If its masks are unusable, return these and what is wrong with them.
    """
    try:
        size_px = (
            (image.width_px, image.height_px) if image.width_px else None
        )  # else decoding the image fails
        return use(read_mask(root, image.masks, size_px=size_px))
    except DataError as error:
        broken = []
        for problem in error.problems:
            file = (
                str(problem.where.relative_to(root))
                if isinstance(problem.where, Path)
                else image.masks[0]
            )
            broken.append(BrokenImage(file=file, reason=problem.what))
        return broken
