"""How many trials run at once, and what each holds: follows from the shares of an `Allocation`.

A slot is the room for one trial. Ray places a process on one node, and its share of a GPU on one
GPU. So a GPU has floor(1 / share) slots, whatever is left over.
"""

from __future__ import annotations

from collections.abc import Sequence
from math import floor
from typing import NamedTuple

from xraytune.base.records import Node
from xraytune.nets.compute import Allocation, Share
from xraytune.study.trial import Trial


class Held(NamedTuple):
    """What a process holds.

    Resources as Ray takes them, and the slots that no other trial can use meanwhile.
    """

    resources: dict[str, float]
    slots: int


def count_slots(allocation: Allocation, nodes: Sequence[Node]) -> int:
    """Return how many trials run at once, each on one node; 0 if no node has room for one."""
    count = sum(_slots_on(node, allocation.trial) for node in nodes)
    return min(count, allocation.concurrent or count)


def hold(allocation: Allocation, nodes: Sequence[Node], trial: Trial) -> Held:
    """Return what a trial holds.

    If it ran out of memory, it is a GPU alone, or without GPUs the largest node.
    """
    cpus = float(allocation.trial.cpus)
    gpus = allocation.trial.gpus
    slots = 1
    if trial.lacks_memory and gpus:
        slots = floor(max(1, 1 / gpus))
        gpus = max(1.0, gpus)
    elif trial.lacks_memory:
        largest = max(nodes, key=lambda node: node.cpus)
        slots = _slots_on(largest, allocation.trial)
        cpus = largest.cpus
    return Held({"CPU": cpus, "GPU": gpus} if gpus else {"CPU": cpus}, slots)


def _slots_on(node: Node, trial: Share) -> int:
    slots = floor(node.cpus / trial.cpus)
    if trial.gpus >= 1:
        slots = min(slots, floor(node.gpus / trial.gpus))
    elif trial.gpus:
        slots = min(slots, floor(node.gpus) * floor(1 / trial.gpus))
    return slots
