"""How fast a folder of images becomes a pixel store, against Pillow in one process, one image after another.

Needs a folder of images, of which each is read once before the measurement, so that the disk plays no part:

    make bench ONLY=decode DATA=chest_xray/train

Pillow opens, converts to grey and resizes with the same filter, and writes nothing. It is run in one process, and as a
control in as many as there are cores, each with its share of the files: that shows what the cores really give while other
programs use them. All are run in turn, and the median over the rounds counts.
"""

from __future__ import annotations

import multiprocessing
import os
import statistics
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path

from PIL import Image

from benchmarks.figures import Figure, figure
from xraytune.cores import cpu_count
from xraytune.data.layout import list_images
from xraytune.data.pixels import store_pixels

NEEDS = ("DATA",)
_IMAGE_SIZE_PX = 128
_ROUNDS = 7


def measure() -> Iterator[Figure]:
    """Images in a second, both ways, and the share of Pillow times the cores."""
    root = Path(os.environ["DATA"])
    files = [image.relative_to(root).as_posix() for image in list_images(root)]
    for file in files:
        (root / file).read_bytes()
    cores = cpu_count()
    rounds = [
        (_seconds_with_pillow(root, files), _seconds_shared_out(root, files, cores), _seconds_to_a_store(root, files))
        for _ in range(_ROUNDS)
    ]
    alone, shared, stored = (statistics.median(seconds) for seconds in zip(*rounds, strict=True))
    shares = [one / ours / cores for one, _, ours in rounds]
    yield figure("decode: images", len(files), "images")
    yield figure("decode: Pillow in one process", len(files) / alone, "images/s")
    yield figure(f"decode: Pillow in {cores} processes", len(files) / shared, "images/s")
    yield figure("decode: to the pixel store", len(files) / stored, "images/s")
    control = statistics.median(several / ours for _, several, ours in rounds)
    yield figure(f"decode: share of Pillow in {cores} processes", control, "")
    yield figure("decode: share of Pillow in one process times the cores, highest", max(shares), "")
    yield figure("decode: share of Pillow in one process times the cores", statistics.median(shares), "", ">= 0.9")


def _seconds_with_pillow(root: Path, files: list[str]) -> float:
    started = time.perf_counter()
    for file in files:
        with Image.open(root / file) as image:
            image.convert("L").resize((_IMAGE_SIZE_PX, _IMAGE_SIZE_PX), Image.Resampling.BILINEAR)
    return time.perf_counter() - started


def _seconds_shared_out(root: Path, files: list[str], processes: int) -> float:
    fork = multiprocessing.get_context("fork")
    crew = [
        fork.Process(target=_seconds_with_pillow, args=(root, files[first::processes])) for first in range(processes)
    ]
    started = time.perf_counter()
    for process in crew:
        process.start()
    for process in crew:
        process.join()
    return time.perf_counter() - started


def _seconds_to_a_store(root: Path, files: list[str]) -> float:
    with tempfile.TemporaryDirectory() as out:
        started = time.perf_counter()
        store_pixels(root, files, _IMAGE_SIZE_PX, Path(out))
        return time.perf_counter() - started
