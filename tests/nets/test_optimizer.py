"""Optimizers are bit-identical to torch's; schedules agree with torch's."""

from typing import Any, Literal

import pytest
import torch
from torch import nn
from torch.optim import SGD, Adam, AdamW
from torch.optim.lr_scheduler import CosineAnnealingLR, ReduceLROnPlateau

from xraytune.nets.optimizer import (
    PLATEAU_FACTOR,
    PLATEAU_PATIENCE_EPOCHS,
    Optimizer,
    learning_rate,
)
from xraytune.space.settings import Parameters

Name = Literal["adam", "adamw", "sgd"]
NAMES: tuple[Name, ...] = ("adam", "adamw", "sgd")


def small_network() -> nn.Module:
    """Its first layer is frozen, and its last gets no gradient."""
    torch.manual_seed(0)
    network = nn.ModuleList([nn.Linear(4, 8), nn.Linear(8, 8), nn.Linear(8, 1), nn.Linear(1, 1)])
    network[0].requires_grad_(False)
    return network


def ours(name: Name, network: nn.Module) -> Optimizer:
    return Optimizer(name, network, lr=0.05, weight_decay=0.01)


def torchs(name: Name, network: nn.Module) -> Any:
    weights = [one for one in network.parameters() if one.requires_grad]
    if name == "sgd":
        return SGD(weights, lr=0.05, weight_decay=0.01, momentum=0.9, fused=True)
    return (Adam if name == "adam" else AdamW)(weights, lr=0.05, weight_decay=0.01, fused=True)


def train(network: Any, optimizer: Any, steps: range) -> list[torch.Tensor]:
    """Train for some steps; return the weights."""
    for step in steps:
        images = torch.randn(16, 4, generator=torch.Generator().manual_seed(step))
        optimizer.zero_grad()
        network[2](torch.relu(network[1](network[0](images)))).square().mean().backward()
        optimizer.step()
    return [weights.detach().clone() for weights in network.parameters()]


@pytest.mark.slow
@pytest.mark.parametrize("name", NAMES)
def test_updates_are_bit_identical_to_torchs_optimizers_also_after_a_resume(name: Name) -> None:
    network, reference = small_network(), small_network()
    optimizer = ours(name, network)
    train(network, optimizer, range(3))
    resumed = ours(name, network)
    resumed.load_state_dict(optimizer.state_dict())

    weights = train(network, resumed, range(3, 6))

    expected = train(reference, torchs(name, reference), range(6))
    assert all(torch.equal(*pair) for pair in zip(weights, expected, strict=True))


def test_a_checkpoint_of_another_optimizer_or_network_is_refused() -> None:
    network = small_network()
    momentum = ours("sgd", network)
    train(network, momentum, range(1))

    with pytest.raises(ValueError, match="another optimizer or network"):
        ours("adam", network).load_state_dict(momentum.state_dict())
    with pytest.raises(ValueError, match="another optimizer or network"):
        ours("sgd", nn.Sequential(nn.Linear(4, 8), nn.Linear(8, 8))).load_state_dict(
            momentum.state_dict()
        )


LOSSES = [
    1.0,
    0.9,
    0.95,
    0.9,
    0.92,
    0.89999,
    0.93,
    0.9,
    0.8,
    0.8,
    0.8,
    0.8,
    0.7999,
    0.7,
    0.9,
    0.9,
    0.9,
    0.9,
    0.9,
]


@pytest.mark.slow
def test_cosine_and_plateau_equal_torchs() -> None:
    """The losses stall twice."""
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
    for epoch, loss in enumerate(LOSSES, start=1):
        plateau_reference.step(loss)
        parameters = Parameters(lr=0.1, schedule="plateau")
        rates.append(learning_rate(parameters, epoch, total_steps=100, val_losses=LOSSES[:epoch]))
        assert rates[-1] == pytest.approx(plateau.param_groups[0]["lr"]), epoch

    assert len(set(rates)) >= 3
