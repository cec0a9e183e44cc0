"""Decode image files to square grey pixels, in threads.

Pillow releases Python's lock while it decodes and resizes.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal, TypeAlias

from PIL import Image
from pydantic import PositiveInt

from xraytune.base.cores import map_on_cores
from xraytune.base.errors import DataError, Problem
from xraytune.base.files import read_bytes
from xraytune.base.records import Progress, ignore_progress
from xraytune.data.dicom import REPAIR
from xraytune.data.formats import GreyImage, ignore_decoder_warnings, read_grey

DECODER = 2
"""Counts up when a file is decoded to other pixels, so that images in a cache are decoded again."""
Resize: TypeAlias = Literal["squash", "crop"]
"""How an image becomes square: squashed, or its shorter side scaled to S and its centre cut out."""


@dataclass(frozen=True, slots=True, kw_only=True)
class BrokenImage:
    """A file that cannot be decoded, and why."""

    file: str
    reason: str


@dataclass(frozen=True, slots=True, kw_only=True)
class InputFormat:
    """How pixels become a network's input (`nets/inputs.py`).

    Stored with a trained model and used for its predictions.

    Attributes:
        resolution_px: Side to which all images are downsampled first (resolution matching), or
            None.
        mean: Of each input channel, for pixels in [0, 1]; `std` is the standard deviation.
    """

    image_size_px: int
    resize: Resize = "squash"
    resolution_px: PositiveInt | None
    mean: tuple[float, ...]
    std: tuple[float, ...]


def decode_files(
    root: Path,
    files: Sequence[str],
    image_size_px: int,
    resize: Resize = "squash",
    *,
    on_progress: Progress = ignore_progress,
) -> Iterator[GreyImage | BrokenImage]:
    """Decode files below `root` to upright squares, in order, on all cores, with antialiasing."""

    def decode(file: str) -> GreyImage | BrokenImage:
        try:
            grey = read_image(root / file, image_size_px)
        except DataError as error:
            return BrokenImage(file=file, reason=error.problems[0].what)
        box = square_box(grey.whole_px, grey.image.size, image_size_px, resize)
        size_px = (image_size_px, image_size_px)
        square = grey.image.resize(size_px, Image.Resampling.BILINEAR, box)
        return GreyImage(image=square, kind=grey.kind, whole_px=grey.whole_px)

    ignore_decoder_warnings()
    for count, image in enumerate(map_on_cores(decode, files), start=1):
        on_progress("decoding images", count, len(files))
        yield image


def read_image(path: Path | str, needed_px: int) -> GreyImage:
    """Read and decode an image (see `read_grey`).

    Raises DataError if it cannot be read or is broken.
    """
    try:
        content = read_bytes(path, DataError)
    except OSError as error:
        raise DataError(Problem(f"cannot be read ({error.strerror})", path, REPAIR)) from error
    return read_grey(content, path, needed_px=needed_px)


def square_box(
    whole_px: tuple[int, int], decoded_px: tuple[int, int], image_size_px: int, resize: Resize
) -> tuple[float, float, float, float] | None:
    """Return the part of the image to scale to S x S (left, upper, right, lower).

    None means all of it.

    A crop gives what `Resize(S)` and `CenterCrop(S)` would, but scales only that part: scaled as a
    whole, a long and narrow image would fill the memory. Sizes are width and height; those of a
    JPEG decoded at a reduced size are rounded up.

    Source: torchvision 0.21, `transforms.functional.resize` and `center_crop`.
    """
    if resize == "squash":
        return None
    shorter = min(whole_px)
    sides = []
    for whole, decoded in zip(whole_px, decoded_px, strict=True):
        scaled = int(image_size_px * whole / shorter)
        first = round((scaled - image_size_px) / 2)
        sides.append((first * decoded / scaled, (first + image_size_px) * decoded / scaled))
    (left, right), (upper, lower) = sides
    return left, upper, right, lower
