"""Metrics of a search, which Ray exports to Prometheus as `ray_xraytune_*` with the tag `study` (docs/dashboard.md)."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from ray.util.metrics import Counter, Gauge

from xraytune.search.messages import EpochEnded, StartTrial, TrialMessage

_OF_TRIALS = ("images_per_second", "gpu_memory_bytes")  # summed over running trials
GAUGES = ("best_value", "trials", "slots", "trials_waiting_for_generator", *_OF_TRIALS)
EPOCHS = "epochs"  # a counter: Prometheus appends `_total`
_TAGS = {"trials": ("study", "state"), "slots": ("study", "state")}


class Metrics:
    """The metrics of a study."""

    def __init__(self, study: str) -> None:
        self._study = {"study": study}
        self._speeds, self._memory = dict[int, float](), dict[int, float]()
        self._gauges = {name: Gauge(f"xraytune_{name}", "", _TAGS.get(name, ("study",))) for name in GAUGES}
        self._epochs = Counter(f"xraytune_{EPOCHS}", "", ("study",))

    def show(self, statistics: Mapping[str, Any]) -> None:
        """Set the gauges: those of `TrialLoop.statistics`, except None values, and the sums over trials."""
        sums = {"images_per_second": sum(self._speeds.values()), "gpu_memory_bytes": sum(self._memory.values())}
        for name, value in {**statistics, **sums}.items():
            by_state = value if isinstance(value, Mapping) else {None: value}
            for state, number in by_state.items():
                self._gauges[name].set(number, self._study | ({"state": state} if state else {}))

    def on_result(self, trial: StartTrial, message: TrialMessage, gpu_memory_bytes: int) -> None:
        """Count an epoch of a trial, and record its speed and memory."""
        number = trial.job.number
        if isinstance(message, EpochEnded):
            record = message.record
            self._epochs.inc(1, self._study)
            if record.lr is not None:  # otherwise the trial trains a generator, and no classifier
                images = trial.images_per_step * record.steps / record.epoch
                self._speeds[number] = images / max(record.seconds, 1e-3)
        self._memory[number] = gpu_memory_bytes

    def on_stop(self, number: int) -> None:
        """Forget a trial that no longer runs."""
        self._speeds.pop(number, None)
        self._memory.pop(number, None)
