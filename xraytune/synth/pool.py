"""Sample from a generator, in numbered blocks of 256 images, with masks in segmentation.

A block depends only on the generator, the pool's seed, its class and its number. So a larger pool
starts with the images of a smaller one, and half the synthetic ratio is the first half of the
images. Pairs with implausible masks are replaced from further rounds, each with its own random
numbers.
"""

from __future__ import annotations

from itertools import count
from pathlib import Path

import numpy as np
import torch
from torch.nn import functional as F

from xraytune.base.arrays import Int64Array, UInt8Array
from xraytune.base.errors import Problem, TrialError
from xraytune.base.records import Compute
from xraytune.base.seeding import derive_seed
from xraytune.nets.compute import autocast
from xraytune.synth.masks import MaskRange
from xraytune.synth.networks import load_generator
from xraytune.synth.sources.source import BLOCK

_MIN_KEPT = 0.25
"""The smallest share of plausible masks allowed in the first round of a block."""
_RESIZE_BATCH = 256


def draw_block(
    file: Path,
    label: int,
    block: int,
    *,
    seed: int,
    compute: Compute,
    typical: MaskRange | None = None,
    findings: Int64Array | None = None,
) -> UInt8Array:
    """Draw a block of class `label` from a saved generator, uint8 [256, C, S, S].

    Rounds of 256 images are drawn until 256 have plausible masks, if `typical` is given.
    `findings`, int64 [256, C], are drawn in place of a class. The label also seeds the noise, so
    two unconditional generators give different images.

    Raises:
        TrialError: In the first round, too few masks are plausible.
    """
    generator = load_generator(file).to(compute.device)
    labels = torch.full((BLOCK,), label) if findings is None else torch.from_numpy(findings)
    kept: list[UInt8Array] = []
    for number in count():
        purpose = ("pool", label, block, *(("round", number) if number else ()))
        # Drawn on the CPU, so that it is the same for every device.
        random = torch.Generator().manual_seed(derive_seed(seed, *purpose))
        z = torch.randn(BLOCK, generator.settings.z_dim, generator=random)
        with torch.inference_mode(), autocast(compute):
            outputs = generator(z.to(compute.device), labels.to(compute.device)).float()
            pixels = ((outputs + 1) * 127.5).round().clamp(0, 255).to(torch.uint8)
        planes = _with_binary_masks(pixels.cpu().numpy())
        if typical is not None:
            planes = planes[typical.includes(planes[:, 1])]
        if number == 0 and len(planes) < _MIN_KEPT * BLOCK:
            what = (
                f"only {len(planes)} of the GAN's first {BLOCK} masks are plausible, fewer than "
                f"{100 * _MIN_KEPT:.0f} %: area and number of components must be as in the "
                f"training masks ({typical})"
            )
            raise TrialError(Problem(what, fix="train more steps (gan.steps)"))
        kept.append(planes)
        if sum(map(len, kept)) >= BLOCK:
            break
    return np.concatenate(kept)[:BLOCK]


def resize_planes(planes: UInt8Array, size_px: int) -> UInt8Array:
    """Resize images [N, C, h, w] with antialiasing; the second plane is a mask of 0 and 255.

    In batches, since they may be a memory map.
    """
    resized = np.empty((*planes.shape[:2], size_px, size_px), dtype=np.uint8)
    for start in range(0, len(planes), _RESIZE_BATCH):
        batch = slice(start, start + _RESIZE_BATCH)
        pixels = torch.from_numpy(np.array(planes[batch])).float()
        small = F.interpolate(
            pixels.flatten(0, 1)[:, None],
            size=(size_px, size_px),
            mode="bilinear",
            antialias=True,
        )
        whole = small.round().clamp(0, 255).to(torch.uint8).numpy()
        resized[batch] = whole.reshape(resized[batch].shape)
    return _with_binary_masks(resized)


def _with_binary_masks(planes: UInt8Array) -> UInt8Array:
    planes[:, 1:] = np.where(planes[:, 1:] >= 128, 255, 0)
    return planes
