"""Several trials on one GPU: a killed search resumes, and its model also runs on a CPU."""

import json
import signal
from pathlib import Path
from typing import Any

import pytest

from tests.end_to_end.conftest import SPACE, search_until_a_trial_ends
from tests.faults.ray_processes import PROGRAM
from tests.in_process import other_process
from xraytune.base.files import read_jsonl

pytestmark = pytest.mark.gpu


def said(folder: Path, line: str) -> dict[str, Any]:
    """Return the JSON object that a command prints."""
    done = other_process(f"{PROGRAM} {line} --json", cwd=folder)
    assert done.returncode == 0, done.stderr
    content: dict[str, Any] = json.loads(done.stdout)
    return content


def test_from_images_to_a_model(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "small.yaml").write_text(SPACE)
    said(tmp_path, "data phantom xrays --patients 40 --seed 1 --size 64")
    said(tmp_path, "data phantom others --patients 20 --seed 2 --size 64")
    settings = "--set resources.gpus_per_trial=0.25 --set budget.trials=8"
    search = f"search --space small.yaml {settings}"
    search_until_a_trial_ends(tmp_path, search, signal.SIGKILL)

    done = other_process(f"{PROGRAM} {search}", cwd=tmp_path)

    assert done.returncode == 0, done.stderr
    rows = read_jsonl(tmp_path / "studies/small/trials.jsonl")
    assert sorted(row["number"] for row in rows) == list(range(8)), "each trial exactly once"
    assert {row["status"] for row in rows} <= {"complete", "pruned"}

    exported = said(tmp_path, "export studies/small -o best.yaml")
    trained = said(tmp_path, "train --config best.yaml -o model")
    assert abs(trained["val_b_score"] - exported["val_b_score"]) < 0.1

    on_gpu = said(tmp_path, "evaluate model --data others/test")
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "")
    on_cpu = said(tmp_path, "evaluate model --data others/test")
    assert abs(on_cpu["auroc"] - on_gpu["auroc"]) < 0.02
