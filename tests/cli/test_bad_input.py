"""Invalid input: one clear message, its exit code, and no files left behind.

Nothing is trained, and Ray only starts if the folders, labels and weights are right.
"""

import shutil
from collections.abc import Callable
from pathlib import Path

import pytest
from PIL import Image
from typer.testing import Result

from tests.in_process import command as run
from tests.pair_files import draw_xrays
from xraytune.data.prepare import prepare
from xraytune.nets.compute import choose_compute
from xraytune.space.load import load_space
from xraytune.study.folder import StudyFolder
from xraytune.study.start import create_study

SEARCH = "search --space space.yaml --studies studies --cache cache"
OF_FOLDER = f"{SEARCH} --set source=folder --set folder.path="


@pytest.fixture(scope="module")
def drawn(module_path: Path) -> Path:
    """Return a folder with phantom X-rays of 30 patients."""
    draw_xrays(module_path, patients=30, seed=3, image_size_px=48)
    return module_path


@pytest.fixture
def here(drawn: Path, space: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Change to a folder with `space.yaml`, `xrays` and a file, `notes.txt`."""
    here = space.parent
    shutil.copytree(drawn / "xrays", here / "xrays", ignore=shutil.ignore_patterns("masks"))
    (here / "notes.txt").write_text("a file\n")
    monkeypatch.chdir(here)
    return here


def images_of(here: Path) -> list[Path]:
    return sorted((here / "xrays/train/NORMAL").iterdir())


def content_of(here: Path) -> dict[Path, bytes]:
    """Return the content of every file but those of the cache."""
    files = [file for file in here.rglob("*") if file.is_file() and "cache" not in file.parts]
    return {file: file.read_bytes() for file in files}


def refused(result: Result, exit_code: int, *messages: str) -> None:
    """Check that there is one clear message, no traceback, and nothing on stdout."""
    assert (result.exit_code, result.stdout) == (exit_code, ""), result.stderr
    assert "Traceback" not in result.stderr
    for message in ("fix:", *messages):
        assert message in result.stderr


def nothing(here: Path) -> None: ...


def put_a_thesis(here: Path) -> None:
    (here / "studies/small").mkdir(parents=True)
    (here / "studies/small/thesis.txt").write_text("precious")


def remove_a_class(here: Path) -> None:
    for image in images_of(here):
        image.unlink()


def add_a_class(here: Path) -> None:
    shutil.copytree(here / "xrays/train/NORMAL", here / "xrays/train/TB")


def spoil_images(here: Path) -> None:
    truncated, empty, text, wide, *_ = images_of(here)
    truncated.write_bytes(truncated.read_bytes()[:500])
    empty.write_bytes(b"")
    text.write_text("text\n")
    Image.new("1", (20_000, 9_000)).save(wide, "PNG")


def cut_weights(here: Path) -> None:
    (here / "cut.pth").write_bytes(b"weights")
    (here / "mobilenet_v2-b0353104.pth").write_bytes(b"weights")


def lose_everything(here: Path) -> None:
    shutil.rmtree(here / "xrays")


def break_an_extra_image(here: Path) -> None:
    shutil.copytree(here / "xrays/train", here / "extra/train")
    next((here / "extra/train/NORMAL").iterdir()).write_bytes(b"")


OFFICIAL = f"{SEARCH} --set weights=imagenet --weights-dir . --set backbone="
LOST = "xrays: there is no such folder|no official weights of vgg11|none and trainable: all"
BROKEN = "truncated|empty|no JPEG, PNG, TIFF, BMP, GIF|too many pixels|4 images or masks are broken"


@pytest.mark.parametrize(
    ("spoil", "line", "exit_code", "words"),
    [
        (remove_a_class, SEARCH, 3, "NORMAL"),
        (spoil_images, SEARCH, 3, BROKEN),
        (lose_everything, f"{OFFICIAL}vgg11", 3, LOST),
        (cut_weights, f"{OFFICIAL}mobilenet_v2", 4, "b0353104.pth: this file is damaged"),
        (cut_weights, f"{SEARCH} --set weights=cut.pth", 4, "cut.pth: this weights file"),
        (add_a_class, f"{SEARCH} --set data.classes=auto --set loss=bce", 2, "bce, 3 classes: "),
        (nothing, f"{SEARCH} --set batch_size=1 --set backbone=resnet18", 2, "a single value"),
        (nothing, f"{SEARCH} --set resources.cpus_per_trial=9999", 4, "9999 CPU cores"),
        (nothing, f"{OF_FOLDER}nowhere", 3, "nowhere: folder.path: there is nothing"),
        (break_an_extra_image, f"{OF_FOLDER}extra/train", 3, "extra/train: 1 images|is empty"),
        (nothing, "search --space space.yaml --studies notes.txt", 2, "this is a file"),
        (nothing, "train --config space.yaml -o xrays", 2, "this path already exists"),
        (put_a_thesis, SEARCH, 5, "studies/small|not a study|--set name="),
    ],
)
def test_bad_input_is_refused_and_changes_no_file(
    here: Path, spoil: Callable[[Path], object], line: str, exit_code: int, words: str
) -> None:
    spoil(here)
    before = content_of(here)

    result = run(*line.split())

    refused(result, exit_code, *words.split("|"))
    assert content_of(here) == before
    # Ray starts while images are decoded.
    assert ("starting Ray" in result.stderr) == (spoil in (spoil_images, break_an_extra_image))


@pytest.fixture
def study(here: Path) -> StudyFolder:
    """Create a study, `studies/small`."""
    space = load_space(here / "space.yaml")
    prepared, _ = prepare(space.settings, here / "cache")
    folder = StudyFolder(here / "studies/small")
    create_study(folder, space, prepared, choose_compute(gpus=0, threads=1))
    return folder


def test_another_space_of_the_same_name_is_refused_with_each_difference(study: StudyFolder) -> None:
    before = content_of(study.path)

    result = run(*f"{SEARCH} --set gan.width=8 --set budget.max_epochs=3".split())

    refused(result, 5, "another space", '- gan.width: {"value": 4', '+ gan.width: {"value": 8')
    assert "+ budget.max_epochs: 3" in result.stderr
    assert content_of(study.path) == before


def test_a_damaged_study_is_refused_and_status_creates_no_journal(study: StudyFolder) -> None:
    for name in ("split.json", "environment.json", "optuna.journal", "study.yaml"):
        file = study.path / name
        whole = file.read_bytes()
        file.unlink()
        refused(run(*SEARCH.split()), 5, "studies/small")
        assert not file.exists()
        for damaged in (whole[:10], b"{}"):
            file.write_bytes(damaged)
            refused(run(*SEARCH.split()), 5, "studies/small")
        file.write_bytes(whole)
    study.journal_path.unlink()

    refused(run("status studies/small"), 5, "the journal is missing")

    assert not study.journal_path.exists()
