"""A search with W&B, offline, and TensorBoard, as a person starts it: a run for each trial, equal to the study's rows."""

import json
import subprocess
import sys
from pathlib import Path

import pytest

from tests.tracking.offline_runs import read_run, run_files
from tests.tracking.test_tensorboard import scalars_of

PROGRAM = str(Path(sys.executable).with_name("xraytune"))
SPACE = """\
version: 1
name: tracked
data: {path: xrays, image_size: 32, split: {val_a: 0.2, val_b: 0.2}}
parameters:
  source: {values: [none, duplicate]}
  synthetic_ratio: {value: 0.5, when: {source: duplicate}}
  backbone: {value: small_cnn}
  weights: {value: none}
  batch_size: {value: 8}
  lr: {min: 1e-4, max: 1e-2, distribution: log_uniform_values}
budget: {trials: 2, max_epochs: 3, steps_per_epoch: 4}
scheduler: {name: asha, grace: 1, reduction: 2}
sampler: {name: random, seed: 1}
tracking: {wandb: {project: small, mode: offline}, tensorboard: true}
"""


@pytest.mark.ray
@pytest.mark.slow
def test_a_search_leaves_one_offline_run_for_each_trial(tmp_path: Path) -> None:
    (tmp_path / "tracked.yaml").write_text(SPACE, encoding="utf-8")
    for command in (
        ("data", "phantom", "xrays", "--patients", "30", "--seed", "1", "--size", "48"),
        ("search", "--space", "tracked.yaml"),
    ):
        done = subprocess.run([PROGRAM, *command], cwd=tmp_path, capture_output=True, text=True, check=False)
        assert done.returncode == 0, done.stderr

    study = tmp_path / "studies" / "tracked"
    rows = [json.loads(line) for line in (study / "trials.jsonl").read_text(encoding="utf-8").splitlines()]
    identity = json.loads((study / "environment.json").read_text(encoding="utf-8"))["identity"]
    assert len(rows) == 2
    ids = set()
    for row in rows:
        (file,) = run_files(study / "trials" / f"{row['number']:04d}")
        run = read_run(file)
        ids.add(run.id)
        assert run.group == f"tracked {identity[:6]}"
        assert run.epochs == list(range(1, row["epochs"] + 1))
        assert "samples.path" in run.rows[0]
        assert (run.config["arm"], run.config["lr"]) == (row["arm"], row["parameters"]["lr"])
        assert (run.summary["status"], run.summary["value"]) == (row["status"], row["value"])
        assert run.summary.get("val_b_auroc") == row["val_b_score"]
        assert run.exit_code == 0
        assert str(tmp_path) not in json.dumps(run.config)
        trial = study / "trials" / f"{row['number']:04d}"
        assert [epoch for epoch, _ in scalars_of(trial, "val_auroc")] == run.epochs
    assert len(ids) == 2
