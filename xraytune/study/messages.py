"""What trials report, what the trial queue hands out, and the callbacks of a search or a confirmation."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal, TypeAlias

from xraytune.base.errors import XraytuneError
from xraytune.base.records import EpochRecord, Progress, ignore_progress
from xraytune.space.settings import Parameters
from xraytune.study.row import TrialRow

OWNER_FILE = ".owner"
"""In a trial's folder: names the process that runs the trial, or ran it last."""

HANG_FILE = "hang.txt"
"""In a trial's folder: the traceback of a process that hung; empty if it did not."""

Cause: TypeAlias = Literal["settings", "memory", "fault"]
"""Why a trial failed: its settings (a retry would fail again), too little memory, or anything else."""

Message: TypeAlias = Mapping[str, Any]
"""What a trial reports, as plain values. One of:

    {"epoch": EpochRecord}                    an epoch has ended and is saved
    {"generator": "trained"}                  the rest of the trial can run
    {"ended": TrialResult}                    the trial is complete
    {"failed": reason, "cause": Cause}        the trial failed
    {"stopped": why}                          this machine lacks something, such as disk space
"""


@dataclass(frozen=True, slots=True, kw_only=True)
class TrialSuggestion:
    """A trial to run.

    Attributes:
        share: Multiple of the usual resources; doubles each time the trial runs out of memory.
        only_generator: Whether it only trains its generator now, with the resources for that.
    """

    number: int
    parameters: Parameters
    share: int = 1
    only_generator: bool = False


@dataclass(frozen=True, slots=True, kw_only=True)
class Failure:
    """A failed attempt at a trial: the last epoch that it had reported, and the cause."""

    epochs: int
    cause: Cause


def resource_share(failures: Sequence[Failure]) -> int:
    """Return the multiple of the usual resources that a trial gets: doubled each time it ran out of memory."""
    return int(2 ** sum(failure.cause == "memory" for failure in failures))


def _ignore(*_: Any) -> None: ...


@dataclass(frozen=True, slots=True, kw_only=True)
class Callbacks:
    """Functions that a search or a confirmation calls as it proceeds; each does nothing by default.

    Attributes:
        note: Called with a line that the user should see.
        on_start: Called when Ray runs, with the study's folder and the address of Ray's dashboard ("" if there is none).
        on_trial_start: Called when a trial starts or resumes.
        on_epoch: Called with a trial's number and its record after each new epoch.
        on_samples: Called with the first trial of a new generator, and a picture of its images next to real ones.
        on_trial_end: Called with the trial's row of `trials.jsonl`.
        on_progress: Called with the progress of everything else, such as decoding, and of a confirmation's runs.
    """

    note: Callable[[str], None] = _ignore
    on_start: Callable[[Path, str], None] = _ignore
    on_trial_start: Callable[[TrialSuggestion], None] = _ignore
    on_epoch: Callable[[int, EpochRecord], None] = _ignore
    on_samples: Callable[[int, Path], None] = _ignore
    on_trial_end: Callable[[TrialRow], None] = _ignore
    on_progress: Progress = ignore_progress


NO_CALLBACKS = Callbacks()


def reason_of(error: Exception) -> str:
    """Return the message of an expected error, class and message of any other."""
    return str(error) if isinstance(error, XraytuneError) else f"{type(error).__name__}: {error}"


def traceback_note(trial_dir: Path) -> str:
    """Return a suffix for a recorded reason that names the file with the traceback."""
    return f" (traceback: {trial_dir.name}/error.txt)"
