"""Sample grids: what a person looks at to judge a GAN."""

from __future__ import annotations

from io import BytesIO

import numpy as np
from numpy.typing import NDArray
from PIL import Image

_GAP_PX = 2
_PAPER = 255


def draw_grid(images: NDArray[np.uint8], columns: int) -> Image.Image:
    """Images [n, S, S] in rows of `columns`, on white paper; a last row may be short."""
    count, size, _ = images.shape
    rows = -(-count // columns)
    pitch = size + _GAP_PX
    sheet = np.full((rows * pitch + _GAP_PX, columns * pitch + _GAP_PX), _PAPER, dtype=np.uint8)
    for position, image in enumerate(images):
        row, column = divmod(position, columns)
        top, left = row * pitch + _GAP_PX, column * pitch + _GAP_PX
        sheet[top : top + size, left : left + size] = image
    return Image.fromarray(sheet)


def png_bytes(image: Image.Image) -> bytes:
    """The image as a PNG file's content."""
    stream = BytesIO()
    image.save(stream, format="PNG")
    return stream.getvalue()
