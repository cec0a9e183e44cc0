"""Image grids, and images with the outline of their mask."""

from __future__ import annotations

from io import BytesIO

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from xraytune.data.masks import outlined

_GAP_PX = 2
_OUTLINED_PX = 128


def image_grid(images: NDArray[np.uint8], columns: int) -> Image.Image:
    """Arrange images [n, S, S] or [n, S, S, 3] in rows of `columns` on white.

    The last row may be short.
    """
    gap = (_GAP_PX, 0)
    colours = [(0, 0)] * (images.ndim - 3)
    cells = np.pad(images, ((0, -len(images) % columns), gap, gap, *colours), constant_values=255)
    _, height, width, *rest = cells.shape
    sheet = (
        cells.reshape(-1, columns, height, width, *rest)
        .swapaxes(1, 2)
        .reshape(-1, columns * width, *rest)
    )
    return Image.fromarray(
        np.pad(sheet, ((0, _GAP_PX), (0, _GAP_PX), *colours), constant_values=255)
    )


def with_outlines(pixels: NDArray[np.uint8], masks: NDArray[np.uint8] | None) -> NDArray[np.uint8]:
    """Draw a line around each mask [n, S, S] on its image [n, S, S]: uint8 [n, T, T, 3].

    Without masks, return the images.

    Images below 128 px are enlarged by a whole factor, so that the line covers little of them.
    """
    if masks is None:
        return pixels
    factor = max(1, _OUTLINED_PX // pixels.shape[1])
    return outlined(
        *(planes.repeat(factor, axis=1).repeat(factor, axis=2) for planes in (pixels, masks))
    )


def png_bytes(image: Image.Image) -> bytes:
    """Encode an image as PNG."""
    stream = BytesIO()
    image.save(stream, format="PNG")
    return stream.getvalue()
