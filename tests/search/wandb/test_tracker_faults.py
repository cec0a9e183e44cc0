"""Faults of the real W&B: no trial is harmed, and each costs at most one warning.

Each trial runs in its own process. Online runs are sent to a local server instead of W&B.
"""

from __future__ import annotations

import json
import os
import socket
import subprocess
import sys
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path

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


@contextmanager
def server(kind: str) -> Iterator[str]:
    """The address of one that accepts connections and never answers, or of one that is "gone"."""
    with ExitStack() as stack:
        listening = stack.enter_context(socket.create_server(("127.0.0.1", 0), backlog=64))
        port = listening.getsockname()[1]
        if kind == "gone":
            stack.close()
        yield f"http://127.0.0.1:{port}"


FAULTS: dict[str, tuple[str, dict[str, str], dict[str, object]]] = {
    "no network": ("W&B failed", {"WANDB_API_KEY": KEY}, {"seconds": 3.0}),
    "a server that never answers": ("did not answer within 3 s", {"WANDB_API_KEY": KEY}, {"seconds": 3.0}),
    "a key of the wrong form": ("wandb sync", {"WANDB_API_KEY": "too-short"}, {}),
    "no key": ("wandb sync", {"WANDB_API_KEY": ""}, {}),
    "a full disk": ("W&B failed", {}, {"mode": "offline"}),
    "a service that is killed": ("W&B failed", {}, {"mode": "offline", "signal": 9}),
    "a service that stops": ("did not answer within 3 s", {}, {"mode": "offline", "signal": 19, "seconds": 3.0}),
    "a broken installation": ("no module of that name", {}, {}),
}
"""What is wrong -> a part of the warning, environment variables, options of the trial."""
DAILY = {"a server that never answers", "a full disk"}
"""The others are other ways to fail and to hang."""


@pytest.mark.parametrize(
    "fault", [pytest.param(one, marks=[] if one in DAILY else pytest.mark.nightly) for one in FAULTS]
)
def test_a_fault_of_a_tracker_costs_the_trial_one_warning(fault: str, tmp_path: Path) -> None:
    """`run` returns when no process has the output open any more, so W&B's service has ended too."""
    warning, environment, more = FAULTS[fault]
    folder, paths = tmp_path / "trial", sys.path
    with ExitStack() as stack:
        url = stack.enter_context(server("gone" if fault == "no network" else "silent"))
        if fault == "a full disk":
            stack.enter_context(small_disk(folder, 2**20)).fill()
        else:
            folder.mkdir()
        if fault == "a broken installation":
            (tmp_path / "broken").mkdir()
            (tmp_path / "broken" / "wandb.py").write_text("raise ImportError('no module of that name')\n", "utf-8")
            paths = [str(tmp_path / "broken"), *paths]
        options = {"mode": "online", "seconds": 30.0, "signal": 0}
        options |= {"folder": str(folder), "epochs": str(tmp_path / "epochs.jsonl"), **more}
        kept = {name: value for name, value in os.environ.items() if not name.startswith("WANDB_")}
        own = {"HOME": str(tmp_path), "WANDB_BASE_URL": url, "PYTHONPATH": os.pathsep.join(paths)}
        done = subprocess.run(
            [sys.executable, "-c", TRIAL, json.dumps(options)],
            env=kept | own | environment,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            check=False,
            timeout=60,  # W&B itself gives up on a server after 90
        )

    assert (done.returncode, "the trial has ended" in done.stdout) == (0, True), done.stdout
    epochs = [json.loads(line)["epoch"] for line in (tmp_path / "epochs.jsonl").read_text("utf-8").splitlines()]
    assert epochs == [record.epoch for record in EPOCHS]
    assert done.stdout.count("W&B failed, and no result is lost") == 1, done.stdout
    assert warning in done.stdout
    assert "Otel" not in done.stdout, "no thread reports W&B's failure to a server"
    assert not {KEY, "too-short"} & set(done.stdout.replace('"', " ").split())
