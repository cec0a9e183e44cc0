"""The wall time of a study and of its running trials, kept in `wall.json`."""

from __future__ import annotations

import time
from collections.abc import Collection
from pathlib import Path

from pydantic import BaseModel

from xraytune.base.files import read_json, write_json

_SAVE_EVERY_SECONDS = 5.0


class Times(BaseModel):
    """The wall time that a study has used, summed over all starts, in seconds.

    `trials` has that of each trial that has not ended, `gpu_seconds` the same times its GPUs.
    """

    seconds: float = 0.0
    trials: dict[int, float] = {}
    gpu_seconds: dict[int, float] = {}


def read_times(path: Path) -> Times:
    """Return the time that a study has used; none if the file is missing or damaged."""
    try:
        return Times.model_validate(read_json(path))
    except (FileNotFoundError, ValueError):
        return Times()


class StudyClock:
    """A clock that starts when created; saved every few seconds, so that the time of a killed search counts too.

    Args:
        path: `wall.json`; None saves nothing.
        unfinished: The trials whose time it continues to count; ended trials have their time in the
            journal.
    """

    def __init__(self, path: Path | None = None, unfinished: Collection[int] = ()) -> None:
        self._path = path
        self._last = time.monotonic()
        self._times = read_times(path) if path else Times()
        self._gpus: dict[int, float] = {}  # of the running trials
        for ended in self._times.trials.keys() - {*unfinished}:
            self.drop(ended)
        self.save()

    def times(self) -> Times:
        """Return the time used until now, which later calls update in place."""
        now = time.monotonic()
        passed = now - self._last
        self._last = now
        times = self._times
        times.seconds += passed
        for number, gpus in self._gpus.items():
            times.trials[number] = times.trials.get(number, 0.0) + passed
            times.gpu_seconds[number] = times.gpu_seconds.get(number, 0.0) + passed * gpus
        return times

    def start(self, number: int, gpus: float) -> None:
        """Start counting the time of a trial and of the GPUs that it holds, or change the GPUs."""
        self.times()
        self._gpus[number] = gpus

    def stop(self, number: int) -> None:
        """Stop counting the time of a trial."""
        self.times()
        del self._gpus[number]

    def drop(self, number: int) -> None:
        """Forget the time of a trial that has ended."""
        self._times.trials.pop(number, None)
        self._times.gpu_seconds.pop(number, None)

    def heartbeat(self) -> None:
        """Save the time if the last save was a while ago."""
        if time.monotonic() - self._saved >= _SAVE_EVERY_SECONDS:
            self.save()

    def save(self) -> None:
        """Save the time."""
        self._saved = time.monotonic()
        if self._path:
            write_json(self._path, self.times().model_dump())
