"""Metrics of a search, which Ray exports to Prometheus as `ray_xraytune_*` with the tag `study` (docs/dashboard.md).

The driver sets some from the messages of trials, and the others every few seconds from the trial queue. Errors never
affect the search: only the first one leaves a traceback in the driver's log.
"""

from __future__ import annotations

import traceback
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import Any

from ray.util.metrics import Counter, Gauge

GAUGES: Mapping[str, tuple[str, ...]] = {
    "best_value": (),  # objective of the best complete trial
    "trials": ("state",),  # running, waiting, complete, pruned, failed
    "trials_waiting_for_generator": (),  # those whose generator another trial trains
    "slots": ("state",),  # running, idle
    "images_per_second": (),  # summed over classifiers in training; the time includes validation
    "generator_steps_per_second": (),  # summed over generators in training
    "gpu_memory_bytes": (),  # peak of each process that runs a trial, summed; 0 on a CPU
}
"""The tags of each metric besides `study`, by its name without `xraytune_`."""
COUNTERS: Mapping[str, tuple[str, ...]] = {
    "epochs": (),
    "cache_requests": ("kind", "result"),  # artifacts that trials requested: hit, miss
}
"""The same for counters. Prometheus appends `_total` to these names."""


class Metrics:
    """The metrics of a search or confirmation of a study."""

    def __init__(self, study: str) -> None:
        self._study, self._has_failed = {"study": study}, False
        self._speeds, self._memory = dict[int, float](), dict[int, float]()  # of running trials
        with self._harmless():
            self._gauges = {name: Gauge(f"xraytune_{name}", "", ("study", *tags)) for name, tags in GAUGES.items()}
            self._counters = {
                name: Counter(f"xraytune_{name}", "", ("study", *tags)) for name, tags in COUNTERS.items()
            }

    def show(self, statistics: Mapping[str, Any]) -> None:
        """Set the gauges: those of `TrialQueue.statistics`, except None values, and the sums over trials."""
        sums = {"images_per_second": self._speeds, "gpu_memory_bytes": self._memory}
        with self._harmless():
            for name, value in {**statistics, **{name: sum(of.values()) for name, of in sums.items()}}.items():
                by_state = value if isinstance(value, Mapping) else {None: value}
                for state, number in by_state.items():
                    self._gauges[name].set(number, self._study | ({"state": state} if state else {}))

    def on_result(self, trial: Mapping[str, Any], message: Mapping[str, Any], usage: Mapping[str, Any]) -> None:
        """Count an epoch of a trial (its config), and record its speed and the usage that `TrialActor.step` reports."""
        with self._harmless():
            if record := message.get("epoch"):
                self._counters["epochs"].inc(1, self._study)
                if record["lr"] is not None:  # otherwise the trial trains a generator, and no classifier
                    images = trial["images_per_step"] * record["steps"] / record["epoch"]
                    self._speeds[trial["number"]] = images / max(record["seconds"], 1e-3)
            self._memory[trial["number"]] = usage["gpu_memory_bytes"]
            for kind, result, count in usage["cache_requests"]:
                self._counters["cache_requests"].inc(count, self._study | {"kind": kind, "result": result})

    def on_stop(self, number: int) -> None:
        """Forget a trial that no longer runs."""
        self._speeds.pop(number, None)
        self._memory.pop(number, None)

    def on_end(self) -> None:
        """Set running and waiting trials, slots and speeds to 0."""
        self._speeds, self._memory = {}, {}
        states = {"trials": {"running": 0, "waiting": 0}, "slots": {"running": 0, "idle": 0}}
        self.show({**states, "trials_waiting_for_generator": 0, "generator_steps_per_second": 0})

    @contextmanager
    def _harmless(self) -> Iterator[None]:
        try:
            yield
        except Exception:  # noqa: BLE001  the search continues
            if not self._has_failed:
                traceback.print_exc()
            self._has_failed = True
