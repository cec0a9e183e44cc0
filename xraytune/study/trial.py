"""A trial that waits or runs, and the failed attempts at it.

What the journal hands out, and the search keeps.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Literal, TypeAlias

from xraytune.base.records import frozen
from xraytune.space.settings import Parameters

Cause: TypeAlias = Literal["settings", "memory", "fault", "lost"]
"""Why a trial failed.

Its settings (a retry would fail again), too little memory, another error, or its process was lost.
"""


@frozen
class Failure:
    """A failed attempt at a trial: the last epoch that it had reported, and the cause."""

    epochs: int
    cause: Cause


@dataclass(slots=True, kw_only=True)
class Trial:
    """A trial that has not ended.

    Attributes:
        number: Its number in the study.
        epochs: The last epoch that it has reported.
        failures: Its failed attempts.
        trains_generator: Whether its generator was not trained yet when it was started.
        resources: What it holds while it runs, by the names of Ray.
        slots: Those that it occupies while it runs.
        started: When it was last started, by `time.monotonic`.
        seconds: How long it has run in this search, before it was last started.
    """

    number: int
    parameters: Parameters
    epochs: int = 0
    failures: list[Failure] = field(default_factory=list)
    trains_generator: bool = False
    resources: Mapping[str, float] = field(default_factory=dict)
    slots: int = 1
    started: float = 0.0
    seconds: float = 0.0

    @property
    def gpus(self) -> float:
        """The GPUs that it holds while it runs."""
        return self.resources.get("GPU", 0.0)

    @property
    def lacks_memory(self) -> bool:
        """Whether an attempt ran out of memory, so that the next one shares none."""
        return any(failure.cause == "memory" for failure in self.failures)

    @property
    def generator_steps(self) -> int:
        """The steps of its generator; 0 without one."""
        return self.parameters.gan.steps if self.parameters.gan else 0
