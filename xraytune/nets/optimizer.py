"""Adam, AdamW and SGD by torch's fused functions, and learning rate schedules.

The classes of `torch.optim` import torch's compiler, which nearly doubles the start-up time of a
process (`docs/decisions/0002-a-process-runs-several-trials.md`).
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from itertools import compress
from typing import Any

import torch
from torch import Tensor, nn
from torch.optim.adam import adam
from torch.optim.adamw import adamw
from torch.optim.sgd import sgd

from xraytune.space.settings import Parameters

PLATEAU_PATIENCE_EPOCHS = 2
PLATEAU_FACTOR = 0.3
_PLATEAU_THRESHOLD = 1e-4
_ADAM: dict[str, Any] = {
    "eps": 1e-8,
    "amsgrad": False,
    "maximize": False,
    "max_exp_avg_sqs": [],
    "fused": True,
}
_ALGORITHMS: dict[str, Callable[..., None]] = {
    "adam": partial(adam, **_ADAM),
    "adamw": partial(adamw, **_ADAM),
    "sgd": partial(sgd, momentum=0.9, dampening=0.0, nesterov=False, maximize=False, fused=True),
}


class Optimizer:
    """Update the trainable parameters of a network.

    Bit-identical to `torch.optim` with its defaults and `fused=True`.

    `name` is `adam`, `adamw` or `sgd`, which ignores `betas`. The learning rate is `lr` until
    `set_lr` sets another.
    """

    def __init__(
        self,
        name: str,
        network: nn.Module,
        *,
        lr: float,
        weight_decay: float = 0.0,
        betas: tuple[float, float] = (0.9, 0.999),
    ) -> None:
        self._name = name
        self._params = [param for param in network.parameters() if param.requires_grad]
        names = ("momentum_buffer_list",) if name == "sgd" else ("exp_avgs", "exp_avg_sqs")
        self._state = {name: [torch.zeros_like(param) for param in self._params] for name in names}
        self._options = {"weight_decay": weight_decay}
        if self._name != "sgd":
            self._options |= {"beta1": betas[0], "beta2": betas[1]}
            self._state["state_steps"] = [
                torch.zeros((), device=param.device) for param in self._params
            ]
        is_on_gpu = any(param.is_cuda for param in self._params)
        self._lr = torch.tensor(lr, device="cuda") if is_on_gpu else lr  # for a CUDA graph

    def set_lr(self, lr: float) -> None:
        """Set the learning rate of the next steps."""
        self._lr = self._lr.fill_(lr) if isinstance(self._lr, Tensor) else lr

    def zero_grad(self) -> None:
        """Drop all gradients."""
        for param in self._params:
            param.grad = None

    @torch.no_grad()
    def step(self) -> None:
        """Update the parameters that have a gradient."""
        has_grad = [param.grad is not None for param in self._params]
        params = list(compress(self._params, has_grad))
        state = {name: list(compress(tensors, has_grad)) for name, tensors in self._state.items()}
        grads = [param.grad for param in params]
        _ALGORITHMS[self._name](params, grads, **state, **self._options, lr=self._lr)

    def state_dict(self) -> dict[str, list[Tensor]]:
        """Return the state, a list for each argument of torch's function.

        The lists have a tensor for each trainable parameter.
        """
        return self._state

    @torch.no_grad()
    def load_state_dict(self, state: Mapping[str, Sequence[Tensor]]) -> None:
        """Load what `state_dict` returned.

        Raise ValueError if it belongs to another network or another optimizer.
        """
        if _shapes(state) != _shapes(self._state):
            raise ValueError("the state belongs to another optimizer or network")
        for name, tensors in self._state.items():
            for tensor, stored in zip(tensors, state[name], strict=True):
                tensor.copy_(stored)


def optimizer_of(parameters: Parameters, network: nn.Module) -> Optimizer:
    """Return the optimizer of a trial."""
    return Optimizer(
        parameters.optimizer, network, lr=parameters.lr, weight_decay=parameters.weight_decay
    )


def _shapes(state: Mapping[str, Sequence[Tensor]]) -> dict[str, list[torch.Size]]:
    return {name: [tensor.shape for tensor in tensors] for name, tensors in state.items()}


def learning_rate(
    parameters: Parameters, step: int, *, total_steps: int, val_losses: Sequence[float]
) -> float:
    """Return the learning rate of a step, counted from 0, in a run of `total_steps`.

    - `constant`: `lr`.
    - `cosine`: from `lr` at step 0 to 0 at `total_steps`, without restarts (Loshchilov & Hutter
    2017, arXiv:1608.03983).
    - `plateau`: as torch's `ReduceLROnPlateau`: times 0.3 after more than 2 epochs in a row whose
      loss on val-A did not improve by 0.01 %. `val_losses` has the loss of each epoch so far.
    """
    if parameters.schedule == "cosine":
        return parameters.lr * 0.5 * (1 + math.cos(math.pi * step / total_steps))
    if parameters.schedule == "plateau":
        return parameters.lr * PLATEAU_FACTOR ** _count_plateaus(val_losses)
    return parameters.lr


def _count_plateaus(val_losses: Sequence[float]) -> int:
    best = math.inf
    bad_epochs = 0
    plateaus = 0
    for loss in val_losses:
        if loss < best * (1 - _PLATEAU_THRESHOLD):
            best = loss
            bad_epochs = 0
        else:
            bad_epochs += 1
        if bad_epochs > PLATEAU_PATIENCE_EPOCHS:
            bad_epochs = 0
            plateaus += 1
    return plateaus
