"""Metrics of a search, which Ray exports to Prometheus as `ray_xraytune_*` with the tag `study` (docs/dashboard.md)."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from ray.util.metrics import Counter, Gauge

GAUGES = ("best_value", "trials", "slots", "trials_waiting_for_generator")
EPOCHS = "epochs"  # a counter: Prometheus appends `_total`
_TAGS = {"trials": ("study", "state"), "slots": ("study", "state")}


class Metrics:
    """The metrics of a study."""

    def __init__(self, study: str) -> None:
        self._study = {"study": study}
        self._gauges = {name: Gauge(f"xraytune_{name}", "", _TAGS.get(name, ("study",))) for name in GAUGES}
        self._epochs = Counter(f"xraytune_{EPOCHS}", "", ("study",))

    def show(self, statistics: Mapping[str, Any]) -> None:
        """Set the gauges: those of `TrialLoop.statistics`, except None values."""
        for name, value in statistics.items():
            by_state = value if isinstance(value, Mapping) else {None: value}
            for state, number in by_state.items():
                self._gauges[name].set(number, self._study | ({"state": state} if state else {}))

    def count_epoch(self) -> None:
        """Count an epoch of a trial."""
        self._epochs.inc(1, self._study)
