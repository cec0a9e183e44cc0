"""The space that `search` writes for a folder of images."""

import json
import re
import shutil
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from benchmarks.laptop_lines import Walk, walk
from tests.data.conftest import DataFolder
from tests.data.image_files import dicom
from tests.docs.commands import TINY, TINY_PAIRS
from tests.in_process import command, confirm_in_process
from tests.pair_files import draw_xrays
from xraytune.data.first_space import first_space_path, write_first_space
from xraytune.data.index import read_index
from xraytune.data.phantom import paint_phantoms
from xraytune.search.callbacks import NO_CALLBACKS
from xraytune.search.run import search
from xraytune.space.load import load_space
from xraytune.space.rules import space_warnings

pytestmark = pytest.mark.slow


KINDS = (
    *("classes", "other classes", "three classes", "rare", "few patients", "sites", "DICOM"),
    *("table", "findings", "masks"),
)
"""Kinds of data folders."""


def draw(folder: Path, kind: str, patients: int = 60) -> Path:
    """Draw images of a kind, and return what `--data` gets."""
    paint_phantoms(
        folder,
        patients=12 if kind == "few patients" else patients,
        seed=1,
        image_size_px=64,
        pairs=kind == "masks",
        findings=kind in ("findings", "table"),
        sites=2 if kind == "sites" else 0,
    )
    if kind == "rare":
        ill = sorted((folder / "train/PNEUMONIA").iterdir())
        for image in {*ill} - {*ill[::20]}:
            image.unlink()
    for part in ("train", "test"):
        if kind == "other classes":
            (folder / part / "PNEUMONIA").rename(folder / part / "TB")
        if kind == "three classes":
            (folder / part / "TB").mkdir()
            for image in sorted((folder / part / "PNEUMONIA").iterdir())[::2]:
                image.rename(folder / part / "TB" / image.name)
    if kind == "DICOM":
        write_as_dicom(folder)
    if kind == "table":
        columns = {"file": "labels.csv", "image": "file", "patient": "patient", "side": "side"}
        table = {**columns, "labels": {"effusion": "EFFUSION", "lobar": "LOBAR"}}
        of_findings = {"findings": "auto", "uncertain": "zeros", "empty": "zeros"}
        data = {"classes": "auto", "positive": "EFFUSION", "table": table, **of_findings}
        (folder / "data.yaml").write_text(json.dumps({"data": data}), encoding="utf-8")
    return folder / "data.yaml" if kind in ("findings", "table") else folder


def write_as_dicom(folder: Path) -> None:
    """Replace each image by a DICOM file whose header has its patient."""
    for image in folder.rglob("*.jpeg"):
        pixels = np.asarray(Image.open(image).convert("L"))
        patient = image.name.rpartition("-")[0] or image.name.partition("_")[0]
        image.with_suffix(".dcm").write_bytes(dicom(pixels, bits=8, PatientID=patient))
        image.unlink()


def first_space(data: Path) -> Path:
    """Write the first space for some data, as on a machine without a GPU."""
    out = data.with_name("first_space.yaml")
    write_first_space(data, out, has_gpu=False)
    return out


@pytest.mark.parametrize("kind", KINDS)
def test_the_space_of_each_kind_of_data_is_valid_and_begins_with_the_baseline(
    tmp_path: Path, kind: str
) -> None:
    """Without a GPU and with one."""
    data = draw(tmp_path / "xrays", kind)
    tasks = {"findings": "findings", "masks": "segmentation"}
    for has_gpu in (False, True):
        out = tmp_path / f"{has_gpu}.yaml"
        write_first_space(data, out, has_gpu=has_gpu)

        space = load_space(out)
        assert space.settings.task == tasks.get(kind, "classification")
        assert [*space_warnings(space)] == []
        assert space.settings.data.image_size == 64  # of the images
        assert space.points()[0]["source"] == "none"
        searched = space.searched
        assert ("balance" in searched) == (kind == "rare")
        assert ("imbalance" in searched) == (kind in ("rare", "findings"))
        trainable = {trial.trainable for trial in space.extreme_parameters("trainable")}
        assert ("all" in trainable) == (has_gpu or kind == "masks")


def follow_lines(folder: Path, kind: str, patients: int, *, has_test: bool) -> Walk:
    """Follow the lines from images to a model, with nothing chosen but a tiny budget."""
    data = draw(folder / "xrays", kind, patients)
    if not has_test:
        shutil.rmtree(folder / "xrays/test", ignore_errors=True)
    tiny = TINY_PAIRS if kind == "masks" else TINY
    chosen = ("data.train_patients", "data.split", "labels", "confirm")
    budget = [line for line in tiny if not line.startswith(chosen)]
    budget += ["confirm.replicates=4", "final.max_epochs=1"]

    def run(words: Sequence[str]) -> tuple[int, str]:
        result = command(*words)
        return result.exit_code, result.output

    with confirm_in_process():
        return walk(str(data.relative_to(folder)), run, budget)


def test_the_lines_lead_to_a_model_and_say_before_the_search_that_a_verdict_takes_more_patients(
    here: Path,
) -> None:
    walked = follow_lines(here, "classes", 60, has_test=False)

    assert (walked.ending, walked.dead_ends) == ("announced", ())
    assert {line.split()[0] for line in walked.commands} == {
        *("data", "plan", "search", "export", "train")
    }


@pytest.mark.nightly
@pytest.mark.parametrize("has_test", [True, False])
@pytest.mark.parametrize(
    ("kind", "patients"),
    [
        *((kind, 150) for kind in KINDS),
        *(("classes", patients) for patients in (60, 300, 700, 2000)),
        *((kind, 300) for kind in ("three classes", "rare", "findings", "masks")),
    ],
)
def test_the_lines_lead_from_each_kind_of_data_to_a_verdict_or_say_what_is_missing(
    here: Path, kind: str, patients: int, has_test: bool
) -> None:
    walked = follow_lines(here, kind, patients, has_test=has_test)

    assert walked.dead_ends == ()
    if has_test and kind == "classes":
        assert walked.ending == "verdict"


@pytest.mark.parametrize(
    ("patients", "has_folder", "train_patients"),
    [(1300, True, 100), (1300, False, 100), (190, True, None), (190, False, 25), (60, False, None)],
)
def test_a_search_leaves_patients_to_test_on_unless_the_test_folder_suffices(
    tmp_path: Path, patients: int, has_folder: bool, train_patients: int | None
) -> None:
    """Where there are too few, the space says how many patients a verdict would take."""
    draw_xrays(tmp_path, patients=patients)
    if not has_folder:
        shutil.rmtree(tmp_path / "xrays/test")

    out = first_space(tmp_path / "xrays")

    settings = load_space(out).settings
    assert settings.data.train_patients == train_patients
    assert settings.confirm.replicates == (10 if train_patients else 5)
    found = re.search(r"it takes about \d\d patients", out.read_text())
    assert (found is not None) == (patients == 60)


def test_a_search_without_a_space_writes_one_and_the_same_command_resumes(here: Path) -> None:
    draw(here / "xrays", "classes")
    few = ["backbone=small_cnn", "weights=none", "trainable=all", "budget.trials=1"]
    few += ["budget.max_epochs=1", "scheduler={name: none}", "data.image_size=64"]

    with confirm_in_process():
        view = search(data=Path("xrays"), overrides=few)
    written = Path("xrays.yaml").read_text(encoding="utf-8")
    Path("xrays.yaml").write_text(written + "\n# mine\n", encoding="utf-8")
    notes = list[str]()
    with confirm_in_process():
        again = search(
            data=Path("xrays"), overrides=few, callbacks=replace(NO_CALLBACKS, note=notes.append)
        )

    assert view.best is not None
    assert again.path == view.path
    assert Path("xrays.yaml").read_text(encoding="utf-8").endswith("# mine\n")
    assert "xrays.yaml is there already, so no space was written" in notes


def test_a_plan_without_a_space_writes_the_one_that_a_search_takes(here: Path) -> None:
    """With the options for classes and patients, which the file keeps."""
    draw(here / "xrays", "classes")
    group_regex = r"((?:NORMAL2-)?IM-\d+|person\d+_[a-z]+)"
    options = ["--data", "xrays", "--classes", "three", "--group-regex", group_regex]

    tiny = ["--set", "backbone=small_cnn", "--set", "weights=none", "--set", "trainable=all"]

    planned = command("plan", *options, *tiny)

    assert planned.exit_code == 0
    assert "next: xraytune search --data xrays" in planned.stdout
    data = load_space(Path("xrays.yaml")).settings.data
    assert (data.classes, data.split.group_regex) == ("three", group_regex)


def test_a_proposed_expression_for_patients_is_a_comment_to_paste(tmp_path: Path) -> None:
    DataFolder(tmp_path / "xrays").images("{NORMAL,TB}/{1,2,3,4}{5,6}_{a,b}.png")

    out = first_space(tmp_path / "xrays")

    comment = re.search("# .* 16 patients with (group_regex: .*)", out.read_text(encoding="utf-8"))
    assert comment
    text = out.read_text(encoding="utf-8").replace("split: {", f"split: {{{comment[1]}, ")
    out.write_text(text, encoding="utf-8")
    index = read_index(load_space(out).settings.data)
    assert len({*index.images.patients}) == 16


def test_a_data_file_is_not_overwritten(tmp_path: Path) -> None:
    data = draw(tmp_path / "xrays", "findings")

    assert first_space_path(data) == Path("data_space.yaml")


@pytest.mark.parametrize(
    ("folder", "study"),
    [
        ("my x-rays", "my-x-rays"),
        ("chest.v2", "chest.v2"),
        ("2024", "2024"),
        ("true", "true"),
        ("Röntgen", "Rontgen"),
        ("胸部 🫁", "first-space"),
        ("it's: a #1", "it-s-a-1"),
        ("x\nseed: 99", "x-seed-99"),
        ("a\x7fb\u2028c", "a-bc"),
    ],
)
def test_a_folder_may_have_any_name(here: Path, folder: str, study: str) -> None:
    data = draw(Path(folder), "few patients")
    out = first_space_path(data)

    write_first_space(data, out, has_gpu=False)

    assert out == Path(f"{folder}.yaml")
    settings = load_space(out).settings
    assert settings.name == study
    assert settings.data.path == here / folder
    assert settings.seed == 0


def test_a_class_may_have_any_name(tmp_path: Path) -> None:
    """The names of the classes are in a comment, and those of rare ones in another."""
    data = draw(tmp_path / "xrays", "rare")
    for part in ("train", "test"):
        (data / part / "PNEUMONIA").rename(data / part / "TB\nseed: 99 \x7f\u2028seed: 98")

    assert load_space(first_space(data)).settings.seed == 0


def test_the_space_keeps_the_patients_and_sites_of_a_data_file(tmp_path: Path) -> None:
    draw_xrays(tmp_path, patients=60, image_size_px=64, sites=2)
    (tmp_path / "xrays/patients.csv").unlink()
    data = tmp_path / "labels.yaml"
    split = {"group_regex": "(.+/.+)[.]", "site": "(hospital_.)", "val_a": 0.3}
    data.write_text(json.dumps({"data": {"path": "xrays", "split": split}}), encoding="utf-8")

    found = load_space(first_space(data)).settings.data.split

    assert (found.group_regex, found.site, found.val_a, found.val_b) == (*split.values(), 0.2)
