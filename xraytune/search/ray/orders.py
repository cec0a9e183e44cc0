"""What the search and Ray's process send each other, pickled, over a pipe.

The search sends an order and gets an answer. Meanwhile, the process sends callbacks of the search,
each as its name and arguments; an exception that it sends is raised by the search.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from xraytune.nets.compute import Allocation
    from xraytune.search.callbacks import Callbacks
    from xraytune.search.loop import TrialLoop
    from xraytune.space.settings import Settings


class RayDiedError(Exception):
    """The process ended, or Ray did not start."""


@dataclass(frozen=True, slots=True, kw_only=True)
class RayStarted:
    """Ray runs; `dashboard` is its address, "" if there is none; `warning` is about what this Ray lacks."""

    dashboard: str
    warning: str = ""


@dataclass(frozen=True, slots=True, kw_only=True)
class Survey:
    """The order to find a node of a cluster that can run a trial, on a GPU if `has_gpu`.

    The answer is the allocation of trials, and the `environment` of the node.
    """

    settings: Settings
    has_gpu: bool | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class TuneRun:
    """The order to run the trials of a loop, which the process makes from the files of its `folder`.

    The process before this one, which had the same `driver_lock`, may not have ended yet. The
    answer is whether all trials have ended.
    """

    make_loop: Callable[[Callbacks], TrialLoop]
    folder: Path
    driver_lock: Path
    study: str
    cache: Path
    allocation: Allocation
