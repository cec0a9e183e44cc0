"""What the process of a trial gets and reports. Ray passes these records on as they are."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TypeAlias

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


@dataclass(frozen=True, slots=True, kw_only=True)
class EpochEnded:
    """An epoch of a trial has ended."""

    record: EpochRecord

    def __str__(self) -> str:
        record = self.record
        scores = f"val-A {record.val_score:.4f} (best {record.best_val_score:.4f})"
        return f"epoch {record.epoch}: {scores}, training loss {record.train_loss:.4f}"


@dataclass(frozen=True, slots=True)
class GeneratorTrained:
    """The generator of a trial is trained; the rest of the trial can run."""

    def __str__(self) -> str:
        return "its generator is trained"


@dataclass(frozen=True, slots=True, kw_only=True)
class TrialEnded:
    """A trial is complete."""

    result: TrialResult

    def __str__(self) -> str:
        return f"complete, val-A {self.result.value:.4f} in epoch {self.result.best_epoch}"


@dataclass(frozen=True, slots=True, kw_only=True)
class TrialFailed:
    """A trial failed."""

    reason: str
    cause: Cause

    def __str__(self) -> str:
        return f"failed: {self.reason}"


@dataclass(frozen=True, slots=True, kw_only=True)
class MachineStopped:
    """The machine of a trial lacks something, such as disk space or the study."""

    reason: str

    def __str__(self) -> str:
        return self.reason


TrialMessage: TypeAlias = EpochEnded | GeneratorTrained | TrialEnded | TrialFailed | MachineStopped
"""What a trial reports."""
