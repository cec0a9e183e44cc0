"""The nodes that may run trials: all of a local Ray; of a cluster, those that lack nothing.

A node is looked at when the search starts, or when it joins. It is avoided once it lacks something,
and while it is drained.
"""

from __future__ import annotations

import platform
import time
from collections import defaultdict
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

import ray
from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy

from xraytune.base.errors import MachineError, Problem, join_names
from xraytune.base.files import nearest_folder, temporary_name, write_text
from xraytune.base.records import Node
from xraytune.search.ray.internals import draining_nodes
from xraytune.search.ray.orders import Needs

_ANSWER_SECONDS, _POLL_SECONDS = 60.0, 0.5
_MOUNT = "mount the storage of the search there, at the same path"
_INSTALL = "install the same versions on all machines"


class Nodes:
    """The nodes, by Ray's id. `needs` is set for a cluster; `left_out` collects why nodes are avoided."""

    def __init__(self) -> None:
        self.needs: Needs | None = None
        self.left_out: list[str] = []
        self.drained = set[str]()
        self._resources: dict[str, dict[str, float]] = {}
        self._environments: dict[str, dict[str, Any]] = {}
        self._out = set[str]()

    def update(self) -> None:
        """List the nodes, and look at those that have joined."""
        alive = [node for node in ray.nodes() if node["Alive"]]  # type: ignore[no-untyped-call]
        self._resources = {node["NodeID"]: node["Resources"] for node in alive}
        if self.needs is None:
            return
        self.drained = draining_nodes()
        known = self._environments.keys() | self._out | self.drained
        if joined := [node for node in self._resources if node not in known and self._has_room(node)]:
            self._look_at(joined, self.needs)

    def _look_at(self, joined: list[str], needs: Needs) -> None:
        """Let each node read and replace files that this one has written, and say what else it lacks."""
        lacking = defaultdict[Problem, list[str]](list)
        files = [temporary_name(nearest_folder(Path(folder)) / "look") for folder in needs.folders]
        try:
            for file in files:
                write_text(file, file.name, durable=False)
            answers = {}
            for node in joined:
                there = NodeAffinitySchedulingStrategy(node, soft=False)
                answers[node] = look.options(scheduling_strategy=there).remote(needs, files)
            for node, answer in answers.items():
                try:
                    name, problems, environment = ray.get(answer, timeout=_ANSWER_SECONDS)
                except ray.exceptions.RayError as error:  # such as a node without xraytune
                    last_line = str(error).strip().rpartition("\n")[2]
                    problems = [Problem(f"no answer: {last_line}", fix=_INSTALL)]
                    name, environment = f"node {node[:8]}", {}
                if problems:
                    self._out.add(node)
                else:
                    self._environments[node] = environment
                for problem in problems:
                    lacking[problem].append(name)
        finally:
            for file in files:
                file.unlink(missing_ok=True)
        for problem, names in lacking.items():
            self.left_out.append(str(Problem(f"on {join_names(names)}: {problem.what}", problem.where, problem.fix)))

    def look_at_all(self) -> tuple[dict[str, Any], list[str]]:
        """Look at all nodes with room for a trial: return the `environment` of one, and the problems of all.

        If there is none, wait for one, which an autoscaler then adds.
        """
        self.update()
        resources = self.needs.resources if self.needs else {}
        if not any(map(self._has_room, self._resources)):
            demand = ray.remote(lambda: None)
            demand.options(num_cpus=resources.get("CPU", 0), num_gpus=resources.get("GPU", 0)).remote()
        while not (self._environments or self._out):
            time.sleep(_POLL_SECONDS)
            self.update()
        problems, self.left_out = self.left_out, []
        return next(iter(self._environments.values()), {}), problems

    def leave_out(self, node: str, why: str) -> None:
        """Avoid a node that lacks something."""
        if node not in self._out:
            self.left_out.append(why)
        self._out.add(node)

    def avoided(self) -> list[str]:
        """Return the nodes that must not run trials."""
        unknown = set[str]() if self.needs is None else self._resources.keys() - self._environments.keys()
        return sorted((unknown | self._out | self.drained) & self._resources.keys())

    def usable(self) -> tuple[Node, ...]:
        """Return the other nodes."""
        usable = [self._resources[node] for node in self._resources.keys() - self.avoided()]
        return tuple(Node(cpus=node.get("CPU", 0.0), gpus=node.get("GPU", 0.0)) for node in usable)

    def _has_room(self, node: str) -> bool:
        needed = self.needs.resources if self.needs else {}
        return all(self._resources[node].get(name, 0.0) >= amount for name, amount in needed.items())


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
    from xraytune.nets.compute import choose_compute
    from xraytune.study.folder import format_versions, numeric_releases
    from xraytune.study.start import environment

    problems, content = [*missing_storage(files, Path(needs.data))], dict[str, Any]()
    try:
        gpus, cpus = needs.resources.get("GPU", 0.0), int(needs.resources.get("CPU", 0))
        content = environment(choose_compute(gpus=gpus, threads=cpus))
        if (theirs := numeric_releases(content["packages"])) != needs.releases:
            what = f"{format_versions(theirs)} instead of {format_versions(needs.releases)}"
            problems.append(Problem(what, fix=_INSTALL))
    except MachineError as error:
        fix = "set resources.gpus_per_trial=0, or install a driver that fits this torch on that machine"
        problems.append(Problem(error.problems[0].what, error.problems[0].where, fix))
    return platform.node(), problems, content
