"""Confirmations on patients that the search left unused: who is trained on and scored."""

from __future__ import annotations

import re
import shutil
from collections import Counter
from dataclasses import replace
from pathlib import Path

import numpy as np
import pandas as pd
import pytest

from tests.confirm.labs import Lab, draw_hospital, search_space, sides_of
from tests.in_process import command, said, shown
from tests.pair_files import draw_xrays
from xraytune.base.errors import ConfigError, DataError, StudyError
from xraytune.base.files import read_json, read_jsonl
from xraytune.confirm.arms import write_plan
from xraytune.confirm.design import Design
from xraytune.confirm.outlook import study_outlook
from xraytune.confirm.record import Confirmation
from xraytune.confirm.sealed import SealedTest
from xraytune.data.columns import subgroup_columns
from xraytune.data.index import read_index, read_labelled
from xraytune.data.phantom import paint_phantoms
from xraytune.data.prepare import prepare, write_prepared
from xraytune.space.parameters import Parameters
from xraytune.space.source_settings import FolderSettings
from xraytune.study.folder import StudyFolder

CLASSES = ("NORMAL", "PNEUMONIA")
REPLICATES = 4
TRAINED_ON = 16
FEWEST = 30
SPACE = f"""\
name: small
data: {{path: xrays, image_size: 32, train_patients: {TRAINED_ON},
       split: {{val_a: 0.15, val_b: 0.15}}}}
parameters:
  source: {{values: [none, gan]}}
  gan: {{when: {{source: gan}},
         parameters: {{image_size: {{value: 32}}, width: {{value: 4}}, steps: {{value: 2}}}}}}
  synthetic_ratio: {{value: 0.5, when: {{source: gan}}}}
  backbone: {{value: small_cnn}}
  weights: {{value: none}}
  batch_size: {{value: 8}}
budget: {{trials: 2, max_epochs: 1, steps_per_epoch: 2}}
scheduler: {{name: none}}
quality: {{allow_memorised: true}}
confirm:
  finalists: 1
  replicates: {REPLICATES}
  test: unused
  controls: {{matched: [none], tuned: []}}
points_to_evaluate: [{{source: gan}}, {{source: none}}]
"""


@pytest.fixture(scope="module")
def ended(module_path: Path) -> Lab:
    draw_xrays(module_path, patients=220, seed=4)
    search_space(module_path, SPACE)
    return Lab(module_path)


@pytest.mark.parametrize(("replicates", "seed"), [(REPLICATES, 0), (2, 1)])
def test_no_patient_is_on_two_sides(ended: Lab, replicates: int, seed: int) -> None:
    """With many unused patients, as planned here, only those in no draw are scored."""
    settings = ended.settings.with_values({"data.split.seed": seed})
    searched, _ = prepare(settings, ended.cache)

    choice, again = (
        ended.choose(settings, searched, replicates=replicates, planned_kind="unused")
        for _ in range(2)
    )

    sides = sides_of(choice.prepared)
    draws = [f"draw_{number}" for number in range(replicates)]
    assert {*sides} == {"train", "val_a", "val_b", "test", *draws}
    assert sides.items() >= sides_of(searched).items(), "the search's sides stay as they were"
    everyone = Counter(patient for patients in sides.values() for patient in patients)
    assert max(everyone.values()) == 1
    assert everyone.keys() == {*read_index(settings.data).images.patients}
    assert [len(sides[draw]) for draw in draws] == [TRAINED_ON] * replicates
    assert len(sides["test"]) >= FEWEST
    ill = {image.patient for image in choice.prepared.images if image.label == 1}
    assert np.ptp([len(sides[draw] & ill) for draw in draws]) <= 2, "about the same classes"
    assert {*choice.images.patients} == sides["test"]
    assert choice == again


@pytest.mark.parametrize("replicates", [REPLICATES, 25])
def test_with_fewer_patients_everybody_outside_a_draw_is_scored(
    ended: Lab, replicates: int
) -> None:
    searched = ended.searched
    unused = {image.patient for image in searched.unused if image.part != "test"}

    choice = ended.choose(replicates=replicates)

    assert choice.kind == "outside"
    everyone = choice.prepared
    assert {*choice.images.patients} == sides_of(everyone)["test"] == unused
    for number, draw in enumerate(everyone.draws):
        sides = sides_of(everyone.of_draw(number))
        assert sides["train"] == {*draw}
        assert sides["test"] == unused - {*draw}
        assert sides["others"] == sides_of(searched)["train"]
        assert len(draw) == len({*draw}) == TRAINED_ON
    times_drawn = Counter(patient for draw in everyone.draws for patient in draw)
    times = [times_drawn[patient] for patient in unused]
    assert max(times) - min(times) <= 1, "nobody is drawn again before everybody was drawn"
    fewer = ended.choose(replicates=2).prepared.draws
    assert everyone.draws[:2] == fewer, "more replicates leave the first draws as they are"


def test_generators_and_networks_of_a_replicate_are_trained_on_its_draw(
    confirmed: tuple[Lab, Confirmation],
) -> None:
    lab, found = confirmed
    drawn = [lab.confirmed.of_draw(draw).train_fingerprint for draw in range(REPLICATES)]

    generators = [
        read_json(file)["inputs"]["train"] for file in (lab.cache).glob("gan-*/*/manifest.json")
    ]

    assert len({*drawn}) == REPLICATES
    assert Counter(generators) == Counter([*drawn, lab.searched.train_fingerprint])
    assert (found.test.kind, found.train_patients) == ("outside", TRAINED_ON)
    assert found.exploratory == found.notes == ()
    (finalist,) = found.finalists
    assert finalist.headroom
    assert finalist.headroom.low < finalist.headroom.gain < finalist.headroom.high
    assert [result.control for result in finalist.comparisons] == ["none, matched to #0"]


def test_nobody_is_scored_by_a_network_that_was_trained_on_them(
    confirmed: tuple[Lab, Confirmation],
) -> None:
    lab, found = confirmed
    plan = lab.plan
    draws = lab.confirmed.draws
    results = np.load(lab.folder / "test.npy")
    table = pd.read_csv(lab.folder / "predictions.csv", dtype={"patient": str})

    for arm in plan.arms:
        for replicate, run in enumerate(plan.run_numbers(arm)):
            is_drawn = table.patient.isin(draws[replicate]).to_numpy()
            assert is_drawn.sum() >= TRAINED_ON
            assert (np.isnan(results[run]).all(axis=1) == is_drawn).all()
            column = table[f"{arm.name}, replicate {replicate + 1}"]
            assert (column.isna() == is_drawn).all()
    scored = f"{found.test.images} images of {found.test.patients} patients that the search had not"
    for name in ("answer", "methods"):
        assert "outside its own training set" in found.to_json()[name]
    assert scored in found.to_json()["answer"]
    (finalist,) = found.finalists
    assert all(result.secondary for result in finalist.comparisons)


def test_too_few_unused_patients_are_refused_or_the_test_folder_is_scored(ended: Lab) -> None:
    def choose(test: str, replicates: int = REPLICATES) -> SealedTest:
        settings = ended.settings.with_values({"confirm.test": test})
        return ended.choose(settings, replicates=replicates)

    instead = choose("auto")  # of 300 patients and more
    assert instead.kind == "draws"
    assert instead.notes[0].startswith("the test folder is scored: ")
    assert "test" not in sides_of(instead.prepared)
    few = choose("folder", replicates=50)
    assert few.kind == "folder"
    assert few.notes[0].startswith("all replicates train on the same patients: ")

    without_test = {"data.path": ended.xrays / "train", "data.train_patients": 60}
    untested = ended.settings.with_values(without_test)
    alone, _ = prepare(untested, ended.cache)
    with pytest.raises(DataError, match=r"(?s)A draw of 60 leaves .* --test DIR"):
        ended.choose(untested, alone)


def test_further_replicates_take_further_draws_and_leave_the_others_and_the_scored_patients(
    done: Lab,
) -> None:
    on_folder = done.search("name=folder", "confirm.test=folder", "confirm.replicates=2")
    first = on_folder.confirm()
    before = on_folder.confirmed

    extended = on_folder.confirm(replicates=3)
    with pytest.raises(DataError, match="50 draws of 16 patients"):
        on_folder.confirm(replicates=50)
    after = on_folder.confirmed
    sides = sides_of(after)
    earlier = sides_of(before)
    others = earlier.pop("others")
    drawn = sides.pop("draw_2")
    assert sides.pop("others") == others - drawn
    assert sides == earlier
    assert len(drawn) == TRAINED_ON
    for draw in range(2):
        pools = [each.of_draw(draw).side("others") for each in (before, after)]
        assert pools[0] == pools[1], "real images in the place of synthetic ones"
    assert extended.test == first.test
    assert "was extended from 2 to 3 replicates" in extended.exploratory[0]


def test_unused_patients_are_scored_as_the_study_reads_them_also_beside_another_hospital(
    ended: Lab, tmp_path: Path
) -> None:
    """Its settings may name another table, another rule for patients, or another public set."""
    hospital = read_labelled(draw_hospital(tmp_path / "hospital_b", seed=11), CLASSES)
    hospital = replace(hospital, data=hospital.data.with_values({"set": "nih"}))
    prepared = replace(ended.searched, test_fingerprint=None)

    choice = ended.choose(prepared=prepared, test=hospital)

    assert (choice.kind, choice.data) == ("outside", ended.settings.data)
    columns = subgroup_columns(choice.images, ["pneumonia"], choice.data.path)
    assert {*columns["pneumonia"].values()} == {"", "bacterial", "viral"}


def test_further_replicates_are_always_possible_where_everybody_outside_a_draw_is_scored(
    done: Lab,
) -> None:
    more = done.search("name=more", "confirm.replicates=2")
    first = more.confirm()
    before = more.confirmed

    extended = more.confirm(replicates=5)

    after = more.confirmed
    assert after.draws[:2] == before.draws
    assert len(after.draws) == 5 > len({*after.side("test").patients}) / TRAINED_ON / 2
    assert extended.test == first.test
    assert "was extended from 2 to 5 replicates" in " ".join(extended.exploratory)


def test_further_draws_are_refused_if_they_would_take_scored_patients(done: Lab) -> None:
    many = done.search("name=many", "confirm.replicates=2")
    many.confirm()
    write_plan(many.plan.with_values({"test": "unused"}), many.folder)

    with pytest.raises(StudyError, match="16 patients would need 32 more"):
        many.confirm(replicates=4)


def test_images_of_unknown_origin_are_judged_on_the_test_folder(ended: Lab, tmp_path: Path) -> None:
    """Their generator may have seen all training images, and so unused patients."""
    searched = ended.searched
    known = next(image.file for image in searched.images if image.side == "train")
    (tmp_path / "extra/NORMAL").mkdir(parents=True)
    shutil.copy(ended.xrays / known, tmp_path / "extra/NORMAL/another.jpeg")
    compared = [Parameters(source="folder", folder=FolderSettings(path=tmp_path / "extra"))]

    auto = ended.settings.with_values({"confirm.test": "auto"})
    choice = ended.choose(auto, mixes=compared)

    assert choice.kind == "draws"
    assert "leakage cannot be excluded" in choice.notes[0]
    with pytest.raises(DataError, match=r"leakage(.|\n)*use confirm.test: folder"):
        ended.choose(mixes=compared)


def test_patients_that_a_generator_has_seen_are_neither_drawn_nor_scored(
    ended: Lab, tmp_path: Path
) -> None:
    searched = ended.searched
    index = read_index(ended.settings.data)
    unused = [
        image
        for image in index.images
        if image.patient not in {image.patient for image in searched.images}
    ]
    seen = [*unused[::9], *index.test[:2]]
    (tmp_path / "seen.txt").write_text("\n".join(image.sha256 for image in seen))
    folder = FolderSettings(path=tmp_path, seen=tmp_path / "seen.txt")
    compared = [Parameters(source="folder", folder=folder)]
    (tmp_path / "NORMAL").mkdir()
    shutil.copy(ended.xrays / searched.images[0].file, tmp_path / "NORMAL/another.jpeg")

    choice = ended.choose(mixes=compared)

    patients = {image.patient for image in seen}
    assert choice.kind == "outside"
    assert f"{len(patients)} patients whose images a generator" in choice.notes[0]
    assert patients.isdisjoint(image.patient for image in choice.prepared.images)
    assert patients.isdisjoint(choice.images.patients)

    everyone = [image.sha256 for image in index.test]
    (tmp_path / "seen.txt").write_text("\n".join(everyone))
    on_folder = ended.settings.with_values({"confirm.test": "folder"})
    with pytest.raises(DataError, match=r"no patient to test on .* a generator"):
        ended.choose(on_folder, mixes=compared)


def test_a_second_study_that_scores_some_of_the_same_patients_is_exploratory(
    done: Lab, confirmed: tuple[Lab, Confirmation]
) -> None:
    """It has other draws; a ratio of 8 leaves too few images for an arm of real ones."""
    other = done.search(
        "name=other", "data.split.seed=1", "synthetic_ratio=8.0", "confirm.replicates=2"
    )

    second = other.confirm()
    first = done.confirm()

    (own,) = done.log
    (others,) = other.log
    scored = [{*row["contents"]} for row in (own, others)]
    assert len(scored[0]) == first.test.images
    assert 0 < len(scored[0] & scored[1]) < len(scored[1])
    once, few = second.exploratory
    assert once == "test images had been accessed once before, by `confirm` of study small"
    assert few.startswith("there are only 2 replicates")
    assert other.confirm() == second
    assert first.to_json() == confirmed[1].to_json()
    assert first.exploratory == ()
    (note,) = second.notes
    assert note.startswith('the arm "real images of other patients, as #0" is left out')
    assert second.finalists[0].headroom is None


@pytest.mark.parametrize(("pool_size", "real_images"), [(10, 10), (5000, None)])
def test_real_images_take_the_place_of_a_pool(
    done: Lab, pool_size: int, real_images: int | None
) -> None:
    """There are as many of them; if there are too few, as many as the ratio adds.

    Each run has read this from its own file, and a later call finds the runs as they were started.
    """
    name = f"name=pool-{pool_size}"
    other = done.search(name, f"pool_size={pool_size}", "confirm.replicates=2")

    confirmation = other.confirm()
    extended = other.confirm(replicates=3)

    (perfect,) = [arm for arm in other.plan.arms if arm.role == "perfect"]
    (finalist,) = other.plan.finalists
    assert finalist.parameters.pool_size == pool_size
    runs = StudyFolder(other.folder)
    for number in other.plan.run_numbers(perfect):
        assert runs.experiment(number).real_pool_size == real_images
    assert confirmation.finalists[0].headroom is not None
    assert extended.replicates == 3


def test_images_that_were_added_since_the_search_are_neither_drawn_nor_scored(lab: Lab) -> None:
    before = lab.choose()
    paint_phantoms(lab.path / "more", patients=10, seed=9, image_size_px=32)
    new = next((lab.path / "more/train/NORMAL").iterdir())
    shutil.copy(new, lab.xrays / "train/NORMAL/IM-9999-0001.jpeg")

    assert lab.choose() == before


def design_of(lab: Lab, *overrides: str, cache: Path | None = None) -> Design:
    """The design of a study of the lab's space."""
    space = lab.path / "space.yaml"
    outlook = study_outlook(space=space, overrides=overrides, cache=cache or lab.cache)
    assert outlook.design
    return outlook.design


@pytest.fixture(scope="module")
def design(ended: Lab) -> Design:
    """The design of the lab's study."""
    return design_of(ended)


def test_a_plan_foresees_what_a_confirmation_trains_and_scores(
    confirmed: tuple[Lab, Confirmation], design: Design
) -> None:
    lab, confirmation = confirmed
    runs = [*read_jsonl(lab.folder / "runs.jsonl")]
    assert (design.test, design.replicates) == ("outside", confirmation.replicates)
    assert design.replicates * len(design.trainings) == len(runs)
    assert design.scored
    assert design.scored.patient_count == confirmation.test.patients
    assert design.precision
    assert design.precision.patients == confirmation.test.patients
    twice = design.alternatives[-1]
    assert twice.missing_patients == confirmation.test.patients
    assert twice.precision.half_width < design.precision.half_width


def test_after_the_search_its_status_says_what_a_confirmation_can_tell(
    ended: Lab, design: Design
) -> None:
    status = shown("status", ended.study)

    assert design.precision
    assert f"can tell: {design.replicates} replicates on {design.precision.patients}" in status
    assert f"next: xraytune confirm {ended.study}" in status


def test_a_search_that_leaves_nobody_to_score_does_not_propose_to_confirm_it(
    ended: Lab, tmp_path: Path
) -> None:
    lab = ended.copy(tmp_path)
    few = replace(lab.searched, unused=lab.searched.unused[:3])
    write_prepared(few, lab.study / "split.json")

    status = shown("status", lab.study)

    assert "there is nothing to confirm" in status
    assert "data.train_patients=" in status
    assert "xraytune confirm" not in status.partition("next")[2]


def test_a_plan_counts_the_patients_that_more_replicates_need(ended: Lab, design: Design) -> None:
    """None where everybody outside a draw is scored; a test folder needs further draws."""
    five, ten, _ = design.alternatives
    assert (five.precision.replicates, ten.precision.replicates) == (5, 10)
    assert design.precision
    for alternative in (five, ten):
        assert alternative.missing_patients == 0
        assert alternative.precision.patients == design.precision.patients
    half_widths = [each.half_width for each in (design.precision, five.precision, ten.precision)]
    assert half_widths == sorted(half_widths, reverse=True)

    folder = design_of(ended, "confirm.test=folder").alternatives
    unused = len({image.patient for image in ended.searched.unused})
    assert folder[1].missing_patients == max(0, 10 * TRAINED_ON - unused)


def test_a_plan_says_that_nothing_can_be_scored_and_trains_and_writes_nothing(
    ended: Lab, tmp_path: Path
) -> None:
    before = sorted(ended.path.rglob("*"))

    design = design_of(ended, "data.train_patients=60", cache=tmp_path)

    assert (design.scored, design.precision) == (None, None)
    assert design.problem
    assert "unused" in design.outlook
    assert "data.train_patients=" in design.problem.fix
    assert sorted(ended.path.rglob("*")) == before
    (made,) = (path.name for path in tmp_path.iterdir() if path.is_dir())
    assert made.startswith("pixels")


def test_a_plan_names_the_metric_of_the_verdict_and_not_of_the_search(ended: Lab) -> None:
    outlook = design_of(ended, "objective.metric=val_auprc").outlook

    assert "AUROC" in outlook
    assert "AUPRC" not in outlook


def test_a_plan_says_that_there_is_no_control_to_compare_with(ended: Lab) -> None:
    """A control that the search has no trial of is trained by the confirmation."""
    none = design_of(ended, "confirm.controls={matched: [], tuned: [duplicate]}")
    one_trial = ("budget.trials=1", "points_to_evaluate=[{source: gan}]")
    top_up = design_of(ended, "confirm.controls={matched: [], tuned: [real_only]}", *one_trial)

    assert (none.test, none.precision) == (None, None)
    assert none.problem
    assert "no control to compare" in none.problem.what
    assert top_up.problem is None
    assert top_up.trainings[-1] == "tuned real_only of real_only"
    assert top_up.precision


def test_the_command_shows_the_half_width_its_assumptions_and_the_next_command(ended: Lab) -> None:
    space = ["plan", "--space", ended.path / "space.yaml", "--cache", ended.cache]

    plan = shown(*space, "--auroc", 0.9, "--gpus", 2)
    narrow, wide = (
        said(*space, "--auroc", auroc)["design"]["precision"]["half_width"] for auroc in (0.95, 0.9)
    )

    for words in (
        "95 % interval of about ±",
        "assumed: an AUROC of 0.9 (--auroc), an SD over replicates of 0.006 (--sd)",
        "on 2 GPUs, expect about a minute of search",
        "next: xraytune search --space",
    ):
        assert words in plan
    assert narrow < wide
    assert re.search(r"about [\d,]+ more patients.* would be enough", plan)
    assert command(*space, "--auroc", 1.5).exit_code == ConfigError.exit_code
