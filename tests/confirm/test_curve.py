"""What patients, real images of others and gifts are worth, on nested samples of patients."""

import json
import shutil
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from tests.confirm.labs import draw_hospital
from tests.confirm.verdicts import interval
from tests.in_process import command, one_core, save_backbone
from tests.pair_files import draw_xrays
from xraytune.base.artifacts import artifacts_of
from xraytune.base.errors import ConfigError, DataError
from xraytune.base.tables import Table, text_of
from xraytune.confirm.curve import Curve, CurvePoint, curve
from xraytune.confirm.division import divide
from xraytune.confirm.unused import patients_in_order
from xraytune.data.index import read_index
from xraytune.data.prepare import prepare
from xraytune.data.split import nested_order
from xraytune.model.generator_folder import generator_train
from xraytune.nets.feature_store import FEATURES_FILE, FEATURES_STAGE
from xraytune.present.curve import curve_frame
from xraytune.space.load import load_space
from xraytune.stats.between import Estimate
from xraytune.synth.donor import donor_images_sha256

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
DONOR = """\
name: donor
data: {path: xrays, image_size: 32, train_patients: 60, split: {val_a: 0.15, val_b: 0.15}}
parameters:
  source: {value: gan}
  gan: {parameters: {image_size: {value: 32}, width: {value: 4}, steps: {value: 2}}}
  backbone: {value: small_cnn}
  weights: {value: net.safetensors}
  trainable: {value: head}
budget: {max_epochs: 2}
"""
NUMBERS = [8, 16]


@pytest.fixture(scope="module")
def root(module_path: Path) -> Path:
    draw_xrays(module_path, patients=300, seed=4, difficulty=0.2)
    save_backbone(module_path / "net.safetensors")
    (module_path / "space.yaml").write_text(SPACE)
    return module_path


def frozen(root: Path) -> list[str]:
    return [f"weights={root / 'net.safetensors'}", "trainable=head"]


def curve_in(root: Path, **options: Any) -> Curve:
    """The curve of the room's space, by default with its cache."""
    return curve(root / "space.yaml", **{"cache": root / "cache", **options})


def point(
    patients: int, ratio: float, low: float, difference: float, high: float, *worth: float
) -> CurvePoint:
    gain = interval(difference=difference, low=low, high=high)
    value, least, most = worth or (20.0, 10.0, 30.0)
    return CurvePoint(
        arm=f"other patients x{ratio:g}",
        role="perfect",
        ratio=ratio,
        patients=patients,
        scores=(0.8,) * 5,
        score=Estimate(value=0.8, low=0.7, high=0.9),
        gain=gain,
        worth=Estimate(value=value, low=least, high=most),
    )


def curve_of(*points: CurvePoint) -> Curve:
    return Curve(
        name="room",
        metric="AUROC",
        margin=0.01,
        patients=40,
        numbers=(20, 40, 80),
        test_patients=90,
        baseline="real_only",
        points=points,
    )


LARGE_GAIN = point(20, 1.0, 0.1, 0.2, 0.3)
SMALL_GAIN = point(40, 0.5, -0.001, 0.005, 0.008)


@pytest.mark.parametrize(
    ("points", "meaning"),
    [
        # No ratio may exceed the margin, not only that with the largest mean gain.
        (
            [SMALL_GAIN, point(40, 1.0, -0.02, 0.002, 0.009)],
            "no generator can help at ratios up to 1",
        ),
        (
            [SMALL_GAIN, point(40, 1.0, -0.02, 0.002, 0.015)],
            "only a nearly perfect generator could",
        ),
        ([SMALL_GAIN, point(40, 1.0, -0.02, 0.002, 0.025)], "gain 0.005 AUROC"),
        ([SMALL_GAIN, point(40, 1.0, -0.02, 0.002, 0.025)], "too uncertain to compare with"),
        ([point(40, 1.0, 0.001, 0.015, 0.060)], "too uncertain to compare with the margin of 0.01"),
        ([], "too few other patients"),
    ],
)
def test_generators_are_ruled_out_by_the_gain_of_perfect_images_at_the_number_of_the_space(
    points: list[CurvePoint], meaning: str
) -> None:
    """Which is 40 here."""
    assert meaning in curve_of(LARGE_GAIN, *points).sentence


@pytest.mark.parametrize(
    ("worth", "text"),
    [
        ((11.0, 4.2, 21.0), "11 (4 to 21)"),
        ((11.0, -20.0, 40.0), "11 (less than -20 to more than 40)"),
        ((40.0, 40.0, 40.0), "more than 40"),
    ],
)
def test_worth_beyond_the_curve_is_not_guessed(worth: tuple[float, ...], text: str) -> None:
    shown = point(40, 1.0, 0.1, 0.2, 0.3, *worth)

    assert curve_of(shown).worth_of(shown) == text
    *_, table = curve_frame(curve_of(shown))
    assert isinstance(table, Table)
    cell = text_of(table.rows[0]["40"])
    assert cell.endswith(text.replace("less than", "<").replace("more than", ">"))


def test_gains_and_worths_are_measured_and_the_second_call_trains_nothing(
    root: Path, tmp_path: Path
) -> None:
    """The command prints the answer first, and writes the same figures with a picture."""
    with one_core():
        found = curve_in(root, patients=NUMBERS)
        trained = trainings(root / "cache")
        where = f"--space {root}/space.yaml --cache {root}/cache"
        shown = command(f"curve {where} --patients 16,8 --out {tmp_path}/out").stdout

    assert " ".join(shown.split()).startswith(found.sentence)
    assert trainings(root / "cache") == trained
    assert len(trained) == 5 * len(found.points)
    assert len({*trained.values()}) == 5, "each sample has its own seed"
    assert {point.arm for point in found.points} >= {"none", "duplicate", "other patients x1"}
    alone = found.points[:2]
    assert [point.patients for point in alone] == NUMBERS
    for point in found.points:
        assert point.score.low < point.score.value < point.score.high
        if point not in alone:
            assert point.gain.low < point.gain.difference < point.gain.high
            assert 8 <= point.patients + point.worth.low <= point.patients + point.worth.high <= 16
    written = json.loads((tmp_path / "out/curve.json").read_text())
    assert written["points"][0]["scores"] == [*alone[0].scores]
    assert {file.name for file in (tmp_path / "out").iterdir()} == {
        "curve.json",
        "curve.png",
        "curve.svg",
    }


def trainings(cache: Path) -> dict[str, int]:
    """The seed of each training in the cache, by its fingerprint."""
    return {
        path.name: inputs["experiment"]["settings"]["seed"]
        for path, inputs in artifacts_of(cache, "curve-1")
    }


def test_of_a_frozen_network_only_images_that_are_sampled_or_scored_have_features(
    root: Path, tmp_path: Path
) -> None:
    """Once, also for another command."""
    cache = tmp_path / "cache"
    settings = load_space(root / "space.yaml", ["data.train_patients=null"]).settings
    prepared, _ = prepare(settings, cache)
    side = prepared.side("train")
    names = patients_in_order(side, settings.data.split.seed)

    with one_core():
        first, again = (
            curve_in(root, overrides=frozen(root), cache=cache, patients=[2, 4]) for _ in range(2)
        )

    division = divide(names, [2, 4], 1.0)
    used = {*division.scored}.union(*division.blocks)
    count = sum(patient in used for patient in side.patients) + len(prepared.side("val_a"))
    (file,) = cache.glob(f"{FEATURES_STAGE}/*/{FEATURES_FILE}")
    assert first == again
    assert file.stat().st_size == count * (24 + 4 * 96)


def test_what_another_hospital_sent_is_compared_on_patients_that_it_has_not_seen(
    root: Path, tmp_path: Path
) -> None:
    """Its patients are among the study's, and neither sampled nor scored."""
    (root / "donor.yaml").write_text(DONOR)
    settings = load_space(root / "space.yaml").settings
    with one_core():
        sent = generator_train(
            root / "donor.yaml", out=tmp_path / "sent", cache=root / "cache"
        ).path
        notes = list[str]()
        found = curve_in(
            root,
            overrides=frozen(root),
            patients=NUMBERS,
            donor=sent,
            folder=draw_hospital(tmp_path / "images", seed=9),
            note=notes.append,
        )

        without_classifier = shutil.copytree(
            sent, tmp_path / "bare", ignore=shutil.ignore_patterns("donor.*")
        )
        bare = curve_in(root, overrides=frozen(root), patients=NUMBERS, donor=without_classifier)

    assert {point.arm for point in bare.points if "bare" in point.arm} == {"generator of bare"}
    gifts = {point.arm for point in found.points if point.patients == 16}
    assert gifts >= {
        "generator of sent",
        "statistics of sent",
        "classifier of sent",
        "folder of images",
    }
    assert any("not known which images these were made from" in note for note in notes)
    seen = donor_images_sha256(sent)
    known = {image.patient for image in read_index(settings.data).images if image.sha256 in seen}
    assert len(known) == 60
    assert found.test_patients <= 300 * 0.8 - len(known)
    classifier = [point for point in found.points if point.arm == "classifier of sent"]
    assert len({score for point in classifier for score in point.scores}) == 1, "one network"


def test_each_sample_has_the_class_shares_of_all_and_a_smaller_number_is_part_of_it() -> None:
    """Two thirds of the patients are of class 1, so that the classes recur in their order."""
    labels = [int(number % 3 > 0) for number in range(300)]
    order = nested_order([f"{number}" for number in range(300)], np.array(labels), seed=7)
    names = [f"{place}" for (place,) in order]

    division = divide(names, [10, 30], 1.0)

    groups = [group for block in division.blocks for group in (block[:10], block[:30], block[30:])]
    for group in [*groups, division.scored]:
        positive = sum(labels[int(name)] for name in group)
        assert abs(positive - len(group) * 2 / 3) <= 1
    everyone = [name for group in (*division.blocks, division.scored) for name in group]
    assert sorted(everyone) == sorted(names), "nobody is in two samples, or sampled and scored"


@pytest.mark.parametrize(
    ("patients", "wanted", "ratio", "numbers"),
    [
        (2947, [], 2.0, (25, 50, 100, 200, 400)),
        (500, [], 1.0, (25, 50)),
        (206, [], 0.5, (15, 30)),
        (1000, [100, 40, 40], 10.0, (40, 100)),
    ],
)
def test_samples_leave_a_quarter_of_the_patients_to_score_on(
    patients: int, wanted: Sequence[int], ratio: float, numbers: tuple[int, ...]
) -> None:
    division = divide([f"{number}" for number in range(patients)], wanted, ratio)

    assert division.numbers == numbers
    assert len(division.blocks) == 5
    assert len(division.scored) >= patients / 4
    assert len({*division.scored}.union(*division.blocks)) == patients


def test_numbers_that_make_no_curve_are_refused_with_the_largest_that_does() -> None:
    for wanted in ([20], [10, 31], [0, 10]):
        with pytest.raises(DataError, match="two or more, up to 30"):
            divide([f"{number}" for number in range(206)], wanted, 0.5)


def test_too_few_patients_whom_a_generator_has_not_seen_make_no_curve() -> None:
    with pytest.raises(DataError, match=r"2 training patients are too few.*74 others") as refused:
        divide(["a", "b"], [], 1.0, seen_count=74)

    assert "14 or more" in str(refused.value)
    fewest = [f"{number}" for number in range(14)]
    assert divide(fewest, [], 1.0).numbers == (1, 2)
    with pytest.raises(DataError, match="too few"):
        divide(fewest[1:], [], 1.0)


def test_what_makes_no_curve_is_refused_before_the_training(root: Path, tmp_path: Path) -> None:
    """No gift, no baseline, an `out` among X-rays, or a sample without a class."""
    xrays = shutil.copytree(root / "xrays/train", tmp_path / "xrays")
    for file in sorted((xrays / "NORMAL").iterdir())[12:]:
        file.unlink()

    with pytest.raises(DataError, match="neither a classifier nor statistics"):
        curve_in(root, donor=tmp_path)
    with pytest.raises(ConfigError, match="mistaken for an X-ray"):
        curve_in(root, out=root / "xrays/curve")
    with pytest.raises(ConfigError, match="no arm without extra images"):
        curve_in(root, overrides=["source=duplicate", "points_to_evaluate=[]"])
    with pytest.raises(DataError, match="no image of NORMAL"):
        curve_in(root, patients=[4, 8], data=xrays, cache=tmp_path / "cache")
