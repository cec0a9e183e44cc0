"""`xraytune audit`: each fault has its line, bad input one message, and a whole audit ends in a page."""

from __future__ import annotations

import json
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
from xraytune.confirm import training
from xraytune.data.phantom import draw_phantoms
from xraytune.files import read_json
from xraytune.models.backbones import build_backbone
from xraytune.search import run as search_run
from xraytune.search.messages import NO_CALLBACKS

pytestmark = pytest.mark.slow

CLASSIFIER = """\
version: 1
name: classifier
data: {path: ignored, image_size: 32, split: {val_a: 0.42, val_b: 0.42}}
parameters:
  source: {values: [none, gan]}
  gan: {when: {source: gan}, parameters: {steps: {value: 4}}}
  backbone: {value: small_cnn}
  weights: {value: none}
  batch_size: {value: 8}
  lr: {value: 1e-2}
budget: {trials: 60, max_epochs: 2, steps_per_epoch: 2}
confirm: {gan_seeds: 2, classifier_seeds: 1}
"""
QUALITY = "quality: {backbone: small_cnn, weights: net.safetensors}\n"


def write(pixels: np.ndarray[Any, np.dtype[np.uint8]], file: Path) -> None:
    file.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(pixels).save(file)


def images_of(root: Path) -> list[Path]:
    return sorted(root.rglob("*.jpeg"))


@pytest.fixture(scope="module")
def clinic(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Real X-rays of phantoms in `xrays`, a folder of each kind of synthetic images, and the files of two classifiers."""
    root = tmp_path_factory.mktemp("audit")
    random = np.random.default_rng(0)
    draw_phantoms(root / "xrays", patients=240, seed=3, image_size_px=32)
    draw_phantoms(root / "others", patients=200, seed=4, image_size_px=32)
    for file in images_of(root):  # an opacity that even random features tell
        if file.parent.name == "PNEUMONIA":
            pixels = np.asarray(Image.open(file).convert("L")).copy()
            pixels[16:] //= 2
            write(pixels, file)
    for kind in ("new", "noise", "small"):
        for number, file in enumerate(images_of(root / "others" / "train")):
            image = Image.open(file).convert("L")
            pixels = np.asarray(image.resize((16, 16)) if kind == "small" else image)
            pixels = random.integers(0, 256, pixels.shape, dtype=np.uint8) if kind == "noise" else pixels
            write(pixels, root / kind / file.parent.name / f"image_{number}.png")
    for number, file in enumerate(images_of(root / "xrays" / "train")):
        write(np.asarray(Image.open(file).convert("L")), root / "copies" / file.parent.name / f"image_{number}.png")
    for name, other in (("NORMAL", "PNEUMONIA"), ("PNEUMONIA", "NORMAL")):
        shutil.copytree(root / "new" / name, root / "swapped" / other)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        save_file(build_backbone("small_cnn")[0].state_dict(), root / "net.safetensors")
    (root / "classifier.yaml").write_text(CLASSIFIER, encoding="utf-8")
    (root / "measured.yaml").write_text(CLASSIFIER + QUALITY, encoding="utf-8")
    return root


@pytest.fixture
def here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """The current folder, empty; trials run in this process."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(search_run, "Runner", InProcess)
    monkeypatch.setattr(training, "Runner", InProcess)
    with one_thread():
        yield tmp_path


def statuses(found: dict[str, Any]) -> dict[str, str]:
    return {line["name"]: line["status"] for line in found["lines"]}


def quick(clinic: Path, kind: str | Path, space: str = "measured.yaml", *more: object) -> dict[str, Any]:
    arguments = ("--quick", "--model-space", clinic / space, "--cache", clinic / "cache", *more)
    return said("audit", clinic / "xrays", clinic / kind, *arguments)


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
    found = quick(clinic, kind)

    assert found["headline"].startswith(headline)
    assert found["lines"][-1]["status"] == "not measured"
    study = here / "studies" / f"audit-{kind}"
    assert read_json(study / "audit.json") == found
    assert found["headline"] in (study / "audit.html").read_text("utf-8")
    assert not (here / "studies" / "test_access.jsonl").exists()


def test_an_interrupted_audit_resumes_and_ends_with_a_verdict(clinic: Path, here: Path) -> None:
    """Without pretrained weights: quality is not measured, everything else is."""
    shutil.copytree(clinic / "new", here / "new")

    def interrupt(what: str, done: int, _: int) -> None:
        if what == "trials" and done == 2:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        run_audit(
            clinic / "xrays",
            Path("new"),
            model_space=clinic / "classifier.yaml",
            callbacks=replace(NO_CALLBACKS, on_progress=interrupt),
        )
    interrupted = read_json(here / "studies" / "audit-new" / "audit.json")
    found = said("audit", clinic / "xrays", "new", "--model-space", clinic / "classifier.yaml")

    assert interrupted["lines"][-1]["sentence"] == "Not measured: the audit was interrupted."
    assert found["lines"][:-1] == interrupted["lines"][:-1]
    assert found["verdict"]["finalists"][0]["arm"].startswith("folder")
    assert statuses(found)["downstream"] in {"good", "warning", "bad"}
    assert statuses(found)["memorisation"] == "good"
    assert statuses(found)["realism"] == "not measured"
    assert "not pretrained" in found["lines"][2]["sentence"]
    assert {"matched"} == {one["role"] for one in found["verdict"]["finalists"][0]["comparisons"]}
    page = (here / "studies" / "audit-new" / "audit.html").read_text("utf-8")
    assert 'id="study-verdict"' in page
    assert 'id="study-ratio"' in page
    assert len((here / "studies" / "test_access.jsonl").read_text("utf-8").splitlines()) == 1


def test_other_class_names_are_one_error(clinic: Path, here: Path) -> None:
    shutil.copytree(clinic / "new" / "NORMAL", here / "given" / "healthy")
    shutil.copytree(clinic / "new" / "PNEUMONIA", here / "given" / "PNEUMONIA")

    done = command("audit", clinic / "xrays", "given", "--quick", "--model-space", clinic / "classifier.yaml")

    assert done.exit_code == 3
    assert "healthy" in done.stderr
    assert "NORMAL, PNEUMONIA" in " ".join(done.stderr.split())
    assert "fix: rename them" in done.stderr
    assert not (here / "studies").exists()


def test_a_folder_that_is_no_study_is_left_alone(clinic: Path, here: Path) -> None:
    note = here / "studies" / "audit-new" / "notes.txt"
    note.parent.mkdir(parents=True)
    note.write_text("mine", encoding="utf-8")

    done = command("audit", clinic / "xrays", clinic / "new", "--quick", "--model-space", clinic / "classifier.yaml")

    assert done.exit_code == 5
    assert "audit-new" in done.stderr
    assert [*note.parent.iterdir()] == [note]


def test_a_large_folder_is_measured_by_its_first_images(clinic: Path, here: Path) -> None:
    """Pixels are read from a store on disk, 256 images of a class at a time."""
    for number, file in enumerate(images_of(clinic / "others") * 2):
        write(
            np.roll(np.asarray(Image.open(file).convert("L")), number % 5),
            here / "large" / file.parent.name / f"{number}.png",
        )

    found = quick(clinic, here / "large", "classifier.yaml")

    assert max(found["synthetic"]["images"].values()) > 256
    assert max(one["images"] for one in found["memorisation"].values()) == 256


def test_one_class_is_mixed_where_the_mix_can_use_it(clinic: Path, here: Path) -> None:
    """Phantoms have more images with pneumonia: more normal ones balance the classes, more of the others cannot."""
    for name in ("NORMAL", "PNEUMONIA"):
        shutil.copytree(clinic / "new" / name, here / f"only_{name}" / name)

    smaller, larger = (quick(clinic, here / f"only_{name}", "classifier.yaml") for name in ("NORMAL", "PNEUMONIA"))

    assert (smaller["mix"]["balance"], bool(smaller["mix"]["ratios"])) == ("equal", True)
    assert larger["mix"]["ratios"] == []
    assert "0 images of NORMAL" in larger["mix"]["why"]
    assert statuses(larger)["memorisation"] == "good"


def test_images_of_held_out_patients(clinic: Path, here: Path) -> None:
    """Test patients end the audit; validation patients are left out and counted."""
    split = quick(clinic, "new", "classifier.yaml", "--set", "name=split")
    images = read_json(here / "studies" / split["study"] / "split.json")["images"]
    for kind in ("test", "val"):
        shutil.copytree(clinic / "new", here / kind)
    sealed = images_of(clinic / "xrays" / "test")[0]
    shutil.copy(sealed, here / "test" / sealed.parent.name)
    validation = next(clinic / "xrays" / one["file"] for one in images if one["side"] == "val_a")
    shutil.copy(validation, here / "val" / validation.parent.name)

    of_test, of_val = (quick(clinic, here / kind, "classifier.yaml") for kind in ("test", "val"))

    assert of_test["headline"] == "These images show held-out patients."
    assert {*statuses(of_test).values()} == {"bad", "not measured"}
    assert statuses(of_val)["patients"] == "warning"
    assert of_val["lines"][0]["figure"].startswith("1 of ")


@pytest.mark.usefixtures("here")
def test_small_images_are_scaled_up_and_the_page_says_so(clinic: Path) -> None:
    found = quick(clinic, "small")

    realism = next(line for line in found["lines"] if line["name"] == "realism")
    assert "at most 16 px and are upscaled to 32 px" in realism["sentence"]


def test_without_a_test_folder_the_downstream_line_says_what_to_give(clinic: Path, here: Path) -> None:
    shutil.copytree(clinic / "xrays" / "train", here / "xrays")

    found = said("audit", "xrays", clinic / "new", "--model-space", clinic / "classifier.yaml")

    assert "give --test DIR" in found["lines"][-1]["sentence"]
    assert json.dumps(found["verdict"]) == "null"


@pytest.mark.usefixtures("here")
def test_another_audit_of_the_same_name_is_refused(clinic: Path) -> None:
    quick(clinic, "new", "classifier.yaml")

    done = command(
        *("audit", clinic / "xrays", clinic / "new", "--quick", "--model-space", clinic / "classifier.yaml"),
        *("--set", "lr=1e-3"),
    )

    assert done.exit_code == 5
    assert "--set name=" in done.stderr
