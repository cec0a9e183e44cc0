"""Sampling from a generator, in numbered blocks of 256 images, with masks in segmentation.

A block depends only on the generator, the pool's seed, its class and its number. So a larger pool starts with the images of
a smaller one, and half the synthetic ratio is the first half of the images. Pairs with implausible masks are
replaced by pairs from further rounds, each with its own random numbers.
"""

from __future__ import annotations

from collections.abc import Callable
from itertools import count as count_from
from typing import NamedTuple, TypeAlias

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from xraytune.compute import autocast
from xraytune.errors import Problem, TrialError
from xraytune.generators.masks import MaskRange, binarise
from xraytune.generators.networks import Generator
from xraytune.records import Compute
from xraytune.seeding import derive_seed

BLOCK = 256
MIN_PLAUSIBLE = 0.25
"""Smallest permitted share of plausible masks in the first round of a block."""
Pixels: TypeAlias = NDArray[np.uint8]


class Images(NamedTuple):
    """Images, uint8 [n, S, S], and their masks, uint8 [n, S, S] with 0 and 255; None without masks."""

    pixels: Pixels
    masks: Pixels | None


def draw_block(
    generator: Generator,
    label: int,
    block: int,
    *,
    seed: int,
    compute: Compute,
    typical: MaskRange | None = None,
    segment: Callable[[Pixels], Pixels] | None = None,
) -> Images:
    """Draw block number `block` (from 0) of class `label`: 256 images, with plausible masks if `typical` is given.

    Args:
        generator: On `compute.device` and in evaluation mode, so that images do not depend on each other.
        label: Also seeds the noise, so two unconditional generators give different images.
        block: Its number.
        seed: Seed of the pool.
        compute: The device.
        typical: The ranges of the training masks; None without masks.
        segment: Predicts masks, [n, S, S] of 0 and 255, for images; None: the generator generates them.

    Raises:
        TrialError: Too few masks of the first round are plausible.
    """
    kept: list[Images] = []
    for round_number in count_from():
        images = sample_block(generator, label, block, seed=seed, compute=compute, round_number=round_number)
        if typical is None:
            return images
        masks = images.masks if segment is None else segment(images.pixels)
        assert masks is not None, "they come from the generator or a segmenter"
        has_area, has_parts = typical.checks(masks)
        good = has_area & has_parts
        if round_number == 0 and good.mean() < MIN_PLAUSIBLE:
            what = (
                f"only {good.sum()} of the GAN's first {BLOCK} masks are plausible, fewer than {100 * MIN_PLAUSIBLE:.0f} %: "
                f"{(~has_area).sum()} have an area, and {(~has_parts).sum()} a number of components, outside the range of "
                f"the training masks ({typical})"
            )
            instead = "" if segment else ", or set gan.mask_from: segmenter"
            raise TrialError(Problem(what, fix=f"train more steps (gan.steps){instead}"))
        kept.append(Images(images.pixels[good], masks[good]))
        if sum(len(one.pixels) for one in kept) >= BLOCK:
            break
    pixels, masks = (np.concatenate(planes)[:BLOCK] for planes in zip(*kept, strict=True))
    return Images(pixels, masks)


def sample_block(
    generator: Generator, label: int, block: int, *, seed: int, compute: Compute, round_number: int = 0
) -> Images:
    """Sample 256 images for a block, in the given round; see `draw_block`."""
    labels = torch.full((BLOCK,), label, device=compute.device)
    redrawn = ("round", round_number) if round_number else ()
    z = draw_noise(generator, BLOCK, derive_seed(seed, "pool", label, block, *redrawn))
    return generate(generator, z, labels, compute)


def draw_noise(generator: Generator, count: int, seed: int) -> Tensor:
    """Draw z [count, z_dim] from N(0, 1) on the CPU, so that it is the same for every device."""
    return torch.randn(count, generator.settings.z_dim, generator=torch.Generator().manual_seed(seed))


@torch.inference_mode()
def generate(generator: Generator, z: Tensor, labels: Tensor, compute: Compute) -> Images:
    """Generate images from z [n, z_dim] and labels [n]; with two channels, the second one becomes their masks."""
    with autocast(compute):
        outputs = generator(z.to(compute.device), labels.to(compute.device))
    planes = ((outputs.float() + 1) * 127.5).round().clamp(0, 255).to(torch.uint8).cpu().numpy()
    return Images(planes[:, 0], binarise(planes[:, 1]) if generator.channels == 2 else None)
