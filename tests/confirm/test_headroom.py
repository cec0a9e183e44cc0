"""The gain from further real images: disjoint draws of patients, scored on patients in no draw."""

from __future__ import annotations

import shutil
from pathlib import Path

import numpy as np
import pytest

from tests.in_process import command, one_core
from xraytune.base.errors import ConfigError, DataError
from xraytune.confirm.headroom import choose_design, draw_and_others, headroom
from xraytune.data.phantom import draw_phantoms
from xraytune.data.split import nested_order

SPACE = """\
name: room
data: {path: xrays, image_size: 32, train_patients: 16, split: {val_a: 0.15, val_b: 0.15}}
parameters:
  source: {values: [none, duplicate]}
  synthetic_ratio: {values: [0.5, 1.0], when: {source: duplicate}}
  backbone: {value: small_cnn}
  weights: {value: none}
  lr: {min: 1e-3, max: 1e-2, distribution: log_uniform_values}
  batch_size: {value: 8}
budget: {trials: 2, max_epochs: 2}
points_to_evaluate: [{source: none, lr: 5e-3}]
"""


@pytest.fixture(scope="module")
def root(tmp_path_factory: pytest.TempPathFactory) -> Path:
    root = tmp_path_factory.mktemp("room")
    draw_phantoms(root / "xrays", patients=300, seed=4, image_size_px=32, difficulty=0.2)
    (root / "space.yaml").write_text(SPACE, encoding="utf-8")
    return root


@pytest.mark.slow
def test_the_gain_of_each_ratio_is_measured_and_repeats(root: Path) -> None:
    """The command prints the answer first."""
    with one_core():
        found = headroom(root / "space.yaml", cache=root / "cache")
        shown = command(
            "headroom", "--space", root / "space.yaml", "--cache", root / "cache"
        ).stdout

    assert [gain.ratio for gain in found.gains] == [0.5, 1.0]
    for gain in found.gains:
        assert 3 <= gain.draws <= 5
        assert gain.interval.low < gain.interval.difference < gain.interval.high
        assert 0 < gain.baseline <= 1
    assert " ".join(shown.split()).startswith(found.sentence)


def test_each_draw_and_its_others_have_the_class_shares_of_all() -> None:
    """Two thirds of the patients are of class 1, so that the classes recur in their order."""
    labels = [int(number % 3 > 0) for number in range(300)]
    patients = nested_order([f"p{number}" for number in range(300)], np.array(labels), seed=7)

    for draw in range(3):
        for part in draw_and_others(patients, draw, count=30, size=100):
            positive = sum(labels[place] for place in part.tolist())
            assert abs(positive - len(part) * 2 / 3) <= 1


@pytest.mark.parametrize(
    ("patients", "wanted", "ratio"),
    [
        (2947, 200, 2.0),
        (2947, 50, 4.0),
        (500, 500, 1.0),
        (206, 206, 0.5),
        (1000, 50, 10.0),
        (4000, 7, 2.0),
    ],
)
def test_draws_leave_patients_to_score_on(patients: int, wanted: int, ratio: float) -> None:
    count, size, draws = choose_design(patients, wanted, ratio)

    assert 3 <= draws <= 5
    assert count * (1 + ratio) <= size
    assert draws * size <= 0.75 * patients


def test_a_space_without_a_ratio_or_with_too_few_patients_is_refused_before_the_training(
    root: Path, tmp_path: Path
) -> None:
    xrays = shutil.copytree(root / "xrays" / "train", tmp_path / "xrays")
    for file in sorted((xrays / "NORMAL").iterdir())[12:]:
        file.unlink()

    with pytest.raises(ConfigError, match="no ratio"):
        headroom(
            root / "space.yaml",
            overrides=["source=none", "points_to_evaluate=[]"],
            cache=root / "cache",
        )
    with pytest.raises(DataError, match="too few"):
        headroom(root / "space.yaml", overrides=["synthetic_ratio=20"], cache=root / "cache")
    with pytest.raises(DataError, match="no image of NORMAL"):
        headroom(
            root / "space.yaml",
            overrides=["synthetic_ratio=0.5"],
            data=xrays,
            cache=tmp_path / "cache",
        )
