"""How trials of the loop become those of Tune, what is changed in Tune, and the end of the process after its search."""

import os
import signal
import subprocess
import sys
import threading
import time
from contextlib import suppress
from multiprocessing import Pipe
from pathlib import Path
from tempfile import TemporaryDirectory
from types import SimpleNamespace
from typing import Any

import pytest
from ray.tune.search import Searcher

from tests.study.studies import direct, ended
from xraytune.nets.compute import Allocation, Share
from xraytune.search.loop import TrialLoop
from xraytune.search.messages import TrialFailed, TrialMessage
from xraytune.search.ray.nodes import Nodes
from xraytune.search.ray.orders import TuneRun
from xraytune.search.ray.tuning import JournalScheduler, JournalSearcher
from xraytune.study.folder import StudyFolder
from xraytune.study.row import ended_trials


@pytest.mark.slow
def test_a_search_killed_while_its_driver_is_imported_leaves_neither_process_nor_folder() -> None:
    search = subprocess.Popen(["true"])
    search.wait()
    ours, theirs = Pipe()
    with TemporaryDirectory(dir="/tmp") as parent, ours, theirs:
        folder = Path(parent, "xray")
        folder.mkdir()
        driver = subprocess.Popen(
            [
                *(sys.executable, "-P", "-m", "xraytune.search.ray.driver"),
                *(str(theirs.fileno()), str(folder), "", "1", str(search.pid), "study"),
            ],
            pass_fds=(theirs.fileno(),),
            env={**os.environ, "RAY_TMPDIR": str(folder), "TMPDIR": str(folder)},
            start_new_session=True,  # it kills its own
        )
        try:
            code = driver.wait(timeout=60)
        finally:
            with suppress(ProcessLookupError):
                os.killpg(driver.pid, signal.SIGKILL)
        end = time.monotonic() + 60
        while folder.exists() and time.monotonic() < end:
            time.sleep(0.1)

        assert (code, folder.exists()) == (1, False)


def shares(cpus: int, gpus: float) -> Allocation:
    return Allocation(trial=Share(cpus=cpus, gpus=gpus))


class Tune:
    """Nodes of these CPU cores and GPUs, and what Tune asks for their trials."""

    def __init__(self, loop: TrialLoop, allocation: Allocation, patch: pytest.MonkeyPatch) -> None:
        self.loop, self.patch = loop, patch
        self.search, theirs = Pipe()
        self.nodes = Nodes()
        order = TuneRun(
            make_loop=lambda _: loop,
            folder=loop.folder.path,
            driver_lock=loop.folder.driver_lock_path,
            study="small",
            cache=loop.folder.path,
            allocation=allocation,
        )
        self.searcher = JournalSearcher(theirs, loop, order, self.nodes)
        self.scheduler = JournalScheduler(theirs, loop, order, self.nodes)

    def has(self, *nodes: tuple[int, int]) -> None:
        """Ray has these nodes from now on."""
        alive = [
            {
                "Alive": True,
                "NodeID": f"{number}",
                "Resources": {"CPU": float(cpus), "GPU": float(gpus)},
            }
            for number, (cpus, gpus) in enumerate(nodes)
        ]
        self.patch.setattr("ray.nodes", lambda: alive)
        self.nodes.update()

    def start(self) -> dict[str, Any]:
        """The config of the next trial."""
        config = self.searcher.suggest("")
        assert isinstance(config, dict)
        return config

    def report(self, number: int, message: TrialMessage) -> str:
        """What Tune does after a message of a trial."""
        trial = SimpleNamespace(config={"job": SimpleNamespace(number=number)})
        return self.scheduler.on_trial_result(None, trial, {"message": message, "node": "0"})


def test_without_nodes_it_waits_and_says_so_once(
    study: StudyFolder, monkeypatch: pytest.MonkeyPatch
) -> None:
    tune = Tune(direct(study), shares(1, 0.0), monkeypatch)
    tune.has((0, 0))

    asked = [tune.searcher.suggest("") for _ in range(3)]

    assert asked == [None] * 3
    name, (note,) = tune.search.recv()
    assert (name, "waiting for a machine to join" in note, tune.search.poll()) == (
        "note",
        True,
        False,
    )
    tune.has((1, 0))
    assert tune.start()["job"].number == 0


def test_resources_after_out_of_memory_are_on_one_machine(
    study: StudyFolder, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Not the cores of one and the GPU of another, for which it would wait for ever; its process may use all of them."""
    tune = Tune(direct(study), shares(2, 0.125), monkeypatch)
    tune.has((8, 0), (3, 1))
    taken = []
    for _ in range(3):
        config = tune.start()
        taken.append((config["resources"], config["job"].gpu_share))
        tune.loop.on_trial_lost(0, out_of_memory=True)

    assert taken == [
        ({"CPU": 2.0, "GPU": 0.125}, 0.125),
        ({"CPU": 3.0, "GPU": 0.25}, 0.25),
        ({"CPU": 3.0, "GPU": 0.5}, 0.5),
    ]


@pytest.mark.parametrize(("share", "at_once"), [(0.5, 16), (0.3, 24)])
def test_no_trial_waits_while_a_share_of_eight_gpus_is_free(
    study: StudyFolder, monkeypatch: pytest.MonkeyPatch, share: float, at_once: int
) -> None:
    """Of 27 trials, which end in another order than they started."""
    tune = Tune(direct(study, "budget.trials=27"), shares(1, share), monkeypatch)
    tune.has((64, 8))
    free = [1.0] * 8
    running: dict[int, tuple[int, float]] = {}
    counts = []
    while (config := tune.searcher.suggest("")) != Searcher.FINISHED:
        if isinstance(config, dict):
            gpus = config["resources"]["GPU"]
            gpu = min((left, gpu) for gpu, left in enumerate(free) if left >= gpus)[1]
            free[gpu] -= gpus
            running[config["job"].number] = gpu, gpus
            continue
        counts.append(len(running))
        number = min(running, key=lambda number: (number * 7) % 27)
        gpu, gpus = running.pop(number)
        free[gpu] += gpus
        assert tune.report(number, ended(0.5)) == "STOP"
    assert counts == [at_once] * (28 - at_once) + [*range(at_once - 1, 0, -1)]


def test_what_the_loop_raises_is_raised_by_the_search_and_no_fault_of_a_trial(
    study: StudyFolder, monkeypatch: pytest.MonkeyPatch
) -> None:
    tune = Tune(direct(study), shares(1, 0.0), monkeypatch)
    tune.has((1, 0))
    tune.start()
    stopped = TrialFailed(reason="the disk is full", cause="machine")

    threading.Thread(
        target=tune.report, args=(0, stopped), daemon=True
    ).start()  # it waits for its end

    assert tune.search.recv() == "has results"
    assert "the disk is full" in str(tune.search.recv())
    assert ended_trials(study) == {}
