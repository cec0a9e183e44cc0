"""Decode image files to square grey pixels, in threads: Pillow releases Python's lock while it decodes and resizes."""

from __future__ import annotations

import os
from collections import defaultdict, deque
from collections.abc import Generator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Literal, TypeAlias

from PIL import Image

from xraytune.data.formats import REPAIR, GreyImage, ignore_decoder_warnings, read_grey
from xraytune.errors import DataError, Problem
from xraytune.files import read_bytes

Resize: TypeAlias = Literal["squash", "crop"]
"""How an image becomes square: squashed, or its shorter side scaled to S and its centre cut out."""

_FILTER = Image.Resampling.BILINEAR
_CHANNELS = 4
_SMALL_PX = 512
"""Larger images are not resized together with others of their size."""


@dataclass(frozen=True, slots=True, kw_only=True)
class BrokenImage:
    """A file that cannot be decoded, and why."""

    file: str
    reason: str


@dataclass(frozen=True, slots=True, kw_only=True)
class SquareImage:
    """A decoded image.

    Attributes:
        pixels: S times S bytes of grey, row by row.
        kind: Format and depth of the file, such as `PNG 16-bit` or `PNG 16-bit with 12-bit content`.
        has_unused_bits: Whether the file has more bits than its content.
    """

    pixels: bytes
    kind: str
    has_unused_bits: bool


Block: TypeAlias = list[SquareImage | BrokenImage]
Size: TypeAlias = tuple[int, int]
_Box: TypeAlias = tuple[float, float, float, float] | None


def decode_file(path: str, image_size_px: int, resize: Resize) -> SquareImage:
    """Read, decode and resize an image, with antialiasing.

    Raises:
        DataError: The image is broken.
        MachineError: It is DICOM, and pydicom is not installed.
    """
    grey = read_image(path, image_size_px)
    box = square_box((grey.width_px, grey.height_px), grey.image.size, image_size_px, resize)
    return _square(grey, grey.image.resize((image_size_px, image_size_px), _FILTER, box))


def decode_block(root: str, files: Sequence[str], image_size_px: int, resize: Resize) -> Block:
    """Decode several files below `root`, to the same bits as `decode_file`.

    Small images of one size are resized four at a time, as the channels of one image, which saves a tenth of the time.

    Raises:
        MachineError: A file is DICOM, and pydicom is not installed.
    """
    found: dict[int, SquareImage | BrokenImage] = {}
    alike: dict[tuple[tuple[int, int], _Box], list[tuple[int, GreyImage]]] = defaultdict(list)
    size = (image_size_px, image_size_px)

    def resize_alike(key: tuple[tuple[int, int], _Box]) -> None:
        numbers, greys = zip(*alike.pop(key), strict=True)
        images = [grey.image for grey in greys]
        if len(images) == _CHANNELS:
            resized = Image.merge("CMYK", images).resize(size, _FILTER, key[1]).split()
        else:
            resized = tuple(image.resize(size, _FILTER, key[1]) for image in images)
        found.update(zip(numbers, map(_square, greys, resized), strict=True))

    for number, file in enumerate(files):
        try:
            grey = read_image(os.path.join(root, file), image_size_px)  # noqa: PTH118  ten times as fast as a Path
        except DataError as error:
            found[number] = BrokenImage(file=file, reason=error.problems[0].what)
            continue
        key = grey.image.size, square_box((grey.width_px, grey.height_px), grey.image.size, image_size_px, resize)
        alike[key].append((number, grey))
        if len(alike[key]) == _CHANNELS or max(grey.image.size) > _SMALL_PX:
            resize_alike(key)
    for key in list(alike):
        resize_alike(key)
    return [found[number] for number in range(len(files))]


def read_image(path: Path | str, needed_px: int) -> GreyImage:
    """Read and decode an image; see `read_grey`.

    Raises:
        DataError: The file cannot be read, or the image is broken.
        MachineError: It is DICOM, and pydicom is not installed.
    """
    try:
        content = read_bytes(path, "image", DataError)
    except OSError as error:
        raise DataError(Problem(f"cannot be read ({error.strerror})", path, REPAIR)) from error
    return read_grey(content, path, needed_px=needed_px)


def _square(grey: GreyImage, small: Image.Image) -> SquareImage:
    kind = grey.kind if grey.content_bits is None else f"{grey.kind} with {grey.content_bits}-bit content"
    return SquareImage(pixels=small.tobytes(), kind=kind, has_unused_bits=grey.content_bits is not None)


def square_box(whole_px: Size, decoded_px: Size, image_size_px: int, resize: Resize) -> _Box:
    """Return the part of the image to scale to S x S (left, upper, right, lower); None is all of it.

    A crop gives what `Resize(S)` and `CenterCrop(S)` would, but scales only that part: scaled as a whole, a long and narrow
    image would fill the memory. Sizes are width and height; those of a JPEG decoded at a reduced size are rounded up.

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


_BLOCK = 8
_READ_AHEAD = 64
"""Maximum number of blocks that wait to be consumed."""


def decode_blocks(
    root: Path, files: Sequence[str], image_size_px: int, resize: Resize, *, workers: int
) -> Generator[Block, None, None]:
    """Decode files below `root` in order, on up to `workers` cores.

    Raises:
        MachineError: A file is DICOM, and pydicom is not installed.
    """
    ignore_decoder_warnings()
    waiting: deque[Future[Block]] = deque()
    threads = ThreadPoolExecutor(workers)
    try:
        for start in range(0, len(files), _BLOCK):
            block = files[start : start + _BLOCK]
            waiting.append(threads.submit(decode_block, str(root), block, image_size_px, resize))
            if len(waiting) == _READ_AHEAD:
                yield waiting.popleft().result()
        while waiting:
            yield waiting.popleft().result()
    finally:
        threads.shutdown(cancel_futures=True)
