"""How many trials fit on Ray's nodes at once, and the resources that each of them gets."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from xraytune.config.settings import Resources
from xraytune.errors import MachineError, Problem
from xraytune.records import Compute


@dataclass(frozen=True, slots=True, kw_only=True)
class Node:
    """The CPU cores and GPUs of one node."""

    cpus: float
    gpus: float


@dataclass(frozen=True, slots=True, kw_only=True)
class Machine:
    """Where trials run: what they compute on, their resources (resolved), and how many run at once."""

    compute: Compute
    resources: Resources
    slots: int


def resolved(resources: Resources, *, has_gpu: bool) -> Resources:
    """Replace `gpus_per_trial: auto` by 1 if the machines that run trials have GPUs, else by 0.

    All functions that plan or start trials take resolved resources, since trials may run on other machines than this one.
    """
    if resources.gpus_per_trial != "auto":
        return resources
    return resources.model_copy(update={"gpus_per_trial": 1.0 if has_gpu else 0.0})


def gpus_of_trial(resources: Resources) -> float:
    """Return the GPUs of a trial; the resources are resolved."""
    assert resources.gpus_per_trial != "auto", "resolved"
    return float(resources.gpus_per_trial)


def slots(resources: Resources, nodes: Sequence[Node]) -> int:
    """Return how many trials run at once, each on one node.

    Raises:
        MachineError: No node has room for a trial.
    """
    count = sum(_slots_on(resources, node) for node in nodes)
    if count == 0:
        needed = f"a trial needs {resources.cpus_per_trial} CPU cores and {gpus_of_trial(resources):g} GPUs"
        each = sorted({f"{node.cpus:g} and {node.gpus:g}" for node in nodes})
        several = f"no machine has that; they have {', '.join(each) or 'none'}"
        found = f"the machine has {each[0]}" if len(nodes) == 1 else several
        fix = "lower resources.cpus_per_trial or gpus_per_trial"
        raise MachineError(Problem(f"{needed}; {found}", "resources", fix))
    return min(count, resources.concurrent or count)


def occupied(resources: Resources, share: int, nodes: Sequence[Node]) -> dict[str, float]:
    """Return the resources of a trial as Ray takes them: `share` times the usual ones, at most all of the largest node."""
    cpus, gpus = float(resources.cpus_per_trial), gpus_of_trial(resources)
    fitting = (node for node in nodes if _slots_on(resources, node))
    most_gpus, most_cpus = max((min(gpus * share, node.gpus), min(cpus * share, node.cpus)) for node in fitting)
    return {name: value for name, value in (("CPU", most_cpus), ("GPU", most_gpus)) if value}


def _slots_on(resources: Resources, node: Node) -> int:
    gpus, by_cpu = gpus_of_trial(resources), int(node.cpus / resources.cpus_per_trial)
    return min(by_cpu, int(node.gpus / gpus + 1e-9)) if gpus else by_cpu
