"""The nodes that may run trials: all of a local Ray; of a cluster, those that lack nothing.

A node is looked at when the search starts, or when it joins, and avoided once it lacks something.
"""

from __future__ import annotations

import platform
import time
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from typing import Any

import ray
from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy

from xraytune.base.errors import MachineError, Problem, join_names
from xraytune.base.files import nearest_folder, temporary_name, write_text
from xraytune.base.records import Node
from xraytune.nets.compute import Allocation, allocation_of, choose_compute
from xraytune.search.ray.orders import Needs, Survey
from xraytune.search.slots import count_slots, ray_resources
from xraytune.study.folder import format_versions, numeric_releases
from xraytune.study.start import environment

_ANSWER_SECONDS = 60.0
_JOIN_MINUTES = 10
_POLL_SECONDS = 0.5
_MOUNT = "mount the storage of the search there, at the same path"
_INSTALL = "install the same versions on all machines"


class Nodes:
    """The nodes, by Ray's id. `needs` is set for a cluster; `left_out` collects why nodes are avoided."""

    def __init__(self) -> None:
        self.needs: Needs | None = None
        self.left_out: list[str] = []
        self._resources: dict[str, dict[str, float]] = {}
        self._environments: dict[str, dict[str, Any]] = {}
        self._out: set[str] = set()

    def update(self) -> None:
        """List the nodes, and look at those that have joined."""
        alive = [node for node in ray.nodes() if node["Alive"]]  # type: ignore[no-untyped-call]
        self._resources = {node["NodeID"]: node["Resources"] for node in alive}
        if self.needs is not None:
            known = self._environments.keys() | self._out
            needed = self.needs.resources.items()
            joined = [
                node
                for node, resources in self._resources.items()
                if node not in known
                and all(resources.get(name, 0.0) >= amount for name, amount in needed)
            ]
            if joined:
                self._look_at(joined, self.needs)

    def _look_at(self, joined: list[str], needs: Needs) -> None:
        """Let each node read and replace files that this one has written, and say what else it lacks."""
        lacking: dict[Problem, list[str]] = {}
        files = [temporary_name(nearest_folder(folder) / "look") for folder in needs.folders]
        try:
            for file in files:
                write_text(file, file.name, durable=False)
            answers = {}
            for node in joined:
                there = NodeAffinitySchedulingStrategy(node, soft=False)
                answers[node] = look.options(scheduling_strategy=there).remote(needs, files)
            for node, answer in answers.items():
                try:
                    name, problems, self._environments[node] = ray.get(
                        answer, timeout=_ANSWER_SECONDS
                    )
                except ray.exceptions.RayError as error:  # such as a node without xraytune
                    last_line = str(error).strip().rpartition("\n")[2]
                    name = f"node {node[:8]}"
                    problems = [Problem(f"no answer: {last_line}", fix=_INSTALL)]
                for problem in problems:
                    lacking.setdefault(problem, []).append(name)
                    self._out.add(node)
        finally:
            for file in files:
                file.unlink(missing_ok=True)
        for problem, names in lacking.items():
            self.left_out.append(
                str(Problem(f"on {join_names(names)}: {problem.what}", problem.where, problem.fix))
            )

    def survey(
        self, order: Survey, note: Callable[[str], None]
    ) -> tuple[Allocation, Needs, dict[str, Any]]:
        """Look at all nodes with room for a trial; wait up to ten minutes for the first one with cores, and a GPU if needed.

        Trials use the cluster's GPUs if it has any or no cores yet, or what is recorded of their
        study.

        Raises:
            MachineError: The cluster has no room for a trial, or nodes lack something; all of them
            are named.
        """
        self.update()
        nodes = self.usable()
        has_gpu = any(node.gpus >= 1 for node in nodes) or not any(node.cpus for node in nodes)
        if order.recorded:
            has_gpu = order.recorded.device == "cuda"
        allocation = allocation_of(order.settings, has_gpu=has_gpu)
        trial = allocation.trial
        resources = ray_resources(trial.cpus, trial.gpus)
        if any(node.cpus and (node.gpus or not trial.gpus) for node in nodes):
            count_slots(allocation, nodes)
        else:
            otherwise = (
                "; for trials without GPUs, set resources.gpus_per_trial=0" if trial.gpus else ""
            )
            wanted = f"a node with {trial.cpus} CPU cores and {trial.gpus:g} GPUs"
            note(f"waiting up to {_JOIN_MINUTES} minutes for {wanted} to join{otherwise}")
            demand = ray.remote(lambda: None)  # which an autoscaler meets
            demand.options(num_cpus=trial.cpus, num_gpus=trial.gpus).remote()
        self.needs = Needs(
            resources=resources,
            folders=order.folders,
            data=order.settings.data.path,
            releases=numeric_releases(),
        )
        deadline = time.monotonic() + 60 * _JOIN_MINUTES
        self.update()
        while not (self._environments or self._out):
            if time.monotonic() > deadline:
                fix = "start one, or lower resources.cpus_per_trial or gpus_per_trial"
                raise MachineError(Problem(f"no node with {resources} has joined", fix=fix))
            time.sleep(_POLL_SECONDS)
            self.update()
        if self.left_out:
            raise MachineError(*self.left_out)
        return allocation, self.needs, next(iter(self._environments.values()))

    def leave_out(self, node: str, why: str) -> None:
        """Avoid a node that lacks something."""
        if node not in self._out:
            self.left_out.append(why)
        self._out.add(node)

    def avoided(self) -> list[str]:
        """Return the nodes that must not run trials."""
        unknown = (
            set() if self.needs is None else self._resources.keys() - self._environments.keys()
        )
        return sorted((unknown | self._out) & self._resources.keys())

    def usable(self) -> tuple[Node, ...]:
        """Return the other nodes."""
        usable = [self._resources[node] for node in self._resources.keys() - self.avoided()]
        return tuple(Node(cpus=node.get("CPU", 0.0), gpus=node.get("GPU", 0.0)) for node in usable)


def missing_storage(files: Iterable[Path], data: Path) -> Iterator[Problem]:
    """Yield each folder in which this machine does not see, or cannot replace, a file; also that of the images."""
    for file in files:
        try:
            write_text(file, file.read_text(encoding="utf-8"))
        except FileNotFoundError:
            yield Problem("the files that the search writes here are missing", file.parent, _MOUNT)
        except (MachineError, OSError) as error:
            why = error.problems[0].what if isinstance(error, MachineError) else error.strerror
            yield Problem(f"cannot write here: {why}", file.parent, _MOUNT)
    if not data.is_dir() or not any(data.iterdir()):
        yield Problem("the images are missing", data, _MOUNT)


@ray.remote(num_cpus=0, max_calls=1)
def look(needs: Needs, files: list[Path]) -> tuple[str, list[Problem], dict[str, Any]]:
    """Return the name of the node that runs this, what it lacks, and its `environment`.

    It holds no resources, so it need not wait for any. It reads and replaces `files`, which the
    search has just written.
    """
    problems = [*missing_storage(files, needs.data)]
    content: dict[str, Any] = {}
    try:
        compute = choose_compute(
            gpus=needs.resources.get("GPU", 0.0), threads=int(needs.resources["CPU"])
        )
        content = environment(compute)
        theirs = numeric_releases(content["packages"])
        if theirs != needs.releases:
            what = f"{format_versions(theirs)} instead of {format_versions(needs.releases)}"
            problems.append(Problem(what, fix=_INSTALL))
    except MachineError as error:
        fix = "set resources.gpus_per_trial=0, or install a driver that fits this torch on that machine"
        problems.append(Problem(error.problems[0].what, error.problems[0].where, fix))
    return platform.node(), problems, content
