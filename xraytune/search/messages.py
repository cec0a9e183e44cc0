"""What a trial says, passed on to who decides; see `work.Message`."""

from __future__ import annotations

from collections.abc import Callable

from xraytune.errors import MachineError
from xraytune.pipeline.trial import TrialResult
from xraytune.records import EpochRecord
from xraytune.search.work import Message


def read_message(
    message: Message,
    *,
    epoch: Callable[[EpochRecord], bool],
    ended: Callable[[TrialResult], None],
    failed: Callable[[str, str], None],
) -> bool:
    """Pass on what a trial says, and answer whether it goes on.

    Args:
        message: Of the trial.
        epoch: Told of an epoch; answers whether the trial goes on.
        ended: Told of its end.
        failed: Told the reason and the cause.

    Raises:
        MachineError: The trial could not go on, nor could any other.
    """
    if "stopped" in message:
        raise MachineError(message["stopped"])
    if "epoch" in message:
        return epoch(EpochRecord(**message["epoch"]))
    if "ended" in message:
        ended(TrialResult(**message["ended"]))
    else:
        failed(message["failed"], message["cause"])
    return False
