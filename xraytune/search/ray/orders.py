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
    from xraytune.base.records import Compute
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
class Needs:
    """What trials need of a node: resources as Ray takes them, folders to write to, that of the images, versions."""

    resources: dict[str, float]
    folders: tuple[Path, ...]
    data: Path
    releases: dict[str, str]


@dataclass(frozen=True, slots=True, kw_only=True)
class Survey:
    """The order to look at each node of a cluster that has room for a trial, once there is one.

    `recorded` is what the trials of a study that exists compute on. The answer is the allocation of
    trials, what they need of a node, and the `environment` of a node.
    """

    settings: Settings
    recorded: Compute | None
    folders: tuple[Path, ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class TuneRun:
    """The order to run the trials of a loop, which the process makes from the files of its `folder`.

    The process before this one, which had the same `driver_lock`, may not have ended yet. The
    answer is whether all trials have ended. On a cluster, there are `needs`.
    """

    make_loop: Callable[[Callbacks], TrialLoop]
    folder: Path
    driver_lock: Path
    study: str
    cache: Path
    allocation: Allocation
    needs: Needs | None
