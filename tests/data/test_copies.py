"""Which images look like copies of each other."""

from pathlib import Path

import numpy as np

from tests.pair_files import draw_xrays
from xraytune.base.seeding import numpy_generator
from xraytune.data.copies import close_pairs, perceptual_hash
from xraytune.data.decoding import GreyImage, decode_files


def test_an_image_has_nearly_the_same_hash_at_each_size(tmp_path: Path) -> None:
    """A search compares images in the size in which it has decoded them."""
    draw_xrays(tmp_path, patients=12, image_size_px=256)
    files = [str(file.relative_to(tmp_path)) for file in sorted(tmp_path.rglob("*.jpeg"))]

    hashes = [
        np.array(
            [
                perceptual_hash(image.pixels)
                for image in decode_files(tmp_path, files, size_px)
                if isinstance(image, GreyImage)
            ]
        )
        for size_px in (32, 64, 224)
    ]

    for resized in hashes[1:]:
        assert np.bitwise_count(hashes[0] ^ resized).sum(axis=-1).max() <= 24


def test_every_pair_within_the_threshold_is_found_once() -> None:
    """Against a comparison of each two, over several blocks."""
    random = numpy_generator(1, "hashes")
    base = random.integers(0, 2**64, (40, 4), dtype=np.uint64)
    flips = random.integers(0, 2**64, (300, 4), dtype=np.uint64)
    for _ in range(3):  # 1 in 16 bits is flipped, so that pairs lie on both sides of the threshold
        flips &= random.integers(0, 2**64, (300, 4), dtype=np.uint64)
    hashes = base[random.integers(0, 40, 300)] ^ flips

    found = np.concatenate([np.stack(pair, axis=1) for pair in close_pairs(hashes)])
    between = np.concatenate(
        [np.stack(pair, axis=1) for pair in close_pairs(hashes[:200], hashes[200:])]
    )

    bits = np.bitwise_count(hashes[:, None] ^ hashes).sum(axis=-1)
    np.testing.assert_array_equal(found, np.argwhere(np.triu(bits <= 24, k=1)))
    np.testing.assert_array_equal(between, np.argwhere(bits[:200, 200:] <= 24))
    assert 100 < len(found) < 1000
