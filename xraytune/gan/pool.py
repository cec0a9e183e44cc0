"""Synthetic images in numbered blocks of 256.

A block depends on the pool's seed, its class and its number alone. So a pool of any size starts with every smaller
one, and half the ratio is the first half of the images.
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

_GAP_PX = 2
_PAPER = 255


def draw_grid(images: NDArray[np.uint8], columns: int) -> Image.Image:
    """Images [n, S, S] in rows of `columns`, on white paper; a last row may be short."""
    count, size, _ = images.shape
    rows = -(-count // columns)
    pitch = size + _GAP_PX
    sheet = np.full((rows * pitch + _GAP_PX, columns * pitch + _GAP_PX), _PAPER, dtype=np.uint8)
    for position, image in enumerate(images):
        row, column = divmod(position, columns)
        top, left = row * pitch + _GAP_PX, column * pitch + _GAP_PX
        sheet[top : top + size, left : left + size] = image
    return Image.fromarray(sheet)


def png_bytes(image: Image.Image) -> bytes:
    """The image as a PNG file's content."""
    stream = BytesIO()
    image.save(stream, format="PNG")
    return stream.getvalue()


BLOCK = 256


def sample_block(generator: Generator, label: int, block: int, *, seed: int, compute: Compute) -> NDArray[np.uint8]:
    """Block number `block` of class `label`: uint8 [256, S, S].

    Args:
        generator: In evaluation mode, on `compute.device`; so an image does not depend on the others in its block.
        label: The class; also where the generator is of one class, so that two such classes differ in their noise.
        block: From 0.
        seed: Of the pool.
        compute: Whose precision is used.
    """
    labels = torch.full((BLOCK,), label, device=compute.device)
    return generate(generator, draw_noise(generator, BLOCK, derive_seed(seed, "pool", label, block)), labels, compute)


def draw_noise(generator: Generator, count: int, seed: int) -> Tensor:
    """Noise [count, z_dim] from N(0, 1), drawn on the CPU, so that it is the same on every device."""
    return torch.randn(count, generator.settings.z_dim, generator=torch.Generator().manual_seed(seed))


@torch.inference_mode()
def generate(generator: Generator, z: Tensor, labels: Tensor, compute: Compute) -> NDArray[np.uint8]:
    """Images for noise [n, z_dim] and labels [n], as uint8 [n, S, S]."""
    with autocast(compute):
        images = generator(z.to(compute.device), labels.to(compute.device))
    grey = ((images[:, 0].float() + 1) * 127.5).round().clamp(0, 255).to(torch.uint8)
    return np.asarray(grey.cpu().numpy())
