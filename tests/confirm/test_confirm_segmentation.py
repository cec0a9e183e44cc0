"""A whole confirm of a segmentation study, in this process and without Ray."""

import re
import shutil
from pathlib import Path

import numpy as np
import pytest

from tests.confirm.labs import search_space, show_confirmed
from xraytune.base.files import read_json
from xraytune.data.phantom import paint_phantoms

SPACE = """\
name: small
task: segmentation
data: {path: pairs, image_size: 32, split: {val_a: 0.25, val_b: 0.25}}
parameters:
  source: {values: [none, folder]}
  folder: {when: {source: folder}, parameters: {path: {value: more}}}
  synthetic_ratio: {value: 0.5, when: {source: folder}}
  backbone: {value: mobilenet_v2}
  weights: {value: none}
  batch_size: {value: 8}
budget: {trials: 2, max_epochs: 1, steps_per_epoch: 2}
scheduler: {name: none}
confirm: {finalists: 1, replicates: 2, controls: {matched: [duplicate], tuned: []}}
points_to_evaluate: [{source: folder}, {source: none}]
"""


def test_a_segmentation_study_is_confirmed_in_dice(tmp_path: Path) -> None:
    """Of pairs without `test/`, with others to train on."""
    lab = tmp_path
    paint_phantoms(lab / "pairs", patients=40, seed=4, image_size_px=32, pairs=True)
    shutil.move(lab / "pairs/test", lab / "test")
    paint_phantoms(lab / "others", patients=40, seed=5, image_size_px=32, pairs=True)
    for inner in ("images", "masks"):
        (lab / "more" / inner).mkdir(parents=True)
        for file in (lab / "others/train" / inner).iterdir():
            shutil.copy(file, lab / "more" / inner / f"other{file.name}")
    study = search_space(lab, SPACE)

    paint_phantoms(lab / "hospital_b", patients=40, seed=6, image_size_px=32, pairs=True)
    for inner in ("images", "masks"):
        for file in (lab / "hospital_b/test" / inner).iterdir():
            file.rename(file.with_name(f"b{file.name}"))

    shown = show_confirmed(study, test=[lab / "test", lab / "hospital_b/test"])

    record = read_json(study / "confirm/verdict.json")
    dices = np.load(study / "confirm/test.npy")[0]
    about = (record["metric"], record["network"], record["test"]["positive"])
    assert about == ("Dice", "segmenter", "")
    assert dices.shape == (record["test"]["images"], 1)
    assert record["finalists"][0]["replicate_scores"][0] == pytest.approx(dices.mean())
    (there,) = record["hospitals"]
    (scores,) = (study / "confirm").glob("test-*.npy")
    assert there["name"] == "hospital_b"
    assert there["finalist"]["replicate_scores"][0] == pytest.approx(np.load(scores)[0].mean())
    assert "At hospital_b: " in shown
    assert "Dice" in shown
    assert not re.search("AUROC|sensitivity", shown)
