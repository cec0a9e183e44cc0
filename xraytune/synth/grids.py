"""Image grids, and images with the outline of their mask."""

import torch
from PIL import Image

from xraytune.base.arrays import UInt8Array
from xraytune.data.masks import draw_outlines
from xraytune.nets.vision import utils

_OUTLINED_PX = 128


def image_grid(images: UInt8Array, columns: int) -> Image.Image:
    """Arrange images [n, S, S] or [n, S, S, 3] in rows of `columns` on white.

    The last row may be short.
    """
    channels = torch.from_numpy(images.reshape(*images.shape[:3], -1)).movedim(3, 1)
    grid = utils.make_grid(channels, nrow=columns, pad_value=255)
    return Image.fromarray(grid.movedim(0, 2).numpy())


def with_outlines(images: UInt8Array) -> UInt8Array:
    """Return images [n, 1, S, S] as [n, S, S], or images with masks as outlines, [n, T, T, 3].

    Images with masks are [n, 2, S, S]; a line is put around each mask. Images below 128 px are
    enlarged by a whole factor, so that the line covers little of them.
    """
    if images.shape[1] == 1:
        return images[:, 0]
    factor = max(1, _OUTLINED_PX // images.shape[2])
    enlarged = images.repeat(factor, axis=2).repeat(factor, axis=3)
    return draw_outlines(enlarged[:, 0], enlarged[:, 1])
