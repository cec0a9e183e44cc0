"""The whole workflow of a segmentation study on phantom lungs: the search and the confirmation with Ray."""

import csv
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from tests.end_to_end.test_main_job import xraytune
from tests.in_process import command, said
from xraytune.base.files import read_jsonl

SPACE = """\
version: 1
name: pairs
task: segmentation
data: {path: lungs, image_size: 32, split: {val_a: 0.2, val_b: 0.2}}
parameters:
  source: {values: [none, gan]}
  gan:
    when: {source: gan}
    parameters:
      image_size: {value: 32}
      width: {value: 8}
      z_dim: {value: 8}
      batch_size: {value: 8}
      lr_g: {value: 2e-3}
      ema_half_life_images: {value: 300}
      steps: {value: 200}  # fewer leave too few plausible masks
  backbone: {value: resnet18}
  weights: {value: none}
  batch_size: {value: 8}
  lr: {values: [1e-3, 3e-3]}
quality: {allow_memorised: true}
budget: {trials: 3, max_epochs: 2, steps_per_epoch: 8}
scheduler: {name: none}
points_to_evaluate:
  - {source: gan, lr: 3e-3}
  - {source: none, lr: 3e-3}
  - {source: gan, lr: 1e-3}
confirm: {finalists: 1, gan_seeds: 2, classifier_seeds: 1, controls: {matched: [duplicate], tuned: [real_only]}}
"""


@pytest.mark.nightly
@pytest.mark.ray
@pytest.mark.slow
def test_from_pairs_to_a_segmenter_and_a_verdict(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Search, status, export, train, predict, evaluate, confirm."""
    monkeypatch.chdir(tmp_path)
    (tmp_path / "pairs.yaml").write_text(SPACE, encoding="utf-8")
    said("data", "phantom", "lungs", "--patients", 40, "--seed", 1, "--size", 48, "--masks")
    said("data", "phantom", "others", "--patients", 20, "--seed", 2, "--size", 48, "--masks")

    done = xraytune(tmp_path, "search", "--space", "pairs.yaml")

    assert done.returncode == 0, done.stderr
    rows = read_jsonl(tmp_path / "studies/pairs/trials.jsonl")
    assert {row["number"]: row["status"] for row in rows} == dict.fromkeys(range(3), "complete"), done.stderr
    assert "Dice" in done.stdout
    assert "AUROC" not in done.stdout + done.stderr

    shown = command("status", "studies/pairs").stdout
    assert "best on val-A" in shown
    assert "Dice" in shown
    assert "AUROC" not in shown

    exported = said("export", "studies/pairs", "-o", "best.yaml", "--trial", 0)
    assert exported["metric"] == "Dice"
    assert "# Dice 0." in (tmp_path / "best.yaml").read_text(encoding="utf-8")
    trained = said("train", "--config", "best.yaml", "-o", "model")
    assert trained["val_b_score"] == exported["val_b_score"], "the model equals the trial, to the bit"

    evaluated = said("evaluate", "model", "--data", "others/test", "-o", "results")
    assert (tmp_path / "results/metrics.json").is_file()
    assert "Dice" in str(evaluated).replace("dice", "Dice")

    said("predict", "model", "others/test/images", "-o", "predicted")
    images = sorted((tmp_path / "others/test/images").iterdir())
    with (tmp_path / "predicted/predictions.csv").open(encoding="utf-8", newline="") as stream:
        assert len(list(csv.DictReader(stream))) == len(images)
    with Image.open(tmp_path / f"predicted/masks/{images[0].stem}.png") as mask:
        assert mask.size == (48, 48)
        assert {*np.unique(np.asarray(mask))} <= {0, 255}

    confirmed = xraytune(tmp_path, "confirm", "studies/pairs", "--json")

    assert confirmed.returncode == 0, confirmed.stderr
    found = said("confirm", "studies/pairs")
    assert found["metric"] == "Dice"
    assert found["verdict"] in {"helps", "hurts", "no_better", "undecided"}
    assert len(read_jsonl(tmp_path / "studies/pairs/test_access.jsonl")) == 1
