"""What Ray is told to run, whoever decides it: a search's director, or a list of runs.

`run_trials` asks for work, passes on what each trial says, and stops a trial when it is told to.
"""

from __future__ import annotations

from collections.abc import Mapping
from enum import Enum
from typing import Any, Protocol

from xraytune.search.journal import Asked


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

    def note(self, text: str) -> None:
        """Something that a person should know."""

    def next(self) -> Asked | Answer:
        """A trial for a free slot."""

    def hear(self, number: int, message: Mapping[str, Any]) -> bool:
        """Take what a trial says and answer whether it goes on; anything may be said again.

        Args:
            number: The trial.
            message: `{"epoch": EpochRecord}`, `{"ended": TrialResult}` or `{"failed": reason}`, as plain values.
        """

    def lost(self, number: int) -> None:
        """A trial whose worker was lost as often as `resources.retries` allows has failed."""
