"""DiffAugment: the discriminator sees images shifted, cut and toned, and cannot learn a few hundred of them by heart.

Real and fake images are treated alike, and gradients flow through to the generator.

Source: Zhao et al. 2020, "Differentiable Augmentation for Data-Efficient GAN Training", policy color, translation,
cutout; without saturation, which grey images do not have.
"""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor

_SHIFT_SHARE = 0.125
_CUTOUT_SHARE = 0.5


class Changes(NamedTuple):
    """How B images are changed.

    Attributes:
        tones: Brightness and contrast, float32 [2, B, 1, 1, 1] in [0, 1).
        shifts: Down and right in pixels, int64 [2, B, 1, 1].
        holes: Row and column of the hole's centre, int64 [2, B, 1].
    """

    tones: Tensor
    shifts: Tensor
    holes: Tensor


def draw_changes(count: int, size_px: int, generator: torch.Generator) -> Changes:
    """Changes of `count` images of side `size_px`, on the generator's device."""
    device = generator.device
    most = int(size_px * _SHIFT_SHARE + 0.5)
    side = int(size_px * _CUTOUT_SHARE + 0.5)
    return Changes(
        tones=torch.rand(2, count, 1, 1, 1, generator=generator, device=device),
        shifts=torch.randint(-most, most + 1, (2, count, 1, 1), generator=generator, device=device),
        holes=torch.randint(0, size_px + (1 - side % 2), (2, count, 1), generator=generator, device=device),
    )


def diff_augment(images: Tensor, changes: Changes) -> Tensor:
    """Each image with its own tone, shift and hole.

    Args:
        images: float32 [B, 1, S, S] in [-1, 1]; what is shifted in and cut out is 0, the middle grey.
        changes: Of images of this size.

    Returns:
        float32 [B, 1, S, S]; differentiable in `images`; tones may leave [-1, 1].
    """
    return _cut_out(_translate(_change_tones(images, changes.tones), changes.shifts), changes.holes)


def _change_tones(images: Tensor, tones: Tensor) -> Tensor:
    """Brightness moved by up to a quarter of the range, then contrast about the image's mean times 0.5 to 1.5."""
    brightness, contrast = tones
    images = images + (brightness - 0.5)
    means = images.mean(dim=(1, 2, 3), keepdim=True)
    toned: Tensor = (images - means) * (contrast + 0.5) + means
    return toned


def _translate(images: Tensor, shifts: Tensor) -> Tensor:
    """Shift by whole pixels, up to an eighth of the side each way.

    A shift is a product with a matrix of ones beside the diagonal: exact, and its backward pass is a product again,
    where gathering pixels would have to scatter gradients, slowly and, on a GPU, in no fixed order.
    """
    index = torch.arange(images.shape[-1], device=images.device)
    down, right = (index[:, None] - index[None, :] == shifts).to(images.dtype)
    shifted: Tensor = down @ images[:, 0] @ right.transpose(1, 2)
    return shifted[:, None]


def _cut_out(images: Tensor, holes: Tensor) -> Tensor:
    """Blank a square of half the side; its centre may lie anywhere, so part of it may fall off the image."""
    size = images.shape[-1]
    side = int(size * _CUTOUT_SHARE + 0.5)
    offsets = torch.arange(size, device=images.device) - (holes - side // 2)
    rows, columns = (offsets >= 0) & (offsets < side)
    hole = rows[:, None, :, None] & columns[:, None, None, :]
    cut: Tensor = images * ~hole
    return cut
