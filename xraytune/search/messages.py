"""What a trial says, passed on to who decides, and the words in which it says why it failed; see `work.Message`."""

from __future__ import annotations

import json
import math
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from enum import Enum
from pathlib import Path
from typing import Any, Literal, Protocol, TypeAlias

from xraytune.config.settings import Parameters
from xraytune.errors import MachineError, XraytuneError
from xraytune.files import read_json, write_text
from xraytune.records import EpochRecord, Progress, TrialResult, ignore_progress

CLAIM_FILE = ".claim"
"""Of a trial: which process runs it, or ran it last."""

HANG_FILE = "hang.txt"
"""Of a trial: where its last process hung, empty where it did not."""

Cause: TypeAlias = Literal["settings", "memory", "fault"]
"""Why a trial failed: its settings, and again it would; the memory that it had; all else."""

Message: TypeAlias = Mapping[str, Any]
"""What a trial says, as plain values: one of

    {"epoch": EpochRecord}                    an epoch has ended and is on the disk
    {"ended": TrialResult}                    it ran to its end
    {"failed": reason, "cause": Cause}        it failed
    {"stopped": why}                          this machine lacks something, such as room on the disk
"""


@dataclass(frozen=True, slots=True, kw_only=True)
class TrialSuggestion:
    """A trial to be run.

    Attributes:
        number: Of its study.
        parameters: Its settings.
        share: How many times the usual share of a machine it gets, after it had run out of memory.
    """

    number: int
    parameters: Parameters
    share: int = 1


def _ignore(*_: Any) -> None:
    """Do nothing."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Callbacks:
    """Functions that a search or a confirm calls as it proceeds; each does nothing by default.

    Attributes:
        note: Called with a line that the user should see.
        on_start: Called when Ray runs, with the study's folder, the address of Ray's dashboard ("" if there is none) and
            the study's trial budget (0 in a confirm).
        on_trial_start: Called when a trial starts or resumes.
        on_epoch: Called with a trial's number and its record after each new epoch.
        on_trial_end: Called with the row that `trials.jsonl` gets.
        on_progress: Called with the progress of everything else, such as decoding, and of a confirm's runs.
    """

    note: Callable[[str], None] = _ignore
    on_start: Callable[[Path, str, int], None] = _ignore
    on_trial_start: Callable[[TrialSuggestion], None] = _ignore
    on_epoch: Callable[[int, EpochRecord], None] = _ignore
    on_trial_end: Callable[[Mapping[str, Any]], None] = _ignore
    on_progress: Progress = ignore_progress


NO_CALLBACKS = Callbacks()


class Answer(Enum):
    """What is said to a free slot when there is no trial for it."""

    WAIT = "wait"
    DONE = "done"


class Work(Protocol):
    """Trials to run, and who hears what they say."""

    @property
    def running(self) -> int:
        """Trials that run now."""

    @property
    def is_done(self) -> bool:
        """Whether nothing runs, waits or is still to come."""

    def next(self) -> TrialSuggestion | Answer:
        """A trial for a free slot."""

    def on_placed(self, number: int, gpus: float) -> None:
        """A trial that `next` gave holds so many GPUs: more, where it is tried again after it ran out of memory."""

    def on_result(self, number: int, message: Message) -> bool:
        """Take what a trial says and answer whether it goes on; anything may be said again."""

    def lost(self, number: int, *, out_of_memory: bool) -> None:
        """The process of a trial ended without a word."""

    def interrupted(self) -> None:
        """All processes are gone, through no fault of their trials: what ran is to be started again."""

    def beat(self) -> None:
        """Called every second or so."""


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


_NAME = "progress.json"
_EVERY_SECONDS = 1.0


@dataclass(slots=True)
class ProgressFile:
    """A `Progress` that writes `progress.json` of a trial, at most once a second."""

    trial_dir: Path
    _written: float = field(default=0.0, init=False)

    def __call__(self, what: str, done: int, total: int) -> None:
        """Write what is done of what."""
        now = time.monotonic()
        if now - self._written >= _EVERY_SECONDS or done == total:
            self._written = now
            content = json.dumps({"what": what, "done": done, "total": total}, ensure_ascii=False)
            write_text(self.trial_dir / _NAME, f"{content}\n", durable=False)


def read_progress(trial_dir: Path) -> tuple[str, int, int] | None:
    """What the trial said last: what, done, total; None where it said nothing, or power loss tore it."""
    try:
        content = read_json(trial_dir / _NAME)
        return str(content["what"]), int(content["done"]), int(content["total"])
    except (FileNotFoundError, ValueError, LookupError, TypeError, OverflowError):
        return None
