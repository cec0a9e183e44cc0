"""The learning rate as a pure function of the step and of what val-A has said so far; a resumed run needs no state."""

from __future__ import annotations

import math
from collections.abc import Sequence

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
