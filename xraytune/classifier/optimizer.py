"""Adam, AdamW and SGD for the classifier, on torch's functional optimizers; the state and its checkpoint are kept here.

The classes of `torch.optim` import torch's compiler when they are made, which nearly doubles what a trial's process takes to
start where nothing else needs it (`docs/decisions/0002-one-process-for-each-trial.md`).
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor, nn
from torch.optim.adam import adam
from torch.optim.adamw import adamw
from torch.optim.sgd import sgd

from xraytune.config.settings import Parameters

PLATEAU_PATIENCE_EPOCHS = 2
PLATEAU_FACTOR = 0.3
_RELATIVE_IMPROVEMENT = 1e-4


def learning_rate(parameters: Parameters, step: int, *, total_steps: int, val_losses: Sequence[float]) -> float:
    """The learning rate of one step.

    - `constant`: `lr` throughout.
    - `cosine`: from `lr` at step 0 along half a cosine to 0 at `total_steps` (Loshchilov & Hutter 2017, one period).
    - `plateau`: as torch's `ReduceLROnPlateau`: after more than 2 epochs in a row in which val-A's loss was not below
      its best by 0.01 %, the rate falls to 0.3 of itself, and the count begins again.

    Args:
        parameters: `lr` and `schedule` are used.
        step: From 0 on.
        total_steps: Steps of the whole run.
        val_losses: Of the epochs before this one.
    """
    if parameters.schedule == "cosine":
        return parameters.lr * 0.5 * (1 + math.cos(math.pi * step / total_steps))
    if parameters.schedule == "plateau":
        return parameters.lr * PLATEAU_FACTOR ** _plateau_count(val_losses)
    return parameters.lr


def _plateau_count(val_losses: Sequence[float]) -> int:
    best, epochs_without_gain, count = math.inf, 0, 0
    for loss in val_losses:
        if loss < best * (1 - _RELATIVE_IMPROVEMENT):
            best, epochs_without_gain = loss, 0
        else:
            epochs_without_gain += 1
        if epochs_without_gain > PLATEAU_PATIENCE_EPOCHS:
            epochs_without_gain = 0
            count += 1
    return count


_BETA1, _BETA2, _EPSILON = 0.9, 0.999, 1e-8
_SGD_MOMENTUM = 0.9


class Optimizer:
    """Updates what requires a gradient in a network, to the bit as `torch.optim` does with its defaults.

    Args:
        parameters: `optimizer`, `lr` and `weight_decay` are used.
        network: On the device.

    Attributes:
        lr: The learning rate of the next step.
    """

    def __init__(self, parameters: Parameters, network: nn.Module) -> None:
        self.lr = parameters.lr
        self._name, self._weight_decay = parameters.optimizer, parameters.weight_decay
        self._weights = [weights for weights in network.parameters() if weights.requires_grad]
        self._state: dict[int, dict[str, Tensor]] = {}

    def zero_grad(self) -> None:
        """Forget the gradients."""
        for weights in self._weights:
            weights.grad = None

    @torch.no_grad()
    def step(self) -> None:
        """Update the weights that have a gradient."""
        moved = [(number, weights) for number, weights in enumerate(self._weights) if weights.grad is not None]
        weights: list[Tensor] = [one for _, one in moved]
        gradients = [one.grad for one in weights if one.grad is not None]
        if self._name == "sgd":
            buffers = [self._state.get(number, {}).get("momentum_buffer") for number, _ in moved]
            sgd(
                weights,
                gradients,
                buffers,
                weight_decay=self._weight_decay,
                momentum=_SGD_MOMENTUM,
                lr=self.lr,
                dampening=0.0,
                nesterov=False,
                maximize=False,
            )
            self._state |= {
                number: {"momentum_buffer": buffer}
                for (number, _), buffer in zip(moved, buffers, strict=True)
                if buffer is not None
            }
            return
        states = [self._state.setdefault(number, _first_moments(one)) for number, one in moved]
        algorithm = adam if self._name == "adam" else adamw
        algorithm(
            weights,
            gradients,
            [state["exp_avg"] for state in states],
            [state["exp_avg_sq"] for state in states],
            [],
            [state["step"] for state in states],
            amsgrad=False,
            beta1=_BETA1,
            beta2=_BETA2,
            lr=self.lr,
            weight_decay=self._weight_decay,
            eps=_EPSILON,
            maximize=False,
        )

    def state_dict(self) -> dict[str, Any]:
        """The state of each weight tensor by its number, as `torch.optim` writes it."""
        return {"state": self._state}

    def load_state_dict(self, content: dict[str, Any]) -> None:
        """Take over what `state_dict` gave; one of `torch.optim`, as an earlier version wrote it, does too.

        Raises:
            ValueError: It is of another network or another optimizer.
        """
        state: dict[int, dict[str, Tensor]] = {}
        for number, tensors in content["state"].items():
            weights = self._weights[number]
            expected = {"momentum_buffer": weights} if self._name == "sgd" else _first_moments(weights)
            if {name: one.shape for name, one in tensors.items()} != {
                name: one.shape for name, one in expected.items()
            }:
                raise ValueError("the state of another optimizer or network")
            state[number] = {name: one.to(expected[name]) for name, one in tensors.items()}
        self._state = state


def _first_moments(weights: Tensor) -> dict[str, Tensor]:
    """Adam's state before its first step."""
    return {"step": torch.tensor(0.0), "exp_avg": torch.zeros_like(weights), "exp_avg_sq": torch.zeros_like(weights)}
