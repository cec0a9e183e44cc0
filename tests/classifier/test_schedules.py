"""Learning rate schedules agree with torch's."""

from __future__ import annotations

import pytest
import torch
from torch.optim.lr_scheduler import CosineAnnealingLR, ReduceLROnPlateau

from xraytune.classifier.optimizer import PLATEAU_FACTOR, PLATEAU_PATIENCE_EPOCHS, learning_rate
from xraytune.config.settings import Parameters

LOSSES = [1.0, 0.9, 0.95, 0.9, 0.92, 0.89999, 0.93, 0.9, 0.8, 0.8, 0.8, 0.8, 0.7999, 0.7, 0.9, 0.9, 0.9, 0.9, 0.9]


def optimizer_at(lr: float) -> torch.optim.Optimizer:
    return torch.optim.SGD([torch.nn.Parameter(torch.zeros(1))], lr=lr)


def test_constant_is_constant() -> None:
    assert learning_rate(Parameters(lr=0.1), 50, total_steps=100, val_losses=LOSSES) == 0.1


@pytest.mark.slow
def test_cosine_equals_torchs() -> None:
    optimizer = optimizer_at(0.1)
    reference = CosineAnnealingLR(optimizer, T_max=20)
    parameters = Parameters(lr=0.1, schedule="cosine")

    for step in range(20):
        ours = learning_rate(parameters, step, total_steps=20, val_losses=[])
        assert ours == pytest.approx(optimizer.param_groups[0]["lr"])
        optimizer.step()
        reference.step()


@pytest.mark.slow
def test_plateau_equals_torchs_on_losses_that_stall_twice() -> None:
    optimizer = optimizer_at(0.1)
    reference = ReduceLROnPlateau(optimizer, factor=PLATEAU_FACTOR, patience=PLATEAU_PATIENCE_EPOCHS)
    parameters = Parameters(lr=0.1, schedule="plateau")
    rates = []

    for epoch, loss in enumerate(LOSSES, start=1):
        reference.step(loss)
        rates.append(learning_rate(parameters, epoch, total_steps=100, val_losses=LOSSES[:epoch]))
        assert rates[-1] == pytest.approx(optimizer.param_groups[0]["lr"]), epoch

    assert len(set(rates)) >= 3
