"""What is run, whoever decides it: a search's director, or a list of runs.

A runner asks for work, passes on what each trial says, and stops a trial when it is told to.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from enum import Enum
from typing import Any, Literal, Protocol, TypeAlias

from xraytune.config.settings import Parameters

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
