"""torch's fused optimizers, and learning rate schedules that need no state."""

import math
from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor, nn
from torch.optim import SGD, Adam, AdamW, Optimizer

from xraytune.space.parameters import OptimizerName, Parameters

PLATEAU_PATIENCE_EPOCHS = 2
PLATEAU_FACTOR = 0.3
_PLATEAU_THRESHOLD = 1e-4


def build_optimizer(
    name: OptimizerName, network: nn.Module, *, lr: float, **options: Any
) -> Optimizer:
    """Return an optimizer of the trainable parameters; `options` are those of torch's class."""
    weights = [weight for weight in network.parameters() if weight.requires_grad]
    on_gpu = weights[0].is_cuda
    rate = torch.tensor(lr, device="cuda") if on_gpu else lr  # a CUDA graph reads it at each step
    if name == "sgd":
        return SGD(weights, lr=rate, momentum=0.9, fused=True, **options)
    kind = Adam if name == "adam" else AdamW
    optimizer = kind(weights, lr=rate, fused=True, capturable=on_gpu, **options)
    # Steps before the capture of a CUDA graph, and steps that cannot be captured, are intended.
    optimizer._warned_capturable_if_run_uncaptured = True
    return optimizer


def set_lr(optimizer: Optimizer, lr: float) -> None:
    """Set the learning rate of the next steps."""
    for group in optimizer.param_groups:
        if isinstance(group["lr"], Tensor):
            group["lr"].fill_(lr)
        else:
            group["lr"] = lr


def load_optimizer(optimizer: Optimizer, state: dict[str, Any]) -> None:
    """Load the state that `optimizer.state_dict()` returned, but no settings or learning rates."""
    optimizer.load_state_dict({**optimizer.state_dict(), "state": state["state"]})


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
    if parameters.schedule == "constant":
        return parameters.lr
    best = math.inf
    bad_epochs = 0
    plateaus = 0
    for loss in val_losses:
        bad_epochs += 1
        if loss < best * (1 - _PLATEAU_THRESHOLD):
            best = loss
            bad_epochs = 0
        if bad_epochs > PLATEAU_PATIENCE_EPOCHS:
            plateaus += 1
            bad_epochs = 0
    return parameters.lr * PLATEAU_FACTOR**plateaus
