"""The time that a study has used, summed over all starts, in `wall.json`."""

from __future__ import annotations

import time
from collections import defaultdict
from collections.abc import Collection
from pathlib import Path

from pydantic import BaseModel

from xraytune.files import read_json, write_json
from xraytune.search.study import damage_explained

_SAVE_EVERY_SECONDS = 5.0


class Times(BaseModel):
    """Time used, in seconds.

    Attributes:
        seconds: Wall time of the study.
        trials: Wall time of each trial that has not ended.
        gpu_seconds: The same, times the GPUs that the trial held.
        slot_seconds: Wall time, times the number of slots.
        idle_seconds: Wall time, times the number of idle slots.
    """

    seconds: float = 0.0
    trials: dict[int, float] = {}
    gpu_seconds: dict[int, float] = {}
    slot_seconds: float = 0.0
    idle_seconds: float = 0.0


def read_times(path: Path) -> Times:
    """Return the time that a study has used."""
    with damage_explained(path):
        return Times.model_validate(read_json(path)) if path.exists() else Times()


class StudyClock:
    """A clock that starts when created; saved every few seconds, so that the time of a killed search counts too.

    Args:
        path: `wall.json`.
        unfinished: The trials whose time it continues to count; ended trials have their time in the journal. The time of
            repeats, whose numbers are below 0, stays here.
    """

    def __init__(self, path: Path, unfinished: Collection[int]) -> None:
        before = read_times(path)
        self._path, self._seconds, self._last = path, before.seconds, time.monotonic()
        self._trials = defaultdict[int, float](
            float, {n: s for n, s in before.trials.items() if n in unfinished or n < 0}
        )
        self._gpu_seconds = defaultdict[int, float](float, {n: before.gpu_seconds.get(n, 0.0) for n in self._trials})
        self._gpus: dict[int, float] = {}  # of the running trials
        self._slot_seconds, self._idle_seconds = before.slot_seconds, before.idle_seconds
        self._slots = self._idle = 0
        self.save()

    def times(self) -> Times:
        """Return the time used until now."""
        now = time.monotonic()
        passed, self._last = now - self._last, now
        self._seconds += passed
        self._slot_seconds += passed * self._slots
        self._idle_seconds += passed * self._idle
        for number, gpus in self._gpus.items():
            self._trials[number] += passed
            self._gpu_seconds[number] += passed * gpus
        return Times(
            seconds=self._seconds,
            trials=dict(self._trials),
            gpu_seconds=dict(self._gpu_seconds),
            slot_seconds=self._slot_seconds,
            idle_seconds=self._idle_seconds,
        )

    def start(self, number: int, gpus: float) -> None:
        """Start counting the time of a trial and of the GPUs that it holds."""
        self.times()
        self._gpus[number] = gpus

    def stop(self, number: int) -> None:
        """Stop counting the time of a trial."""
        self.times()
        del self._gpus[number]

    def end(self, number: int) -> None:
        """Drop the time of a trial that has ended."""
        self.stop(number)
        self._trials.pop(number, None)
        self._gpu_seconds.pop(number, None)

    def heartbeat(self, slots: int, idle: int) -> None:
        """Count slots and idle ones from now on; save the time if the last save was a while ago."""
        self.times()
        self._slots, self._idle = slots, idle
        if time.monotonic() - self._saved >= _SAVE_EVERY_SECONDS:
            self.save()

    def save(self) -> None:
        """Save the time."""
        self._saved = time.monotonic()
        write_json(self._path, self.times().model_dump())
