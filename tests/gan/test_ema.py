"""The moving average against values computed by hand."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from xraytune.gan.networks import ema_decay, update_ema


def test_after_one_half_life_of_images_half_of_the_average_is_left() -> None:
    batches = 100
    decay = ema_decay(half_life_images=batches * 32, images_seen=10**9, batch_size=32)

    assert decay**batches == pytest.approx(0.5)


def test_early_on_the_half_life_is_a_twentieth_of_the_images_seen() -> None:
    # 640 images seen: half-life 32 = one batch of 32.
    assert ema_decay(half_life_images=10_000, images_seen=640, batch_size=32) == pytest.approx(0.5)


def test_without_a_half_life_the_average_is_the_last_weights() -> None:
    average, current = nn.Linear(3, 2), nn.Linear(3, 2)

    update_ema(average, current, torch.tensor(ema_decay(None, images_seen=64, batch_size=64)))

    assert torch.equal(average.weight, current.weight)


def test_parameters_and_running_statistics_move_together() -> None:
    average, current = nn.BatchNorm2d(1), nn.BatchNorm2d(1)
    with torch.no_grad():
        average.weight.fill_(4.0)
        current.weight.fill_(8.0)
        average.get_buffer("running_mean").fill_(1.0)
        current.get_buffer("running_mean").fill_(3.0)
        current.get_buffer("num_batches_tracked").fill_(9)

    update_ema(average, current, decay=torch.tensor(0.75))

    assert average.weight.item() == 5.0  # 0.75 * 4 + 0.25 * 8
    assert average.get_buffer("running_mean").item() == 1.5  # 0.75 * 1 + 0.25 * 3
    assert average.get_buffer("num_batches_tracked").item() == 9
