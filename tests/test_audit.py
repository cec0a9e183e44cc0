"""`xraytune audit`: each fault has its line, bad input one message, and a whole audit ends in a page."""

from __future__ import annotations

import shutil
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from safetensors.torch import save_file

from tests.in_process import InProcess, command, one_thread, said
from xraytune import run_audit
from xraytune.base.files import read_json
from xraytune.confirm import study as confirm_study
from xraytune.data.phantom import draw_phantoms
from xraytune.nets.backbones import build_backbone
from xraytune.search import run as search_run
from xraytune.search.callbacks import NO_CALLBACKS

pytestmark = pytest.mark.slow

SMALL = (
    *("data.image_size=32", "data.split.val_a=0.42", "data.split.val_b=0.42"),
    *("backbone=small_cnn", "weights=none", "trainable=all", "batch_size=8", "lr=1e-2"),
    *("budget.max_epochs=2", "budget.steps_per_epoch=2", "confirm.replicates=2"),
)


def write(pixels: np.ndarray[Any, np.dtype[np.uint8]], file: Path) -> None:
    file.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(pixels).save(file)


def images_of(root: Path) -> list[Path]:
    return sorted(root.rglob("*.jpeg"))


@pytest.fixture(scope="module")
def clinic(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Real X-rays of phantoms in `xrays`, a folder of each kind of synthetic images, and weights for the quality figures."""
    root = tmp_path_factory.mktemp("audit")
    random = np.random.default_rng(0)
    draw_phantoms(root / "xrays", patients=240, seed=3, image_size_px=32)
    draw_phantoms(root / "others", patients=200, seed=4, image_size_px=32)
    for file in images_of(root):  # an opacity that even random features tell
        if file.parent.name == "PNEUMONIA":
            pixels = np.asarray(Image.open(file).convert("L")).copy()
            pixels[16:] //= 2
            write(pixels, file)
    for kind in ("new", "noise"):
        for number, file in enumerate(images_of(root / "others" / "train")):
            pixels = np.asarray(Image.open(file).convert("L"))
            pixels = random.integers(0, 256, pixels.shape, dtype=np.uint8) if kind == "noise" else pixels
            write(pixels, root / kind / file.parent.name / f"image_{number}.png")
    for number, file in enumerate(images_of(root / "xrays" / "train")):
        write(np.asarray(Image.open(file).convert("L")), root / "copies" / file.parent.name / f"image_{number}.png")
    for name, other in (("NORMAL", "PNEUMONIA"), ("PNEUMONIA", "NORMAL")):
        shutil.copytree(root / "new" / name, root / "swapped" / other)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        save_file(build_backbone("small_cnn")[0].state_dict(), root / "net.safetensors")
    return root


@pytest.fixture
def here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """The current folder, empty; trials run in this process."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(search_run, "Runner", InProcess)
    monkeypatch.setattr(confirm_study, "Runner", InProcess)
    with one_thread():
        yield tmp_path


def statuses(found: dict[str, Any]) -> dict[str, str]:
    return {line["name"]: line["status"] for line in found["lines"]}


def settings(*more: str) -> list[str]:
    return [f"--set={one}" for one in (*SMALL, *more)]


def quick(clinic: Path, kind: str | Path, *more: str) -> dict[str, Any]:
    return said("audit", clinic / "xrays", clinic / kind, "--quick", "--cache", clinic / "cache", *settings(*more))


@pytest.mark.parametrize(
    ("kind", "headline"),
    [
        ("new", "No fault found"),
        ("noise", "These images do not look like real ones."),
        ("swapped", "Many of these images have wrong labels."),
        ("copies", "These images are copies of training images."),
    ],
)
def test_each_fault_is_the_headline(clinic: Path, here: Path, kind: str, headline: str) -> None:
    found = quick(clinic, kind, "quality.backbone=small_cnn", f"quality.weights={clinic / 'net.safetensors'}")

    assert found["headline"].startswith(headline)
    assert found["lines"][-1]["status"] == "not measured"
    study = here / "studies" / f"audit-{kind}"
    assert read_json(study / "audit.json") == found | {"study": f"audit-{kind}"}
    assert found["headline"] in (study / "audit.html").read_text("utf-8")
    assert not (here / "studies" / "test_access.jsonl").exists()


def test_images_with_findings_are_audited_by_their_data_file(clinic: Path, here: Path) -> None:
    """Their labels too: those of other images are wrong, although the images are the same."""
    draw_phantoms(here / "xrays", patients=200, seed=3, image_size_px=32, findings=True, difficulty=0)
    draw_phantoms(here / "new", patients=120, seed=4, image_size_px=32, findings=True, difficulty=0)
    for table in here.glob("*/labels.csv"):  # opacities that even random features tell
        for file, _, _, *cells in (line.split(",") for line in table.read_text("utf-8").splitlines()[1:]):
            pixels = np.asarray(Image.open(table.parent / file)).copy()
            for place in np.flatnonzero(np.array(cells) == "1"):
                pixels[10 * place : 10 * place + 10] //= 2
            write(pixels, table.parent / file)
    shutil.copytree(here / "new", here / "shuffled")
    table = here / "shuffled" / "labels.csv"
    header, *rows = [line.split(",") for line in table.read_text("utf-8").splitlines()]
    others = [[*row[:3], *other[3:]] for row, other in zip(rows, reversed(rows), strict=True)]
    table.write_text("\n".join(map(",".join, [header, *others])), "utf-8")
    features = ("quality.backbone=small_cnn", f"quality.weights={clinic / 'net.safetensors'}")

    whole = said("audit", "xrays/data.yaml", "new/data.yaml", *settings(*features))
    wrong = said("audit", "xrays/data.yaml", "shuffled/data.yaml", "--quick", *settings(*features))

    assert statuses(whole)["labels"] != "bad"
    assert statuses(whole)["downstream"] in {"good", "warning", "bad"}
    assert statuses(wrong)["labels"] == "bad"


def test_images_smaller_than_those_of_the_study_are_compared_at_their_own_size(clinic: Path, here: Path) -> None:
    """Enlarged images have no texture: at the study's size, none of them would look like a real one."""
    draw_phantoms(here / "xrays", patients=240, seed=3, image_size_px=64)
    options = ("data.image_size=64", "quality.backbone=small_cnn", f"quality.weights={clinic / 'net.safetensors'}")

    found = said("audit", "xrays", clinic / "new", "--quick", "--cache", here / "cache", *settings(*options))

    (realism,) = (line["sentence"] for line in found["lines"] if line["name"] == "realism")
    assert found["quality"]["resolution_px"] == 32
    assert "Compared at 32 px, the size of their files; the study uses 64 px" in realism


def test_an_interrupted_audit_resumes_and_ends_with_a_verdict(clinic: Path, here: Path) -> None:
    """Without pretrained weights: quality is not measured, everything else is."""
    shutil.copytree(clinic / "new", here / "new")

    def interrupt(note: str) -> None:
        if note == "trial 1: complete":
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        run_audit(clinic / "xrays", Path("new"), overrides=SMALL, callbacks=replace(NO_CALLBACKS, note=interrupt))
    interrupted = read_json(here / "studies" / "audit-new" / "audit.json")
    found = said("audit", clinic / "xrays", "new", *settings())
    verdict = read_json(here / "studies" / "audit-new" / "confirm" / "verdict.json")

    assert interrupted["lines"][-1]["sentence"] == "Not measured: the audit was interrupted."
    assert found["lines"][:-1] == interrupted["lines"][:-1]
    assert verdict["finalists"][0]["arm"].startswith("folder")
    assert statuses(found)["downstream"] in {"good", "warning", "bad"}
    assert statuses(found)["memorisation"] == "good"
    assert statuses(found)["realism"] == "not measured"
    assert "not pretrained" in found["lines"][2]["sentence"]
    assert {"none", "duplicate"} == {control["kind"] for control in verdict["finalists"][0]["comparisons"]}
    page = (here / "studies" / "audit-new" / "audit.html").read_text("utf-8")
    assert 'id="verdict"' in page
    assert len((here / "studies" / "test_access.jsonl").read_text("utf-8").splitlines()) == 1


def test_other_class_names_another_audit_or_a_folder_of_the_same_name_are_refused(clinic: Path, here: Path) -> None:
    shutil.copytree(clinic / "new" / "NORMAL", here / "given" / "healthy")
    note = here / "studies" / "audit-noise" / "notes.txt"
    note.parent.mkdir(parents=True)
    note.write_text("mine", encoding="utf-8")
    quick(clinic, "new")
    refused = [
        (here / "given", (), 3, ("healthy", "NORMAL, PNEUMONIA", "fix: rename them")),
        (clinic / "noise", (), 5, ("audit-noise",)),
        (clinic / "new", ("lr=1e-3",), 5, ("--set name=",)),
    ]
    for folder, more, exit_code, words in refused:
        done = command("audit", clinic / "xrays", folder, "--quick", *settings(*more))

        assert done.exit_code == exit_code
        assert all(word in " ".join(done.stderr.split()) for word in words), done.stderr
    assert [*note.parent.iterdir()] == [note]
    assert not (here / "studies" / "audit-given").exists()


def test_a_folder_of_one_class_or_real_images_without_enough_test_patients_give_no_verdict(
    clinic: Path, here: Path
) -> None:
    """Phantoms have more images with pneumonia. Normal images alone can be mixed only to balance the classes."""
    shutil.copytree(clinic / "new" / "NORMAL", here / "only" / "NORMAL")
    shutil.copytree(clinic / "xrays" / "train", here / "xrays")

    shutil.copytree(clinic / "xrays", here / "few")
    for file in images_of(here / "few" / "test" / "NORMAL")[1:]:
        file.unlink()

    one_class = said("audit", clinic / "xrays", "only", *settings())
    no_test = said("audit", "xrays", clinic / "new", *settings())
    few = said("audit", "few", clinic / "new", *settings("name=few"))

    assert "there are only 0 images of PNEUMONIA" in one_class["lines"][-1]["sentence"]
    assert statuses(one_class)["memorisation"] == "good"
    assert no_test["lines"][-1]["sentence"] == "Not measured: the real images have no test/ folder."
    assert "too few test patients: NORMAL 1; an interval needs 5 or more" in few["lines"][-1]["sentence"]


def test_images_of_held_out_patients(clinic: Path, here: Path) -> None:
    """Test patients are an error; validation patients are left out and counted."""
    quick(clinic, "new", "name=split")
    images = read_json(here / "studies" / "split" / "split.json")["images"]
    for kind in ("test", "val"):
        shutil.copytree(clinic / "new", here / kind)
    sealed = images_of(clinic / "xrays" / "test")[0]
    shutil.copy(sealed, here / "test" / sealed.parent.name)
    validation = clinic / "xrays" / images["file"][images["side"].index("val_a")]
    shutil.copy(validation, here / "val" / validation.parent.name)

    of_test = command("audit", clinic / "xrays", "test", "--quick", *settings())
    of_val = quick(clinic, here / "val")

    assert of_test.exit_code == 3
    assert "held-out test images are among these extra images" in " ".join(of_test.stderr.split())
    assert statuses(of_val)["patients"] == "warning"
    assert of_val["lines"][0]["sentence"].startswith("1 images show validation patients")
