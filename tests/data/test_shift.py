"""Images as another hospital would have taken them."""

from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from xraytune.base.errors import DataError
from xraytune.data.phantom import draw_phantoms
from xraytune.data.pixels import open_pixels, shift_image
from xraytune.data.prepare import prepare
from xraytune.space.settings import Settings, ShiftSettings

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

    np.testing.assert_allclose(shifted, expected, atol=0.51)


def test_detail_is_lost_and_noise_depends_on_the_file() -> None:
    checks = np.uint8(255) * ((np.indices((64, 64)).sum(axis=0) % 2).astype(np.uint8))
    blur = ShiftSettings(blur_px=2.0, noise=0.1)

    noisy = [shift_image(checks, file, blur) for file in ("a.png", "a.png", "b.png")]

    assert noisy[0].mean() == pytest.approx(checks.mean(), abs=2)
    assert noisy[0].std() == pytest.approx(25.5, rel=0.1)
    assert [(image == noisy[0]).all() for image in noisy] == [True, True, False]


def test_images_that_are_all_blank_are_refused(tmp_path: Path) -> None:
    for number in range(40):
        path = tmp_path / "xrays" / ("NORMAL", "PNEUMONIA")[number % 2] / f"{number}.png"
        path.parent.mkdir(parents=True, exist_ok=True)
        Image.new("L", (32, 32), number).save(path)
    data = {"path": tmp_path / "xrays", "image_size": 32}

    with pytest.raises(DataError, match="all 40 images are blank: each has a single grey"):
        prepare(Settings.model_validate({"name": "blank", "data": data}), tmp_path / "cache")


def test_a_study_sees_shifted_images(tmp_path: Path) -> None:
    """On all sides; without a shift, the decoded images are those of before."""
    draw_phantoms(tmp_path / "xrays", patients=30, seed=3, image_size_px=32)
    stores = []
    for shift in (None, {"contrast": -1.0}):
        data = {"path": tmp_path / "xrays", "image_size": 32, "shift": shift}
        settings = Settings.model_validate({"name": "small", "data": data})
        prepared, _ = prepare(settings, tmp_path / "cache")
        stores.append(open_pixels(tmp_path / "cache" / prepared.pixels))

    np.testing.assert_array_equal(stores[0], 255 - stores[1])
