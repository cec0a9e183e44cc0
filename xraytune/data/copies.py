"""Find copies of one X-ray under several names: resized, saved again, slightly brighter.

Each image is reduced to a hash (pHash) of 256 bits: the signs of its lowest frequencies relative to
their median. Copies differ in few bits, at most in the 24 that were measured (docs/data.md, Near
duplicates), also if they are decoded to squares of different sizes.

From: Zauner 2010, "Implementation and Benchmarking of Perceptual Image Hash Functions", section
3.2.1. Here, the hash has 16 x 16 frequencies, since 8 x 8 do not separate copies from X-rays of
different patients.
"""

from collections.abc import Iterator, Sequence
from typing import TypeAlias

import numpy as np
from numpy.typing import NDArray
from scipy.fft import dctn  # type: ignore[import-untyped]

from xraytune.base.arrays import Int64Array, UInt8Array
from xraytune.base.records import Progress, frozen, ignore_progress
from xraytune.data.images import ImageFile

_THRESHOLD_BITS = 24
_BLOCK = 128
"""The number of images that are compared with all others at a time."""
_MOST_EXAMPLES = 100

Hashes: TypeAlias = NDArray[np.uint64]


@frozen
class NearDuplicates:
    """Pairs of images of different patients that look like copies.

    Attributes:
        in_training_and_test: The number of pairs with one image in test.
        examples: The files of up to 100 pairs, those in training and test first.
    """

    pairs: int = 0
    in_training_and_test: int = 0
    in_two_classes: int = 0
    examples: tuple[tuple[str, str], ...] = ()


def find_near_duplicates(
    images: Sequence[ImageFile],
    hashes: Sequence[Hashes],
    *,
    on_progress: Progress,
) -> NearDuplicates:
    """Compare all images with each other; `hashes` has a [4] uint64 for each."""
    pairs = leaking = contradicting = 0
    examples = []
    for first, second in close_pairs(np.array(hashes).reshape(-1, 4), on_progress=on_progress):
        for index, other_index in zip(first.tolist(), second.tolist(), strict=True):
            image = images[index]
            other = images[other_index]
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


def perceptual_hash(pixels: UInt8Array) -> Hashes:
    """Hash an image, uint8 [S, S] with S >= 32, to [4] uint64."""
    low = dctn(pixels.astype(np.float32))[:16, :16]
    return np.packbits(low > np.median(low)).view(np.uint64)


def close_pairs(
    hashes: Hashes, others: Hashes | None = None, *, on_progress: Progress = ignore_progress
) -> Iterator[tuple[Int64Array, Int64Array]]:
    """Find pairs of `hashes`, [N, 4], that differ in at most 24 of 256 bits.

    With `others`, [M, 4], the second hash of each pair is one of these.

    Yields:
        The first and second positions of pairs, for one block of images at a time. Each pair occurs
        once, in order; without `others`, first < second.
    """
    for start in range(0, len(hashes), _BLOCK):
        block = hashes[start : start + _BLOCK]
        candidates = hashes[start:] if others is None else others
        different = block[:, None] ^ candidates[None]
        bits = np.bitwise_count(different).sum(axis=-1, dtype=np.uint16)
        is_close = bits <= _THRESHOLD_BITS
        if others is None:
            first, second = np.nonzero(np.triu(is_close, k=1))
            yield first + start, second + start
        else:
            first, second = np.nonzero(is_close)
            yield first + start, second
        on_progress("comparing images", min(start + _BLOCK, len(hashes)), len(hashes))
