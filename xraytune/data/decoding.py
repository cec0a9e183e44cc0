"""One image file to square grey pixels, or to the reason why not: what every process that decodes does with a file."""

from __future__ import annotations

import os
from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal, TypeAlias

from PIL import Image

from xraytune.data.formats import REPAIR, GreyImage, read_grey
from xraytune.errors import DataError, Problem
from xraytune.files import read_bytes

Resize: TypeAlias = Literal["squash", "crop"]
"""How an image becomes square: squashed, or its shorter side scaled to S and its centre cut out."""

_FILTER = Image.Resampling.BILINEAR
_CHANNELS = 4
_SMALL_PX = 512
"""Larger images are not held back until others of their size come."""


@dataclass(frozen=True, slots=True, kw_only=True)
class BrokenImage:
    """A file that does not decode: its name, as it was asked for, and why, in plain words."""

    file: str
    reason: str


@dataclass(frozen=True, slots=True, kw_only=True)
class SquareImage:
    """An image as it is stored.

    Attributes:
        pixels: S times S bytes of grey, row by row.
        kind: Format and depth of the file, such as `PNG 16-bit`, or `PNG 16-bit with 12-bit content`.
        is_oddly_deep: Whether the file has more bits than what is in it.
    """

    pixels: bytes | memoryview
    kind: str
    is_oddly_deep: bool


Block: TypeAlias = list[SquareImage | BrokenImage]
_Box: TypeAlias = tuple[float, float, float, float] | None


def decode_file(path: str, image_size_px: int, resize: Resize) -> SquareImage:
    """Read, decode and resize with antialiasing.

    Raises:
        DataError: The image is broken: its one problem says why.
        MachineError: It is DICOM, and pydicom is not installed.
    """
    grey = _read(path, image_size_px)
    small = grey.image.resize((image_size_px, image_size_px), _FILTER, _box(grey, image_size_px, resize))
    return _square(grey, small)


def decode_block(root: str, files: Sequence[str], image_size_px: int, resize: Resize) -> Block:
    """`decode_file` for some files below `root`, to the same bits; of a broken one, why it is.

    Small images of one size, as prepared sets have them, are resized four at a time, as the channels of one image: that
    takes a tenth off the whole.

    Raises:
        MachineError: One is DICOM, and pydicom is not installed.
    """
    found: dict[int, SquareImage | BrokenImage] = {}
    alike: dict[tuple[tuple[int, int], _Box], list[tuple[int, GreyImage]]] = defaultdict(list)

    def resize_alike(size: tuple[int, int], box: _Box) -> None:
        numbers, greys = zip(*alike.pop((size, box)), strict=True)
        images = [grey.image for grey in greys]
        together = Image.merge("CMYK", images) if len(images) == _CHANNELS else None
        channels = (
            together.resize((image_size_px, image_size_px), _FILTER, box).split()
            if together
            else [image.resize((image_size_px, image_size_px), _FILTER, box) for image in images]
        )
        found.update(zip(numbers, map(_square, greys, channels), strict=True))

    for number, file in enumerate(files):
        try:
            grey = _read(os.path.join(root, file), image_size_px)  # noqa: PTH118 a tenth of a Path's time
        except DataError as error:
            found[number] = BrokenImage(file=file, reason=error.problems[0].what)
            continue
        key = grey.image.size, _box(grey, image_size_px, resize)
        alike[key].append((number, grey))
        if len(alike[key]) == _CHANNELS or max(grey.image.size) > _SMALL_PX:
            resize_alike(*key)
    for key in list(alike):
        resize_alike(*key)
    return [found[number] for number in range(len(files))]


def _read(path: str, image_size_px: int) -> GreyImage:
    try:
        content = read_bytes(path, "image", DataError)
    except OSError as error:
        raise DataError(Problem(f"cannot be read ({error.strerror})", path, REPAIR)) from error
    return read_grey(content, path, needed_px=image_size_px)


def _square(grey: GreyImage, small: Image.Image) -> SquareImage:
    kind = grey.kind if grey.content_bits is None else f"{grey.kind} with {grey.content_bits}-bit content"
    return SquareImage(pixels=small.tobytes(), kind=kind, is_oddly_deep=grey.content_bits is not None)


def _box(grey: GreyImage, image_size_px: int, resize: Resize) -> _Box:
    """What is resized: left, upper, right, lower; None is all."""
    return _centre_square(grey, image_size_px) if resize == "crop" else None


def _centre_square(grey: GreyImage, image_size_px: int) -> tuple[float, float, float, float]:
    """The part of the image that `Resize(S)` and `CenterCrop(S)` would leave: left, upper, right, lower.

    They scale the shorter side to S, the longer one to whole pixels, and cut at whole pixels there; only this part is
    scaled here, for a long and narrow image would fill the memory. The size is the whole image's, as a reduced JPEG's
    own is rounded up.

    Source: torchvision 0.21, `transforms.functional.resize` and `center_crop`.
    """
    shorter = min(grey.width_px, grey.height_px)
    sides = []
    for whole, decoded in zip((grey.width_px, grey.height_px), grey.image.size, strict=True):
        scaled = int(image_size_px * whole / shorter)
        first = round((scaled - image_size_px) / 2)
        sides.append((first * decoded / scaled, (first + image_size_px) * decoded / scaled))
    (left, right), (upper, lower) = sides
    return left, upper, right, lower
