"""What trials report, what the trial queue hands out, and the callbacks of a search or a confirmation."""

from __future__ import annotations

import json
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Annotated, Any, Literal, NamedTuple, TypeAlias, TypeVar

from pydantic import Field, TypeAdapter

from xraytune.base.errors import XraytuneError
from xraytune.base.files import read_json, write_json, write_text
from xraytune.base.records import EpochRecord, Pace, Progress, ignore_progress, progress_text
from xraytune.space.settings import Parameters
from xraytune.study.row import TrialRow
from xraytune.synth.generator_quality import QUALITY_FILE, PoolReport

T = TypeVar("T")

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


_SAMPLES_FILE = "samples.json"
_SAMPLES = TypeAdapter(dict[str, Annotated[str, Field(pattern=r"^samples/[^/\x00]+\.png$")]])
_REPORT = TypeAdapter(PoolReport)


def _read(path: Path, kind: TypeAdapter[T]) -> T | None:
    """Read a JSON file that a trial may not have written yet, or that is damaged: then, None."""
    try:
        return kind.validate_python(read_json(path))
    except (FileNotFoundError, ValueError):
        return None


def write_samples(trial_dir: Path, grid: Path) -> None:
    """Record the sample grid of a trial's generator, a file in the study's `samples/`."""
    write_json(trial_dir / _SAMPLES_FILE, {"generator": f"samples/{grid.name}"})


def read_samples(trial_dir: Path) -> str:
    """Return the sample grid of a trial's generator, relative to the study; "" if there is none yet."""
    return (_read(trial_dir / _SAMPLES_FILE, _SAMPLES) or {}).get("generator", "")


def read_pool_report(trial_dir: Path) -> PoolReport | None:
    """Return a trial's report on its synthetic images; None if there is none, or not yet."""
    return _read(trial_dir / QUALITY_FILE, _REPORT)


def reason_of(error: Exception) -> str:
    """Return the message of an expected error, class and message of any other."""
    return str(error) if isinstance(error, XraytuneError) else f"{type(error).__name__}: {error}"


def traceback_note(trial_dir: Path) -> str:
    """Return a suffix for a recorded reason that names the file with the traceback."""
    return f" (traceback: {trial_dir.name}/error.txt)"


_PROGRESS_FILE = "progress.json"
_WRITE_EVERY_SECONDS = 1.0


class TrialProgress(NamedTuple):
    """What a trial does: the arguments of a `Progress` callback, and the seconds left if known."""

    what: str
    done: int
    total: int
    seconds_left: float | None

    @property
    def is_waiting(self) -> bool:
        """Whether it waits for a slot; its generator is trained."""
        return not self.total

    def __str__(self) -> str:
        """Return a text such as `training the GAN: 300 of 600 steps`."""
        return progress_text(self.what, self.done, self.total)


_PROGRESS = TypeAdapter(TrialProgress)


@dataclass(slots=True)
class ProgressFile:
    """A `Progress` callback that writes `progress.json` of a trial, at most once a second."""

    trial_dir: Path
    _written: float = field(default=0.0, init=False)
    _pace: Pace = field(default_factory=Pace, init=False)

    def __call__(self, what: str, done: int, total: int) -> None:
        """Write the progress."""
        now = time.monotonic()
        left = self._pace.seconds_left(what, done, total, now)
        if now - self._written >= _WRITE_EVERY_SECONDS or done == total:
            self._written = now
            content = json.dumps(TrialProgress(what, done, total, left)._asdict(), ensure_ascii=False)
            write_text(self.trial_dir / _PROGRESS_FILE, f"{content}\n", durable=False)


def read_progress(trial_dir: Path) -> TrialProgress | None:
    """Return what a trial last wrote; None if it wrote nothing."""
    return _read(trial_dir / _PROGRESS_FILE, _PROGRESS)
