"""The nodes that may run trials: all but those on which a trial lacked something."""

from __future__ import annotations

import platform
import time
from collections.abc import Callable
from typing import Any

import ray
from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy

from xraytune.base.errors import MachineError, Problem
from xraytune.base.records import Node
from xraytune.nets.compute import Allocation, Share, allocation_of, choose_compute
from xraytune.search.ray.orders import Survey
from xraytune.search.slots import count_slots, ray_resources
from xraytune.study.start import environment

_ANSWER_SECONDS = 60.0
_JOIN_MINUTES = 10
_POLL_SECONDS = 0.5


class Nodes:
    """The nodes of Ray, by Ray's id. Call `update` before anything else."""

    def __init__(self) -> None:
        self._resources: dict[str, dict[str, float]] = {}
        self._out: set[str] = set()

    def update(self) -> None:
        """List the nodes."""
        alive = [node for node in ray.nodes() if node["Alive"]]  # type: ignore[no-untyped-call]
        self._resources = {node["NodeID"]: node["Resources"] for node in alive}

    def leave_out(self, node: str) -> None:
        """Avoid a node that lacks something."""
        self._out.add(node)

    def avoided(self) -> list[str]:
        """Return the nodes that must not run trials."""
        return sorted(self._out & self._resources.keys())

    def usable(self) -> tuple[Node, ...]:
        """Return the other nodes."""
        usable = [self._resources[node] for node in self._resources.keys() - self._out]
        return tuple(Node(cpus=node.get("CPU", 0.0), gpus=node.get("GPU", 0.0)) for node in usable)

    def find(self, needed: dict[str, float]) -> str:
        """Return a node with these resources, free or not; "" if there is none."""
        for node, resources in self._resources.items():
            if all(resources.get(name, 0.0) >= amount for name, amount in needed.items()):
                return node
        return ""


def survey(order: Survey, note: Callable[[str], None]) -> tuple[Allocation, dict[str, Any]]:
    """Return the resources of trials, and the `environment` of a node that can run one, for which it waits ten minutes.

    Unless the order says so, trials use GPUs if the cluster has any, or no cores yet.

    Raises:
        MachineError: The cluster has no room for a trial, or torch sees no GPU on the node.
    """
    listed = Nodes()
    listed.update()
    nodes = listed.usable()
    has_gpu = order.has_gpu
    if has_gpu is None:
        has_gpu = any(node.gpus >= 1 for node in nodes) or not any(node.cpus for node in nodes)
    allocation = allocation_of(order.settings, has_gpu=has_gpu)
    trial = allocation.trial
    if any(node.cpus and (node.gpus or not trial.gpus) for node in nodes):
        count_slots(allocation, nodes)
    else:
        wanted = f"a node with {trial.cpus} CPU cores and {trial.gpus:g} GPUs"
        without = "; for trials without GPUs, set resources.gpus_per_trial=0" if trial.gpus else ""
        note(f"waiting up to {_JOIN_MINUTES} minutes for {wanted} to join{without}")
        demand = ray.remote(lambda: None)  # which an autoscaler meets
        demand.options(num_cpus=trial.cpus, num_gpus=trial.gpus).remote()
    needed = ray_resources(trial.cpus, trial.gpus)
    deadline = time.monotonic() + 60 * _JOIN_MINUTES
    while not listed.find(needed):
        if time.monotonic() > deadline:
            fix = "start one, or lower resources.cpus_per_trial or gpus_per_trial"
            raise MachineError(Problem(f"no node with {needed} has joined", fix=fix))
        time.sleep(_POLL_SECONDS)
        listed.update()
    there = NodeAffinitySchedulingStrategy(listed.find(needed), soft=False)
    try:
        answer = describe_node.options(scheduling_strategy=there).remote(trial)
        found = ray.get(answer, timeout=_ANSWER_SECONDS)
    except ray.exceptions.RayError as error:  # such as a node without xraytune
        last_line = str(error).strip().rpartition("\n")[2]
        fix = "install the same versions on all machines"
        raise MachineError(Problem(f"a node does not answer: {last_line}", fix=fix)) from error
    if isinstance(found, Problem):
        raise MachineError(found)
    return allocation, found


@ray.remote(num_cpus=0, max_calls=1)
def describe_node(trial: Share) -> dict[str, Any] | Problem:
    """Return the `environment` of the node that runs this, or what it lacks; holds no resources, so need not wait."""
    try:
        return environment(choose_compute(gpus=trial.gpus, threads=trial.cpus))
    except MachineError as error:
        problem = error.problems[0]
        return Problem(f"on {platform.node()}: {problem.what}", problem.where, problem.fix)
