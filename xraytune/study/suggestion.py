"""A trial to run, and the failed attempts at it: what the journal hands out and keeps."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal, TypeAlias

from xraytune.space.settings import Parameters

Cause: TypeAlias = Literal["settings", "memory", "fault"]
"""Why a trial failed: its settings (a retry would fail again), too little memory, or anything else."""


@dataclass(frozen=True, slots=True, kw_only=True)
class TrialSuggestion:
    """A trial to run.

    Attributes:
        share: Multiple of the usual resources; doubles each time the trial runs out of memory.
        only_generator: Whether it only trains its generator now, with the resources for that.
    """

    number: int
    parameters: Parameters
    share: int = 1
    only_generator: bool = False


@dataclass(frozen=True, slots=True, kw_only=True)
class Failure:
    """A failed attempt at a trial: the last epoch that it had reported, and the cause."""

    epochs: int
    cause: Cause


def resource_share(failures: Sequence[Failure]) -> int:
    """Return the multiple of the usual resources that a trial gets: doubled each time it ran out of memory."""
    return int(2 ** sum(failure.cause == "memory" for failure in failures))
