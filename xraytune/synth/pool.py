"""Sample from a generator, in numbered blocks of 256 images, with masks in segmentation.

A block depends only on the generator, the pool's seed, its class and its number. So a larger pool
starts with the images of a smaller one, and half the synthetic ratio is the first half of the
images. Pairs with implausible masks are replaced from further rounds, each with its own random
numbers.
"""

from __future__ import annotations

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from xraytune.base.errors import Problem, TrialError
from xraytune.base.records import Compute
from xraytune.base.seeding import derive_seed
from xraytune.nets.compute import autocast
from xraytune.synth.masks import MaskRange, binarise
from xraytune.synth.networks import Generator
from xraytune.synth.sources.source import BLOCK, Images

MIN_KEPT = 0.25
"""The smallest share of plausible masks allowed in the first round of a block."""


def draw_block(
    generator: Generator,
    label: int,
    block: int,
    *,
    seed: int,
    compute: Compute,
    typical: MaskRange | None = None,
    findings: NDArray[np.int64] | None = None,
) -> Images:
    """Draw a block of class `label`: 256 images, with plausible masks if `typical` is given.

    With `findings`, int64 [256, C], these are drawn in place of a class.

    Rounds of 256 images are drawn until 256 images have plausible masks. The generator is on
    `compute.device` and in evaluation mode, so that images do not depend on each other. The label
    also seeds the noise, so two unconditional generators give different images.

    Raises:
        TrialError: In the first round, too few masks are plausible.
    """
    kept: list[Images] = []
    while sum(len(images.pixels) for images in kept) < BLOCK:
        images = sample_block(
            generator,
            label,
            block,
            seed=seed,
            compute=compute,
            round_number=len(kept),
            findings=findings,
        )
        if typical is not None:
            images = _plausible(images, typical, is_first=not kept)
        kept.append(images)
    pixels = np.concatenate([images.pixels for images in kept])[:BLOCK]
    masks = [images.masks for images in kept if images.masks is not None]
    return Images(pixels, np.concatenate(masks)[:BLOCK] if masks else None)


def _plausible(images: Images, typical: MaskRange, *, is_first: bool) -> Images:
    assert images.masks is not None, "the generator was trained on pairs"
    good = typical.includes(images.masks)
    if is_first and good.mean() < MIN_KEPT:
        what = (
            f"only {good.sum()} of the GAN's first {BLOCK} masks are plausible, fewer than "
            f"{100 * MIN_KEPT:.0f} %: area and number of components must be as in the training masks "
            f"({typical})"
        )
        raise TrialError(Problem(what, fix="train more steps (gan.steps)"))
    return Images(images.pixels[good], images.masks[good])


def sample_block(
    generator: Generator,
    label: int,
    block: int,
    *,
    seed: int,
    compute: Compute,
    round_number: int = 0,
    findings: NDArray[np.int64] | None = None,
) -> Images:
    """Sample 256 images for a block, in the given round; see `draw_block`."""
    labels = (
        torch.full((BLOCK,), label, device=compute.device)
        if findings is None
        else torch.from_numpy(findings)
    )
    redrawn = ("round", round_number) if round_number else ()
    z = draw_noise(generator, BLOCK, derive_seed(seed, "pool", label, block, *redrawn))
    return generate(generator, z, labels, compute)


def draw_noise(generator: Generator, count: int, seed: int) -> Tensor:
    """Draw z [count, z_dim] from N(0, 1) on the CPU, so that it is the same for every device."""
    return torch.randn(
        count, generator.settings.z_dim, generator=torch.Generator().manual_seed(seed)
    )


@torch.inference_mode()
def generate(generator: Generator, z: Tensor, labels: Tensor, compute: Compute) -> Images:
    """Generate images from z [n, z_dim] and labels [n].

    The second of two channels becomes the masks.
    """
    with autocast(compute):
        outputs = generator(z.to(compute.device), labels.to(compute.device))
    planes = ((outputs.float() + 1) * 127.5).round().clamp(0, 255).to(torch.uint8).cpu().numpy()
    return Images(planes[:, 0], binarise(planes[:, 1]) if generator.channels == 2 else None)
