"""Decode images once, in parallel, to one uint8 array [N, S, S] on the disk that every trial maps.

A file's content decides what it is, never its name: JPEG or PNG, grey or coloured, 8 or 16 bits. It becomes grey,
upright, and square (the aspect ratio squashed, as in the public 224-pixel sets). What cannot be decoded is a
`BrokenImage` with a reason in plain words; whether that ends a command is the caller's choice.
"""

from __future__ import annotations

import struct
import warnings
import zlib
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict, dataclass
from io import BytesIO
from pathlib import Path
from typing import BinaryIO

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageOps
from PIL.JpegImagePlugin import JpegImageFile
from PIL.PngImagePlugin import PngImageFile

from xraytune.errors import DataError, Problem
from xraytune.files import read_json, write_json
from xraytune.records import Progress, ignore_progress

LARGEST_SIDE_PX = 20_000
LARGEST_AREA_PX = 100_000_000
_DAMAGE = (OSError, SyntaxError, ValueError, EOFError, IndexError, KeyError, OverflowError, struct.error, zlib.error)
"""What Pillow raises on files that are cut off or overwritten, depending on where."""
_BLOCK = 64
_REPAIR = "repair or remove the file, or leave broken images out with --skip-broken"


@dataclass(frozen=True, slots=True, kw_only=True)
class BrokenImage:
    """A file that does not decode: its name, as it was asked for, and why, in plain words."""

    file: str
    reason: str


@dataclass(frozen=True, slots=True, kw_only=True)
class StoredFiles:
    """What a pixel store was made from.

    Attributes:
        files: One name for each row of the store, in order.
        broken: The files that have no row.
    """

    files: tuple[str, ...]
    broken: tuple[BrokenImage, ...]


def image_size(content: bytes) -> tuple[int, int] | None:
    """Width and height in pixels as a file's header states them; None when it does not say."""
    try:
        return _read_header(content, Path()).size
    except DataError:
        return None


def decode_image(path: Path, image_size_px: int) -> NDArray[np.uint8]:
    """One image as grey pixels, [S, S] uint8, upright and resized with antialiasing.

    Raises:
        DataError: The image is broken: its one problem says why.
    """
    with warnings.catch_warnings():  # Pillow's remarks on odd metadata
        warnings.simplefilter("ignore")
        return _decode(path, image_size_px)


def decode_images(
    root: Path,
    files: Sequence[str],
    image_size_px: int,
    *,
    workers: int,
    on_progress: Progress = ignore_progress,
) -> Iterator[NDArray[np.uint8] | BrokenImage]:
    """`decode_image` for many files below `root`, in their order, a block at a time.

    Threads, not processes: Pillow decodes and resizes outside Python's lock.
    """

    def decode_or_say_why(file: str) -> NDArray[np.uint8] | BrokenImage:
        try:
            return _decode(root / file, image_size_px)
        except DataError as error:
            return BrokenImage(file=file, reason=error.problems[0].what)

    with ThreadPoolExecutor(workers) as pool:
        for start in range(0, len(files), _BLOCK):
            with warnings.catch_warnings():  # around the whole block: warning filters are shared by all threads
                warnings.simplefilter("ignore")
                block = list(pool.map(decode_or_say_why, files[start : start + _BLOCK]))
            on_progress("decode images", start + len(block), len(files))
            yield from block


def store_pixels(
    root: Path,
    files: Sequence[str],
    image_size_px: int,
    out: Path,
    *,
    workers: int,
    on_progress: Progress = ignore_progress,
) -> tuple[BrokenImage, ...]:
    """Write `pixels.npy` (uint8 [N, S, S], the files that decode, in order) and `files.json` into the folder `out`.

    Returns:
        The files that do not decode and have no row.
    """
    stored: list[str] = []
    broken: list[BrokenImage] = []
    decoded = decode_images(root, files, image_size_px, workers=workers, on_progress=on_progress)
    # Written as a stream and not through a map: on a full disk a map ends the process with SIGBUS, a write raises.
    with (out / "pixels.npy").open("wb") as stream:
        _write_npy_header(stream, len(files), image_size_px)
        for file, image in zip(files, decoded, strict=True):
            if isinstance(image, BrokenImage):
                broken.append(image)
            else:
                stored.append(file)
                stream.write(image.tobytes())
        stream.seek(0)
        _write_npy_header(stream, len(stored), image_size_px)
    write_json(out / "files.json", {"files": stored, "broken": [asdict(image) for image in broken]})
    return tuple(broken)


def open_pixels(folder: Path) -> NDArray[np.uint8]:
    """The pixels of a store, [N, S, S], as a read-only memory map; N >= 1."""
    pixels: NDArray[np.uint8] = np.load(folder / "pixels.npy", mmap_mode="r")
    return pixels


def stored_files(folder: Path) -> StoredFiles:
    """Which files a store's rows are, and which have none."""
    content = read_json(folder / "files.json")
    return StoredFiles(
        files=tuple(content["files"]),
        broken=tuple(BrokenImage(**image) for image in content["broken"]),
    )


def broken_images_error(
    broken: Sequence[BrokenImage], root: Path, fix: str = "repair or remove them, or leave them out with --skip-broken"
) -> DataError:
    """The refusal to go on with broken images: the first ten with their reasons, the number of all, and the way out."""
    if len(broken) == 1:
        return DataError(Problem(broken[0].reason, root / broken[0].file, fix))
    shown = [Problem(image.reason, image.file) for image in broken[:10]]
    return DataError(*shown, Problem(f"{len(broken)} images are broken", root, fix))


def _decode(path: Path, image_size_px: int) -> NDArray[np.uint8]:
    try:
        content = path.read_bytes()
    except OSError as error:
        raise DataError(Problem(f"cannot be read ({error.strerror})", path, _REPAIR)) from error
    image = _read_header(content, path)
    try:
        if isinstance(image, JpegImageFile):
            # The decoder itself scales large images down by 2, 4 or 8, to no less than twice what is needed.
            image.draft("L", (2 * image_size_px, 2 * image_size_px))
        grey = _to_grey(ImageOps.exif_transpose(image))
    except _DAMAGE as error:
        raise DataError(Problem("the image is cut off or damaged", path, _REPAIR)) from error
    return np.array(grey.resize((image_size_px, image_size_px), Image.Resampling.BILINEAR))


def _read_header(content: bytes, path: Path) -> JpegImageFile | PngImageFile:
    """Parse an image as far as its size; Pillow decodes the pixels when they are asked for.

    Raises:
        DataError: It is no image that we read, or one too large to be an X-ray.
    """
    try:
        if content.startswith(b"\xff\xd8\xff"):
            image: JpegImageFile | PngImageFile = JpegImageFile(BytesIO(content))
        elif content.startswith(b"\x89PNG\r\n\x1a\n"):
            image = PngImageFile(BytesIO(content))
        else:
            reason = "this is neither a JPEG nor a PNG image" if content else "the file is empty"
            raise DataError(Problem(reason, path, _REPAIR))
    except _DAMAGE as error:
        raise DataError(Problem("the image's header is cut off or damaged", path, _REPAIR)) from error
    width, height = image.size
    if max(width, height) > LARGEST_SIDE_PX or width * height > LARGEST_AREA_PX:
        raise DataError(Problem(f"{width} x {height} pixels are too many for an X-ray", path, _REPAIR))
    return image


def _to_grey(image: Image.Image) -> Image.Image:
    """8-bit grey. Of 16 bits, 0 to 65535 become 0 to 255, where Pillow's own conversion would clip at 255."""
    if not image.mode.startswith("I"):
        return image.convert("L")
    levels = np.asarray(image).astype(np.uint32)
    return Image.fromarray(((levels + 128) // 257).astype(np.uint8))


def _write_npy_header(stream: BinaryIO, rows: int, image_size_px: int) -> None:
    """The .npy header of uint8 [rows, S, S]. NumPy pads it so that its length does not depend on `rows`."""
    shape = (rows, image_size_px, image_size_px)
    np.lib.format.write_array_header_1_0(stream, {"descr": "|u1", "fortran_order": False, "shape": shape})
