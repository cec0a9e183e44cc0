"""How many trials Ray's machines have room for, and what each of them occupies."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from xraytune.config.settings import Resources
from xraytune.errors import MachineError, Problem


@dataclass(frozen=True, slots=True, kw_only=True)
class Node:
    """A machine of Ray's: its CPU cores and GPUs."""

    cpus: float
    gpus: float


def resolved(resources: Resources, *, has_gpu: bool) -> Resources:
    """The same with `gpus_per_trial: auto` as a number: one GPU where trials run on machines that have them, else none.

    Everything that plans or starts trials takes resources that are resolved, for where they run is not where this runs.
    """
    if resources.gpus_per_trial != "auto":
        return resources
    return resources.model_copy(update={"gpus_per_trial": 1.0 if has_gpu else 0.0})


def gpus_of_trial(resources: Resources) -> float:
    """GPUs that a trial occupies; the resources are resolved."""
    assert resources.gpus_per_trial != "auto", "resolved"
    return float(resources.gpus_per_trial)


def slots(resources: Resources, nodes: Sequence[Node]) -> int:
    """Trials that run at once; each of them on one machine.

    Raises:
        MachineError: Not even one fits.
    """
    count = sum(_fitting(resources, node) for node in nodes)
    if count == 0:
        needed = f"a trial needs {resources.cpus_per_trial} CPU cores and {gpus_of_trial(resources):g} GPUs"
        each = sorted({f"{node.cpus:g} and {node.gpus:g}" for node in nodes})
        several = f"no machine has that; they have {', '.join(each) or 'none'}"
        found = f"the machine has {each[0]}" if len(nodes) == 1 else several
        fix = "lower resources.cpus_per_trial or gpus_per_trial"
        raise MachineError(Problem(f"{needed}; {found}", "resources", fix))
    return min(count, resources.concurrent or count)


def _fitting(resources: Resources, node: Node) -> int:
    """Trials that a machine has room for."""
    needed_gpus = gpus_of_trial(resources)
    by_cpu = int(node.cpus / resources.cpus_per_trial)
    return min(by_cpu, int(node.gpus / needed_gpus + 1e-9)) if needed_gpus else by_cpu


def occupied(resources: Resources, share: int, nodes: Sequence[Node]) -> dict[str, float]:
    """What a trial occupies in Ray's words: after it ran out of memory more, up to all of the node that has the most."""
    cpus, gpus = float(resources.cpus_per_trial), gpus_of_trial(resources)
    fitting = (node for node in nodes if _fitting(resources, node))
    most_gpus, most_cpus = max((min(gpus * share, node.gpus), min(cpus * share, node.cpus)) for node in fitting)
    return {name: value for name, value in (("CPU", most_cpus), ("GPU", most_gpus)) if value}
