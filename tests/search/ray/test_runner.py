"""How the search starts, serves and stops Ray's process; most tests replace it by a small program."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from tempfile import TemporaryDirectory

import pytest

from tests.study.studies import no_gan, write_space
from xraytune.base.errors import DataError, MachineError, TrialError
from xraytune.base.files import read_json
from xraytune.base.records import Compute
from xraytune.data.phantom import draw_phantoms
from xraytune.nets.compute import Allocation, Share
from xraytune.search.callbacks import Callbacks
from xraytune.search.ray.runner import Runner
from xraytune.search.run import search
from xraytune.search.trials import SearchTrials
from xraytune.study.folder import StudyFolder
from xraytune.study.row import TrialRow

BEGINS = """
import sys, time
from importlib.metadata import version
from multiprocessing.connection import Connection
from xraytune.nets.compute import allocation_of
from xraytune.search.ray.orders import *
connection = Connection(int(sys.argv[1]))
"""
STARTS = (
    BEGINS
    + """
connection.send((RayStarted(dashboard=""),))
order = connection.recv()
"""
)
DOES_NOT_START = BEGINS + 'connection.send(RayDiedError("Ray did not start: why"))'
OF_GPUS = (
    STARTS
    + """
if isinstance(order, Survey):  # a new study asks a node what trials there compute on
    connection.send(((allocation_of(order.settings, has_gpu=True), {
        "compute": {"device": "cuda", "threads": 2, "precision": "bfloat16"}, "system": "of the node", "identity": "one",
        "packages": {name: version(name) for name in ("torch", "torchvision")}, "started": "now"}),))
    order = connection.recv()
print(order.allocation.trial, file=open(sys.argv[2], "a"))
"""
)
OTHER_RAY = """
import runpy, sys
from ray.air.execution._internal.actor_manager import RayActorManager
del RayActorManager._actor_task_failed
del sys.argv[1:4]  # python's own
runpy.run_module("xraytune.search.ray.driver", run_name="__main__")
"""
CLUSTER = """
import sys
from ray.cluster_utils import Cluster
cluster = Cluster(initialize_head=True, head_node_args={"num_cpus": 1, "dashboard_port": None})
print("\\naddress", cluster.address, flush=True)
sys.stdin.read()
cluster.shutdown()
"""


@contextmanager
def cluster_with(token: str) -> Iterator[str]:
    """Start a Ray cluster that asks for a token; yields its address."""
    environment = {**os.environ, "RAY_AUTH_MODE": "token", "RAY_AUTH_TOKEN": token}
    command = [sys.executable, "-c", CLUSTER]
    pipe = subprocess.PIPE
    with subprocess.Popen(command, env=environment, stdin=pipe, stdout=pipe, text=True) as process:
        assert process.stdout
        yield next(line.split()[1] for line in process.stdout if line.startswith("address "))


@pytest.fixture
def runs_instead(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[[str], None]:
    """Return a function that makes a shell line run instead of Ray's process; its last argument is the pipe."""
    script = tmp_path / "python"
    monkeypatch.setenv("PYTHON", sys.executable)

    def instead(line: str) -> None:
        script.write_text(f"#!/bin/sh\n{line}\n", encoding="utf-8")
        script.chmod(0o755)
        monkeypatch.setattr("sys.executable", str(script))

    return instead


@pytest.fixture
def program(tmp_path: Path, runs_instead: Callable[[str], None]) -> Callable[..., None]:
    """Return a function that makes a program run instead of Ray's process; `arguments` follow that of its pipe."""

    def instead(text: str, arguments: str = "", before: str = "") -> None:
        (tmp_path / "program.py").write_text(text, encoding="utf-8")
        runs_instead(f'{before} exec "$PYTHON" {tmp_path}/program.py "$4" {arguments}')

    return instead


def ignore(*_: object) -> None: ...


ONE_CORE = Allocation(trial=Share(cpus=1, gpus=0.0))


def run(
    study: StudyFolder,
    *overrides: str,
    address: str | None = None,
    note: Callable[[str], None] = ignore,
    opened: Callable[[Path, str], None] = ignore,
) -> None:
    """Run a study's trials."""
    callbacks = Callbacks(note=note, on_start=opened)
    with (
        Runner(
            study, allocation=ONE_CORE, cache=study.path, address=address, callbacks=callbacks
        ) as runner,
    ):
        runner.run(
            study,
            partial(SearchTrials, study, write_space(study.path.parent.parent, *overrides), no_gan),
        )


def terminate(*_: object) -> None:
    os.kill(os.getpid(), signal.SIGTERM)


@pytest.mark.slow
def test_ray_log_is_where_the_error_points(
    study: StudyFolder, runs_instead: Callable[[str], None]
) -> None:
    """In a thread that is not the main one, as in a web app, which cannot handle signals."""
    runs_instead("echo 'this is why' >&2; exit 1")

    with (
        ThreadPoolExecutor(1) as threads,
        pytest.raises(MachineError, match="Ray ended 3 times") as refusal,
    ):
        threads.submit(run, study).result()

    log = study.path / ".ray.log"
    assert str(log) in str(refusal.value)
    assert log.read_text(encoding="utf-8") == "this is why\n"


@pytest.mark.nightly
@pytest.mark.slow
def test_unreachable_cluster_is_reported_and_leaves_no_log(study: StudyFolder) -> None:
    with pytest.raises(MachineError, match="no Ray cluster answers"):
        run(study, address="127.0.0.1:9")

    assert not (study.path / ".ray.log").exists()


def search_one_trial(folder: Path, note: Callable[[str], None] = ignore) -> TrialRow:
    """Search with Ray itself."""
    draw_phantoms(folder / "xrays", patients=20, seed=1, image_size_px=32)
    write_space(folder)
    small = [
        "source=none",
        "backbone=small_cnn",
        "weights=none",
        "data.image_size=32",
    ]
    short = ["budget.trials=1", "budget.max_epochs=1", "budget.steps_per_epoch=2"]
    callbacks = Callbacks(note=note)
    view = search(
        folder / "small.yaml",
        overrides=small + short,
        studies=folder / "studies",
        callbacks=callbacks,
    )
    (trial,) = view.trials
    return trial


@pytest.mark.ray
@pytest.mark.slow
def test_a_search_runs_without_the_private_attributes_of_ray_and_says_so_once(
    tmp_path: Path, runs_instead: Callable[[str], None]
) -> None:
    (tmp_path / "program.py").write_text(OTHER_RAY, encoding="utf-8")
    runs_instead(f'exec "$PYTHON" {tmp_path}/program.py "$@"')
    notes: list[str] = []

    trial = search_one_trial(tmp_path, notes.append)

    assert trial.status == "complete"
    assert sum("differs from the tested ones" in note for note in notes) == 1


@pytest.mark.nightly
@pytest.mark.ray
@pytest.mark.slow
def test_a_trial_that_ray_kills_for_want_of_memory_fails_for_that_reason(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("RAY_memory_usage_threshold", "0.01")
    monkeypatch.setenv("RAY_memory_monitor_refresh_ms", "100")

    with pytest.raises(TrialError, match="its process was killed: out of memory"):
        search_one_trial(tmp_path)


@pytest.mark.ray
@pytest.mark.slow
def test_cluster_token_is_sent_and_missing_or_wrong_one_is_reported(
    study: StudyFolder, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.delenv("RAY_AUTH_TOKEN_PATH", raising=False)
    monkeypatch.delenv("RAY_AUTH_TOKEN", raising=False)
    connected: list[str] = []

    def end(_: Path, dashboard: str) -> None:
        connected.append(dashboard)
        raise KeyboardInterrupt

    with cluster_with("the cluster's") as address:
        with pytest.raises(
            MachineError,
            match=f"{address}: the Ray cluster requires a token, but this machine has none",
        ):
            run(study, address=address)
        monkeypatch.setenv("RAY_AUTH_TOKEN", "another")
        with pytest.raises(
            MachineError, match="requires a token, but this machine has another one"
        ):
            run(study, address=address)
        (tmp_path / ".ray").mkdir()
        (tmp_path / ".ray" / "auth_token").write_text("the cluster's", encoding="utf-8")
        monkeypatch.delenv("RAY_AUTH_TOKEN")
        with pytest.raises(KeyboardInterrupt):
            run(study, address=address, opened=end)

    assert connected


@pytest.mark.slow
def test_cluster_without_tokens_gets_none(
    study: StudyFolder,
    program: Callable[..., None],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """A cluster without tokens would lose each trial."""
    monkeypatch.setenv("RAY_AUTH_MODE", "token")
    program(STARTS, before=f'echo "$RAY_AUTH_MODE" > {tmp_path}/mode;')

    with pytest.raises(KeyboardInterrupt):
        run(study, address="head:6379", opened=terminate)

    assert (tmp_path / "mode").read_text(encoding="utf-8") == "disabled\n"


@pytest.mark.slow
def test_ray_startup_is_retried(
    study: StudyFolder, runs_instead: Callable[[str], None], tmp_path: Path
) -> None:
    """As when other programs keep a machine busy for half a minute."""
    for name, text in (("fails.py", DOES_NOT_START), ("starts.py", STARTS)):
        (tmp_path / name).write_text(text, encoding="utf-8")
    runs_instead(
        f'cd {tmp_path}; script=fails.py; [ -e once ] && script=starts.py; touch once; "$PYTHON" $script "$4"'
    )
    notes: list[str] = []

    with pytest.raises(KeyboardInterrupt):  # once it has started
        run(study, note=notes.append, opened=terminate)

    assert notes[:2] == [
        "starting Ray ...",
        "Ray did not start: why; restarting Ray and resuming the trials",
    ]


@pytest.mark.slow
def test_ray_that_starts_while_images_are_read_ends_if_they_cannot_be_used(
    tmp_path: Path, runs_instead: Callable[[str], None], monkeypatch: pytest.MonkeyPatch
) -> None:
    draw_phantoms(tmp_path / "xrays", patients=20, seed=1, image_size_px=32)
    next((tmp_path / "xrays" / "train").rglob("*.jpeg")).write_bytes(b"broken")
    write_space(tmp_path)
    runs_instead(f"echo $$ > {tmp_path}/started; sleep 60")

    with TemporaryDirectory(dir="/tmp") as short:
        monkeypatch.setenv("RAY_TMPDIR", short)
        with pytest.raises(DataError):
            search(
                tmp_path / "small.yaml",
                overrides=["backbone=small_cnn", "weights=none"],
                studies=tmp_path / "studies",
            )
        left = [*Path(short).iterdir()]

    assert left == []
    assert not (tmp_path / "studies").exists()
    with pytest.raises(ProcessLookupError):
        os.kill(int((tmp_path / "started").read_text()), 0)


@pytest.mark.slow
def test_search_interrupted_during_ray_startup_ends(
    study: StudyFolder, runs_instead: Callable[[str], None]
) -> None:
    runs_instead(f"echo $$ > {study.path}/pid; exec sleep 60")
    notes: list[str] = []

    def note(text: str) -> None:
        notes.append(text)
        if text == "starting Ray ...":
            terminate()

    with pytest.raises(KeyboardInterrupt):
        run(study, note=note)

    assert notes == ["starting Ray ...", "SIGTERM: stopping before Ray has started"]
    assert not (study.path / ".ray.log").exists()


@pytest.mark.slow
def test_interrupted_search_does_not_wait_forever(
    study: StudyFolder,
    program: Callable[..., None],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """As Tune would for a trial that does not fit."""
    monkeypatch.setattr("xraytune.search.ray.runner._STOP_SECONDS", 0.5)
    waits = f"import signal, time\nsignal.signal(signal.SIGUSR1, signal.SIG_IGN)\n{STARTS}time.sleep(20)\n"
    program(f"{waits}open('{tmp_path}/waited', 'w')")

    with pytest.raises(KeyboardInterrupt):
        run(study, opened=terminate)

    assert not (tmp_path / "waited").exists()


@pytest.mark.slow
def test_search_from_cpu_machine_uses_cluster_gpus(
    program: Callable[..., None], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Its trials ask Ray for a GPU, and the study records the node; the second start asks no node again."""
    monkeypatch.setattr("torch.cuda.is_available", lambda: False)
    program(OF_GPUS, f"{tmp_path}/taken")
    draw_phantoms(tmp_path / "xrays", patients=20, seed=1, image_size_px=32)
    write_space(tmp_path)
    small = [
        "source=none",
        "backbone=small_cnn",
        "weights=none",
        "data.image_size=32",
        "resources.cpus_per_trial=2",
    ]

    with pytest.raises(MachineError, match="Ray ended 3 times"):
        search(
            tmp_path / "small.yaml",
            overrides=small,
            studies=tmp_path / "studies",
            address="head:6379",
        )

    study = StudyFolder(tmp_path / "studies" / "small")
    assert (tmp_path / "taken").read_text(encoding="utf-8").splitlines()[
        0
    ] == "Share(cpus=2, gpus=1.0)"
    assert study.compute() == Compute(device="cuda", threads=2, precision="bfloat16")
    assert read_json(study.path / "environment.json")["system"] == "of the node"
