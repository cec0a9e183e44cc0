"""The time that a study has used, over all its starts: the wall's, and that of each trial that has not ended."""

from __future__ import annotations

import time
from collections.abc import Collection
from pathlib import Path

from pydantic import BaseModel

from xraytune.files import read_json, write_json
from xraytune.search.study import damage_explained

_EVERY_SECONDS = 5.0


class Times(BaseModel):
    """What `wall.json` holds, in seconds; `trials` has those that have not ended."""

    seconds: float = 0.0
    trials: dict[int, float] = {}


def read_times(path: Path) -> Times:
    """What a study has used.

    Raises:
        StudyError: The file is damaged.
    """
    with damage_explained(path):
        return Times.model_validate(read_json(path)) if path.exists() else Times()


class StudyClock:
    """Runs from when it is made; what it says is written down every few seconds, so that a killed search has counted it.

    Args:
        path: `wall.json`.
        unfinished: The trials whose time it counts; that of the others stands with their results.
    """

    def __init__(self, path: Path, *, unfinished: Collection[int]) -> None:
        self._path, self._started = path, time.monotonic()
        before = read_times(path)
        self._before = before.seconds
        self._trials = {number: seconds for number, seconds in before.trials.items() if number in unfinished}
        self._since: dict[int, float] = {}
        self.save()

    def seconds(self) -> float:
        """Wall time."""
        return self._before + time.monotonic() - self._started

    def seconds_of(self, number: int) -> float:
        """Time of a trial that has not ended, over all its processes."""
        since = self._since.get(number)
        return self._trials.get(number, 0.0) + (0.0 if since is None else time.monotonic() - since)

    def unfinished_seconds(self) -> float:
        """Time of all trials that have not ended."""
        return sum(self.seconds_of(number) for number in self._trials.keys() | self._since.keys())

    def start(self, number: int) -> None:
        """A process runs the trial."""
        self._since[number] = time.monotonic()

    def stop(self, number: int) -> None:
        """No process runs it now."""
        self._trials[number] = self.seconds_of(number)
        del self._since[number]

    def end(self, number: int) -> None:
        """The trial has ended; its time stands with its result."""
        self._since.pop(number, None)
        self._trials.pop(number, None)
        self.save()

    def beat(self) -> None:
        """Write the time down, if it was not for a while."""
        if time.monotonic() - self._saved >= _EVERY_SECONDS:
            self.save()

    def save(self) -> None:
        """Write the time down."""
        self._saved = time.monotonic()
        trials = {str(number): self.seconds_of(number) for number in sorted(self._trials.keys() | self._since.keys())}
        write_json(self._path, {"version": 1, "seconds": round(self.seconds(), 1), "trials": trials})
