"""DiffAugment: random shifts of real and fake images alike, so that the discriminator cannot memorise a few hundred images.

Shifts are differentiable: gradients reach the generator through them. Of the paper's policy "color,translation,cutout", only
translation is used: cutout moved the images away from real ones, and changes of brightness and contrast brought no clear
gain (docs/decisions/0029-a-gan-of-principal-components.md).

Source: Zhao et al. 2020, "Differentiable Augmentation for Data-Efficient GAN Training" (arXiv:2006.10738).
"""

from __future__ import annotations

import torch
from torch import Tensor

_MAX_SHIFT = 0.125
"""Share of the image's side."""


def draw_shifts(count: int, size_px: int, generator: torch.Generator) -> Tensor:
    """Draw the shifts of `count` images of side `size_px`: down and right in pixels, int64 [2, count, 1, 1]."""
    shift = int(size_px * _MAX_SHIFT + 0.5)
    return torch.randint(-shift, shift + 1, (2, count, 1, 1), generator=generator, device=generator.device)


def translate(images: Tensor, shifts: Tensor) -> Tensor:
    """Shift each image on its own, by products with 0-1 matrices: a gather's backward pass would not be deterministic.

    Args:
        images: Float [B, C, S, S]. Pixels that are shifted in become 0, the middle of [-1, 1].
        shifts: From `draw_shifts`, int64 [2, B, 1, 1].

    Returns:
        Float [B, C, S, S].
    """
    index = torch.arange(images.shape[-1], device=images.device)
    down, right = (index[:, None] - index[None, :] == shifts)[:, :, None].to(images.dtype)
    shifted: Tensor = down @ images @ right.transpose(2, 3)
    return shifted
