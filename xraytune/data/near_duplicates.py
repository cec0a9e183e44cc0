"""Find copies of one X-ray under several names: resized, saved again, a little brighter.

Takes the pixels of images, gives pairs that look alike. Such pairs of different patients leak from one side of a split to
another, and hashes of the files' bytes do not see them. Each image is reduced to 256 bits, the signs of its lowest
frequencies against their median (pHash); of two copies few bits differ.

Chest X-rays all look alike, so the threshold was measured on 5,430 X-rays of the Kermany set, whose names tell the patients
(`make bench ONLY=near_duplicates DATA=chest_xray`). Among 14.7 million pairs of different patients the closest differ in 36
bits. Of 600 images each, copies at half the size, as JPEG of quality 50, with 0.8 or 1.2 of the brightness, or with a
mix of these differ from their originals in 14 bits at most. The threshold of 24 bits lies between: no pair was wrong, and no
copy was missed. Most copies that were cropped, and all that were turned or mirrored, are not found.

Source: Zauner 2010, "Implementation and Benchmarking of Perceptual Image Hash Functions", section 3.2.1; with 16 x 16
frequencies in place of 8 x 8, by which X-rays of different patients can be as close as copies are.
"""

from __future__ import annotations

from collections.abc import Collection, Iterator, Sequence
from dataclasses import dataclass
from typing import TypeAlias

import numpy as np
from numpy.typing import NDArray
from scipy.fft import dctn  # type: ignore[import-untyped]

from xraytune.data.index import ImageFile
from xraytune.records import Progress, ignore_progress

HASH_SIZE_PX = 64
"""Side of the square images to hash."""
THRESHOLD_BITS = 24
_FREQUENCIES = 16
_WORDS = _FREQUENCIES**2 // 64
_BLOCK = 128
"""Images that are compared with all others at a time."""
_MOST_EXAMPLES = 100

Hashes: TypeAlias = NDArray[np.uint64]


@dataclass(frozen=True, slots=True, kw_only=True)
class Lookalikes:
    """Two images of different patients that look like copies of each other.

    Attributes:
        files: Both, below the data folder.
        in_training_and_test: Whether one of them is a test image.
        in_two_classes: Whether their classes differ.
    """

    files: tuple[str, str]
    in_training_and_test: bool
    in_two_classes: bool


@dataclass(frozen=True, slots=True, kw_only=True)
class NearDuplicates:
    """All pairs of such images.

    Attributes:
        pairs: How many there are.
        in_training_and_test: How many of them have one image in the test part.
        in_two_classes: How many of them have different classes.
        examples: Up to 100 of them; those in training and test come first, then those in two classes.
    """

    pairs: int
    in_training_and_test: int
    in_two_classes: int
    examples: tuple[Lookalikes, ...]


def find_near_duplicates(
    images: Sequence[ImageFile],
    hashes: Sequence[Hashes],
    test: Collection[ImageFile] = (),
    *,
    on_progress: Progress = ignore_progress,
) -> NearDuplicates:
    """Compare all images with one another.

    Args:
        images: Of the training and the test part.
        hashes: One for each image, [4].
        test: Which of the images are test images.
        on_progress: Told how many images are compared with all others.
    """
    _, patients = np.unique([image.patient for image in images], return_inverse=True)
    labels = np.array([image.label for image in images])
    test_files = {image.file for image in test}
    is_test = np.array([image.file in test_files for image in images])
    counts = np.zeros(3, dtype=np.int64)
    examples: list[Lookalikes] = []
    stacked = np.array(hashes, dtype=np.uint64).reshape(-1, _WORDS)
    for first, second in close_pairs(stacked, on_progress=on_progress):
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
        examples = sorted(examples, key=_by_weight)[:_MOST_EXAMPLES]
    pairs, in_training_and_test, in_two_classes = counts.tolist()
    return NearDuplicates(
        pairs=pairs,
        in_training_and_test=in_training_and_test,
        in_two_classes=in_two_classes,
        examples=tuple(examples),
    )


def _by_weight(found: Lookalikes) -> tuple[bool, bool, tuple[str, str]]:
    return not found.in_training_and_test, not found.in_two_classes, found.files


def perceptual_hash(pixels: NDArray[np.uint8]) -> Hashes:
    """The hash of an image, [4] uint64; `pixels` are [64, 64]."""
    low = dctn(pixels.astype(np.float32))[:_FREQUENCIES, :_FREQUENCIES]
    return np.packbits(low > np.median(low)).view(np.uint64)


def close_pairs(
    hashes: Hashes, threshold_bits: int = THRESHOLD_BITS, *, on_progress: Progress = ignore_progress
) -> Iterator[tuple[NDArray[np.int64], NDArray[np.int64]]]:
    """All pairs that differ in at most `threshold_bits`, some images at a time.

    Args:
        hashes: [N, 4].
        threshold_bits: Of 256.
        on_progress: Told how many images are compared with all others.

    Yields:
        First and second of the pairs, as positions in `hashes`; first < second, each pair once, in order.
    """
    for start in range(0, len(hashes), _BLOCK):
        block, rest = hashes[start : start + _BLOCK], hashes[start:]
        bits = np.zeros((len(block), len(rest)), dtype=np.uint16)
        for word in range(_WORDS):
            bits += np.bitwise_count(block[:, None, word] ^ rest[None, :, word])
        first, second = np.nonzero(np.triu(bits <= threshold_bits, k=1))
        yield first + start, second + start
        on_progress("compare images", min(start + _BLOCK, len(hashes)), len(hashes))
