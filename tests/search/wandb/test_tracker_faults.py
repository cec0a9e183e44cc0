"""Faults of the real W&B: no trial is harmed, and each costs at most one warning.

Each trial runs in its own process. Online runs are sent to a closed port of this machine instead of
W&B.
"""

import json
import os
import shutil
import signal
import sys
from pathlib import Path

import pytest

from tests.faults.small_disk import small_disk
from tests.in_process import other_process
from tests.search.wandb.offline_runs import EPOCHS, read_run, run_files

pytestmark = pytest.mark.slow

TRIAL = """
import os, sys
from pathlib import Path
from tests.search.wandb.offline_runs import EPOCHS, begin
from xraytune.search import wandb
from xraytune.space.search_settings import Tracking, WandbSettings

wandb._SECONDS["init"] = 3.0
if sys.argv[2] != "auto":
    os.environ["WANDB_MODE"] = sys.argv[2]
for key in (7, 8):
    run = begin(Path(sys.argv[1]), Tracking(wandb=WandbSettings()), key)
    for record in EPOCHS:
        run.log(record)
    run.finish({"status": "complete"})
print("the trials have ended")
"""


def output_of(folder: Path, mode: str, **environment: str) -> str:
    """What two trials print, whose W&B is a closed port."""
    kept = {name: value for name, value in os.environ.items() if not name.startswith("WANDB_")}
    own = {
        "HOME": str(folder.parent),
        "WANDB_BASE_URL": "http://127.0.0.1:9",
        "WANDB_HTTP_TIMEOUT": "1",
        "PYTHONPATH": os.pathsep.join(sys.path),
    }
    done = other_process(
        sys.executable, "-c", TRIAL, str(folder), mode, env=kept | own | environment
    )
    output = done.stdout + done.stderr
    assert "the trials have ended" in output, output
    return output


KEY = "0f" * 20


@pytest.mark.parametrize(
    ("mode", "key"),
    [("online", KEY), ("online", ""), ("auto", KEY), ("auto", "short"), ("auto", f"{KEY}\n{KEY}")],
    ids=["no network", "no key", "a key without network", "a short key", "a line break"],
)
def test_a_run_that_cannot_be_sent_is_written_offline_with_a_warning(
    mode: str, key: str, tmp_path: Path
) -> None:
    folder = tmp_path / "trial"
    folder.mkdir()

    output = output_of(folder, mode, WANDB_API_KEY=key)

    assert (output.count("written offline"), output.count("W&B failed")) == (2, 2), output
    written = folder.glob("wandb/offline-run-*/*.wandb")
    assert [read_run(file).epochs for file in written] == [[epoch.epoch for epoch in EPOCHS]] * 2


def test_a_process_of_wandb_that_does_not_end_is_killed(tmp_path: Path) -> None:
    stopped = """
import subprocess, sys
from xraytune.search import wandb
class Hanging:
    def teardown(self):
        sys.exit(process.wait())
wandb._SECONDS["end"] = 1.0
process = subprocess.Popen([SLEEP, "60"])
wandb._end_process(Hanging())
print(process.returncode)
"""
    sleep = tmp_path / "wandb-core"
    sleep.symlink_to(shutil.which("sleep") or "/bin/sleep")
    code = stopped.replace("SLEEP", repr(str(sleep)))

    done = other_process(f"{sys.executable} -c", code, timeout=60)

    assert done.stdout.strip() == str(-signal.SIGKILL), done.stderr


def test_each_trial_is_a_run_of_its_own_in_an_outer_run_and_sweep(tmp_path: Path) -> None:
    folder = tmp_path / "trial"
    folder.mkdir()
    (tmp_path / "sweep.yaml").write_text(json.dumps({"wandb_version": 1}))

    output_of(folder, "offline", WANDB_RUN_ID="outer", WANDB_SWEEP_ID="the-sweep")

    runs = [read_run(file) for file in run_files(folder)]
    assert len({run.id for run in runs} - {"outer"}) == 2
    assert {run.name for run in runs} == {"#7", "#8"}


def test_a_full_disk_costs_each_trial_one_warning(tmp_path: Path) -> None:
    folder = tmp_path / "trial"
    with small_disk(folder, 2**20) as disk:
        disk.fill()
        output = output_of(folder, "offline")

    assert output.count("its metrics are in epochs.jsonl") == 2, output
