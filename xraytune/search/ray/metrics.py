"""Metrics of a search, which Ray exports to Prometheus as `ray_xraytune_*` with the tag `study` (docs/dashboard.md)."""

from __future__ import annotations

import traceback
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import Any

from ray.util.metrics import Counter, Gauge

OF_TRIALS = ("images_per_second", "gpu_memory_bytes")  # summed over running trials
GAUGES = ("best_value", "trials", "slots", "trials_waiting_for_generator", "generator_steps_per_second", *OF_TRIALS)
COUNTERS = ("epochs", "cache_requests")  # Prometheus appends `_total` to these names
_TAGS = {"trials": ("state",), "slots": ("state",), "cache_requests": ("kind", "result")}


class Metrics:
    """The metrics of a study. An error never affects the search; the first one leaves a traceback in the driver's log."""

    def __init__(self, study: str) -> None:
        self._study, self._has_failed = {"study": study}, False
        self._running = {name: dict[int, float]() for name in OF_TRIALS}
        with self._harmless():
            self._gauges = {one: Gauge(f"xraytune_{one}", "", ("study", *_TAGS.get(one, ()))) for one in GAUGES}
            self._counters = {one: Counter(f"xraytune_{one}", "", ("study", *_TAGS.get(one, ()))) for one in COUNTERS}

    def show(self, statistics: Mapping[str, Any]) -> None:
        """Set the gauges: those of `TrialQueue.statistics`, except None values, and the sums over trials."""
        with self._harmless():
            for name, value in {**statistics, **{name: sum(of.values()) for name, of in self._running.items()}}.items():
                for tags, number in [({}, value)] if name not in _TAGS else [({"state": s}, value[s]) for s in value]:
                    self._gauges[name].set(number, self._study | tags)

    def on_result(self, trial: Mapping[str, Any], message: Mapping[str, Any], usage: Mapping[str, Any]) -> None:
        """Count an epoch of a trial (its config), and record its speed and the usage that `TrialActor.step` reports."""
        with self._harmless():
            if record := message.get("epoch"):
                self._counters["epochs"].inc(1, self._study)
                if record["lr"] is not None:  # otherwise the trial trains a generator, and no classifier
                    images = trial["images_per_step"] * record["steps"] / record["epoch"]
                    self._running["images_per_second"][trial["number"]] = images / max(record["seconds"], 1e-3)
            self._running["gpu_memory_bytes"][trial["number"]] = usage["gpu_memory_bytes"]
            for kind, result, count in usage["cache_requests"]:
                self._counters["cache_requests"].inc(count, self._study | {"kind": kind, "result": result})

    def on_stop(self, number: int) -> None:
        """Forget a trial that no longer runs."""
        for values in self._running.values():
            values.pop(number, None)

    def on_end(self) -> None:
        """Set running and waiting trials, slots and speeds to 0."""
        self._running = {name: {} for name in OF_TRIALS}
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
