"""Faults of the real W&B: no trial is harmed, and each costs at most one warning.

Each trial runs in its own process. Online runs are sent to a local server instead of W&B.
"""

from __future__ import annotations

import json
import os
import socket
import subprocess
import sys
from collections.abc import Callable, Iterator, Mapping
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest

from tests.faults.small_disk import small_disk
from tests.search.wandb.test_wandb import EPOCHS

pytestmark = pytest.mark.slow

KEY = "0f" * 20
TRIAL = """
import json, os, signal, sys, time
from dataclasses import asdict
from pathlib import Path
from tests.search.wandb.test_wandb import EPOCHS
from xraytune.space.settings import WandbSettings
from xraytune.base.files import append_jsonl
from xraytune.search.wandb import TrackedRun, WandbRun

def children():
    return [int(pid) for file in Path("/proc/self/task").glob("*/children") for pid in file.read_text().split()]

options = json.loads(sys.argv[1])
folder = Path(options["folder"])
trial = TrackedRun(
    study="small", study_identity="3f9a1c77", key=7, label="small #7", parameters={}, metric="val_auroc", folder=folder
)
run = WandbRun(WandbSettings(mode=options["mode"]), trial, finish_seconds=options["seconds"])
for record in EPOCHS:
    append_jsonl(Path(options["epochs"]), asdict(record))
    run.log(record)
    if options["signal"] and record is EPOCHS[0]:
        while not list(folder.glob("wandb/*run*/*.wandb")):
            time.sleep(0.05)
        for service in children():
            os.kill(service, options["signal"])
run.finish("complete")
if options["signal"]:
    for service in children():
        os.kill(service, signal.SIGKILL)
print("the trial has ended")
"""


@dataclass(frozen=True, slots=True)
class Fault:
    """What is wrong with a tracker.

    Attributes:
        warning: A part of the warning.
        environment: Environment variables; `{server}` and `{folder}` stand for the server and a folder of the test.
        server: Answers a connection; None: no server.
        is_disk_full: Whether the trial's folder is on a full disk.
        options: Of the trial.
    """

    warning: str
    environment: dict[str, str] = field(default_factory=dict)
    server: Callable[[], Any] | None = None
    is_disk_full: bool = False
    options: Mapping[str, object] = field(default_factory=dict)


@contextmanager
def silent() -> Iterator[str]:
    """Accept connections and never answer."""
    with socket.create_server(("127.0.0.1", 0), backlog=64) as server:
        yield f"http://127.0.0.1:{server.getsockname()[1]}"


@contextmanager
def gone() -> Iterator[str]:
    """Listen no more."""
    with silent() as url:
        pass
    yield url


ONLINE = {"WANDB_API_KEY": KEY, "WANDB_BASE_URL": "{server}"}
THREE = {"seconds": 3.0}
FAULTS = {
    "no network": Fault("W&B failed", ONLINE, gone, options=THREE),
    "a server that never answers": Fault("did not answer within 3 s", ONLINE, silent, options=THREE),
    "a key of the wrong form": Fault("wandb sync", ONLINE | {"WANDB_API_KEY": "too-short"}, silent),
    "no key": Fault("wandb sync", ONLINE | {"WANDB_API_KEY": ""}, silent),
    "a full disk": Fault("W&B failed", is_disk_full=True, options={"mode": "offline"}),
    "a service that is killed": Fault("W&B failed", options={"mode": "offline", "signal": 9}),
    "a service that stops": Fault(
        "did not answer within 3 s", options={"mode": "offline", "signal": 19, "seconds": 3.0}
    ),
    "a broken installation": Fault("no module of that name", {"PYTHONPATH": "{folder}/broken"}),
}


@pytest.mark.parametrize("fault", FAULTS)
def test_a_fault_of_a_tracker_costs_the_trial_one_warning(fault: str, tmp_path: Path) -> None:
    """`run` returns when no process has the output open any more, so W&B's service has ended too."""
    case = FAULTS[fault]
    (tmp_path / "broken" / "wandb").mkdir(parents=True)
    (tmp_path / "broken" / "wandb" / "__init__.py").write_text("raise ImportError('no module of that name')\n", "utf-8")
    with ExitStack() as stack:
        server = stack.enter_context(case.server()) if case.server else ""
        folder = tmp_path / "trial"
        if case.is_disk_full:
            stack.enter_context(small_disk(folder, 2**20)).fill()
        else:
            folder.mkdir()
        options = {"mode": "online", "seconds": 30.0, "signal": 0}
        options |= {"folder": str(folder), "epochs": str(tmp_path / "epochs.jsonl"), **case.options}
        kept = {name: value for name, value in os.environ.items() if not name.startswith("WANDB_")}
        own = {name: text.format(server=server, folder=tmp_path) for name, text in case.environment.items()}
        paths = [own["PYTHONPATH"], *sys.path] if "PYTHONPATH" in own else sys.path
        done = subprocess.run(
            [sys.executable, "-c", TRIAL, json.dumps(options)],
            env=kept | {"HOME": str(tmp_path)} | own | {"PYTHONPATH": os.pathsep.join(paths)},
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            check=False,
            timeout=60,  # W&B itself gives up on a server after 90
        )

    assert (done.returncode, "the trial has ended" in done.stdout) == (0, True), done.stdout
    epochs = [json.loads(line)["epoch"] for line in (tmp_path / "epochs.jsonl").read_text("utf-8").splitlines()]
    assert epochs == [record.epoch for record in EPOCHS]
    assert done.stdout.count("failed, the trial continues") == 1, done.stdout
    assert case.warning in done.stdout
    assert "Otel" not in done.stdout, "no thread reports W&B's failure to a server"
    assert not {KEY, "too-short"} & set(done.stdout.replace('"', " ").split())
