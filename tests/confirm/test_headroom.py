"""The gain from further real images: disjoint draws of patients, scored on patients in no draw."""

from __future__ import annotations

import shutil
from itertools import chain
from pathlib import Path

import numpy as np
import pytest

from tests.in_process import CPU, command, one_core, one_thread, save_backbone
from xraytune.base.errors import ConfigError, DataError
from xraytune.confirm.headroom import (
    Gain,
    Headroom,
    choose_design,
    draw_and_others,
    headroom,
    train_on_draw,
)
from xraytune.data.phantom import draw_phantoms
from xraytune.data.prepare import RunContext, prepare, side_images
from xraytune.data.split import nested_order
from xraytune.nets.feature_store import FEATURES_FILE, FEATURES_STAGE
from xraytune.space.load import load_space
from xraytune.space.settings import Parameters
from xraytune.stats.verdict import Interval

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


def gain(ratio: float, low: float, difference: float, high: float) -> Gain:
    interval = Interval(
        difference=difference,
        low=low,
        high=high,
        standard_error=0.01,
        degrees_of_freedom=9.0,
        low_90=low,
        high_90=high,
        p_value=0.5,
    )
    return Gain(
        patients=40, ratio=ratio, draws=3, test_patients=90, baseline=0.8, interval=interval
    )


@pytest.mark.parametrize(
    ("other_high", "meaning"),
    [
        (0.009, "no generator can help here"),
        (0.015, "only a nearly perfect generator could help"),
        (0.025, "too uncertain to compare with the margin of 0.01"),
    ],
)
def test_no_ratio_may_exceed_the_margin_before_generators_are_ruled_out(
    other_high: float, meaning: str
) -> None:
    """Not only that with the largest mean gain, of .005 (-.001 to .008)."""
    gains = (gain(0.5, -0.001, 0.005, 0.008), gain(1.0, -0.02, 0.002, other_high))
    found = Headroom(
        name="room", metric="AUROC", margin=0.01, patients=40, baseline="real_only", gains=gains
    )

    assert meaning in found.sentence


@pytest.mark.slow
def test_each_draw_has_its_own_seed(root: Path) -> None:
    """Else, an interval over draws would not include the initial weights and the order."""
    space = load_space(root / "space.yaml")
    prepared, _ = prepare(space.settings, root / "cache")
    everyone = side_images("train", prepared, root / "cache")
    context = RunContext(prepared=prepared, cache=root / "cache", compute=CPU)
    arm = Parameters(backbone="small_cnn", weights="none", batch_size=8)
    real, none = np.arange(len(everyone.rows)), np.arange(0)

    with one_thread():
        results = [
            train_on_draw(space.settings, draw, arm, context, everyone, real, none, everyone)
            for draw in (0, 1, 0)
        ]

    assert np.array_equal(results[0], results[2])
    assert not np.array_equal(results[0], results[1])


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


@pytest.mark.slow
def test_of_a_frozen_network_only_images_that_are_drawn_or_scored_have_features(
    root: Path, tmp_path: Path
) -> None:
    """Once, also for another command."""
    save_backbone(tmp_path / "net.safetensors")
    overrides = [f"weights={tmp_path / 'net.safetensors'}", "trainable=head"]
    cache = shutil.copytree(root / "cache/pixels-2", tmp_path / "cache/pixels-2").parent
    settings = load_space(root / "space.yaml", ["data.train_patients=null"]).settings
    prepared, _ = prepare(settings, cache)
    side = prepared.side("train")
    order = nested_order(side.patients, side.targets, settings.data.split.seed)

    with one_core():
        first, again = (
            headroom(root / "space.yaml", overrides=overrides, cache=cache) for _ in range(2)
        )

    count, size, draws = choose_design(len(order), 16, 1.0)
    used = [*chain(*order[draws * size :])]
    for draw in range(draws):
        real, others = draw_and_others(order, draw, count, size)
        used += [*real, *others[: len(real)]]
    (file,) = cache.glob(f"{FEATURES_STAGE}/*/{FEATURES_FILE}")
    assert first == again
    assert file.stat().st_size == (len(used) + len(prepared.side("val_a"))) * (24 + 4 * 96)
    assert len(used) < len(side)


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
