"""Read masks, which mark the pixels of an image that belong to a structure, such as the lungs.

A mask is a PNG, TIFF, BMP or GIF of the same size as its image, with two values: 0 for the
background and one other. Several masks of one image, such as left and right lung, are merged. Masks
that are probably wrong (more than two values, empty, full or inverted) are refused, since a
segmenter would silently learn them.
"""

from collections.abc import Callable
from pathlib import Path
from typing import TypeVar

import numpy as np
from PIL import Image

from xraytune.base.arrays import BoolArray, UInt8Array
from xraytune.base.errors import DataError, join_names
from xraytune.data.decoding import LARGEST_SIDE_PX, BrokenImage, Resize, read_image, square_box
from xraytune.data.images import ImageFile

Result = TypeVar("Result")
OUTLINE_RGB = (230, 159, 0)
"""This orange stands out on grey, also for colour-blind readers."""


def read_mask(root: Path, image: ImageFile) -> BoolArray:
    """Read the masks of an image below `root`, and merge them, [H, W], upright.

    Raises DataError if a mask cannot be read, differs from the image in size or orientation tag, or
    does not have two values; or if the merged mask is empty or full, or looks inverted.
    """
    masks = []
    for file in image.masks:
        levels = read_image(root / file, LARGEST_SIDE_PX).pixels
        height, width = levels.shape
        values = np.flatnonzero(np.bincount(levels.ravel()))
        what = ""
        if image.is_turned_alone:
            what = "an orientation tag (EXIF) turns the image and the mask differently; save both "
            what += "upright, without tags"
        elif image.width_px and (width, height) != (image.width_px, image.height_px):
            what = f"the mask has {width} x {height} pixels, but its image has "
            what += f"{image.width_px} x {image.height_px}"
        elif len(values) > 2 or (len(values) == 2 and values[0]):
            examples = join_names([str(value) for value in values], 5)
            what = f"the mask has {len(values)} values ({examples}); it needs two: 0 and one other"
        if what:
            raise DataError(
                what,
                root / file,
                "save a PNG of the image's size, with 0 for the background and one other value",
            )
        masks.append(levels > 0)
    merged: BoolArray = np.logical_or.reduce(masks)
    share = merged.mean()
    border = np.concatenate([merged[0], merged[-1], merged[:, 0], merged[:, -1]])
    if share in (0, 1) or (share > 0.5 and border.mean() > 0.5):
        raise DataError(
            f"the mask is empty, full or inverted: it covers {share:.0%} of the image and "
            f"{border.mean():.0%} of its border",
            root / image.masks[0],
            "draw it, or swap its values, so that the background is 0",
        )
    return merged


def square_mask(mask: BoolArray, image_size_px: int, resize: Resize) -> UInt8Array:
    """Resize a mask, [H, W], like its image, to uint8 [S, S].

    A pixel is 255 if the mask covers at least half of it, and 0 otherwise.

    Raises DataError if the result is empty.
    """
    area = Image.fromarray(mask.astype(np.float32))
    box = square_box(area.size, area.size, image_size_px, resize)
    shares = np.asarray(area.resize((image_size_px, image_size_px), Image.Resampling.BOX, box))
    if not (shares >= 0.5).any():
        raise DataError(
            f"the mask is empty after resizing to {image_size_px} x {image_size_px} pixels",
            fix="raise data.image_size, or use data.resize: squash",
        )
    return np.where(shares >= 0.5, np.uint8(255), np.uint8(0))


def connected_parts(mask: BoolArray) -> int:
    """Count the connected components of a mask, [H, W].

    Pixels that touch only at a corner are not connected.
    """
    from scipy.ndimage import label  # type: ignore[import-untyped]  # trials need none

    return int(label(mask)[1])


def draw_outlines(images: UInt8Array, masks: UInt8Array | BoolArray) -> UInt8Array:
    """Return grey images [..., H, W] in colour, with a line around each mask [..., H, W]."""
    from scipy.ndimage import maximum_filter

    width_px = 2 * round(max(images.shape[-2:]) / 500) + 3
    is_mask = masks > 0
    widened = maximum_filter(is_mask.astype(np.uint8), size=width_px, axes=(-2, -1)) > 0
    coloured = np.repeat(images[..., None], 3, axis=-1)
    coloured[widened & ~is_mask] = OUTLINE_RGB
    return coloured


def use_mask(
    root: Path, image: ImageFile, use: Callable[[BoolArray], Result]
) -> Result | BrokenImage:
    """Apply `use`, which may raise DataError, to the merged mask of an image, [H, W].

    If the mask is unusable, returns the reason.
    """
    try:
        return use(read_mask(root, image))
    except DataError as error:
        problem = error.problems[0]
        file = image.masks[0]
        if isinstance(problem.where, Path):
            file = problem.where.relative_to(root).as_posix()
        return BrokenImage(file=file, reason=problem.what)
