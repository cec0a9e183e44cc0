"""`xraytune audit`: each fault has its line, bad input one message, and a page shows it all."""

import shutil
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from tests.in_process import command, confirm_in_process, said, save_backbone
from tests.pair_files import draw_xrays, save
from xraytune.audit import audit
from xraytune.base.files import read_json
from xraytune.data.phantom import paint_phantoms
from xraytune.search.callbacks import NO_CALLBACKS
from xraytune.study.row import TrialRow

SMALL = (
    *("data.image_size=32", "data.split.val_a=0.42", "data.split.val_b=0.42"),
    *("backbone=small_cnn", "weights=none", "trainable=all", "batch_size=8", "lr=1e-2"),
    *("budget.max_epochs=2", "budget.steps_per_epoch=2", "confirm.replicates=2"),
)


def images_of(root: Path) -> list[Path]:
    return sorted(root.rglob("*.jpeg"))


@pytest.fixture(scope="module")
def clinic(module_path: Path) -> Path:
    """Real phantoms in `xrays`, a folder of each kind of synthetic images, and weights."""
    draw_xrays(module_path, patients=240, seed=3)
    paint_phantoms(module_path / "others", patients=200, seed=4, image_size_px=32)
    for file in images_of(module_path):  # an opacity that even random features tell
        if file.parent.name == "PNEUMONIA":
            pixels = np.asarray(Image.open(file).convert("L")).copy()
            pixels[16:] //= 2
            save(file, pixels)
    for kind, source in (("new", "others"), ("copies", "xrays")):
        for number, file in enumerate(images_of(module_path / source / "train")):
            pixels = np.asarray(Image.open(file).convert("L"))
            save(module_path / kind / file.parent.name / f"image_{number}.png", pixels)
    for name, other in (("NORMAL", "PNEUMONIA"), ("PNEUMONIA", "NORMAL")):
        shutil.copytree(module_path / "new" / name, module_path / "swapped" / other)
    save_backbone(module_path / "net.safetensors")
    return module_path


@pytest.fixture(autouse=True)
def _in_process() -> Iterator[None]:
    """Trials run in this process."""
    with confirm_in_process():
        yield


def settings(*more: str) -> list[str]:
    return [f"--set={one}" for one in (*SMALL, *more)]


@pytest.mark.parametrize(
    ("kind", "headline"),
    [
        ("new", "Whether these images help was not measured"),
        ("swapped", "These images teach a classifier the opposite of real ones"),
        ("copies", "These images are copies of training images."),
    ],
)
def test_a_quick_audit_names_the_fault_and_writes_nothing(
    clinic: Path, here: Path, kind: str, headline: str
) -> None:
    audit_of_kind = f"audit {clinic}/xrays {clinic}/{kind} --quick --cache {clinic}/cache"

    found = said(audit_of_kind, *settings(f"weights={clinic}/net.safetensors"))

    assert found["headline"].startswith(headline)
    assert found["verdict"] is None
    assert not [*here.iterdir()]


def test_an_interrupted_audit_resumes_and_ends_with_a_verdict(clinic: Path, here: Path) -> None:
    """On given test images; without pretrained weights, quality is not measured."""
    shutil.copytree(clinic / "new", here / "new")

    def interrupt(row: TrialRow) -> None:
        if row.number == 1:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        audit(
            clinic / "xrays/train",
            Path("new"),
            test=clinic / "xrays/test",
            overrides=SMALL,
            callbacks=replace(NO_CALLBACKS, on_trial_end=interrupt),
        )
    found = said(f"audit {clinic}/xrays/train new --test {clinic}/xrays/test", *settings())
    study = here / "studies/audit-new"
    verdict = read_json(study / "confirm/verdict.json")

    assert found["verdict"]["verdict"] == verdict["verdict"]
    assert read_json(study / "audit.json") == found
    assert verdict["finalists"][0]["arm"].startswith("folder")
    assert found["report"]["copies"] == ""
    assert "not pretrained" in found["report"]["note"]
    assert {"none", "duplicate", "synthetic_only"} == {
        control["kind"] for control in verdict["finalists"][0]["comparisons"]
    }
    assert 'id="verdict"' in (study / "report.html").read_text()
    assert len((here / "studies/test_access.jsonl").read_text().splitlines()) == 1


@pytest.mark.usefixtures("here")
def test_a_folder_whose_name_means_something_in_yaml_is_audited_itself(
    clinic: Path,
) -> None:
    """Without quotes, YAML would read the name of another folder."""
    shutil.copytree(clinic / "copies", clinic / "new #2")

    quick = said(
        "audit",
        clinic / "xrays",
        clinic / "new #2",
        "--quick",
        "--cache",
        clinic / "cache",
        *settings(f"weights={clinic}/net.safetensors"),
    )

    assert quick["headline"].startswith("These images are copies")


def test_other_class_names_or_a_folder_of_the_same_name_are_refused(
    clinic: Path, here: Path
) -> None:
    shutil.copytree(clinic / "new/NORMAL", here / "given/healthy")
    note = here / "studies/audit-copies/notes.txt"
    note.parent.mkdir(parents=True)
    note.write_text("mine")
    refused = [
        (here / "given", 3, ("healthy", "NORMAL, PNEUMONIA", "fix: rename")),
        (clinic / "copies", 5, ("audit-copies",)),
    ]
    for folder, exit_code, words in refused:
        done = command(f"audit {clinic}/xrays {folder} --quick", *settings())

        assert done.exit_code == exit_code
        assert all(word in " ".join(done.stderr.split()) for word in words), done.stderr
    assert [*note.parent.iterdir()] == [note]
    assert not (here / "studies/audit-given").exists()


def test_an_audit_that_cannot_end_with_a_verdict_says_so_before_it_trains(
    clinic: Path, here: Path
) -> None:
    """Without a test folder, by too few patients, or a generator that may have seen them all."""
    xrays = clinic / "xrays/train"

    few = said(f"audit {xrays} {clinic}/new", *settings())
    enough = settings("confirm.test=unused", "data.train_patients=8")
    unknown = said(f"audit {xrays} {clinic}/new", *enough)

    assert "it needs 88 training patients" in few["headline"]
    assert "which images the synthetic ones were made from" in unknown["headline"]
    assert all("--test DATA" in each["fix"] for each in (few, unknown))
    assert "fix: add patients" in command(f"audit {xrays} {clinic}/new", *settings()).stdout
    own = command(f"audit {xrays} {clinic}/new --test {clinic}/xrays/train", *settings())
    assert (own.exit_code, "patients used for training" in own.stdout) == (0, True)
    assert not (here / "studies").exists()


def test_without_a_test_folder_two_replicates_leave_patients_to_test_on(
    clinic: Path, here: Path
) -> None:
    """A third of the patients would be too many to train each of them on."""
    (here / "seen.txt").write_text("0" * 64)
    more = ("data.split.val_a=0.1", "data.split.val_b=0.1", f"folder.seen={here}/seen.txt")

    assert audit(clinic / "xrays/train", clinic / "new", overrides=[*SMALL, *more]).verdict


@pytest.mark.usefixtures("here")
def test_classes_of_any_name_are_audited(clinic: Path) -> None:
    for folder, name in (("xrays/train", "odd"), ("new", "odd_new")):
        shutil.copytree(clinic / folder / "NORMAL", clinic / name / "healthy")
        shutil.copytree(clinic / folder / "PNEUMONIA", clinic / name / "ill")

    found = said(f"audit {clinic}/odd {clinic}/odd_new --classes auto --quick", *settings())

    assert found["faults"] == []


def test_images_of_test_patients_are_an_error(clinic: Path, here: Path) -> None:
    shutil.copytree(clinic / "new", here / "test")
    sealed = images_of(clinic / "xrays/test")[0]
    shutil.copy(sealed, here / "test" / sealed.parent.name)

    of_test = command(f"audit {clinic}/xrays test --quick", *settings())

    assert of_test.exit_code == 3
    assert "held-out test images have the ID" in " ".join(of_test.stderr.split())
