r"""Classical augmentation: seeded views of an image, made in one batched operation on the device.

A view is a row of seven numbers; a table of views says what every image will look like before any training. So the
features of a frozen backbone can be made once for all views, and a resumed or longer run sees the same images.

======================  ==========  ==========  ==========
`classical`             1           2           3
======================  ==========  ==========  ==========
horizontal flip         p = 0.5     p = 0.5     p = 0.5
rotation                none        +-7 deg     +-15 deg
shift, share of a side  none        +-0.05      +-0.10
scale                   none        1 +- 0.10   1 +- 0.20
contrast                none        1 +- 0.20   1 +- 0.30
brightness, of [0, 1]   none        +-0.10      +-0.15
======================  ==========  ==========  ==========

Each number is drawn uniformly. The strengths scale the same draws: an image that turns left at 2 turns further left
at 3, and is flipped at all or at none. What is moved in from outside the image is black.
"""

from __future__ import annotations

import math

import numpy as np
import torch
import torch.nn.functional as F
from numpy.typing import NDArray
from torch import Tensor

from xraytune.seeding import numpy_generator

VIEW_COLUMNS = ("flip", "angle_radians", "shift_x", "shift_y", "scale", "contrast", "brightness")
IDENTITY_VIEW = (1.0, 0.0, 0.0, 0.0, 1.0, 1.0, 0.0)
_FLIP_PROBABILITY = 0.5
_LARGEST_CHANGE = {
    1: (0.0, 0.0, 0.0, 0.0, 0.0, 0.0, 0.0),
    2: (0.0, math.radians(7), 0.05, 0.05, 0.10, 0.20, 0.10),
    3: (0.0, math.radians(15), 0.10, 0.10, 0.20, 0.30, 0.15),
}


def view_table(seed: int, *purpose: str | int, image_count: int, views: int, classical: int) -> NDArray[np.float32]:
    """V views of each image; the table of more images starts with that of fewer.

    Args:
        seed: Of the draws, with `purpose`.
        *purpose: What the images are, such as "real"; two purposes share no draws.
        image_count: Number of images.
        views: Views of each image, at least 1; without augmentation there is one, the image itself.
        classical: Strength 0-3.

    Returns:
        float32 [image_count, V, 7], columns as in `VIEW_COLUMNS`.
    """
    shape = (image_count, views if classical else 1, len(VIEW_COLUMNS))
    return _draw(numpy_generator(seed, *purpose), shape, classical)


def fresh_views(seed: int, *purpose: str | int, count: int, classical: int) -> NDArray[np.float32]:
    """One view for each image of a batch, drawn afresh: put the step into the purpose. float32 [count, 7]."""
    return _draw(numpy_generator(seed, *purpose), (count, len(VIEW_COLUMNS)), classical)


def augment(images: Tensor, views: Tensor) -> Tensor:
    """Turn, scale, flip and shift images (bilinear), then change their contrast and brightness.

    Args:
        images: float32 [B, 1, S, S] in [0, 1].
        views: float32 [B, 7] on the same device, columns as in `VIEW_COLUMNS`.

    Returns:
        float32 [B, 1, S, S] in [0, 1]; where a view is the identity, the very same numbers.
    """
    contrast, brightness = views[:, 5, None, None, None], views[:, 6, None, None, None]
    grid = F.affine_grid(_inverse_maps(views), list(images.shape), align_corners=False)
    moved = F.grid_sample(images, grid, mode="bilinear", padding_mode="zeros", align_corners=False)
    grey = moved.mean(dim=(1, 2, 3), keepdim=True)
    changed = ((moved - grey) * contrast + grey + brightness).clamp(0, 1)
    # Sampling at rounded coordinates would change the last bits of an image that is to stay as it is.
    is_identity = (views == torch.tensor(IDENTITY_VIEW, dtype=views.dtype, device=views.device)).all(dim=1)
    return torch.where(is_identity[:, None, None, None], images, changed)


def _draw(generator: np.random.Generator, shape: tuple[int, ...], classical: int) -> NDArray[np.float32]:
    identity = np.array(IDENTITY_VIEW, dtype=np.float32)
    if classical == 0:
        return np.broadcast_to(identity, shape).copy()
    uniform = generator.random(shape, dtype=np.float32)
    views = identity + (2 * uniform - 1) * np.array(_LARGEST_CHANGE[classical], dtype=np.float32)
    views[..., 0] = np.where(uniform[..., 0] < _FLIP_PROBABILITY, -1, 1)
    return views


def _inverse_maps(views: Tensor) -> Tensor:
    """Where each output position comes from, [B, 2, 3], for coordinates in [-1, 1].

    An image is flipped, turned, scaled and shifted, x -> s R F x + d, so x = F R' (y - d) / s.
    """
    flip, angle, shift_x, shift_y, scale = views[:, :5].unbind(dim=1)
    cosine, sine = torch.cos(angle) / scale, torch.sin(angle) / scale
    turn_back = torch.stack([torch.stack([flip * cosine, flip * sine], 1), torch.stack([-sine, cosine], 1)], dim=1)
    # A side is 2 long in these coordinates.
    shift = 2 * torch.stack([shift_x, shift_y], dim=1)[:, :, None]
    return torch.cat([turn_back, -turn_back @ shift], dim=2)
