"""What the process of a trial gets and reports. Ray passes these records on as they are."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Literal, TypeAlias

from xraytune.base.records import EpochRecord, TrialResult, frozen
from xraytune.study.trial import Cause


@frozen
class Job:
    """The arguments of a worker.

    Attributes:
        label: The trial's name in the dashboard and in trackers.
        resources: What it holds, by the names of Ray.
        every_epoch: Else only the last epoch of each second is reported.
    """

    study: str
    cache: str
    number: int
    every_epoch: bool = True
    label: str
    resources: Mapping[str, float]


@frozen
class TrialFailed:
    """An attempt at a trial failed.

    `machine`: its machine lacks something, such as disk space or the study.
    """

    reason: str
    cause: Cause | Literal["machine"]


LOST = TrialFailed(reason="its process was lost (killed, or its node)", cause="lost")
OUT_OF_MEMORY = TrialFailed(reason="its process was killed: out of memory", cause="memory")
"""What the search says for a process that ended without a message."""

TrialMessage: TypeAlias = EpochRecord | TrialResult | TrialFailed
"""What a trial reports: an epoch, and at its end a result or a failure."""
