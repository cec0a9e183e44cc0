"""Sample from a generator, in numbered blocks of 256 images, with masks in segmentation.

A block depends only on the generator, the pool's seed, its class and its number. So a larger pool
starts with the images of a smaller one, and half the synthetic ratio is the first half of the
images. Pairs with implausible masks are replaced from further rounds, each with its own random
numbers.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import NamedTuple, TypeAlias

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from xraytune.base.errors import Problem, TrialError, counted
from xraytune.base.records import Compute
from xraytune.base.seeding import derive_seed
from xraytune.nets.compute import autocast
from xraytune.synth.networks import Generator

BLOCK = 256
MIN_KEPT = 0.25
"""The smallest share of plausible masks allowed in the first round of a block."""
MIN_PART = 0.002
"""Smallest component that counts, as a share of the image: 8 pixels of 64 x 64. Smaller ones are specks at a mask's edge."""
Pixels: TypeAlias = NDArray[np.uint8]


@dataclass(frozen=True, slots=True, kw_only=True)
class MaskRange:
    """The smallest and largest values of some masks.

    Attributes:
        area: Shares of the image.
        parts: Numbers of connected components of at least `MIN_PART` of the image.
    """

    area: tuple[float, float]
    parts: tuple[int, int]

    def includes(self, masks: NDArray[np.uint8]) -> NDArray[np.bool_]:
        """Return whether area and number of components of each mask [n, S, S] are in range, bool [n]."""
        areas = _areas(masks)
        parts = mask_parts(masks)
        has_area = (self.area[0] <= areas) & (areas <= self.area[1])
        return has_area & (self.parts[0] <= parts) & (parts <= self.parts[1])

    def __str__(self) -> str:
        """Describe the ranges: "18.5 to 45.8 % of the image in 2 components"."""
        smallest, largest = self.area
        fewest, most = self.parts
        parts = counted(most, "component") if fewest == most else f"{fewest} to {most} components"
        return f"{100 * smallest:.3g} to {100 * largest:.3g} % of the image in {parts}"


def binarise(grey: NDArray[np.uint8]) -> NDArray[np.uint8]:
    """Return a mask of 0 and 255, 255 where `grey` is 128 or more."""
    return np.where(grey >= 128, 255, 0).astype(np.uint8)


def mask_range(masks: NDArray[np.uint8]) -> MaskRange:
    """Return the ranges of training masks [n, S, S], n >= 1, at the size of the GAN."""
    areas = _areas(masks)
    parts = mask_parts(masks)
    return MaskRange(
        area=(float(areas.min()), float(areas.max())), parts=(int(parts.min()), int(parts.max()))
    )


def _areas(masks: NDArray[np.uint8]) -> NDArray[np.float64]:
    return np.asarray((masks > 0).mean(axis=(1, 2)))


def mask_parts(masks: NDArray[np.uint8]) -> NDArray[np.int64]:
    """Count the components of each mask [n, S, S], int64 [n]; pixels that touch only at a corner are not connected."""
    from scipy.ndimage import label  # type: ignore[import-untyped]  # trials without masks need none

    smallest = MIN_PART * masks[0].size
    sizes = (np.bincount(label(mask)[0].ravel())[1:] for mask in masks)
    return np.array([int((parts >= smallest).sum()) for parts in sizes], dtype=np.int64)


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
    findings: NDArray[np.int64] | None = None,
) -> Images:
    """Draw block number `block` (from 0) of class `label`: 256 images, with plausible masks if `typical` is given.

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
            f"{100 * MIN_KEPT:.0f} %: area and number of components must be as in the training masks ({typical})"
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
    """Generate images from z [n, z_dim] and labels [n]; the second of two channels becomes the masks."""
    with autocast(compute):
        outputs = generator(z.to(compute.device), labels.to(compute.device))
    planes = ((outputs.float() + 1) * 127.5).round().clamp(0, 255).to(torch.uint8).cpu().numpy()
    return Images(planes[:, 0], binarise(planes[:, 1]) if generator.channels == 2 else None)
