"""A search on a Ray cluster whose nodes are killed, cut off and added, all on one machine.

`XRAYTUNE_FAULTS=all` kills a worker node every 30 s for ten minutes; else one is cut off.
"""

from __future__ import annotations

import gc
import os
import platform
import random
import re
import signal
import subprocess
import sys
import time
import traceback
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

from tests.faults.ray_processes import IS_LONG, SPACE, TRIAL, descendants, killable
from tests.pair_files import draw_xrays
from xraytune.base.errors import MachineError
from xraytune.search.callbacks import NO_CALLBACKS
from xraytune.search.run import search
from xraytune.study.status import status

if TYPE_CHECKING:
    from ray.cluster_utils import Cluster

pytestmark = [
    pytest.mark.ray,
    # Ray leaves processes and sockets of nodes that ended to the garbage collector.
    pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning"),
]

HEALTH = {
    "health_check_initial_delay_ms": 1000,
    "health_check_period_ms": 250,
    "health_check_timeout_ms": 1000,
    "health_check_failure_threshold": 3,
    "grpc_client_keepalive_time_ms": 3000,
    "grpc_client_keepalive_timeout_ms": 3000,
}
"""What docs/cluster.md tells people to set on the head."""
ONE_TRIAL = ["source=none", "scheduler={name: none}", "resources.gpus_per_trial=0"]


@contextmanager
def cluster_of(workers: int, **head: Any) -> Iterator[Cluster]:
    """A head without cores, and nodes of two cores."""
    from ray.cluster_utils import Cluster  # seconds, which only these tests should pay

    # At its usual port, Ray leaves a socket open if another dashboard is there.
    head |= {"num_cpus": 0, "dashboard_port": None}
    cluster = Cluster(initialize_head=True, head_node_args=head)
    try:
        for _ in range(workers):
            cluster.add_node(num_cpus=2)
        yield cluster
    finally:
        with waited_for(*cluster.list_all_nodes()):  # type: ignore[no-untyped-call]
            cluster.shutdown()  # type: ignore[no-untyped-call]


@pytest.fixture(autouse=True)
def _collected() -> Iterator[None]:
    """Close clusters here, where their warnings are ignored, and not during the next test.

    So do the frames of its traceback, if it fails.
    """
    yield
    if (last := getattr(sys, "last_traceback", None)) is not None:
        traceback.clear_frames(last)
    gc.collect()


@contextmanager
def waited_for(*nodes: Any) -> Iterator[None]:
    """The processes of nodes that the block ends are waited for, which Ray does not do."""
    processes = [
        one.process for node in nodes for started in node.all_processes.values() for one in started
    ]
    yield
    for process in processes:
        process.wait()


def processes_of(node: Any) -> list[int]:
    """The raylet of a node, and all that runs on it."""
    raylet = int(node.all_processes["raylet"][0].process.pid)
    return [raylet, *(pid for pid, _ in descendants(raylet))]


def runs_a_trial(node: Any) -> bool:
    return any(re.search(TRIAL, line) for _, line in descendants(processes_of(node)[0]))


def send(pids: list[int], number: signal.Signals) -> None:
    for pid in pids:
        with suppress(ProcessLookupError):
            os.kill(pid, number)


@pytest.fixture
def space(tmp_path: Path) -> Path:
    """A space of one short trial, `gpus_per_trial: auto`."""
    draw_xrays(tmp_path, patients=20)
    file = tmp_path / "space.yaml"
    short = SPACE.replace("max_epochs: 12, steps_per_epoch: 40", "max_epochs: 1")
    file.write_text(short)
    return file


@contextmanager
def node_apart(cluster: Cluster, hidden: Path) -> Iterator[None]:
    """A node of two cores on which another disk is mounted over a folder, once it has joined."""
    from ray._raylet import GcsClient  # type: ignore[attr-defined]

    client = GcsClient(address=cluster.address)
    before = len(client.get_all_node_info())
    apart = ["unshare", "--mount", "sh", "-c"]
    mount = f"mount -t tmpfs tmpfs {hidden}"
    if subprocess.run([*apart, mount], check=False, capture_output=True).returncode:
        pytest.skip("a node cannot have other mounts here: `unshare --mount` is not allowed")
    ray = Path(sys.executable).with_name("ray")
    start = f"{mount} && exec {ray} start --address={cluster.address} --num-cpus=2 --block"
    with subprocess.Popen([*apart, start], stdout=subprocess.DEVNULL) as process:
        try:
            while len(client.get_all_node_info()) == before:
                assert process.poll() is None, "the node has not started"
                time.sleep(0.1)
            yield
        finally:
            process.terminate()


def test_a_node_that_does_not_see_the_study_is_named_and_no_trial_fails(space: Path) -> None:
    studies = space.parent / "studies"
    studies.mkdir()

    with cluster_of(0) as cluster, node_apart(cluster, studies):
        with pytest.raises(MachineError) as refusal:
            search(space, studies=studies, overrides=ONE_TRIAL, address=cluster.address)

    study = studies / "killed"
    what = f"on {platform.node()}: the study that is searched is not at {study}"
    assert what in str(refusal.value)
    assert [trial.status for trial in status(study).trials] == ["unfinished"]


def test_a_node_that_does_not_see_the_study_gets_no_more_trials_and_others_run_all(
    space: Path,
) -> None:
    studies = space.parent / "studies"
    studies.mkdir()
    notes: list[str] = []

    with cluster_of(1) as cluster, node_apart(cluster, studies):
        found = search(
            space,
            studies=studies,
            overrides=[*ONE_TRIAL, "budget.trials=4", "lr={min: 1e-4, max: 1e-2}"],
            address=cluster.address,
            callbacks=replace(NO_CALLBACKS, note=notes.append),
        )

    assert found.counts == {"complete": 4}
    assert len([note for note in notes if "gets no more trials" in note]) == 1


def test_a_search_waits_for_the_first_node_of_a_head_without_cores(space: Path) -> None:
    """As where an autoscaler adds it."""
    with cluster_of(0) as cluster:

        def join(note: str) -> None:
            if note.startswith("waiting for a node"):
                cluster.add_node(num_cpus=2)

        found = search(
            space,
            studies=space.parent / "studies",
            overrides=ONE_TRIAL,
            address=cluster.address,
            callbacks=replace(NO_CALLBACKS, note=join),
        )

    assert found.counts == {"complete": 1}


def test_trials_of_a_lost_node_resume_elsewhere_and_new_node_is_used(tmp_path: Path) -> None:
    """A killed node stands for a power cut; one that was cut off is silent, and comes back."""
    dice = random.Random(3)
    faults = [signal.SIGKILL] * 20 if IS_LONG else [signal.SIGSTOP]
    with cluster_of(2, _system_config=HEALTH) as cluster:
        search = killable(tmp_path, "--address", cluster.address)
        for fault in faults:
            began = time.monotonic()
            search.train_on(more_epochs=2, trials_at_once=2)
            search.wait_for(lambda: any(map(runs_a_trial, cluster.worker_nodes)))
            before = search.claims()
            victim = dice.choice([*filter(runs_a_trial, cluster.worker_nodes)])
            struck = processes_of(victim)[: 1 if fault is signal.SIGKILL else None]
            send(struck, fault)
            search.wait_for(lambda before=before: search.claims() != before)  # type: ignore[misc]
            send(struck, signal.SIGCONT)
            with waited_for(victim):
                cluster.remove_node(victim, allow_graceful=False)
            cluster.add_node(num_cpus=2)
            if IS_LONG:
                time.sleep(max(0.0, began + 30 - time.monotonic()))
        search.finish()
