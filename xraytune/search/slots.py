"""How many trials run at once and what each holds, which follow from an `Allocation`.

A slot is the room for one trial. Ray places a process on one node, and its share of a GPU on one
GPU. So a GPU has floor(1 / share) slots, whatever is left over.
"""

from collections.abc import Sequence
from math import floor

from xraytune.base.records import Node
from xraytune.space.allocation import Allocation, Share
from xraytune.study.trial import Trial


def count_slots(allocation: Allocation, nodes: Sequence[Node]) -> int:
    """Return how many trials run at once, each on one node; 0 if no node has room for one."""
    count = sum(_slots_on(node, allocation.trial) for node in nodes)
    return min(count, allocation.concurrent or count)


def reserve(allocation: Allocation, nodes: Sequence[Node], trial: Trial) -> None:
    """Set the resources that a trial holds while it runs, by Ray's names, and its slots.

    A trial that ran out of memory gets a GPU for itself or, without GPUs, the largest node.
    """
    cpus = float(allocation.trial.cpus)
    gpus = allocation.trial.gpus
    trial.slots = 1
    lacks_memory = any(failure["cause"] == "memory" for failure in trial.failures)
    if lacks_memory and gpus:
        trial.slots = floor(max(1, 1 / gpus))
        gpus = max(1.0, gpus)
    elif lacks_memory:
        largest = max(nodes, key=lambda node: node.cpus)
        trial.slots = _slots_on(largest, allocation.trial)
        cpus = largest.cpus
    trial.resources = {"CPU": cpus, "GPU": gpus} if gpus else {"CPU": cpus}


def _slots_on(node: Node, trial: Share) -> int:
    slots = floor(node.cpus / trial.cpus)
    if trial.gpus >= 1:
        slots = min(slots, floor(node.gpus / trial.gpus))
    elif trial.gpus:
        slots = min(slots, floor(node.gpus) * floor(1 / trial.gpus))
    return slots
