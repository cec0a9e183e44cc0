"""A whole confirm of a segmentation study, in this process and without Ray."""

from __future__ import annotations

import shutil
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest

from tests.in_process import InProcess, one_thread, search_in_process
from xraytune.base.errors import DataError, StudyError
from xraytune.base.files import read_json
from xraytune.cli.confirm import show_rehearsal, show_verdict
from xraytune.confirm import study as confirm_study
from xraytune.confirm.run import confirm, rehearse
from xraytune.data.phantom import draw_phantoms
from xraytune.space.load import load_space

pytestmark = pytest.mark.slow

SPACE = """\
version: 1
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
confirm: {finalists: 1, gan_seeds: 2, classifier_seeds: 1, controls: {matched: [duplicate], tuned: []}}
points_to_evaluate:
  - {source: folder}
  - {source: none}
"""


@pytest.fixture(scope="module")
def ended(tmp_path_factory: pytest.TempPathFactory) -> Path:
    lab = tmp_path_factory.mktemp("segmentation")
    draw_phantoms(lab / "pairs", patients=40, seed=4, image_size_px=32, pairs=True)
    shutil.move(lab / "pairs" / "test", lab / "test")
    draw_phantoms(lab / "others", patients=60, seed=5, image_size_px=32, pairs=True)
    for inner in ("images", "masks"):
        (lab / "more" / inner).mkdir(parents=True)
        for file in (lab / "others" / "train" / inner).iterdir():
            shutil.copy(file, lab / "more" / inner / f"other{file.name}")
    (lab / "space.yaml").write_text(SPACE, encoding="utf-8")
    search_in_process(load_space(lab / "space.yaml"), lab)
    return lab


@pytest.fixture
def lab(ended: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """A private copy of the lab."""
    shutil.copytree(ended, tmp_path / "lab")
    monkeypatch.setattr(confirm_study, "Runner", InProcess)
    with one_thread():
        yield tmp_path / "lab"


def test_a_segmentation_study_is_rehearsed_and_confirmed_in_dice(lab: Path, capsys: pytest.CaptureFixture[str]) -> None:
    study = lab / "studies" / "small"
    show_rehearsal(rehearse(study))
    rehearsed = capsys.readouterr().out
    found = confirm(study, test=lab / "test")
    show_verdict(found)
    shown = capsys.readouterr().out

    record = read_json(study / "confirm" / "verdict.json")
    assert (record["metric"], record["network"], record["secondary"], record["test"]["positive"]) == (
        "Dice",
        "segmenter",
        [],
        "",
    )
    dices = np.load(study / "confirm" / "trials" / "0000" / "test.npy")
    assert dices.shape == (found.test.images, 1)
    assert record["finalists"][0]["gan_scores"][0] == pytest.approx(dices.mean())
    for text in (rehearsed, shown):
        assert "Dice" in text
        assert "AUROC" not in text
        assert "sensitivity" not in text


def test_a_second_hospital_is_scored_by_its_pairs_and_a_changed_mask_is_another_test_folder(lab: Path) -> None:
    study = lab / "studies" / "small"
    abroad = lab / "abroad"
    shutil.copytree(lab / "others" / "test", abroad)
    for file in [*abroad.rglob("*.jpeg"), *abroad.rglob("*.png")]:
        file.rename(file.with_name(f"abroad{file.name}"))

    (result,) = confirm(study, test=lab / "test", external=abroad).external

    assert result.secondary == ()
    assert 0 <= result.differences[0].value <= 1
    mask = next((lab / "test" / "masks").iterdir())
    other = next(file for file in (abroad / "masks").iterdir() if file.read_bytes() != mask.read_bytes())
    mask.write_bytes(other.read_bytes())
    with pytest.raises(StudyError, match="scored on another test folder"):
        confirm(study, test=lab / "test")


def test_too_few_patients_and_class_folders_are_refused(lab: Path) -> None:
    study = lab / "studies" / "small"
    classes = lab / "classes" / "NORMAL"
    shutil.copytree(lab / "test" / "images", classes)
    for inner in ("images", "masks"):
        for file in sorted((lab / "test" / inner).iterdir())[1:]:
            file.unlink()

    with pytest.raises(DataError, match="patients in the test folder: 1; an interval needs 5 or more"):
        confirm(study, test=lab / "test")
    with pytest.raises(DataError, match="there is no images/ and no masks/ here, and segmentation needs both"):
        confirm(study, test=classes.parent)
