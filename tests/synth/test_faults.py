"""Plain defects of synthetic images are found if more than a few images have them."""

from dataclasses import replace

import numpy as np
import pytest
from numpy.typing import NDArray

from xraytune.data.images import ImageFile
from xraytune.synth.faults import find_faults


def images(count: int = 40) -> tuple[list[ImageFile], NDArray[np.uint8]]:
    files = [
        ImageFile(
            file=f"{number}.png",
            patient=f"{number}",
            label=0,
            sha256=f"{number:064d}",
            width_px=64,
            height_px=80,
        )
        for number in range(count)
    ]
    pixels = np.random.default_rng(0).integers(0, 255, (count, 8, 8), dtype=np.uint8)
    return files, pixels


@pytest.mark.parametrize("bad", [2, 3])
def test_a_fault_is_named_if_more_than_one_in_twenty_images_has_it(bad: int) -> None:
    files, pixels = images()
    same = pixels.copy()
    same[: bad + 1] = pixels[0]
    small = [replace(file, width_px=20) for file in files[:bad]] + files[bad:]
    blank = pixels.copy()
    blank[:bad] = 17 + np.random.default_rng(1).integers(0, 4, blank[:bad].shape)
    larger = [replace(file, width_px=640, height_px=640) for file in files[:2]] + files[2:]
    found = [
        *find_faults(files, blank),
        *find_faults(files, same),
        *find_faults(small, pixels),
    ]

    assert [*find_faults(files, pixels)] == [*find_faults(larger, pixels)] == []
    assert found == [
        "3 of 40 images are blank: all their pixels are of nearly one grey.",
        "3 of 40 images repeat another one: their pixels are identical.",
        "3 of 40 images are less than half as large as the large ones: 20 to 64 px.",
    ] * (bad == 3)
