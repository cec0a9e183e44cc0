"""Image grids, and images with the outline of their mask."""

from __future__ import annotations

from io import BytesIO
from pathlib import Path

import numpy as np
from PIL import Image

from xraytune.base.arrays import UInt8Array
from xraytune.base.files import write_bytes
from xraytune.data.masks import outlined

_GAP_PX = 2
_OUTLINED_PX = 128


def image_grid(images: UInt8Array, columns: int) -> Image.Image:
    """Arrange images [n, S, S] or [n, S, S, 3] in rows of `columns` on white.

    The last row may be short.
    """
    gap = (_GAP_PX, 0)
    colours = [(0, 0)] * (images.ndim - 3)
    cells = np.pad(images, ((0, -len(images) % columns), gap, gap, *colours), constant_values=255)
    _, height, width, *rest = cells.shape
    rows = cells.reshape(-1, columns, height, width, *rest).swapaxes(1, 2)
    sheet = rows.reshape(-1, columns * width, *rest)
    right_and_bottom = ((0, _GAP_PX), (0, _GAP_PX), *colours)
    return Image.fromarray(np.pad(sheet, right_and_bottom, constant_values=255))


def with_outlines(planes: UInt8Array) -> UInt8Array:
    """Return images [n, 1, S, S] as [n, S, S]; of [n, 2, S, S], the second is a mask.

    A line is drawn around it: uint8 [n, T, T, 3]. Images below 128 px are enlarged by a whole
    factor, so that the line covers little of them.
    """
    if planes.shape[1] == 1:
        return planes[:, 0]
    factor = max(1, _OUTLINED_PX // planes.shape[2])
    enlarged = planes.repeat(factor, axis=2).repeat(factor, axis=3)
    return outlined(enlarged[:, 0], enlarged[:, 1])


def write_png(image: Image.Image, file: Path) -> None:
    """Write an image as PNG."""
    stream = BytesIO()
    image.save(stream, format="PNG")
    write_bytes(file, stream.getvalue())
