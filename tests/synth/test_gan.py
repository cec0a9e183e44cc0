"""Losses against values computed by hand and PyTorch's cross entropy."""

from __future__ import annotations

import pytest
import torch
from torch.nn.functional import binary_cross_entropy_with_logits

from xraytune.synth.gan import LossName, discriminator_loss, generator_loss

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
