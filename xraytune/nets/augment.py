"""Classical augmentation: seeded views of an image, computed in one operation on the device.

A view is a row of seven numbers, drawn before training. So the features of a frozen backbone can be
cached for all views, and a resumed or longer run sees the same images.

The strength scales the same draws: an image turns the same way at 2 and 3, only further at 3.
Pixels from outside the image are black.
"""

from __future__ import annotations

import math

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from xraytune.base.arrays import Float32Array
from xraytune.base.seeding import numpy_generator
from xraytune.nets.compute import constants

VIEW_COLUMNS = ("flip", "angle_radians", "shift_x", "shift_y", "scale", "contrast", "brightness")
IDENTITY_VIEW = (1.0, 0.0, 0.0, 0.0, 1.0, 1.0, 0.0)
_FLIP_PROBABILITY = 0.5
MASK_THRESHOLD = 0.5
"""Pixels with at least this probability belong to the mask."""
_MAX_CHANGE = {
    1: (0.0, 0.0, 0.0, 0.0, 0.0, 0.0, 0.0),
    2: (0.0, math.radians(7), 0.05, 0.05, 0.10, 0.20, 0.10),
    3: (0.0, math.radians(15), 0.10, 0.10, 0.20, 0.30, 0.15),
}
"""The largest change of each of `VIEW_COLUMNS` at each strength of `classical`, up or down,
uniform; flips are drawn apart. Shifts are shares of a side, brightness is of [0, 1]."""


def view_table(
    seed: int, *purpose: str | int, image_count: int, views: int, classical: int
) -> Float32Array:
    """Draw a table of views, float32 [image_count, views, 7], with one view if `classical` is 0.

    Columns are `VIEW_COLUMNS`. A table of more images starts with that of fewer; each `purpose` has
    independent draws.
    """
    identity = np.array(IDENTITY_VIEW, dtype=np.float32)
    if classical == 0:
        return np.tile(identity, (image_count, 1, 1))
    uniform = numpy_generator(seed, *purpose).random(
        (image_count, views, len(identity)), dtype=np.float32
    )
    table = identity + (2 * uniform - 1) * np.array(_MAX_CHANGE[classical], dtype=np.float32)
    table[..., 0] = np.where(uniform[..., 0] < _FLIP_PROBABILITY, -1, 1)
    return table


def augment(images: Tensor, views: Tensor) -> Tensor:
    """Flip, rotate, scale and shift images (bilinear), then change contrast and brightness.

    Images are float32 [B, 1, S, S] in [0, 1], before and after; views are float32 [B, 7] on the
    same device, with the columns `VIEW_COLUMNS`. For an identity view, the result is bit-identical
    to the image.
    """
    contrast = views[:, 5, None, None, None]
    brightness = views[:, 6, None, None, None]
    moved = _move(images, views)
    mean = moved.mean(dim=(1, 2, 3), keepdim=True)
    augmented = torch.addcmul(mean * (1 - contrast) + brightness, moved, contrast).clamp_(0, 1)
    # Exact for weights of 0 and 1, and faster than torch.where, which is slow if it has to
    # broadcast.
    return torch.lerp(augmented, images, _is_identity(views).to(images.dtype))


def augment_masks(masks: Tensor, views: Tensor) -> Tensor:
    """Move masks, float32 [B, 1, S, S] of 0 and 1, as `augment` moves their images.

    Bilinear, then 1 from 0.5.
    """
    return torch.where(
        _is_identity(views), masks, (_move(masks, views) >= MASK_THRESHOLD).to(masks.dtype)
    )


def _move(images: Tensor, views: Tensor) -> Tensor:
    # Of x -> s R F x + d, the inverse x = F R' (y - d) / s maps output to input coordinates in
    # [-1, 1].
    flip, angle, shift_x, shift_y, scale = views[:, :5].unbind(dim=1)
    cosine = torch.cos(angle) / scale
    sine = torch.sin(angle) / scale
    rows = [torch.stack([flip * cosine, flip * sine], 1), torch.stack([-sine, cosine], 1)]
    rotation = torch.stack(rows, dim=1)
    shift = 2 * torch.stack([shift_x, shift_y], dim=1)[:, :, None]  # a side is 2 long
    inverse = torch.cat([rotation, -rotation @ shift], dim=2)[:, :, None, None]
    # One plane for x and one for y, each a sum over rows and columns: pairs (x, y) and
    # F.affine_grid are slower.
    from_x, from_y, constant = inverse.unbind(dim=-1)  # [B, 2, 1, 1] each
    side = images.shape[-1]
    centres = (torch.arange(side, device=images.device, dtype=images.dtype) * 2 + 1) / side - 1
    planes = from_x * centres + (from_y * centres[:, None] + constant)
    return F.grid_sample(
        images,
        planes.permute(0, 2, 3, 1),
        mode="bilinear",
        padding_mode="zeros",
        align_corners=False,
    )


def _is_identity(views: Tensor) -> Tensor:
    return (views == constants(IDENTITY_VIEW, views.device)).all(dim=1)[:, None, None, None]
