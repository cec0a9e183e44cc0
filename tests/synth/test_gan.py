"""Losses against values by hand and PyTorch's cross entropy; DiffAugment shifts each image on its own, as its paper says."""

from __future__ import annotations

import pytest
import torch
from torch.nn.functional import binary_cross_entropy_with_logits

from xraytune.synth.gan import LossName, discriminator_loss, draw_shifts, generator_loss, translate

REAL = torch.tensor([2.0, -0.5])
FAKE = torch.tensor([-3.0, 0.25])


@pytest.mark.parametrize("name", ["bce", "non_saturating"])
@pytest.mark.slow
def test_cross_entropy_labels_fakes_as_fake_for_one_network_and_as_real_for_the_other(name: LossName) -> None:
    ones, zeros = torch.ones(2), torch.zeros(2)

    expected_d = binary_cross_entropy_with_logits(REAL, ones) + binary_cross_entropy_with_logits(FAKE, zeros)

    torch.testing.assert_close(discriminator_loss(name, REAL, FAKE), expected_d)
    torch.testing.assert_close(generator_loss(name, FAKE), binary_cross_entropy_with_logits(FAKE, ones))


def test_hinge_loss_has_no_gradient_beyond_the_margin() -> None:
    # real: max(0, 1 - 2) = 0 and max(0, 1.5) = 1.5; fake: max(0, -2) = 0 and max(0, 1.25) = 1.25; means 0.75 + 0.625
    assert discriminator_loss("hinge", REAL, FAKE).item() == pytest.approx(1.375)
    assert generator_loss("hinge", FAKE).item() == pytest.approx(1.375)  # -(-3 + 0.25) / 2


def seeded(seed: int) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def test_pixels_move_down_and_right_and_those_shifted_in_are_middle_grey() -> None:
    images = torch.arange(1.0, 10.0).view(1, 1, 3, 3).repeat(2, 1, 1, 1)
    down, right = [1, 0], [-2, 0]

    moved, kept = translate(images, torch.tensor([down, right])[:, :, None, None])

    assert moved.tolist() == [[[0, 0, 0], [3, 0, 0], [6, 0, 0]]]
    assert torch.equal(kept, images[1])


def test_shifts_depend_on_the_seed_and_reach_the_papers_eighth_of_the_side_on_both_axes() -> None:
    assert torch.equal(draw_shifts(6, 32, seeded(0)), draw_shifts(6, 32, seeded(0)))
    assert not torch.equal(draw_shifts(6, 32, seeded(0)), draw_shifts(6, 32, seeded(1)))
    for shifts in draw_shifts(2000, 64, seeded(0)):
        assert sorted(set(shifts.flatten().tolist())) == list(range(-8, 9))


@pytest.mark.slow
def test_gradients_are_those_of_a_small_change() -> None:
    images = torch.rand(2, 1, 8, 8, generator=seeded(1), dtype=torch.float64, requires_grad=True)
    shifts = draw_shifts(2, 8, seeded(3))

    assert torch.autograd.gradcheck(lambda x: translate(x, shifts), (images,))
