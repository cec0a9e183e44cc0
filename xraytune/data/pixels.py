"""Decode images once to a uint8 array [N, S, S] on disk that every trial memory-maps.

Images become grey, upright (`decoding.py`) and square: squashed, as in the public 224-pixel sets,
or cropped at the centre. Their masks are stored beside them.
"""

import hashlib
import json
from collections.abc import Collection, Iterator, Sequence
from contextlib import ExitStack
from dataclasses import asdict
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np

from xraytune.base.arrays import UInt8Array
from xraytune.base.artifacts import build_once, discard
from xraytune.base.cores import map_on_cores
from xraytune.base.errors import ArtifactError, DataError, Problem
from xraytune.base.files import read_json, sha256_of, write_json
from xraytune.base.records import Progress, ignore_progress
from xraytune.base.seeding import numpy_generator
from xraytune.data.decoding import DECODER, BrokenImage, decode_files
from xraytune.data.images import ImageFile
from xraytune.data.masks import square_mask, use_mask
from xraytune.space.data_settings import DataSettings, ShiftSettings

PIXELS_STAGE = "pixels-1"
PIXELS_FILE = "pixels.npy"
MASKS_FILE = "masks.npy"


def store_images(
    root: Path,
    images: Sequence[ImageFile],
    data: DataSettings,
    *,
    cache: Path,
    on_progress: Progress = ignore_progress,
) -> Path:
    """Decode images once, with any masks, in the size of `data`.

    Returns the artifact, which has a row for each image, in order (`stored_files`), except for
    images that are broken or have a broken mask.

    Raises MachineError if an image is DICOM, and pydicom is not installed.
    """
    size_px = data.image_size
    files = [image.file for image in images]

    def read_mask(image: ImageFile) -> UInt8Array | BrokenImage:
        return use_mask(root, image, lambda mask: square_mask(mask, size_px, data.resize))

    def build(out: Path) -> None:
        stored = []
        broken = []
        names = [PIXELS_FILE]
        channels: list[Iterator[Any]] = [
            decode_files(root, files, size_px, data.resize, on_progress=on_progress)
        ]
        if any(image.masks for image in images):
            names.append(MASKS_FILE)
            channels.append(map_on_cores(read_mask, images))
        with ExitStack() as opened:
            # Streams are used and not memory maps: on a full disk, a map ends the process with
            # SIGBUS, but a write raises an exception.
            streams = [opened.enter_context((out / name).open("wb")) for name in names]
            for stream in streams:
                _write_npy_header(stream, len(files), size_px)
            for file, image, *masks in zip(files, *channels, strict=True):
                bad = [channel for channel in (image, *masks) if isinstance(channel, BrokenImage)]
                if bad:
                    broken += bad
                    continue
                pixels = shift_image(image.pixels, file, data.shift) if data.shift else image.pixels
                stored.append(file)
                for stream, row in zip(streams, [pixels, *masks], strict=True):
                    stream.write(row.data)
            for stream in streams:
                stream.seek(0)
                _write_npy_header(stream, len(stored), size_px)
        left_out = [asdict(image) for image in broken]
        write_json(out / "files.json", {"files": stored, "broken": left_out})

    contents = [[image.file, image.sha256, *filter(None, [image.masks_sha256])] for image in images]
    inputs: dict[str, Any] = {
        "files": contents,
        "image_size_px": size_px,
        "resize": data.resize,
        "decoder": DECODER,
    }
    if data.shift:
        inputs["shift"] = data.shift.model_dump()
    waiting = "waiting for images, which another process decodes"
    return build_once(
        cache, PIXELS_STAGE, inputs, build, waiting=lambda: on_progress(waiting, 0, len(files))
    )


def shift_image(pixels: UInt8Array, file: str, shift: ShiftSettings) -> UInt8Array:
    """Return an image, [S, S], as if another hospital had taken it, with another detector.

    Blur, gamma, contrast and noise are applied in this order; the noise depends on the file's name.
    """
    from scipy.ndimage import gaussian_filter  # type: ignore[import-untyped]

    grey = gaussian_filter(pixels / 255, shift.blur_px)
    grey = 0.5 + shift.contrast * (grey**shift.gamma - 0.5)
    if shift.noise:
        generator = numpy_generator(0, "shift", file)
        grey = grey + shift.noise * generator.standard_normal(grey.shape)
    return np.asarray((grey.clip(0, 1) * 255).round(), dtype=np.uint8)


def open_pixels(folder: Path, name: str = PIXELS_FILE) -> UInt8Array:
    """Map the pixels of a store, [N, S, S], read-only; N >= 1."""
    file = folder / name
    try:
        pixels: UInt8Array = np.load(file, mmap_mode="r")
    except (ValueError, OverflowError) as error:  # a header that asks for more than the file has
        raise ArtifactError(
            "the file is damaged", file, "remove its folder: it is computed again"
        ) from error
    return pixels


def open_masks(folder: Path) -> UInt8Array | None:
    """Map the masks of a store, [N, S, S], 0 and 255, read-only; None if there are no masks."""
    return open_pixels(folder, MASKS_FILE) if (folder / MASKS_FILE).exists() else None


def stored_files(folder: Path) -> tuple[tuple[str, ...], tuple[BrokenImage, ...]]:
    """Return the file of each row of a store, in order, and the broken files, which have no row."""
    content = read_json(folder / "files.json")
    return tuple(content["files"]), tuple(BrokenImage(**image) for image in content["broken"])


def store_sha256(store: Path) -> str:
    """Return the SHA-256 of a store's pixels or, with masks, a hash of the hashes of both."""
    pixels = sha256_of(store / PIXELS_FILE)
    if not (store / MASKS_FILE).exists():
        return pixels
    both = json.dumps([pixels, sha256_of(store / MASKS_FILE)])
    return hashlib.sha256(both.encode()).hexdigest()[:32]


def require_unbroken(
    store: Path, root: Path, fix: str = "", *, left_out: Collection[str] = ()
) -> None:
    """Refuse a store with broken images: raise a DataError that lists them with their reasons.

    Broken files in `left_out` are accepted.

    The store is removed, so that the next try decodes again, from a repaired disk or with another
    decoder.
    """
    broken = [image for image in stored_files(store)[1] if image.file not in left_out]
    if broken:
        discard(store)
        raise broken_images_error(broken, root, fix)


def broken_images_error(broken: Sequence[BrokenImage], root: Path, fix: str = "") -> DataError:
    """Return the error for broken images, with ten of them, their reasons, and what to do."""
    fix = fix or "repair or remove them, or leave them out with --skip-broken"
    problems = [Problem(image.reason, root / image.file) for image in broken[:10]]
    return DataError(*problems, Problem(f"{len(broken)} images or masks are broken", root, fix))


def _write_npy_header(stream: BinaryIO, rows: int, image_size_px: int) -> None:
    """Write the .npy header of uint8 [rows, S, S].

    NumPy pads the header to a length that does not depend on `rows`.
    """
    shape = (rows, image_size_px, image_size_px)
    np.lib.format.write_array_header_1_0(
        stream, {"descr": "|u1", "fortran_order": False, "shape": shape}
    )
