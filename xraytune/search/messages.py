"""What the process of a trial gets and reports. Ray passes these records on as they are."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal, TypeAlias

from xraytune.base.records import EpochRecord, TrialResult
from xraytune.study.trial import Cause


@dataclass(frozen=True, slots=True, kw_only=True)
class Job:
    """The arguments of a worker.

    Attributes:
        label: The trial's name in the dashboard and in trackers.
        gpu_share: The GPUs that it holds.
        every_epoch: Else only the last epoch of each second is reported.
    """

    study: str
    cache: str
    number: int
    only_generator: bool = False
    every_epoch: bool = True
    label: str
    gpu_share: float


@dataclass(frozen=True, slots=True)
class GeneratorTrained:
    """The generator of a trial is trained; the rest of the trial can run."""


@dataclass(frozen=True, slots=True, kw_only=True)
class TrialFailed:
    """An attempt at a trial failed; `machine`: its machine lacks something, such as disk space or the study."""

    reason: str
    cause: Cause | Literal["machine"]


TrialMessage: TypeAlias = EpochRecord | GeneratorTrained | TrialResult | TrialFailed
"""What a trial reports: an epoch or the training of its generator, and at its end a result or a failure."""
