"""How many trials run at once, and what each of them holds.

All of it follows from the shares of an `Allocation`.

A slot is the room for one trial. Ray places a process on one node, and its share of a GPU on one
GPU. So a GPU has floor(1 / share) slots, whatever is left over. A trial that ran out of memory may
need several slots; its share of a GPU is then that of so many trials, or whole GPUs.
"""

from __future__ import annotations

from collections.abc import Sequence
from math import ceil
from typing import NamedTuple

from xraytune.base.errors import MachineError, Problem
from xraytune.base.records import Node
from xraytune.nets.compute import Allocation, Share

_ROUNDING = 1e-3
"""Larger than the errors of multiples of .3333, smaller than any part of a slot."""


class Held(NamedTuple):
    """What a process holds.

    Resources as Ray takes them, and the slots that no other trial can use meanwhile.
    """

    resources: dict[str, float]
    slots: int


def count_slots(allocation: Allocation, nodes: Sequence[Node]) -> int:
    """Return how many trials run at once, each on one node.

    Raise MachineError if no node has room for one.
    """
    trial = allocation.trial
    count = sum(_slots_on(node, trial) for node in nodes)
    if count == 0:
        each = ", ".join(sorted({f"{node.cpus:g} and {node.gpus:g}" for node in nodes})) or "none"
        what = (
            f"no machine has the {trial.cpus} CPU cores and {trial.gpus:g} GPUs that a trial "
            f"needs, but only {each}"
        )
        fix = "lower resources.cpus_per_trial or gpus_per_trial"
        raise MachineError(Problem(what, "resources", fix))
    return min(count, allocation.concurrent or count)


def hold(allocation: Allocation, nodes: Sequence[Node], *, times: int = 1) -> Held:
    """Return what a trial holds with `times` the usual resources.

    That is at most all cores of a node that can run it, and one GPU, on which it computes.
    """
    trial = allocation.trial
    cores = max(node.cpus for node in nodes if _slots_on(node, trial))
    cpus = min(float(trial.cpus * times), cores)
    slots = ceil(cpus / trial.cpus)
    gpus = trial.gpus
    if 0 < gpus < 1:
        per_gpu = int(_slots_per_gpu(trial))
        shares = min(times, per_gpu)
        gpus = 1.0 if shares == per_gpu else shares * gpus
        slots = max(slots, shares)
    return Held({"CPU": cpus, "GPU": gpus} if gpus else {"CPU": cpus}, slots)


def _slots_on(node: Node, trial: Share) -> int:
    by_cpu = int(node.cpus / trial.cpus)
    return min(by_cpu, int(node.gpus * _slots_per_gpu(trial) + _ROUNDING)) if trial.gpus else by_cpu


def _slots_per_gpu(trial: Share) -> float:
    """Return a whole number, or less than 1 if a trial has several GPUs; 0 if it has none."""
    if trial.gpus > 1:
        return 1 / trial.gpus
    return int(1 / trial.gpus + _ROUNDING) if trial.gpus else 0
