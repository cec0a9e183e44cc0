"""Decode images once, in parallel, to a uint8 array [N, S, S] on disk that every trial memory-maps.

Images become grey, upright (`formats.py`) and square: squashed, as in the public 224-pixel sets, or
cropped at the centre.
"""

from __future__ import annotations

import logging
from collections import defaultdict
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import ExitStack
from dataclasses import asdict
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np
from numpy.typing import NDArray

from xraytune.base.errors import ArtifactError, DataError, Problem, join_names
from xraytune.base.files import read_json, write_json
from xraytune.base.records import Progress, ignore_progress
from xraytune.data.decoding import BrokenImage, Resize, decode_files
from xraytune.data.formats import UNUSED_BITS
from xraytune.data.shift import shift_images
from xraytune.space.settings import ShiftSettings

PIXELS_FILE = "pixels.npy"
MASKS_FILE = "masks.npy"
_logger = logging.getLogger(__name__)


def decode_images(
    root: Path,
    files: Sequence[str],
    image_size_px: int,
    *,
    resize: Resize = "squash",
    on_progress: Progress = ignore_progress,
) -> Iterator[NDArray[np.uint8] | BrokenImage]:
    """Decode files below `root`, in order, and log a warning for files of odd depth."""
    kinds: dict[str, str] = {}
    decoded = decode_files(root, files, image_size_px, resize, on_progress=on_progress)
    for file, image in zip(files, decoded, strict=True):
        if isinstance(image, BrokenImage):
            yield image
        else:
            kinds[file] = image.kind
            yield image.pixels
    for warning in odd_depth_warnings(kinds):
        _logger.warning("%s", warning)


def odd_depth_warnings(kinds: Mapping[str, str]) -> tuple[str, ...]:
    """Return one warning for each kind of file that has more bits than its content.

    `kinds` by file.
    """
    odd: dict[str, list[str]] = defaultdict(list)
    for file, kind in kinds.items():
        if UNUSED_BITS in kind:
            odd[kind].append(file)
    return tuple(
        f"{len(files)} {'file is' if len(files) == 1 else 'files are'} {kind} ({join_names(files, 3)}): read at that depth, "
        "or the image would be black"
        for kind, files in sorted(odd.items())
    )


def store_pixels(
    root: Path,
    files: Sequence[str],
    image_size_px: int,
    out: Path,
    *,
    resize: Resize = "squash",
    masks: Iterable[NDArray[np.uint8] | list[BrokenImage]] | None = None,
    shift: ShiftSettings | None = None,
    on_progress: Progress = ignore_progress,
) -> None:
    """Write `pixels.npy` (uint8 [N, S, S], in order) and `files.json` to the folder `out`.

    With `masks`, [S, S] for each file or what is wrong with it, also write `masks.npy`; a broken
    mask leaves its image out.
    """
    stored: list[str] = []
    broken: list[BrokenImage] = []
    decoded = decode_images(root, files, image_size_px, resize=resize, on_progress=on_progress)
    if shift:
        decoded = shift_images(decoded, files, shift)
    sources: dict[str, Iterable[Any]] = {PIXELS_FILE: decoded}
    sources |= {MASKS_FILE: masks} if masks is not None else {}
    with ExitStack() as opened:
        # Streams and not memory maps: on a full disk a map ends the process with SIGBUS, a write
        # raises an exception.
        streams = [opened.enter_context((out / name).open("wb")) for name in sources]
        for stream in streams:
            _write_npy_header(stream, len(files), image_size_px)
        for file, *rows in zip(files, *sources.values(), strict=True):
            bad = next((row for row in rows if not isinstance(row, np.ndarray)), None)
            if bad is not None:
                broken += [bad] if isinstance(bad, BrokenImage) else bad
                continue
            stored.append(file)
            for stream, row in zip(streams, rows, strict=True):
                stream.write(row.data)
        for stream in streams:
            stream.seek(0)
            _write_npy_header(stream, len(stored), image_size_px)
    write_json(out / "files.json", {"files": stored, "broken": [asdict(image) for image in broken]})


def open_pixels(folder: Path) -> NDArray[np.uint8]:
    """Map the pixels of a store, [N, S, S], read-only; N >= 1."""
    return _mapped(folder / PIXELS_FILE)


def open_masks(folder: Path) -> NDArray[np.uint8] | None:
    """Map the masks of a store, [N, S, S], 0 and 255, read-only; None if its images have none."""
    return _mapped(folder / MASKS_FILE) if (folder / MASKS_FILE).exists() else None


def _mapped(file: Path) -> NDArray[np.uint8]:
    try:
        mapped: NDArray[np.uint8] = np.load(file, mmap_mode="r")
    except (ValueError, OverflowError) as error:  # a header that asks for more than the file has
        raise ArtifactError(
            Problem("the file is damaged", file, "remove its folder: it is computed again")
        ) from error
    return mapped


def stored_files(folder: Path) -> tuple[tuple[str, ...], tuple[BrokenImage, ...]]:
    """Return the file of each row of a store, in order, and the broken files, which have no row."""
    content = read_json(folder / "files.json")
    return tuple(content["files"]), tuple(BrokenImage(**image) for image in content["broken"])


def broken_images_error(
    broken: Sequence[BrokenImage],
    root: Path,
    fix: str = "repair or remove them, or leave them out with --skip-broken",
    *,
    kind: str = "images",
) -> DataError:
    """Return the error for broken images: ten with their reasons, their number, what to do."""
    if len(broken) == 1:
        return DataError(Problem(broken[0].reason, root / broken[0].file, fix))
    shown = [Problem(image.reason, image.file) for image in broken[:10]]
    return DataError(*shown, Problem(f"{len(broken)} {kind} are broken", root, fix))


def _write_npy_header(stream: BinaryIO, rows: int, image_size_px: int) -> None:
    """Write the .npy header of uint8 [rows, S, S].

    NumPy pads it to a length that does not depend on `rows`.
    """
    shape = (rows, image_size_px, image_size_px)
    np.lib.format.write_array_header_1_0(
        stream, {"descr": "|u1", "fortran_order": False, "shape": shape}
    )
