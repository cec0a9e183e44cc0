"""What a trial says, passed on to who decides, and the words in which it says why it failed; see `work.Message`."""

from __future__ import annotations

import math
from collections.abc import Callable
from pathlib import Path

from xraytune.errors import MachineError, XraytuneError
from xraytune.records import EpochRecord, TrialResult
from xraytune.search.work import Cause, Message


def read_message(
    message: Message,
    *,
    epoch: Callable[[EpochRecord], bool],
    ended: Callable[[TrialResult], None],
    failed: Callable[[str, Cause], None],
) -> bool:
    """Pass on what a trial says, and answer whether it goes on.

    Args:
        message: Of the trial.
        epoch: Told of an epoch with a finite value; answers whether the trial goes on.
        ended: Told of its end.
        failed: Told the reason and the cause.

    Raises:
        MachineError: The trial could not go on, nor could any other.
    """
    if "stopped" in message:
        raise MachineError(message["stopped"])
    if "epoch" in message:
        record = EpochRecord(**message["epoch"])
        if math.isfinite(record.best_val_auroc):
            return epoch(record)
        failed(f"val_auroc is {record.best_val_auroc} after epoch {record.epoch}", "settings")
        return False
    if "ended" in message:
        ended(TrialResult(**message["ended"]))
    else:
        failed(message["failed"], message["cause"])
    return False


def reason_of(error: Exception) -> str:
    """Why a trial failed: a refusal in its own words, all else with its class."""
    return str(error) if isinstance(error, XraytuneError) else f"{type(error).__name__}: {error}"


def traceback_note(trial_dir: Path) -> str:
    """What stands behind a recorded reason: where the traceback lies."""
    return f" (traceback: {trial_dir.name}/error.txt)"
