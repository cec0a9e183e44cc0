"""How trials of the loop become those of Tune, and the end of the process after its search."""

import sys
from multiprocessing import Pipe
from typing import Any

import pytest

from tests.in_process import other_process
from tests.study.studies import direct
from xraytune.search.loop import TuneRun, UnfitNodeError
from xraytune.search.ray.tuning import JournalSearcher, Nodes, node_of_error
from xraytune.space.allocation import Allocation, Share
from xraytune.study.folder import StudyFolder

CHANGED_RAY = """
import sys
from xraytune.search.ray.internals import start_for_one_search, survive_memory_monitor
for name in ("ray._private.parameter", "ray.air.execution._internal.actor_manager"):
    sys.modules[name] = None  # a release without this private module
start_for_one_search()
survive_memory_monitor()
"""
LOGS = """
import os, sys
from pathlib import Path
from xraytune.search.ray.tuning import log_to
print("starting Ray")
log_to(Path(sys.argv[1]))
print("a warning", flush=True)
os.system("echo of a process of Ray >&2")
os.kill(os.getpid(), 9)
"""


def test_a_release_of_ray_without_the_private_modules_can_be_used() -> None:
    assert other_process(sys.executable, "-c", CHANGED_RAY).stderr == ""


def test_what_the_process_of_ray_writes_while_it_runs_trials_is_kept_in_the_study(
    study: StudyFolder,
) -> None:
    """Whatever ends it, and also that of earlier starts."""
    for _ in range(2):
        done = other_process(sys.executable, "-c", LOGS, str(study.log_path))
        assert (done.returncode, done.stdout) == (-9, "starting Ray\n")

    lines = study.log_path.read_text().splitlines()
    assert lines[1:3] == ["a warning", "of a process of Ray"] == lines[4:]
    assert lines[3].endswith(" trials start")


def test_without_nodes_it_waits_and_says_so_once(
    study: StudyFolder, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("xraytune.search.ray.tuning._LIST_NODES_SECONDS", 0.0)
    nodes: list[dict[str, Any]] = []
    monkeypatch.setattr("ray.nodes", lambda: nodes)
    search, theirs = Pipe()
    loop = direct(study)
    request = TuneRun(
        make_loop=lambda _: loop,
        study_folder=study,
        cache=study.path,
        allocation=Allocation(trial=Share(cpus=1, gpus=0.0)),
    )
    unfit_nodes = Nodes(request.allocation, lambda _: None)
    searcher = JournalSearcher(theirs, loop, request, unfit_nodes)

    asked = [searcher.suggest("") for _ in range(3)]

    assert asked == [None] * 3
    message = search.recv()
    assert (message.name, search.poll()) == ("note", False)
    assert "a node with 1 CPU cores and 0 GPUs" in message.arguments[0]
    nodes.append({"NodeID": "aa", "Alive": True, "Resources": {"CPU": 1.0}})
    config = searcher.suggest("")
    assert isinstance(config, dict)
    assert config["job"].number == 0


def test_an_unfit_node_is_named_once_and_the_last_one_ends_the_search(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    records = [
        {"NodeID": name, "Alive": True, "Resources": {"CPU": 2.0}, "NodeManagerAddress": address}
        for name, address in (("aa", "10.0.0.1"), ("bb", "10.0.0.2"), ("cc", "10.0.0.2"))
    ]
    monkeypatch.setattr("ray.nodes", lambda: records)
    notes: list[str] = []
    nodes = Nodes(Allocation(trial=Share(cpus=2, gpus=0.0)), notes.append)
    full = UnfitNodeError("on a: the disk is full")

    for node in ("aa", "aa", "bb"):
        nodes.leave_out(node, full)

    assert len(notes) == 2
    assert "the disk is full" in notes[0]
    assert len(nodes.list()) == 1
    with pytest.raises(UnfitNodeError, match="the disk is full"):
        nodes.leave_out("cc", full)
    assert node_of_error("ray::TrialActor.__init__() (pid=7, ip=10.0.0.1)") == "aa"
    assert node_of_error("ip=10.0.0.2, where two nodes are") is None
