"""A whole confirm, in this process and without Ray: inputs, refusals and resuming."""

import os
import re
import shutil
import socket
from functools import partial
from pathlib import Path

import numpy as np
import pytest
from sklearn.metrics import balanced_accuracy_score

from tests.confirm.labs import (
    Lab,
    Stopped,
    draw_hospital,
    leave_sealed,
    stop_while_scoring,
    times_of,
)
from tests.in_process import shown
from tests.pair_files import write_patients
from tests.trial.conftest import flip_a_bit
from xraytune.base.errors import ConfigError, MachineError, StudyError, XraytuneError
from xraytune.base.files import read_json, read_jsonl, with_checksum, without_checksum, write_json
from xraytune.confirm.record import Confirmation
from xraytune.confirm.run import confirm
from xraytune.data.index import read_labelled
from xraytune.model.export import export
from xraytune.present.page import write_report
from xraytune.search.callbacks import Callbacks
from xraytune.search.ray.runner import Runner
from xraytune.search.run import search
from xraytune.study.access_log import TEST_ACCESS_FILE
from xraytune.study.folder import StudyFolder


def test_a_confirm_resumes_with_its_own_test_images_and_refuses_others(
    done: Lab, first: Confirmation
) -> None:
    """After a kill while it scored; a copy of the folder has the same images in the same order."""
    other = shutil.copytree(done.test, done.path / "other")
    copy = shutil.copytree(done.test, done.path / "harmless")
    next((other / "NORMAL").iterdir()).unlink()
    one, *_, last = sorted((done.test / "NORMAL").iterdir())
    one.rename(done.path / "one")
    last.rename(one)
    (done.path / "one").rename(last)

    with pytest.raises(StudyError, match=r"scored by this confirmation.*\n.*restore the folder"):
        done.confirm(other)
    with pytest.raises(StudyError, match="other names"):
        done.confirm()
    write_patients(copy, {file.relative_to(copy): file.name[:3] for file in copy.rglob("*.jpeg")})
    with pytest.raises(StudyError, match="under other names"):
        done.confirm(copy)
    (copy / "patients.csv").unlink()
    (done.folder / "test.npy").unlink()

    assert done.confirm(copy).to_json() == first.to_json()
    assert [row["fingerprint"] for row in done.log] == [first.test.fingerprint]


def test_a_study_without_a_finalist_is_refused_with_a_fix_before_ray_starts(lab: Lab) -> None:
    chosen = ("name=plain", "budget.trials=1", "points_to_evaluate=[{source: none}]")
    plain = lab.search(*chosen)
    notes = list[str]()

    with pytest.raises(StudyError, match=r"no finalist to confirm(.|\n)*fix:"):
        plain.confirm(callbacks=Callbacks(note=notes.append))

    assert notes == []


def test_a_machine_without_room_for_the_replicates_is_refused_before_the_images_are_read(
    lab: Lab,
) -> None:
    """They would wait forever."""
    study = lab.search("name=larger", "resources.generator={cpus: 2}")
    shutil.rmtree(lab.test / "NORMAL")

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("xraytune.confirm.run.Runner", Runner)
        with pytest.raises(MachineError, match=r"2 CPU cores .* only 1 core"):
            study.confirm()


@pytest.mark.parametrize("number", [{"replicates": 1}, {"finalists": 0}, {"finalists": -1}])
def test_too_few_for_a_comparison_are_refused_before_anything_is_trained_or_opened(
    lab: Lab, number: dict[str, int]
) -> None:
    with pytest.raises(ConfigError, match="too few for a comparison"):
        lab.confirm(**number)

    assert not lab.folder.exists()
    assert not (lab.study / TEST_ACCESS_FILE).exists()


def test_a_finalist_without_a_control_is_refused_before_the_test_images_are_opened(
    lab: Lab,
) -> None:
    """Its images alone are compared with it, but decide nothing."""
    alone = lab.search("name=alone", "confirm.controls={matched: [], tuned: [duplicate]}")

    assert "no control to compare" in shown("status", alone.study)
    with pytest.raises(StudyError, match="no control to compare"):
        alone.confirm()

    assert not (alone.study / TEST_ACCESS_FILE).exists()


def lose_lock(lab: Lab) -> None:
    """Let another machine take the lock, as on storage where each has locks of its own."""
    lock = lab.study / ".lock"
    lock.write_text(lock.read_text().replace(socket.gethostname(), "node-b"))


def test_the_test_images_stay_sealed_if_asked_and_their_access_is_logged_before_they_are_scored(
    lab: Lab,
) -> None:
    with pytest.raises(Stopped):
        lab.confirm(callbacks=Callbacks(before_test=leave_sealed))

    with pytest.raises(StudyError, match=r"on node-b.*local to each machine"):
        lab.confirm(callbacks=Callbacks(before_test=partial(lose_lock, lab)))

    assert not (lab.study / TEST_ACCESS_FILE).exists()
    assert not list(lab.study.rglob("test.npy"))
    with pytest.raises(StudyError, match=r"4 replicates, and 3 .*\n.*omit --replicates"):
        lab.confirm(replicates=3)
    with pytest.raises(Stopped):
        lab.confirm(replicates=5, callbacks=Callbacks(on_progress=stop_while_scoring))
    logged = lab.log
    assert len(logged) == 1, "before the first score"
    found = lab.confirm()
    assert (found.replicates, found.exploratory) == (5, ()), "more of them, but before the scores"
    assert lab.log == logged
    assert lab.confirm(callbacks=Callbacks(before_test=leave_sealed)) == found, (
        "called only while they are sealed"
    )


def test_a_confirmation_that_ended_is_extended_by_further_replicates_after_a_kill_too(
    done: Lab, first: Confirmation
) -> None:
    """The first ones are kept, the access is logged again, and the verdict is exploratory."""
    hospital = draw_hospital(done.path / "hospital", seed=11)
    done.confirm(done.test, hospital)
    verdict = (done.folder / "verdict.json").read_bytes()
    networks = times_of(done.folder, "best.safetensors")

    def stop_at_the_last_run(what: str, count: int, total: int) -> None:
        if what == "training replicates" and count == total - 1:
            raise Stopped

    with pytest.raises(StudyError, match="own test images are needed"):
        done.confirm(hospital, replicates=5)
    with pytest.raises(Stopped):
        done.confirm(replicates=5, callbacks=Callbacks(on_progress=stop_at_the_last_run))
    with pytest.raises(StudyError, match="5 replicates, and 4"):
        done.confirm(replicates=4)
    found = done.confirm(replicates=5)

    trained = times_of(done.folder, "best.safetensors")
    assert len(trained) * 4 == len(networks) * 5
    assert trained.items() >= networks.items()
    (arm,) = found.finalists
    (before,) = first.finalists
    assert arm.replicate_scores[:4] == before.replicate_scores
    assert len({*arm.replicate_scores}) == 5
    assert found.exploratory == (
        "the confirmation was extended from 4 to 5 replicates after its test images had been "
        f"scored (verdict: {first.verdict})",
    )
    assert (done.folder / "verdict-4-replicates.json").read_bytes() == verdict
    assert found.hospitals == (), "its verdict rests on four replicates"
    (there,) = done.confirm(done.test, hospital).hospitals
    assert (there.replicates, there.exploratory) == (5, found.exploratory)
    logged = [row["fingerprint"] for row in done.log]
    assert logged == [first.test.fingerprint, there.test.fingerprint] * 2
    assert done.confirm().finalists == found.finalists


def test_results_that_were_changed_are_refused_until_they_are_computed_again(
    done: Lab, first: Confirmation
) -> None:
    """Scores that could be real, and a verdict."""
    scores = done.folder / "test.npy"
    verdict = done.folder / "verdict.json"
    np.save(scores, np.load(scores)[..., ::-1])
    edit(verdict, "test", images="many")

    with pytest.raises(StudyError, match=r"test\.npy: .*not what was written(.|\n)*remove it"):
        done.confirm()
    for read in (write_report, partial(export, out=done.path / "best.yaml")):
        with pytest.raises(StudyError, match=r"verdict\.json: .*not what was written"):
            read(done.study)

    scores.unlink()
    assert done.confirm().to_json() == first.to_json()
    export(done.study, out=done.path / "best.yaml")


@pytest.mark.parametrize("name", ["plan.json", "runs.jsonl", "split.json"])
def test_a_changed_digit_of_what_a_verdict_rests_on_is_an_error(
    done: Lab, first: Confirmation, name: str
) -> None:
    file = done.folder / name
    text = file.read_text()
    changed = re.sub(r"(?<=\d)\d", lambda digit: f"{9 - int(digit[0])}", text, count=1)
    file.write_text(changed)
    (done.folder / "test.npy").unlink()

    with pytest.raises(XraytuneError, match=rf"{name}(: .*its content|:1: this line) was changed"):
        done.confirm()
    file.write_text(text)
    assert done.confirm().to_json() == first.to_json()


def test_only_the_network_that_a_run_trained_is_scored(done: Lab, first: Confirmation) -> None:
    """Any other is found before the test images are accessed, and trained again afterwards."""
    network, *_ = sorted(done.folder.rglob("best.safetensors"))
    flip_a_bit(network)
    damaged = network.read_bytes()
    scores = done.folder / "test.npy"
    scores.unlink()

    with pytest.raises(StudyError, match=r"0000/.*: this is not the network"):
        done.confirm()

    assert not scores.exists()
    assert done.confirm().finalists == first.finalists
    assert network.read_bytes() != damaged


def test_predictions_are_written_and_secondary_outcomes_have_the_thresholds_of_each_run(
    done: Lab, first: Confirmation
) -> None:
    """Those that validation gave it."""
    chances = np.load(done.folder / "test.npy")[..., 1]
    runs = {row["number"]: row["threshold"] for row in read_jsonl(done.folder / "runs.jsonl")}
    (finalist,) = read_json(done.folder / "verdict.json")["finalists"]
    comparison = finalist["comparisons"][0]
    (outcome,) = (each for each in comparison["secondary"] if each["metric"] == "balanced_accuracy")
    plan = done.plan
    truth = read_labelled(done.test, ("NORMAL", "PNEUMONIA")).images.labels

    scores = [
        np.mean([balanced_accuracy_score(truth, chances[run] >= runs[run]) for run in numbers])
        for numbers in map(plan.run_numbers, plan.arms[:2])
    ]
    assert [arm.name for arm in plan.arms[:2]] == [finalist["arm"], comparison["control"]]
    assert [outcome["score"], outcome["control_score"]] == pytest.approx(scores, abs=1e-12)
    assert "verdict" not in outcome
    rows = (done.folder / "predictions.csv").read_text().splitlines()
    assert len(rows) == 1 + first.test.images


def test_subgroups_can_be_asked_for_after_the_confirmation_and_stay_in_the_verdict(
    done: Lab, first: Confirmation
) -> None:
    """Nothing is trained, and a column that makes no groups is refused before anything is done.

    The finalists come from the search as it was, which may have gone on.
    """
    images = read_labelled(done.test, ("NORMAL", "PNEUMONIA")).images
    sexes = ["", *("FM"[len(patient) % 2] for patient in images.patients[1:])]
    rows = [f"{image.file},{image.patient},{sex}" for image, sex in zip(images, sexes, strict=True)]
    (done.test / "patients.csv").write_text("file,patient,sex\n" + "\n".join(rows) + "\n")
    search(done.path / "space.yaml", studies=done.study.parent, overrides=["budget.trials=3"])
    trained = times_of(done.study, "*.safetensors")

    with pytest.raises(ConfigError, match="--by age"):
        done.confirm(by=["age"])
    asked = done.confirm(by=["sex"])
    later = done.confirm()
    write_report(done.study)

    assert asked.finalists == first.finalists
    assert asked.searched == first.searched
    unnamed, *named = asked.subgroups
    assert (unnamed.value, unnamed.images, unnamed.difference) == ("(no value)", 1, None)
    assert [(group.column, group.value) for group in named] == [("sex", "F"), ("sex", "M")]
    assert sum(group.images for group in asked.subgroups) == len(images)
    assert later == asked
    assert trained == times_of(done.study, "*.safetensors")
    report = (done.study / "report.html").read_text()
    assert "too few patients of a class" in report


def test_a_second_study_on_the_same_test_folder_is_exploratory_and_names_the_first(
    done: Lab, first: Confirmation
) -> None:
    """Also if it was planned and trained before the first one scored them."""
    copy = shutil.copytree(done.test, done.path / "harmless")
    ignored = shutil.ignore_patterns("test.npy", "verdict.json", TEST_ACCESS_FILE)
    second = Lab(done.path, "second")
    third = Lab(done.path, "third")
    shutil.copytree(done.study, second.study, ignore=ignored)
    shutil.copytree(second.study, third.study)
    shutil.rmtree(third.folder)
    plan = without_checksum(read_json(second.folder / "plan.json"))
    write_json(second.folder / "plan.json", with_checksum(plan | {"order": "", "access": ""}))

    found = [second.confirm(copy) for _ in range(2)]
    after = third.confirm(copy)

    assert first.exploratory == ()
    assert done.confirm().to_json() == first.to_json()
    once = "test images had been accessed once before, by `confirm` of study small"
    assert [verdict.exploratory for verdict in found] == [(once,)] * 2
    assert after.exploratory[0].startswith("test images had been accessed 2 times")
    assert after.to_json()["answer"].startswith("Exploratory, not a confirmation: ")


def test_moved_images_are_decoded_again_and_runs_use_the_given_locations(lab: Lab) -> None:
    shutil.rmtree(lab.path / "cache")
    moved = lab.path / "elsewhere"
    weights_dir = lab.path / "weights"
    (lab.xrays).rename(moved)

    assert lab.confirm(data=moved, weights_dir=weights_dir).finalists

    settings = StudyFolder(lab.folder).experiment(0).settings
    assert (settings.data.path, settings.weights_dir) == (moved, weights_dir)


def test_weights_that_moved_after_the_training_are_scored_with_where_they_are_now(
    lab: Lab, official_mobilenet: Path
) -> None:
    old = lab.path / "old"
    new = lab.path / "new"
    shutil.copytree(official_mobilenet, old)
    network = ("backbone=mobilenet_v2", "weights=imagenet", f"weights_dir={old}")
    official = lab.search("name=official", *network)
    with pytest.raises(Stopped):
        official.confirm(callbacks=Callbacks(before_test=leave_sealed))

    old.rename(new)

    assert official.confirm(weights_dir=new).finalists


def edit(file: Path, where: str, **values: str) -> None:
    """Change a record, as if it came from another machine."""
    content = read_json(file)
    content[where] |= values
    write_json(file, content)


def test_a_finished_confirmation_that_cannot_be_written_to_is_shown(
    done: Lab, first: Confirmation, monkeypatch: pytest.MonkeyPatch
) -> None:
    access = os.access

    def refuse(path: Path, mode: int) -> bool:
        is_refused = mode & os.W_OK and Path(path).is_relative_to(done.study)
        return access(path, mode) and not is_refused

    monkeypatch.setattr("os.access", refuse)
    notes = list[str]()

    shown = confirm(done.study, callbacks=Callbacks(note=notes.append))

    assert shown.to_json() == first.to_json()
    (note,) = notes
    assert "this is its recorded verdict" in note
    assert write_report(done.study, out=done.path / "report.html").exists()
    with pytest.raises(StudyError, match="nothing can be added"):
        confirm(done.study, by=["site"])
    with pytest.raises(StudyError, match="nothing can be added"):
        done.confirm(done.path / "hospital_b")


def test_a_search_with_another_torch_is_noted(done: Lab, first: Confirmation) -> None:
    edit(done.study / "environment.json", "packages", torch="2.0.1")
    notes = list[str]()

    assert done.confirm(callbacks=Callbacks(note=notes.append)).verdict == first.verdict

    assert any("trained with torch 2.0.1" in note for note in notes)


def test_replicates_of_two_versions_of_torch_are_never_compared(
    done: Lab, first: Confirmation
) -> None:
    edit(done.folder / "environment.json", "packages", torch="2.0.1")
    assert done.confirm().verdict == first.verdict, "nothing is left to train"
    runs = done.folder / "runs.jsonl"
    runs.write_text("".join(runs.read_text().splitlines(keepends=True)[:-1]))
    with pytest.raises(StudyError, match=r"torch 2\.0\.1 .* is installed(.|\n)*move confirm/"):
        done.confirm()
