"""Sampling from a generator, in numbered blocks of 256 images, and image grids.

A block depends only on the pool's seed, its class and its number. So a larger pool starts with the images of a smaller
one, and half the synthetic ratio is the first half of the images.
"""

from __future__ import annotations

from io import BytesIO

import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image
from torch import Tensor

from xraytune.compute import autocast
from xraytune.gan.networks import Generator
from xraytune.records import Compute
from xraytune.seeding import derive_seed

BLOCK = 256
_GAP_PX = 2


def sample_block(generator: Generator, label: int, block: int, *, seed: int, compute: Compute) -> NDArray[np.uint8]:
    """Sample block number `block` (from 0) of class `label`, uint8 [256, S, S].

    The generator is on `compute.device` and in evaluation mode, so that images do not depend on each other. The label also
    seeds the noise, so two unconditional generators give different images.
    """
    labels = torch.full((BLOCK,), label, device=compute.device)
    return generate(generator, draw_noise(generator, BLOCK, derive_seed(seed, "pool", label, block)), labels, compute)


def draw_noise(generator: Generator, count: int, seed: int) -> Tensor:
    """Draw z [count, z_dim] from N(0, 1) on the CPU, so that it is the same for every device."""
    return torch.randn(count, generator.settings.z_dim, generator=torch.Generator().manual_seed(seed))


@torch.inference_mode()
def generate(generator: Generator, z: Tensor, labels: Tensor, compute: Compute) -> NDArray[np.uint8]:
    """Generate images from z [n, z_dim] and labels [n], as uint8 [n, S, S]."""
    with autocast(compute):
        images = generator(z.to(compute.device), labels.to(compute.device))
    pixels = ((images[:, 0].float() + 1) * 127.5).round().clamp(0, 255).to(torch.uint8)
    return np.asarray(pixels.cpu().numpy())


def image_grid(images: NDArray[np.uint8], columns: int) -> Image.Image:
    """Arrange images [n, S, S] in rows of `columns` on white; the last row may be short."""
    gap = (_GAP_PX, 0)
    cells = np.pad(images, ((0, -len(images) % columns), gap, gap), constant_values=255)
    _, height, width = cells.shape
    sheet = cells.reshape(-1, columns, height, width).swapaxes(1, 2).reshape(-1, columns * width)
    return Image.fromarray(np.pad(sheet, (0, _GAP_PX), constant_values=255))


def png_bytes(image: Image.Image) -> bytes:
    """Encode an image as PNG."""
    stream = BytesIO()
    image.save(stream, format="PNG")
    return stream.getvalue()
