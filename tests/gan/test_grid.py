"""Image grids: every image complete and in its place."""

from __future__ import annotations

from io import BytesIO

import numpy as np
from PIL import Image

from xraytune.gan.pool import draw_grid, png_bytes


def test_images_stand_in_reading_order_with_white_between() -> None:
    images = np.stack([np.full((4, 4), grey, dtype=np.uint8) for grey in (10, 20, 30, 40, 50)])

    sheet = np.asarray(Image.open(BytesIO(png_bytes(draw_grid(images, columns=3)))))

    assert sheet.shape == (2 * 6 + 2, 3 * 6 + 2)
    assert (sheet[2:6, 14:18] == 30).all()
    assert (sheet[8:12, 8:12] == 50).all()
    assert (sheet[8:12, 14:18] == 255).all()  # the last row is short
    assert (sheet[:2] == 255).all()
