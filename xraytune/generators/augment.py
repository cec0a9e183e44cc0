"""DiffAugment: random changes of real and fake images alike, so that the discriminator cannot memorise a few hundred images.

The changes are differentiable: gradients reach the generator through them.

Source: Zhao et al. 2020, "Differentiable Augmentation for Data-Efficient GAN Training" (arXiv:2006.10738), policy
"color,translation,cutout" without saturation, which grey images do not have.
Translation and cutout apply to an image and its mask alike; brightness and contrast do not apply to masks.
"""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor

_MAX_SHIFT = 0.125
_CUTOUT_SIDE = 0.5


class Augmentation(NamedTuple):
    """The random numbers for B images.

    Attributes:
        color: Brightness and contrast, float32 [2, B, 1, 1, 1] in [0, 1).
        translation: Down and right in pixels, int64 [2, B, 1, 1].
        cutout: Row and column of the square's centre, int64 [2, B, 1].
    """

    color: Tensor
    translation: Tensor
    cutout: Tensor


def draw_augmentation(count: int, size_px: int, generator: torch.Generator) -> Augmentation:
    """Draw for `count` images of side `size_px`, on the generator's device."""
    device = generator.device
    shift = int(size_px * _MAX_SHIFT + 0.5)
    side = int(size_px * _CUTOUT_SIDE + 0.5)
    return Augmentation(
        color=torch.rand(2, count, 1, 1, 1, generator=generator, device=device),
        translation=torch.randint(-shift, shift + 1, (2, count, 1, 1), generator=generator, device=device),
        cutout=torch.randint(0, size_px + (1 - side % 2), (2, count, 1), generator=generator, device=device),
    )


def diff_augment(images: Tensor, augmentation: Augmentation) -> Tensor:
    """Change each image on its own.

    Args:
        images: float32 [B, C, S, S] in [-1, 1]: the image and, with C = 2, its mask. Pixels that are shifted in or cut out
            become 0, middle grey.
        augmentation: Drawn for B images of side S.

    Returns:
        float32 [B, C, S, S], not clipped to [-1, 1].
    """
    images = torch.cat([_change_color(images[:, :1], *augmentation.color), images[:, 1:]], dim=1)
    return _cut_out(_translate(images, augmentation.translation), augmentation.cutout)


def _change_color(images: Tensor, brightness: Tensor, contrast: Tensor) -> Tensor:
    """Add -0.5 to 0.5, then scale by 0.5 to 1.5 around each image's mean."""
    images = images + (brightness - 0.5)
    means = images.mean(dim=(1, 2, 3), keepdim=True)
    return (images - means) * (contrast + 0.5) + means


def _translate(images: Tensor, shifts: Tensor) -> Tensor:
    """Shift by products with 0-1 matrices: exact, and deterministic in the backward pass, where a gather would scatter."""
    index = torch.arange(images.shape[-1], device=images.device)
    down, right = (index[:, None] - index[None, :] == shifts)[:, :, None].to(images.dtype)
    shifted: Tensor = down @ images @ right.transpose(2, 3)
    return shifted


def _cut_out(images: Tensor, centres: Tensor) -> Tensor:
    """Blank a square of half the side, which may reach beyond the image."""
    size_px = images.shape[-1]
    side = int(size_px * _CUTOUT_SIDE + 0.5)
    offsets = torch.arange(size_px, device=images.device) - (centres - side // 2)
    rows, columns = (offsets >= 0) & (offsets < side)
    cut: Tensor = images * ~(rows[:, None, :, None] & columns[:, None, None, :])
    return cut
