"""The nodes of Ray, and what one of a cluster computes on."""

import platform
from collections.abc import Callable
from typing import Any

import ray

from xraytune.base.errors import MachineError, Problem
from xraytune.base.records import Node
from xraytune.space.allocation import Allocation, Share, allocation_of
from xraytune.space.settings import Settings
from xraytune.study.start import environment

_NOTE_SECONDS = 5


def list_nodes() -> list[Node]:
    """Return the nodes that are there now."""
    nodes: list[dict[str, Any]] = ray.nodes()  # type: ignore[no-untyped-call]
    alive = [node["Resources"] for node in nodes if node["Alive"]]
    return [Node(cpus=node.get("CPU", 0.0), gpus=node.get("GPU", 0.0)) for node in alive]


def survey(
    settings: Settings, has_gpu: bool | None, note: Callable[[str], None]
) -> tuple[Allocation, dict[str, Any]]:
    """Return the resources of trials, and the `environment` of a node with room for one.

    Wait for such a node, which an autoscaler may have to start. Without `has_gpu`, trials use GPUs
    if the cluster has any, or no cores yet.

    Raises:
        MachineError: The node lacks xraytune, or torch sees no GPU there.
    """
    if has_gpu is None:
        nodes = list_nodes()
        has_gpu = any(node.gpus >= 1 for node in nodes) or not any(node.cpus for node in nodes)
    allocation = allocation_of(settings, has_gpu=has_gpu)
    trial = allocation.trial
    answer = describe_node.options(num_cpus=trial.cpus, num_gpus=trial.gpus).remote(trial)
    if not ray.wait([answer], timeout=_NOTE_SECONDS)[0]:
        fix = "lower resources.cpus_per_trial or gpus_per_trial"
        note(f"waiting for a node with {trial} free; if the cluster has none, {fix}")
    try:
        found = ray.get(answer)
    except ray.exceptions.RayError as error:  # such as a node without xraytune
        last_line = str(error).strip().rpartition("\n")[2]
        fix = "install the same versions on all machines"
        raise MachineError(f"a node does not answer: {last_line}", fix=fix) from error
    if isinstance(found, Problem):
        raise MachineError(found)
    return allocation, found


@ray.remote(max_calls=1)
def describe_node(trial: Share) -> dict[str, Any] | Problem:
    """Return the `environment` of the node that runs this, or what it lacks."""
    from xraytune.nets.compute import choose_compute

    try:
        return environment(choose_compute(gpus=trial.gpus, threads=trial.cpus))
    except MachineError as error:
        problem = error.problems[0]
        return Problem(f"on {platform.node()}: {problem.what}", problem.where, problem.fix)
