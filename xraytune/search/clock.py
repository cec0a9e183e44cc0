"""The time that a study has used over all its starts: wall time, and wall and GPU time of trials that have not ended."""

from __future__ import annotations

import time
from collections.abc import Collection
from pathlib import Path

from pydantic import BaseModel

from xraytune.files import read_json, write_json
from xraytune.search.study import damage_explained

_EVERY_SECONDS = 5.0


class Times(BaseModel):
    """What `wall.json` holds, in seconds.

    Attributes:
        seconds: Wall time.
        trials: Wall time of those that have not ended.
        gpu_seconds: Their wall time times the GPUs that they held; an earlier version wrote none.
    """

    seconds: float = 0.0
    trials: dict[int, float] = {}
    gpu_seconds: dict[int, float] = {}


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
        gpus: What a trial usually holds.
    """

    def __init__(self, path: Path, *, unfinished: Collection[int], gpus: float) -> None:
        self._path, self._started = path, time.monotonic()
        before = read_times(path)
        self._before = before.seconds
        self._trials = {number: seconds for number, seconds in before.trials.items() if number in unfinished}
        self._gpu_seconds = {
            number: before.gpu_seconds.get(number, seconds * gpus) for number, seconds in self._trials.items()
        }
        self._since: dict[int, float] = {}
        self._gpus: dict[int, float] = {}
        self.save()

    def seconds(self) -> float:
        """Wall time."""
        return self._before + time.monotonic() - self._started

    def seconds_of(self, number: int) -> float:
        """Time of a trial that has not ended, over all its processes."""
        return self._trials.get(number, 0.0) + self._running_seconds(number)

    def gpu_seconds_of(self, number: int) -> float:
        """The same, times the GPUs that each process held."""
        return self._gpu_seconds.get(number, 0.0) + self._running_seconds(number) * self._gpus.get(number, 0.0)

    def unfinished_gpu_seconds(self) -> float:
        """GPU time of all trials that have not ended."""
        return sum(map(self.gpu_seconds_of, self._unfinished()))

    def start(self, number: int, *, gpus: float) -> None:
        """A process runs the trial and holds so many GPUs."""
        self._since[number], self._gpus[number] = time.monotonic(), gpus

    def hold(self, number: int, gpus: float) -> None:
        """The process that runs the trial holds so many GPUs, and has since it started."""
        self._gpus[number] = gpus

    def stop(self, number: int) -> None:
        """No process runs it now."""
        self._trials[number], self._gpu_seconds[number] = self.seconds_of(number), self.gpu_seconds_of(number)
        del self._since[number]

    def end(self, number: int) -> None:
        """The trial has ended; its time stands with its result."""
        for times in (self._since, self._gpus, self._trials, self._gpu_seconds):
            times.pop(number, None)
        self.save()

    def beat(self) -> None:
        """Write the time down, if it was not for a while."""
        if time.monotonic() - self._saved >= _EVERY_SECONDS:
            self.save()

    def save(self) -> None:
        """Write the time down."""
        self._saved = time.monotonic()
        used = {
            "trials": {str(number): self.seconds_of(number) for number in self._unfinished()},
            "gpu_seconds": {str(number): self.gpu_seconds_of(number) for number in self._unfinished()},
        }
        write_json(self._path, {"version": 1, "seconds": round(self.seconds(), 1), **used})

    def _unfinished(self) -> list[int]:
        return sorted(self._trials.keys() | self._since.keys())

    def _running_seconds(self, number: int) -> float:
        since = self._since.get(number)
        return 0.0 if since is None else time.monotonic() - since
