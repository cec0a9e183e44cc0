"""DiffAugment is differentiable and seeded, keeps shapes, and draws for each image."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

from xraytune.generators.augment import diff_augment, draw_augmentation


def _seeded(seed: int) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def _augment(images: Tensor, seed: int) -> Tensor:
    return diff_augment(images, draw_augmentation(len(images), images.shape[-1], _seeded(seed)))


@pytest.fixture
def images() -> Tensor:
    return torch.rand(6, 1, 32, 32, generator=_seeded(1)) * 2 - 1


def test_shape_and_type_stay(images: Tensor) -> None:
    augmented = _augment(images, 0)

    assert augmented.shape == images.shape
    assert augmented.dtype == torch.float32


def test_the_same_seed_gives_the_same_images_and_another_one_others(images: Tensor) -> None:
    assert torch.equal(_augment(images, 0), _augment(images, 0))
    assert not torch.equal(_augment(images, 0), _augment(images, 1))


def test_every_image_gets_its_own_contrast_and_shift() -> None:
    white = torch.ones(6, 1, 32, 32)  # uniform images keep their mean at any contrast, and no pixel is 0

    augmented = _augment(white, 0)

    assert len(torch.unique(augmented.amax(dim=(1, 2, 3)))) == 6
    assert len(torch.unique((augmented != 0).flatten(1), dim=0)) == 6


@pytest.mark.slow
def test_gradients_are_those_of_a_small_change() -> None:
    images = torch.rand(2, 1, 8, 8, generator=_seeded(1), dtype=torch.float64, requires_grad=True)

    assert torch.autograd.gradcheck(lambda x: _augment(x, 3), (images,))


@pytest.mark.slow
def test_shifts_and_holes_have_the_papers_size() -> None:
    """At 64 px: shifts of up to 8 px and squares of up to 32 x 32 px, both reached over many images."""
    ramp = torch.arange(1.0, 65.0).expand(64, 64) / 64  # each column has its own value
    images = ramp.expand(2000, 1, 64, 64)

    seen = _augment(images, 0)[:, 0] != 0

    assert _longest_side(~seen, dim=2) in range(32, 32 + 8 + 1)
    # On each axis, 28 of a square's 32 px are on the image on average, and a shift empties 72 / 17 px.
    empty_share = 1 - (1 - (28 / 64) ** 2) * (1 - 72 / 17 / 64) ** 2
    assert (~seen).float().mean().item() == pytest.approx(empty_share, abs=0.015)


def _longest_side(empty: Tensor, dim: int) -> int:
    """The most empty pixels along `dim`, without rows that are empty throughout."""
    counts = empty.sum(dim=dim)
    return int(counts[counts < empty.shape[dim]].max())
