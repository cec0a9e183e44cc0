"""What the search and Ray's process send each other, pickled, over a pipe: an order, and what has been done.

Meanwhile, the process sends the callbacks of the search, each as a name and arguments. An exception
that it sends is raised by the search.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from xraytune.base.records import Node

if TYPE_CHECKING:
    from xraytune.nets.compute import Allocation
    from xraytune.search.callbacks import Callbacks
    from xraytune.search.loop import TrialLoop


class RayDiedError(Exception):
    """The process ended, or Ray did not start."""


class TokenRefusedError(Exception):
    """A cluster refuses this machine for want of its token."""


@dataclass(frozen=True, slots=True, kw_only=True)
class RayStarted:
    """Ray runs; `dashboard` is its address, "" if there is none; `warning` is about what this Ray lacks."""

    dashboard: str
    nodes: tuple[Node, ...]
    warning: str = ""


@dataclass(frozen=True, slots=True, kw_only=True)
class Needs:
    """What trials need of a node: resources as Ray takes them, folders to write to, that of the images, versions.

    As an order: look at each node with room for a trial, once there is one.
    """

    resources: dict[str, float]
    folders: tuple[str, ...]
    data: str
    releases: dict[str, str]


@dataclass(frozen=True, slots=True, kw_only=True)
class TuneRun:
    """The order to run the trials of a loop, which the process makes from the files of its `folder`.

    The process before this one, which had the same `driver_lock`, may not have ended yet.
    """

    make_loop: Callable[[Callbacks], TrialLoop]
    folder: Path
    driver_lock: Path
    study: str
    cache: Path
    allocation: Allocation
    needs: Needs | None
    reuse_processes: bool
