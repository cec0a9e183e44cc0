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
_FREQUENCIES = 16
_WORDS = _FREQUENCIES**2 // 64
_BLOCK = 128
"""Images compared with all others at a time."""
_MOST_EXAMPLES = 100

Hashes: TypeAlias = NDArray[np.uint64]


@dataclass(frozen=True, slots=True, kw_only=True)
class Lookalikes:
    """Two images of different patients that look like copies.

    Whether one is a test image, and whether classes differ.
    """

    files: tuple[str, str]
    in_training_and_test: bool
    in_two_classes: bool


@dataclass(frozen=True, slots=True)
class NearDuplicates:
    """The numbers of such pairs, and up to 100 examples, the worst first."""

    pairs: int
    in_training_and_test: int
    in_two_classes: int
    examples: tuple[Lookalikes, ...]


def find_near_duplicates(
    images: Sequence[ImageFile],
    hashes: Sequence[Hashes],
    *,
    on_progress: Progress = ignore_progress,
) -> NearDuplicates:
    """Compare all images with each other; `hashes` has a [4] uint64 for each."""
    _, patients = np.unique([image.patient for image in images], return_inverse=True)
    labels = np.array([image.label for image in images])
    is_test = np.array([image.part == "test" for image in images])
    counts = np.zeros(3, dtype=np.int64)
    examples: list[Lookalikes] = []
    for first, second in close_pairs(
        np.array(hashes, dtype=np.uint64).reshape(-1, _WORDS), on_progress=on_progress
    ):
        apart = patients[first] != patients[second]
        first, second = first[apart], second[apart]
        leaks, contradicts = is_test[first] != is_test[second], labels[first] != labels[second]
        counts += np.array([len(first), np.count_nonzero(leaks), np.count_nonzero(contradicts)])
        examples += [
            Lookalikes(
                files=(images[first[pair]].file, images[second[pair]].file),
                in_training_and_test=bool(leaks[pair]),
                in_two_classes=bool(contradicts[pair]),
            )
            for pair in np.lexsort((~contradicts, ~leaks))[:_MOST_EXAMPLES]
        ]
        examples.sort(
            key=lambda pair: (not pair.in_training_and_test, not pair.in_two_classes, pair.files)
        )
        del examples[_MOST_EXAMPLES:]
    pairs, leaking, contradicting = counts.tolist()
    return NearDuplicates(pairs, leaking, contradicting, tuple(examples))


def perceptual_hash(pixels: NDArray[np.uint8]) -> Hashes:
    """Hash an image, uint8 [64, 64], to [4] uint64."""
    low = dctn(pixels.astype(np.float32))[:_FREQUENCIES, :_FREQUENCIES]
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
        block, rest = hashes[start : start + _BLOCK], hashes[start:]
        bits = np.zeros((len(block), len(rest)), dtype=np.uint16)
        for word in range(_WORDS):
            bits += np.bitwise_count(block[:, None, word] ^ rest[None, :, word])
        first, second = np.nonzero(np.triu(bits <= _THRESHOLD_BITS, k=1))
        yield first + start, second + start
        on_progress("comparing images", min(start + _BLOCK, len(hashes)), len(hashes))
