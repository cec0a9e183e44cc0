"""How the search starts, serves and ends Ray's process; most tests replace that process."""

import os
import subprocess
import sys
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path
from tempfile import TemporaryDirectory

import pytest

from tests.pair_files import draw_xrays
from tests.search.ray.conftest import run
from tests.study.studies import write_space
from xraytune.base.errors import DataError, MachineError, TrialError
from xraytune.base.files import read_json
from xraytune.base.records import Compute
from xraytune.search.run import search
from xraytune.study.folder import StudyFolder

STARTS = """
import sys, time
from importlib.metadata import version
from multiprocessing.connection import Connection
from xraytune.search.loop import Answer, Call, Survey
from xraytune.space.allocation import allocation_of
connection = Connection(int(sys.argv[1]))
assert connection.recv() == "start"
request = connection.recv()
"""
OF_GPUS = (
    STARTS
    + """
if isinstance(request, Survey):  # a new study asks a node what trials there compute on
    connection.send(Answer(value=(allocation_of(request.settings, has_gpu=True), {
        "compute": {"device": "cuda", "threads": 2, "precision": "bfloat16"},
        "system": "of the node",
        "identity": "one",
        "packages": {name: version(name) for name in ("torch", "torchvision")},
        "started": "now"})))
    request = connection.recv()
connection.send(Call(name="on_start", arguments=(request.study_folder.path, "")))
print(repr(request.allocation.trial), file=open(sys.argv[2], "a"))
"""
)
CLUSTER = """
import sys
from ray.cluster_utils import Cluster
cluster = Cluster(initialize_head=True, head_node_args={"num_cpus": 1, "dashboard_port": None})
print("\\naddress", cluster.address, flush=True)
sys.stdin.read()
cluster.shutdown()
"""
SMALL = ("source=none", "backbone=small_cnn", "weights=none", "data.image_size=32")


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
def space(here: Path) -> Path:
    """A space file next to its X-rays, in the current folder."""
    draw_xrays(here, patients=20)
    write_space(here)
    return here / "small.yaml"


@pytest.fixture
def runs_instead(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[[str], None]:
    """Make a shell line run instead of Ray's process; its argument $3 is the pipe."""
    script = tmp_path / "python"
    monkeypatch.setenv("PYTHON", sys.executable)

    def instead(line: str) -> None:
        script.write_text(f"#!/bin/sh\n{line}\n")
        script.chmod(0o755)
        monkeypatch.setattr("sys.executable", str(script))

    return instead


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

    assert str(study.log_path) in str(refusal.value)
    assert study.log_path.read_text() == "this is why\n" * 3


@pytest.mark.nightly
def test_unreachable_cluster_is_reported_and_leaves_no_log(study: StudyFolder) -> None:
    with pytest.raises(MachineError, match="cannot connect to the Ray cluster"):
        run(study, address="127.0.0.1:9")

    assert not study.log_path.exists()


@pytest.mark.nightly
@pytest.mark.ray
def test_a_trial_that_ray_kills_for_want_of_memory_fails_for_that_reason(
    space: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("RAY_memory_usage_threshold", "0.01")
    monkeypatch.setenv("RAY_memory_monitor_refresh_ms", "100")
    short = ("budget.trials=1", "budget.max_epochs=1")

    with pytest.raises(TrialError, match="killed: out of memory"):
        search(space, overrides=(*SMALL, *short))


@pytest.mark.ray
def test_cluster_token_is_sent_and_a_missing_one_is_reported(
    study: StudyFolder, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.setenv("RAY_AUTH_MODE", "token")
    monkeypatch.delenv("RAY_AUTH_TOKEN_PATH", raising=False)
    monkeypatch.delenv("RAY_AUTH_TOKEN", raising=False)
    connected = list[str]()

    def end(_: Path, dashboard: str) -> None:
        connected.append(dashboard)
        raise KeyboardInterrupt

    with cluster_with("the cluster's") as address:
        with pytest.raises(MachineError, match=f"{address}: cannot connect.*\n.*requires a token"):
            run(study, address)
        (tmp_path / ".ray").mkdir()
        (tmp_path / ".ray/auth_token").write_text("the cluster's")
        with pytest.raises(KeyboardInterrupt):
            run(study, address, on_start=end)

    assert connected


def test_a_ray_that_dies_is_started_again(
    study: StudyFolder, runs_instead: Callable[[str], None], tmp_path: Path
) -> None:
    """As when other programs keep a machine busy for half a minute."""
    (tmp_path / "starts.py").write_text(STARTS + "connection.send(Answer())")
    runs_instead(
        f'cd {tmp_path}; [ -e once ] && exec "$PYTHON" starts.py "$3"; touch once; echo why'
    )
    notes = list[str]()

    run(study, note=notes.append)

    assert "Ray died; restarting Ray" in notes[1]
    assert study.log_path.read_text() == "why\n"


def test_why_the_process_of_a_cluster_died_is_reported(
    space: Path, runs_instead: Callable[[str], None]
) -> None:
    runs_instead("echo first; echo 'this is why' >&2; exit 1")

    with pytest.raises(MachineError, match="head:6379: Ray died: this is why"):
        search(space, overrides=SMALL, address="head:6379")


def test_ray_that_starts_while_images_are_read_ends_if_they_cannot_be_used(
    space: Path,
    tmp_path: Path,
    runs_instead: Callable[[str], None],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    next((tmp_path / "xrays/train").rglob("*.jpeg")).write_bytes(b"broken")
    runs_instead(f"echo $$ > {tmp_path}/started; sleep 60")

    with TemporaryDirectory(dir="/tmp") as short:
        monkeypatch.setenv("RAY_TMPDIR", short)
        with pytest.raises(DataError):
            search(space, overrides=SMALL)
        left = [*Path(short).iterdir()]

    assert left == []
    assert not (tmp_path / "studies").exists()
    with pytest.raises(ProcessLookupError):
        os.kill(int((tmp_path / "started").read_text()), 0)


def test_search_from_cpu_machine_uses_cluster_gpus(
    space: Path,
    runs_instead: Callable[[str], None],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Its trials ask for a GPU, and the study records the node; a restart does not ask again."""
    monkeypatch.setattr("torch.cuda.is_available", lambda: False)
    (tmp_path / "program.py").write_text(OF_GPUS)
    runs_instead(f'exec "$PYTHON" {tmp_path}/program.py "$3" {tmp_path}/taken')

    with pytest.raises(MachineError, match="Ray ended 3 times"):
        search(
            space,
            overrides=(*SMALL, "resources.cpus_per_trial=2"),
            address="head:6379",
        )

    study = StudyFolder(tmp_path / "studies/small")
    taken = (tmp_path / "taken").read_text().splitlines()
    assert taken[0] == "Share(cpus=2, gpus=1.0)"
    assert study.compute() == Compute(device="cuda", threads=2, precision="bfloat16")
    assert read_json(study.path / "environment.json")["system"] == "of the node"
