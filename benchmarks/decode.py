"""How fast a folder of images becomes a pixel store, against Pillow in one process, one image after another.

Needs a folder of images, of which each is read once before the measurement, so that the disk plays no part:

    make bench ONLY=decode DATA=chest_xray/train

Pillow opens, converts to grey and resizes with the same filter, and writes nothing. Both are run in turn, since other
programs slow the machine for a while; a pair's quotient is divided by the cores, and the median of the pairs counts.
"""

from __future__ import annotations

import os
import statistics
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path

from PIL import Image

from benchmarks.figures import Figure, figure
from xraytune.data.layout import list_images
from xraytune.data.pixels import store_pixels
from xraytune.pipeline.compute import cpu_count

NEEDS = ("DATA",)
_IMAGE_SIZE_PX = 128
_PAIRS = 7


def measure() -> Iterator[Figure]:
    """Images in a second, both ways, and the share of Pillow times the cores."""
    root = Path(os.environ["DATA"])
    files = [image.relative_to(root).as_posix() for image in list_images(root)]
    for file in files:
        (root / file).read_bytes()
    pairs = [(_seconds_with_pillow(root, files), _seconds_to_a_store(root, files)) for _ in range(_PAIRS)]
    alone, stored = (statistics.median(seconds) for seconds in zip(*pairs, strict=True))
    shares = [pillow / ours / cpu_count() for pillow, ours in pairs]
    yield figure("decode: images", len(files), "images")
    yield figure("decode: Pillow in one process", len(files) / alone, "images/s")
    yield figure("decode: to the pixel store", len(files) / stored, "images/s")
    yield figure("decode: share of Pillow times the cores, lowest pair", min(shares), "")
    yield figure("decode: share of Pillow times the cores, median pair", statistics.median(shares), "", ">= 0.9")


def _seconds_with_pillow(root: Path, files: list[str]) -> float:
    started = time.perf_counter()
    for file in files:
        with Image.open(root / file) as image:
            image.convert("L").resize((_IMAGE_SIZE_PX, _IMAGE_SIZE_PX), Image.Resampling.BILINEAR)
    return time.perf_counter() - started


def _seconds_to_a_store(root: Path, files: list[str]) -> float:
    with tempfile.TemporaryDirectory() as out:
        started = time.perf_counter()
        store_pixels(root, files, _IMAGE_SIZE_PX, Path(out), workers=cpu_count())
        return time.perf_counter() - started
