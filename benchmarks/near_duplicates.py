"""How well `data inspect` tells copies of one X-ray from X-rays of different patients, by the threshold.

    make bench ONLY=near_duplicates DATA=chest_xray

The file names of the folder have to tell the patients: each pair of different patients below the threshold counts as wrong.
Some images are copied as people copy them, and a copy counts as found where it is near its original. Under a minute.
"""

from __future__ import annotations

import io
import os
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
from PIL import Image

from benchmarks.figures import Figure, figure
from xraytune.config.settings import DataSettings
from xraytune.data.decoding import SquareImage, decode_files
from xraytune.data.index import read_index
from xraytune.data.near_duplicates import HASH_SIZE_PX, THRESHOLD_BITS, Hashes, close_pairs, perceptual_hash
from xraytune.seeding import numpy_generator

NEEDS = ("DATA",)
_COPIED = 600
_THRESHOLDS = (16, 20, THRESHOLD_BITS, 28, 32, 36, 40, 48, 56)
_MANY = 20_000


def measure() -> Iterator[Figure]:
    """Wrong pairs and copies found at each threshold, the closest and farthest of each kind, and the time to compare."""
    root = Path(os.environ["DATA"])
    index = read_index(DataSettings(path=root))
    images = [*index.images, *index.test]
    shown = decode_files(root, [image.file for image in images], HASH_SIZE_PX)
    hashes = np.stack([perceptual_hash(square.pixels) for square in shown if isinstance(square, SquareImage)])
    if len(hashes) < len(images):
        raise SystemExit("near_duplicates: some of the images are broken")
    patients = np.unique([image.patient for image in images], return_inverse=True)[1]
    pairs = np.concatenate(list(close_pairs(hashes, max(_THRESHOLDS))), axis=1)
    first, second = pairs[:, patients[pairs[0]] != patients[pairs[1]]]
    bits = np.bitwise_count(hashes[first] ^ hashes[second]).sum(axis=1)
    counts = np.bincount(patients)
    all_pairs = (len(images) ** 2 - np.square(counts).sum()) // 2
    yield figure("near_duplicates: pairs of different patients", float(all_pairs), "pairs")
    yield figure("near_duplicates: closest pair of different patients", float(bits.min()), "bits")
    for threshold in _THRESHOLDS:
        bar = "<= 0" if threshold == THRESHOLD_BITS else ""
        yield figure(
            f"near_duplicates: wrong pairs at {threshold} bits",
            float(np.count_nonzero(bits <= threshold)),
            "pairs",
            bar,
        )
    chosen = numpy_generator(0, "copies").choice(len(images), min(_COPIED, len(images)), replace=False)
    for name, copy in _COPIES.items():
        far = np.array([_distance(root / images[one].file, hashes[one], copy) for one in chosen])
        yield figure(f"near_duplicates: farthest copy, {name}", float(far.max()), "bits")
        found, bar = np.mean(far <= THRESHOLD_BITS), "" if "cropped" in name else ">= 0.99"
        yield figure(f"near_duplicates: copies found at {THRESHOLD_BITS} bits, {name}", float(found), "of copies", bar)
    many = numpy_generator(0, "many").integers(0, 2**64, (_MANY, hashes.shape[1]), dtype=np.uint64)
    started = time.perf_counter()
    sum(len(first) for first, _ in close_pairs(many))
    yield figure(f"near_duplicates: to compare {_MANY} images", time.perf_counter() - started, "s")


def _distance(original: Path, its_hash: Hashes, copy: Callable[[Image.Image], Image.Image]) -> int:
    with Image.open(original) as image:
        copied = copy(image.convert("L"))
    pixels = np.asarray(copied.resize((HASH_SIZE_PX, HASH_SIZE_PX), Image.Resampling.BILINEAR))
    return int(np.bitwise_count(perceptual_hash(pixels) ^ its_hash).sum())


def _half(image: Image.Image) -> Image.Image:
    return image.resize((image.width // 2, image.height // 2), Image.Resampling.BICUBIC)


def _jpeg_50(image: Image.Image) -> Image.Image:
    stored = io.BytesIO()
    image.save(stored, "jpeg", quality=50)
    return Image.open(stored).convert("L")


def _brightness(factor: float) -> Callable[[Image.Image], Image.Image]:
    return lambda image: image.point([min(255, round(factor * level)) for level in range(256)])


def _cropped(image: Image.Image) -> Image.Image:
    left, upper = round(image.width / 50), round(image.height / 50)
    return image.crop((left, upper, image.width - left, image.height - upper))


_COPIES: dict[str, Callable[[Image.Image], Image.Image]] = {
    "half the size": _half,
    "JPEG of quality 50": _jpeg_50,
    "1.2 of the brightness": _brightness(1.2),
    "0.8 of the brightness": _brightness(0.8),
    "half, brighter by a tenth, JPEG of quality 50": lambda image: _jpeg_50(_brightness(1.1)(_half(image))),
    "cropped by 2 % on each side": _cropped,
}
