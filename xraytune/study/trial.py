"""A trial that waits or runs, and the failed attempts at it.

What the journal hands out, and the search keeps; a run of a confirmation is one, too.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Literal, TypeAlias, TypedDict

from xraytune.space.settings import Experiment, Parameters

Cause: TypeAlias = Literal["settings", "memory", "fault", "lost"]
"""Why a trial failed.

Its settings (a retry would fail again), too little memory, another error, or its process was lost.
"""


class Failure(TypedDict):
    """A failed attempt at a trial: the last epoch that it had reported, and the cause."""

    epochs: int
    cause: Cause


@dataclass(slots=True, kw_only=True)
class Trial:
    """A trial that has not ended.

    Attributes:
        number: Its number in the study.
        label: Its name in the dashboard and in trackers, without that of the study: `#7 gan r=0.5
            (500 steps)`, or `gan #12, replicate 1`.
        epochs: The last epoch that it has reported.
        failures: Its failed attempts.
        trains_generator: Whether its generator was not trained yet when it was started.
        resources: What it holds while it runs, by the names of Ray.
        slots: Those that it occupies while it runs.
        started: When it was last started, by `time.monotonic`.
        seconds: How long it has run in this search, before it was last started.
    """

    number: int
    label: str
    experiment: Experiment
    epochs: int = 0
    failures: list[Failure] = field(default_factory=list)
    trains_generator: bool = False
    resources: Mapping[str, float] = field(default_factory=dict)
    slots: int = 1
    started: float = 0.0
    seconds: float = 0.0

    @property
    def parameters(self) -> Parameters:
        """Its parameters."""
        return self.experiment.parameters
