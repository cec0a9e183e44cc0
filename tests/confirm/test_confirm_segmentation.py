"""A whole confirm of a segmentation study, in this process and without Ray."""

from __future__ import annotations

import re
import shutil
from contextlib import redirect_stdout
from pathlib import Path

import numpy as np
import pytest

from tests.in_process import confirm_in_process, search_in_process
from xraytune.base.files import read_json
from xraytune.cli.confirm import show_verdict
from xraytune.confirm.run import confirm
from xraytune.data.phantom import draw_phantoms
from xraytune.space.load import load_space

pytestmark = pytest.mark.slow

SPACE = """\
name: small
task: segmentation
data: {path: pairs, image_size: 32, split: {val_a: 0.25, val_b: 0.25}}
parameters:
  source: {values: [none, folder]}
  folder: {when: {source: folder}, parameters: {path: {value: more}}}
  synthetic_ratio: {value: 0.5, when: {source: folder}}
  backbone: {value: resnet18}
  weights: {value: none}
  batch_size: {value: 8}
budget: {trials: 2, max_epochs: 1, steps_per_epoch: 2}
scheduler: {name: none}
confirm: {finalists: 1, replicates: 2, controls: {matched: [duplicate], tuned: []}}
points_to_evaluate: [{source: folder}, {source: none}]
"""


@pytest.fixture(scope="module")
def confirmed(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Pairs without `test/`, others to train on, and a study that was confirmed."""
    lab = tmp_path_factory.mktemp("segmentation")
    draw_phantoms(lab / "pairs", patients=40, seed=4, image_size_px=32, pairs=True)
    shutil.move(lab / "pairs" / "test", lab / "test")
    draw_phantoms(lab / "others", patients=40, seed=5, image_size_px=32, pairs=True)
    for inner in ("images", "masks"):
        (lab / "more" / inner).mkdir(parents=True)
        for file in (lab / "others" / "train" / inner).iterdir():
            shutil.copy(file, lab / "more" / inner / f"other{file.name}")
    (lab / "space.yaml").write_text(SPACE, encoding="utf-8")
    search_in_process(load_space(lab / "space.yaml"), lab)
    with (
        confirm_in_process(),
        (lab / "shown.txt").open("w", encoding="utf-8") as shown,
        redirect_stdout(shown),
    ):
        show_verdict(confirm(lab / "studies" / "small", test=lab / "test"))
    return lab


def test_a_segmentation_study_is_confirmed_in_dice(confirmed: Path) -> None:
    folder, shown = (
        confirmed / "studies" / "small" / "confirm",
        (confirmed / "shown.txt").read_text(encoding="utf-8"),
    )

    record, dices = (
        read_json(folder / "verdict.json"),
        np.load(folder / "test.npy")[0],
    )
    about = (record["metric"], record["network"], record["test"]["positive"])
    assert about == ("Dice", "segmenter", "")
    assert dices.shape == (record["test"]["images"], 1)
    assert record["finalists"][0]["replicate_scores"][0] == pytest.approx(dices.mean())
    assert "Dice" in shown
    assert not re.search("AUROC|sensitivity", shown)
