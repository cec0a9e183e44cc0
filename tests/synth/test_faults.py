"""Plain defects of synthetic images are found if more than a few images have them."""

from dataclasses import replace
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

from xraytune.data.images import ImageFile
from xraytune.synth.faults import find_faults


def images(count: int = 40) -> tuple[list[ImageFile], NDArray[np.uint8]]:
    """Files of 64 x 80 px, and their pixels: a dark lung in noise, uint8 [count, 48, 48]."""
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
    pixels = np.random.default_rng(0).integers(100, 255, (count, 48, 48), dtype=np.uint8)
    pixels[:, 10:38, 8:20] -= 90
    return files, pixels


FILES, PIXELS = images()


def faults(files: list[ImageFile], pixels: NDArray[Any]) -> list[str]:
    return [*find_faults(files, pixels.astype(np.uint8), FILES, PIXELS)]


@pytest.mark.parametrize("bad", [2, 3])
def test_a_fault_is_named_if_more_than_one_in_twenty_images_has_it(bad: int) -> None:
    same = PIXELS.copy()
    same[: bad + 1] = PIXELS[0]
    small = [replace(file, width_px=20) for file in FILES[:bad]] + FILES[bad:]
    blank = PIXELS.copy()
    blank[:bad] = 17 + np.random.default_rng(1).integers(0, 4, blank[:bad].shape)
    half = PIXELS.copy()
    half[:bad] //= 2
    bright = PIXELS.copy()
    bright[:bad] = 127 + half[:bad]
    clipped = PIXELS.copy()
    clipped[:bad] = (2.0 * clipped[:bad] - 255).clip(0, 255)
    larger = [replace(file, width_px=640, height_px=640) for file in FILES[:2]] + FILES[2:]
    found = [
        *faults(FILES, blank),
        *faults(FILES, half),
        *faults(FILES, bright),
        *faults(FILES, clipped),
        *faults(FILES, same),
        *faults(small, PIXELS),
    ]

    assert faults(FILES, PIXELS) == faults(larger, PIXELS) == []
    assert [sentence.partition(" images ")[2][:20] for sentence in found] == [
        "are blank: all their",
        "use only the dark or",
        "use only the dark or",
        "are clipped: over a ",
        "repeat another one: ",
        "are less than half a",
    ] * (bad == 3)
    assert all(sentence.startswith("3 of 40 images ") for sentence in found)


def test_greys_that_real_images_have_too_are_no_fault() -> None:
    dark = PIXELS // 2

    assert [*find_faults(FILES, dark, FILES, dark)] == []


@pytest.mark.parametrize(("rows", "columns"), [(1, 2), (2, 1), (2, 2), (3, 3), (4, 4)])
def test_contact_sheets_are_named(rows: int, columns: int) -> None:
    sheets = np.tile(PIXELS, (1, rows, columns))[:, ::rows, ::columns]

    (fault,) = faults(FILES, sheets)

    assert fault.startswith("Most images repeat a pattern")


def test_pairs_side_by_side_are_named() -> None:
    """Whatever the other half shows."""
    wide = [replace(file, width_px=128) for file in FILES]

    (fault,) = faults(wide, PIXELS)

    assert fault.startswith("Most images are 1.6 times as wide as high")
