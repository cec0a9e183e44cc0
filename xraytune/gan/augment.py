"""DiffAugment: the discriminator sees images shifted, cut and toned, and cannot learn a few hundred of them by heart.

Real and fake images are treated alike, and gradients flow through to the generator.

Source: Zhao et al. 2020, "Differentiable Augmentation for Data-Efficient GAN Training", policy color, translation,
cutout; without saturation, which grey images do not have.
"""

from __future__ import annotations

import torch
from torch import Tensor

_SHIFT_SHARE = 0.125
_CUTOUT_SHARE = 0.5


def diff_augment(images: Tensor, generator: torch.Generator) -> Tensor:
    """Each image with its own tone, shift and hole.

    Args:
        images: float32 [B, 1, S, S] in [-1, 1]; what is shifted in and cut out is 0, the middle grey.
        generator: On the images' device; the only randomness.

    Returns:
        float32 [B, 1, S, S]; differentiable in `images`; tones may leave [-1, 1].
    """
    return _cut_out(_translate(_change_tones(images, generator), generator), generator)


def _change_tones(images: Tensor, generator: torch.Generator) -> Tensor:
    """Brightness moved by up to a quarter of the range, then contrast about the image's mean times 0.5 to 1.5."""
    brightness, contrast = torch.rand(2, len(images), 1, 1, 1, generator=generator, device=images.device)
    images = images + (brightness - 0.5)
    means = images.mean(dim=(1, 2, 3), keepdim=True)
    toned: Tensor = (images - means) * (contrast + 0.5) + means
    return toned


def _translate(images: Tensor, generator: torch.Generator) -> Tensor:
    """Shift by whole pixels, up to an eighth of the side each way.

    A shift is a product with a matrix of ones beside the diagonal: exact, and its backward pass is a product again,
    where gathering pixels would have to scatter gradients, slowly and, on a GPU, in no fixed order.
    """
    size = images.shape[-1]
    most = int(size * _SHIFT_SHARE + 0.5)
    shifts = torch.randint(-most, most + 1, (2, len(images), 1, 1), generator=generator, device=images.device)
    index = torch.arange(size, device=images.device)
    down, right = (index[:, None] - index[None, :] == shifts).to(images.dtype)
    shifted: Tensor = down @ images[:, 0] @ right.transpose(1, 2)
    return shifted[:, None]


def _cut_out(images: Tensor, generator: torch.Generator) -> Tensor:
    """Blank a square of half the side; its centre may lie anywhere, so part of it may fall off the image."""
    size = images.shape[-1]
    side = int(size * _CUTOUT_SHARE + 0.5)
    starts = torch.randint(0, size + (1 - side % 2), (2, len(images), 1), generator=generator, device=images.device)
    offsets = torch.arange(size, device=images.device) - (starts - side // 2)
    rows, columns = (offsets >= 0) & (offsets < side)
    hole = rows[:, None, :, None] & columns[:, None, None, :]
    cut: Tensor = images * ~hole
    return cut
