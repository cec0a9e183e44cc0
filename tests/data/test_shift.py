"""Images as another hospital would have taken them."""

import numpy as np
import pytest
from numpy.testing import assert_allclose, assert_array_equal

from tests.data.conftest import DataFolder
from tests.pair_files import save
from xraytune.base.errors import DataError
from xraytune.data.phantom import paint_phantoms
from xraytune.data.pixels import open_pixels, shift_image
from xraytune.space.data_settings import ShiftSettings

PIXELS = np.tile(np.arange(0, 256, 8, dtype=np.uint8), (32, 1))


@pytest.mark.parametrize(
    ("shift", "expected"),
    [
        ({}, PIXELS),
        ({"contrast": -1.0}, 255 - PIXELS),
        ({"gamma": 0.5}, np.sqrt(PIXELS * 255.0)),
        ({"contrast": 0.5}, 127.5 + (PIXELS - 127.5) / 2),
    ],
)
def test_grey_values_are_shifted(shift: dict[str, float], expected: np.ndarray) -> None:
    shifted = shift_image(PIXELS, "a.png", ShiftSettings.model_validate(shift))

    assert_allclose(shifted, expected, atol=0.51)


def test_detail_is_lost_and_noise_depends_on_the_file() -> None:
    checks = np.uint8(255) * ((np.indices((64, 64)).sum(axis=0) % 2).astype(np.uint8))
    blur = ShiftSettings(blur_px=2.0, noise=0.1)

    noisy = [shift_image(checks, file, blur) for file in ("a.png", "a.png", "b.png")]

    assert noisy[0].mean() == pytest.approx(checks.mean(), abs=2)
    assert noisy[0].std() == pytest.approx(25.5, rel=0.1)
    assert [(image == noisy[0]).all() for image in noisy] == [True, True, False]


def test_images_that_are_all_blank_are_refused(xrays: DataFolder) -> None:
    for number in range(40):
        folder = xrays / ("NORMAL", "PNEUMONIA")[number % 2]
        save(folder / f"{number}.png", np.full((32, 32), number, np.uint8))

    with pytest.raises(DataError, match="all 40 images are blank"):
        xrays.prepared()


def test_a_study_sees_shifted_images(xrays: DataFolder) -> None:
    """On all sides; without a shift, the decoded images are those of before."""
    paint_phantoms(xrays, patients=30, seed=3, image_size_px=32)

    as_they_are, shifted = (
        open_pixels(xrays.parent / "cache" / prepared.pixels)
        for prepared, _ in (xrays.prepared(), xrays.prepared(shift={"contrast": -1.0}))
    )

    assert_array_equal(as_they_are, 255 - shifted)
