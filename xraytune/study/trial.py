"""A trial that waits or runs, and the failed attempts at it: what the journal hands out, and the search keeps."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Literal, TypeAlias

from xraytune.space.settings import Parameters

Cause: TypeAlias = Literal["settings", "memory", "fault", "lost"]
"""Why a trial failed: its settings (a retry would fail again), too little memory, another error, or its process was lost."""


@dataclass(frozen=True, slots=True, kw_only=True)
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
        only_generator: Whether it only trains its generator now.
        has_trained_generator: Whether it has reported its generator as trained, perhaps into
            another cache.
        lineage: Of the generator that it has to train first, since it was started; None if there is
            none.
        slots: Those that it occupies while it runs.
    """

    number: int
    parameters: Parameters
    epochs: int = 0
    failures: list[Failure] = field(default_factory=list)
    only_generator: bool = False
    has_trained_generator: bool = False
    lineage: str | None = None
    slots: int = 0

    @property
    def share(self) -> int:
        """The multiple of the usual resources that it gets: doubled each time it ran out of memory."""
        return int(2 ** sum(failure.cause == "memory" for failure in self.failures))

    @property
    def generator_steps(self) -> int:
        """The steps of its generator; 0 without one."""
        return self.parameters.gan.steps if self.parameters.gan else 0
