"""Further hospitals: the kept networks of a confirmation, scored on other test images as well."""

import re
import shutil
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from sklearn.metrics import roc_auc_score

from tests.confirm.labs import (
    Lab,
    Stopped,
    draw_hospital,
    leave_sealed,
    shown_of,
    stop_while_scoring,
    times_of,
)
from xraytune.base.errors import DataError, StudyError, XraytuneError
from xraytune.base.files import read_json, sha256_of
from xraytune.confirm.record import Confirmation
from xraytune.data.index import read_labelled
from xraytune.present.page import write_report
from xraytune.search.callbacks import Callbacks

CLASSES = ("NORMAL", "PNEUMONIA")


@pytest.fixture(scope="module")
def hospitals(module_path: Path) -> Path:
    """Folders of two further hospitals."""
    draw_hospital(module_path / "hospital_b", seed=11)
    draw_hospital(module_path / "hospital_c", seed=12)
    return module_path


@pytest.fixture
def folders(hospitals: Path, tmp_path: Path) -> Path:
    """Private copies of these folders."""
    return shutil.copytree(hospitals, tmp_path / "hospitals")


def test_a_hospital_gets_its_own_verdict_from_the_kept_networks_and_the_first_stays(
    done: Lab, first: Confirmation, folders: Path
) -> None:
    folder = folders / "hospital_b"
    trained = times_of(done.study, "*.safetensors")

    found = done.confirm(folder)

    assert replace(found, hospitals=()) == first
    assert trained == times_of(done.study, "*.safetensors"), "nothing is trained"
    (there,) = found.hospitals
    images = read_labelled(folder, CLASSES).images
    assert (there.name, there.exploratory, there.test.images) == ("hospital_b", (), len(images))
    assert there.test.fingerprint != first.test.fingerprint
    (scores_file,) = done.folder.glob("test-*.npy")
    results = np.load(scores_file)
    aurocs = {
        arm.name: [
            roc_auc_score(images.labels, results[run, :, 1]) for run in done.plan.run_numbers(arm)
        ]
        for arm in done.plan.arms
    }
    assert there.finalist.replicate_scores == pytest.approx(aurocs[there.finalist.arm])
    comparison = there.finalist.comparisons[0]
    assert comparison.control_score == pytest.approx(np.mean(aurocs[comparison.control]))
    assert comparison.low < comparison.difference < comparison.high
    record = read_json(done.folder / "verdict.json")
    assert record["version"] == 1
    assert record["hospitals"][0]["test"]["fingerprint"] == there.test.fingerprint
    assert f"At hospital_b: {there.finalist.verdict}" in record["answer"]


def test_a_hospital_is_opened_once_and_stays_in_the_verdict_report_and_on_the_screen(
    done: Lab, folders: Path
) -> None:
    found = done.confirm(folders / "hospital_b", reason="second site")
    scores = times_of(done.study, "*.npy")
    logged = done.log

    again = done.confirm(folders / "hospital_b", reason="again")
    both = done.confirm(folders / "hospital_c")
    last = done.confirm()

    assert again == found
    assert times_of(done.study, "*.npy").items() >= scores.items(), "not scored again"
    assert [hospital.name for hospital in last.hospitals] == ["hospital_b", "hospital_c"]
    assert last.to_json() == both.to_json()
    assert [row["reason"] for row in done.log] == [*[row["reason"] for row in logged], ""]
    assert logged[-1]["reason"] == "second site"
    shown = shown_of(last)
    assert "At hospital_c: " in shown
    assert f"at hospital_b: {last.finalists[0].arm}" in shown
    report = write_report(done.study).read_text()
    patients = last.hospitals[0].test.patients
    assert f"at hospital_b ({patients})" in report, "a row of the chart"
    assert "At hospital_c: " in report


def test_one_command_confirms_and_scores_all_hospitals_as_several_do(
    lab: Lab, hospitals: Path, confirmed: tuple[Lab, Confirmation]
) -> None:
    """The first folder is the verdict's own, and is asked for once."""
    asked = list[str]()
    other, first = confirmed

    found = lab.confirm(
        lab.test,
        hospitals / "hospital_b",
        hospitals / "hospital_c",
        callbacks=Callbacks(before_test=lambda: asked.append("once")),
    )

    assert asked == ["once"]
    assert [hospital.name for hospital in found.hospitals] == ["hospital_b", "hospital_c"]
    assert replace(found, hospitals=(), study=other.study) == first
    assert len(lab.log) == 3


def test_an_interrupted_opening_goes_on_and_is_one_access(
    done: Lab, first: Confirmation, folders: Path
) -> None:
    with pytest.raises(Stopped):
        done.confirm(folders / "hospital_b", callbacks=Callbacks(before_test=leave_sealed))
    assert len(done.log) == 1, "it stays sealed"
    assert done.confirm().hospitals == ()
    with pytest.raises(Stopped):
        done.confirm(folders / "hospital_b", callbacks=Callbacks(on_progress=stop_while_scoring))
    assert len(done.log) == 2, "before the first score"
    notes = list[str]()
    assert done.confirm(callbacks=Callbacks(note=notes.append)) == first
    assert any("hospital_b was opened" in note for note in notes)

    found = done.confirm(folders / "hospital_b", callbacks=Callbacks(before_test=leave_sealed))

    assert found.hospitals[0].exploratory == ()
    assert len(done.log) == 2


def test_a_hospital_that_changed_is_refused_until_it_is_restored(done: Lab, folders: Path) -> None:
    """And another one in a folder of the same name is another hospital."""
    folder = folders / "hospital_b"
    found = done.confirm(folder)
    same_name = shutil.copytree(folders / "hospital_c", folders / "elsewhere/hospital_b")
    removed = next((folder / "NORMAL").iterdir())
    content = removed.read_bytes()
    removed.unlink()

    with pytest.raises(StudyError, match=r"hospital_b: .*scored by this confirmation"):
        done.confirm(folder)
    removed.write_bytes(content)
    table = folder / "patients.csv"
    rows = table.read_text()
    table.write_text(re.sub(r":\d+$", "", rows, flags=re.MULTILINE))
    with pytest.raises(StudyError, match="under other names"):
        done.confirm(folder)
    table.write_text(rows)
    both = done.confirm(folder, same_name)

    assert both.hospitals[0] == found.hospitals[0]
    first, second = both.hospitals
    assert second.name.startswith("hospital_b ")
    assert second.test.fingerprint != first.test.fingerprint


@pytest.mark.parametrize("original", ["training", "scored"])
def test_copies_that_were_saved_again_are_no_other_hospital(
    lab: Lab, hospitals: Path, tmp_path: Path, original: str
) -> None:
    """Brightened, as PNG, under other names and in other classes: they are named."""
    folder = shutil.copytree(hospitals / "hospital_b", tmp_path / "hospital_b")
    known = {"training": lab.xrays / "train", "scored": lab.test}
    table = folder / "patients.csv"
    rows = table.read_text()
    for number, image in enumerate(sorted(known[original].rglob("*.jpeg"))[::30]):
        copy = f"NORMAL/copy{number}.png"
        with Image.open(image) as picture:
            picture.point(lambda level: min(255, round(1.1 * level) + 5)).save(folder / copy)
        rows += f"{copy},{number}\n"
    table.write_text(rows)

    with pytest.raises(DataError, match=r"(?s)hospital_b: .*look like.*copy0\.png"):
        lab.confirm(lab.test, folder)
    assert not lab.log


def test_images_that_were_opened_earlier_make_only_their_hospital_exploratory(
    done: Lab, first: Confirmation, folders: Path
) -> None:
    """By another study; also if confirm/ is moved away to start over."""
    other = Lab(done.path, "other")
    shutil.copytree(done.study, other.study)
    other.confirm(folders / "hospital_b")

    found = done.confirm(folders / "hospital_b", folders / "hospital_c")

    assert replace(found, hospitals=()) == first
    opened, fresh = found.hospitals
    assert opened.exploratory == (
        "test images had been accessed once before, by `confirm` of study other",
    )
    assert opened.sentence.startswith("At hospital_b: exploratory, ")
    assert fresh.exploratory == ()
    shutil.rmtree(done.study / "confirm")
    anew = done.confirm(done.test, folders / "hospital_c")
    assert anew.hospitals[0].exploratory == (
        "test images had been accessed once before, by `confirm` of study small",
    )


def test_unusable_folders_are_refused_before_anything_is_trained(
    lab: Lab, hospitals: Path, tmp_path: Path
) -> None:
    folder = shutil.copytree(hospitals / "hospital_b", tmp_path / "hospital_b")
    rows = (folder / "patients.csv").read_text()
    ours = lab.searched.side("val_b")[0]

    def refused(error: type[XraytuneError], message: str) -> None:
        with pytest.raises(error, match=message):
            lab.confirm(lab.test, folder)
        assert not (lab.folder / "plan.json").exists()
        assert len(list(lab.study.rglob("best.safetensors"))) == len(trained)

    trained = list(lab.study.rglob("best.safetensors"))
    copy = folder / CLASSES[ours.label] / "copy.jpeg"
    shutil.copy(lab.xrays / ours.file, copy)
    table = folder / "patients.csv"
    table.write_text(f"{rows}{copy.relative_to(folder)},somebody\n")
    refused(DataError, r"(?s)patients used for training or validation: .*copy.jpeg.*remove them")
    copy.write_bytes(copy.read_bytes()[:300])
    refused(DataError, r"(?s)copy.jpeg.*repair them")
    copy.unlink()
    header, first, *others = rows.splitlines()
    file = first.partition(",")[0]
    same_id = f"{file},{ours.patient}"
    table.write_text("\n".join([header, same_id, *others]))
    refused(DataError, f"patients used for training or validation: .*{Path(file).name}")
    table.write_text(rows)
    kept = sorted((folder / "PNEUMONIA").iterdir())[0]
    for image in (folder / "PNEUMONIA").iterdir():
        if image != kept:
            image.unlink()
    refused(DataError, "too few test patients: PNEUMONIA 1")


def test_a_hospital_takes_the_place_of_a_test_folder_whose_patients_a_generator_has_seen(
    lab: Lab, folders: Path
) -> None:
    shutil.copytree(lab.test, lab.xrays / "test")
    seen = [sha256_of(file) for file in (lab.xrays / "test").rglob("*.jpeg")]
    (lab.path / "seen.txt").write_text("\n".join(seen))
    study = lab.search("name=seen", f"folder.seen={lab.path}/seen.txt")
    shutil.rmtree(lab.test)  # only the study's own test folder is left
    with pytest.raises(DataError, match="no patient to test on"):
        study.confirm()

    found = study.confirm(folders / "hospital_b")

    assert (found.test.name, found.hospitals) == ("hospital_b", ())


def test_patients_of_a_folder_of_extra_images_are_refused(lab: Lab, hospitals: Path) -> None:
    """The folder has copies of images of the training patients, and one of the hospital's."""
    ours = next((hospitals / "hospital_b/NORMAL").iterdir())
    shutil.copy(ours, lab.path / "copies/NORMAL/synthetic.jpeg")
    with (lab.path / "copies/patients.csv").open("a", encoding="utf-8") as table:
        table.write("NORMAL/synthetic.jpeg,somebody\n")

    named = f"used for training or validation: .*{ours.name}.*\n.*fix: remove them, or list them"
    for further in ([lab.test], []):
        with pytest.raises(DataError, match=named):
            lab.confirm(*further, hospitals / "hospital_b")
