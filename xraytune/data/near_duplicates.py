"""Find copies of one X-ray under several names: resized, saved again, slightly brighter.

Each image is reduced to 256 bits, the signs of its lowest frequencies relative to their median
(pHash); copies differ in few bits, at most in the 24 that were measured (docs/data.md, Near
duplicates).

Source: Zauner 2010, "Implementation and Benchmarking of Perceptual Image Hash Functions", section
3.2.1; with 16 x 16 frequencies instead of 8 x 8, which do not separate copies from X-rays of
different patients.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import TypeAlias

import numpy as np
from numpy.typing import NDArray
from scipy.fft import dctn  # type: ignore[import-untyped]

from xraytune.base.records import Progress, ignore_progress
from xraytune.data.images import ImageFile

HASH_SIZE_PX = 64
"""Side of the square images to hash."""
_THRESHOLD_BITS = 24
_BLOCK = 128
"""Images compared with all others at a time."""
_MOST_EXAMPLES = 100

Hashes: TypeAlias = NDArray[np.uint64]


@dataclass(frozen=True, slots=True, kw_only=True)
class NearDuplicates:
    """Pairs of images of different patients that look like copies.

    Their number, how many have one image in test, how many have two classes, and the files of up to
    100, those in training and test first.
    """

    pairs: int = 0
    in_training_and_test: int = 0
    in_two_classes: int = 0
    examples: tuple[tuple[str, str], ...] = ()


def find_near_duplicates(
    images: Sequence[ImageFile],
    hashes: Sequence[Hashes],
    *,
    on_progress: Progress = ignore_progress,
) -> NearDuplicates:
    """Compare all images with each other; `hashes` has a [4] uint64 for each."""
    pairs = leaking = contradicting = 0
    examples: list[tuple[bool, bool, str, str]] = []
    for first, second in close_pairs(np.array(hashes).reshape(-1, 4), on_progress=on_progress):
        for place, other_place in zip(first.tolist(), second.tolist(), strict=True):
            image, other = images[place], images[other_place]
            if image.patient == other.patient:
                continue
            is_apart = (image.part == "test") == (other.part == "test")
            is_same = image.label == other.label
            pairs += 1
            leaking += not is_apart
            contradicting += not is_same
            examples.append((is_apart, is_same, image.file, other.file))
        examples = sorted(examples)[:_MOST_EXAMPLES]
    return NearDuplicates(
        pairs=pairs,
        in_training_and_test=leaking,
        in_two_classes=contradicting,
        examples=tuple((file, other) for _, _, file, other in examples),
    )


def perceptual_hash(pixels: NDArray[np.uint8]) -> Hashes:
    """Hash an image, uint8 [64, 64], to [4] uint64."""
    low = dctn(pixels.astype(np.float32))[:16, :16]
    return np.packbits(low > np.median(low)).view(np.uint64)


def close_pairs(
    hashes: Hashes, *, on_progress: Progress = ignore_progress
) -> Iterator[tuple[NDArray[np.int64], NDArray[np.int64]]]:
    """Find pairs of `hashes`, [N, 4], that differ in at most 24 of 256 bits.

    Yields:
        First and second positions of pairs, first < second, each pair once, in order; one block of
        images at a time.
    """
    for start in range(0, len(hashes), _BLOCK):
        block = hashes[start : start + _BLOCK]
        different = block[:, None] ^ hashes[None, start:]
        bits = np.bitwise_count(different).sum(axis=-1, dtype=np.uint16)
        first, second = np.nonzero(np.triu(bits <= _THRESHOLD_BITS, k=1))
        yield first + start, second + start
        on_progress("comparing images", min(start + _BLOCK, len(hashes)), len(hashes))
