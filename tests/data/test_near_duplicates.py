"""Which images look like copies of each other."""

from __future__ import annotations

import numpy as np

from xraytune.base.seeding import numpy_generator
from xraytune.data.index import ImageFile
from xraytune.data.near_duplicates import close_pairs, find_near_duplicates


def images_of(patients: list[str], labels: list[int]) -> list[ImageFile]:
    return [
        ImageFile(file=f"{number}.png", label=label, patient=patient, sha256=str(number), width_px=1, height_px=1)
        for number, (patient, label) in enumerate(zip(patients, labels, strict=True))
    ]


def test_every_pair_within_the_threshold_is_found_once() -> None:
    """Against a comparison of each two, over several blocks."""
    random = numpy_generator(1, "hashes")
    base = random.integers(0, 2**64, (40, 4), dtype=np.uint64)
    flips = random.integers(0, 2**64, (300, 4), dtype=np.uint64)
    for _ in range(3):  # 1 in 16 bits is flipped, so that pairs lie on both sides of the threshold
        flips &= random.integers(0, 2**64, (300, 4), dtype=np.uint64)
    hashes = base[random.integers(0, 40, 300)] ^ flips

    found = [(int(a), int(b)) for first, second in close_pairs(hashes, 24) for a, b in zip(first, second, strict=True)]

    def bits(a: int, b: int) -> int:
        return sum((int(x) ^ int(y)).bit_count() for x, y in zip(hashes[a], hashes[b], strict=True))

    assert found == [(a, b) for a in range(300) for b in range(a + 1, 300) if bits(a, b) <= 24]
    assert 100 < len(found) < 1000


def test_pairs_are_counted_and_worst_shown_first() -> None:
    """Blank images all look alike."""
    images = images_of([f"p{number}" for number in range(300)], [0] * 299 + [1])

    found = find_near_duplicates(images, [np.zeros(4, dtype=np.uint64)] * 300, images[150:])

    assert (found.pairs, found.in_training_and_test, found.in_two_classes) == (300 * 299 // 2, 150 * 150, 299)
    assert len(found.examples) == 100
    assert all(pair.in_training_and_test and pair.in_two_classes for pair in found.examples)


def test_no_images_give_no_pairs() -> None:
    assert find_near_duplicates([], []).pairs == 0
