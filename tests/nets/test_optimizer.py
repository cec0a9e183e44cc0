"""Schedules agree with torch's."""

import pytest
import torch
from torch import nn
from torch.optim import SGD
from torch.optim.lr_scheduler import CosineAnnealingLR, ReduceLROnPlateau

from xraytune.nets.optimizer import PLATEAU_FACTOR, PLATEAU_PATIENCE_EPOCHS, learning_rate
from xraytune.space.parameters import Parameters


def test_cosine_and_plateau_equal_torchs() -> None:
    """The losses stall twice."""
    losses = [1.0, 0.9, 0.95, 0.9, 0.92, 0.89999, 0.93, 0.9, 0.8, 0.8, 0.8, 0.8, 0.7999, 0.7]
    losses += [0.9] * 5
    cosine, plateau = (SGD([nn.Parameter(torch.zeros(1))], lr=0.1) for _ in range(2))
    cosine_reference = CosineAnnealingLR(cosine, T_max=20)
    plateau_reference = ReduceLROnPlateau(
        plateau, factor=PLATEAU_FACTOR, patience=PLATEAU_PATIENCE_EPOCHS
    )
    rates = []

    for step in range(20):
        rate = learning_rate(
            Parameters(lr=0.1, schedule="cosine"), step, total_steps=20, val_losses=[]
        )
        assert rate == pytest.approx(cosine.param_groups[0]["lr"])
        cosine.step()
        cosine_reference.step()
    for epoch, loss in enumerate(losses, start=1):
        plateau_reference.step(loss)
        parameters = Parameters(lr=0.1, schedule="plateau")
        rates.append(learning_rate(parameters, epoch, total_steps=100, val_losses=losses[:epoch]))
        assert rates[-1] == pytest.approx(plateau.param_groups[0]["lr"]), epoch

    assert len(set(rates)) >= 3
