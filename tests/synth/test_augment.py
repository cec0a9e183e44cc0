"""DiffAugment shifts each image on its own, as far as the paper says, and passes gradients on."""

from __future__ import annotations

import pytest
import torch

from xraytune.synth.gan import draw_shifts, translate


def _seeded(seed: int) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def test_pixels_move_down_and_right_and_those_shifted_in_are_middle_grey() -> None:
    images = torch.arange(1.0, 10.0).view(1, 1, 3, 3).repeat(2, 1, 1, 1)
    down, right = [1, 0], [-2, 0]

    moved, kept = translate(images, torch.tensor([down, right])[:, :, None, None])

    assert moved.tolist() == [[[0, 0, 0], [3, 0, 0], [6, 0, 0]]]
    assert torch.equal(kept, images[1])


def test_the_same_seed_gives_the_same_shifts_and_another_one_others() -> None:
    assert torch.equal(draw_shifts(6, 32, _seeded(0)), draw_shifts(6, 32, _seeded(0)))
    assert not torch.equal(draw_shifts(6, 32, _seeded(0)), draw_shifts(6, 32, _seeded(1)))


def test_shifts_reach_the_papers_eighth_of_the_side_on_both_axes() -> None:
    for shifts in draw_shifts(2000, 64, _seeded(0)):
        assert sorted(set(shifts.flatten().tolist())) == list(range(-8, 9))


@pytest.mark.slow
def test_gradients_are_those_of_a_small_change() -> None:
    images = torch.rand(2, 1, 8, 8, generator=_seeded(1), dtype=torch.float64, requires_grad=True)
    shifts = draw_shifts(2, 8, _seeded(3))

    assert torch.autograd.gradcheck(lambda x: translate(x, shifts), (images,))
