"""What this process computes on, and with."""

import subprocess
import sys
from typing import Any

import pytest
import torch
from torch import nn
from torch.optim import SGD, Adam, AdamW

from xraytune.compute import uncompiled

STEP_WITH_EACH = """
import sys, torch
from xraytune.compute import uncompiled
for optimizer in (torch.optim.SGD, torch.optim.Adam, torch.optim.AdamW):
    network = torch.nn.Linear(2, 1)
    steps = uncompiled(optimizer)(network.parameters(), lr=0.1)
    network(torch.ones(1, 2)).sum().backward()
    steps.step()
    steps.zero_grad()
    steps.load_state_dict(steps.state_dict())
print("torch._dynamo" in sys.modules)
"""


def trained(optimizer: type[Any]) -> list[torch.Tensor]:
    """A small network's weights after some steps, in which the optimiser is saved and loaded."""
    torch.manual_seed(0)
    network = nn.Sequential(nn.Linear(4, 8), nn.ReLU(), nn.Linear(8, 1))
    steps = optimizer(network.parameters(), lr=0.05, weight_decay=0.01)
    for _ in range(5):
        again = optimizer(network.parameters(), lr=1.0)
        again.load_state_dict(steps.state_dict())
        steps = again
        steps.zero_grad()
        network(torch.randn(16, 4)).square().mean().backward()
        steps.step()
    return [weights.detach() for weights in network.parameters()]


@pytest.mark.slow
@pytest.mark.parametrize("optimizer", [SGD, Adam, AdamW])
def test_an_optimiser_without_the_compiler_steps_as_torchs_own(optimizer: type[Any]) -> None:
    pairs = zip(trained(uncompiled(optimizer)), trained(optimizer), strict=True)

    assert all(torch.equal(ours, torchs) for ours, torchs in pairs)


@pytest.mark.slow
def test_no_step_loads_torchs_compiler() -> None:
    done = subprocess.run([sys.executable, "-c", STEP_WITH_EACH], capture_output=True, text=True, check=True)

    assert done.stdout == "False\n"
