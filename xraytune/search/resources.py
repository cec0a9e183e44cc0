"""How many trials fit on Ray's nodes at once, and what Ray reserves for each of them."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from xraytune.compute import Allocation, Share
from xraytune.config.space import Space
from xraytune.errors import MachineError, Problem
from xraytune.records import Compute


@dataclass(frozen=True, slots=True, kw_only=True)
class Node:
    """The CPU cores and GPUs of one node."""

    cpus: float
    gpus: float


@dataclass(frozen=True, slots=True, kw_only=True)
class Machine:
    """Where trials run: what they compute on, their resources, and how many run at once."""

    compute: Compute
    allocation: Allocation
    slots: int


def slots(allocation: Allocation, nodes: Sequence[Node]) -> int:
    """Return how many trials run at once, each on one node; raise MachineError if no node has room for one."""
    trial = allocation.trial
    count = sum(_slots_on(trial, node) for node in nodes)
    if count == 0:
        needed = f"a trial needs {trial.cpus} CPU cores and {trial.gpus:g} GPUs"
        each = sorted({f"{node.cpus:g} and {node.gpus:g}" for node in nodes})
        several = f"no machine has that; they have {', '.join(each) or 'none'}"
        found = f"the machine has {each[0]}" if len(nodes) == 1 else several
        fix = "lower resources.cpus_per_trial or gpus_per_trial"
        raise MachineError(Problem(f"{needed}; {found}", "resources", fix))
    return min(count, allocation.concurrent or count)


def occupied(allocation: Allocation, share: Share, times: int, nodes: Sequence[Node]) -> dict[str, float]:
    """Return `times` a share as Ray takes it: at most all of the largest node that can run a trial."""
    cpus, gpus = float(share.cpus * times), share.gpus * times
    fitting = (node for node in nodes if _slots_on(allocation.trial, node))
    most_gpus, most_cpus = max((min(gpus, node.gpus), min(cpus, node.cpus)) for node in fitting)
    return {name: value for name, value in (("CPU", most_cpus), ("GPU", most_gpus)) if value}


def reuses_processes(space: Space) -> bool:
    """Return whether a process runs several trials: those on cached features take less time than its start."""
    return set(space.combinations("trainable")) == {("head",)}


def _slots_on(share: Share, node: Node) -> int:
    by_cpu = int(node.cpus / share.cpus)
    return min(by_cpu, int(node.gpus / share.gpus + 1e-9)) if share.gpus else by_cpu
