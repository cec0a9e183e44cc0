"""How many trials run at once on the nodes of a machine or a cluster, and the resources that each takes."""

from __future__ import annotations

from collections.abc import Sequence

from xraytune.base.errors import MachineError, Problem
from xraytune.nets.compute import Allocation, Share
from xraytune.search.messages import Node


def slots(allocation: Allocation, nodes: Sequence[Node]) -> int:
    """Return how many trials run at once, each on one node; raise MachineError if no node has room for one."""
    trial = allocation.trial
    count = sum(_slots_on(trial, node) for node in nodes)
    if count == 0:
        each = ", ".join(sorted({f"{node.cpus:g} and {node.gpus:g}" for node in nodes})) or "none"
        what = f"no machine has the {trial.cpus} CPU cores and {trial.gpus:g} GPUs that a trial needs, but only {each}"
        raise MachineError(Problem(what, "resources", "lower resources.cpus_per_trial or gpus_per_trial"))
    return min(count, allocation.concurrent or count)


def occupied(allocation: Allocation, share: Share, times: int, nodes: Sequence[Node]) -> dict[str, float]:
    """Return `times` a share as Ray takes it: at most all of the largest node that can run a trial."""
    cpus, gpus = float(share.cpus * times), share.gpus * times
    fitting = (node for node in nodes if _slots_on(allocation.trial, node))
    most_gpus, most_cpus = max((min(gpus, node.gpus), min(cpus, node.cpus)) for node in fitting)
    return {name: value for name, value in (("CPU", most_cpus), ("GPU", most_gpus)) if value}


def _slots_on(share: Share, node: Node) -> int:
    by_cpu = int(node.cpus / share.cpus)
    return min(by_cpu, int(node.gpus / share.gpus + 1e-9)) if share.gpus else by_cpu
