"""Invalid and hostile input: one clear message, its exit code, and no files left behind.

Each case ends before anything is trained and before Ray starts.
"""

import json
import shutil
from collections.abc import Callable
from pathlib import Path

import pytest
from PIL import Image
from typer.testing import Result

from tests.cli.spaces import EXPERIMENT
from tests.in_process import command as run
from tests.in_process import said
from xraytune.data.phantom import draw_phantoms
from xraytune.data.prepare import prepare
from xraytune.nets.compute import choose_compute
from xraytune.study.folder import StudyFolder
from xraytune.study.start import create_study

pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def drawn(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Phantom X-rays of 30 patients, and a model trained on them for a step."""
    from xraytune.model.train import train

    folder = tmp_path_factory.mktemp("bad_input")
    draw_phantoms(folder / "xrays", patients=30, seed=3, image_size_px=48)
    (folder / "experiment.yaml").write_text(EXPERIMENT, encoding="utf-8")
    train(folder / "experiment.yaml", out=folder / "model", cache=folder / "cache")
    return folder


@pytest.fixture
def here(drawn: Path, space: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The current folder: `space.yaml`, `experiment.yaml`, `xrays`, `model` and `notes.txt`, a file."""
    here = space.parent
    shutil.copytree(drawn / "xrays", here / "xrays", ignore=shutil.ignore_patterns("masks"))
    shutil.copytree(drawn / "model", here / "model")
    shutil.copy(drawn / "experiment.yaml", here)
    (here / "notes.txt").write_text("a file\n", encoding="utf-8")
    monkeypatch.chdir(here)
    return here


def images_of(here: Path, class_name: str = "NORMAL") -> list[Path]:
    return sorted((here / "xrays" / "train" / class_name).iterdir())


def content_of(here: Path) -> dict[Path, bytes]:
    """Every file but those of the cache."""
    files = (
        file
        for file in here.rglob("*")
        if file.is_file() and not file.is_relative_to(here / "cache")
    )
    return {file: file.read_bytes() for file in files}


def refused(result: Result, exit_code: int, *messages: str) -> None:
    """One clear message: no traceback, nothing on stdout."""
    assert result.exit_code == exit_code, result.stderr
    assert result.stdout == ""
    assert "Traceback" not in result.stderr
    assert "fix:" in result.stderr
    for message in messages:
        assert message in result.stderr


SEARCH = "search --space space.yaml --studies studies --cache cache"
TRAIN = "train --config experiment.yaml --cache cache -o"
OF_MOBILENET = f"{SEARCH} --weights-dir weights --set backbone=mobilenet_v2 --set weights="
OF_FOLDER = f"{SEARCH} --set source=folder --set folder.path="


def nothing(here: Path) -> None: ...


def put(name: str, content: str) -> Callable[[Path], object]:
    """Write a file, and the folders above it."""

    def write(here: Path) -> None:
        (here / name).parent.mkdir(parents=True, exist_ok=True)
        (here / name).write_text(content, encoding="utf-8")

    return write


cut_weights = put("weights/mobilenet_v2-b0353104.pth", "cut off")
put_a_thesis = put("studies/small/thesis.txt", "precious")


def remove_a_class(here: Path) -> None:
    for image in images_of(here):
        image.unlink()


def spoil_images(here: Path) -> None:
    truncated, empty, text, wide, *_ = images_of(here)
    truncated.write_bytes(truncated.read_bytes()[:500])
    empty.write_bytes(b"")
    text.write_text("text\n", encoding="utf-8")
    Image.new("1", (20_000, 9_000)).save(wide, "PNG")


def break_an_extra_image(here: Path) -> None:
    shutil.copytree(here / "xrays" / "train", here / "extra" / "train")
    next((here / "extra" / "train" / "NORMAL").iterdir()).write_bytes(b"")


def change_a_byte(here: Path) -> None:
    content = bytearray((here / "model" / "model.safetensors").read_bytes())
    content[-1] ^= 1
    (here / "model" / "model.safetensors").write_bytes(content)


BROKEN = (
    "truncated|empty|no JPEG, PNG, TIFF, BMP, GIF|too many pixels|4 images are broken|--skip-broken"
)
NEEDS_FOLDER, EXISTS = "notes.txt: this is a file, but a folder", "this path already exists"
REFUSED: list[tuple[Callable[[Path], object], str, int, str]] = [
    (remove_a_class, SEARCH, 3, "NORMAL"),
    (spoil_images, SEARCH, 3, BROKEN),
    (nothing, f"{SEARCH} --set data.split.group_regex=(a", 2, "regular expression"),
    (nothing, f"{SEARCH} --set resources.gpus_per_trial=99", 4, "99 GPUs"),
    (cut_weights, f"{OF_MOBILENET}imagenet", 4, "mobilenet_v2-b0353104.pth|hash"),
    (nothing, f"{OF_FOLDER}nowhere", 3, "nowhere: there is no such folder"),
    (break_an_extra_image, f"{OF_FOLDER}extra/train", 3, "extra/train/NORMAL|is empty"),
    (nothing, "search --space space.yaml --studies notes.txt", 2, NEEDS_FOLDER),
    (nothing, f"{TRAIN} model", 2, EXISTS),
    (
        nothing,
        "generator train --space experiment.yaml --set gan.steps=2 -o gan",
        2,
        "--set source=gan",
    ),
    (change_a_byte, "predict model xrays/test -o table.csv", 5, "model.safetensors|SHA-256"),
    (put_a_thesis, SEARCH, 5, "studies/small|not a study|--set name="),
]
"""What is wrong, a command -> its exit code, and words of its message, which say where and what."""


@pytest.mark.parametrize(("spoil", "line", "exit_code", "words"), REFUSED)
def test_bad_input_is_refused_and_changes_no_file(
    here: Path, spoil: Callable[[Path], object], line: str, exit_code: int, words: str
) -> None:
    spoil(here)
    before = content_of(here)

    refused(run(*line.split()), exit_code, *words.split("|"))

    assert content_of(here) == before


def test_broken_images_are_left_out_and_listed_on_request_and_a_prediction_prints_its_threshold(
    here: Path,
) -> None:
    spoil_images(here)

    result = run(*f"{TRAIN} out --skip-broken".split())
    shown = run("predict", "out", "xrays/test", "-o", "shown.csv")
    answer = said("predict", "out", "xrays/test", "-o", "answer.csv")

    assert result.exit_code == 0
    assert result.stderr.count("left out: train/NORMAL/") == 4
    assert f"(threshold for PNEUMONIA: {answer['threshold']:.3f})" in shown.stdout
    record = json.loads((here / "out" / "bundle.json").read_text(encoding="utf-8"))
    assert (answer["positive"], answer["threshold"]) == ("PNEUMONIA", record["threshold"])


@pytest.fixture
def study(here: Path) -> StudyFolder:
    """A new study, `studies/small`."""
    from xraytune.space.load import load_space

    space = load_space(here / "space.yaml")
    prepared, _ = prepare(space.settings, here / "cache")
    folder = StudyFolder(here / "studies" / "small")
    create_study(folder, space, prepared, choose_compute(gpus=0, threads=1))
    return folder


def test_another_space_of_the_same_name_is_refused_with_each_difference(study: StudyFolder) -> None:
    before = {file: file.read_bytes() for file in study.path.rglob("*")}

    result = run(*f"{SEARCH} --set gan.width=8 --set budget.max_epochs=3".split())

    refused(
        result,
        5,
        "another space",
        '-gan.width: {"value": 4',
        '+gan.width: {"value": 8',
        "+budget.max_epochs: 3",
    )
    assert {file: file.read_bytes() for file in study.path.rglob("*")} == before


def test_a_damaged_study_is_refused_and_status_creates_no_journal(study: StudyFolder) -> None:
    for file in (
        study.path / name
        for name in ("split.json", "environment.json", "optuna.journal", "study.yaml")
    ):
        whole = file.read_bytes()
        file.unlink()
        refused(run(*SEARCH.split()), 5, "studies/small")
        assert not file.exists()
        file.write_bytes(whole[:10])
        refused(run(*SEARCH.split()), 5, "studies/small")
        assert file.exists()
        file.write_bytes(whole)
    study.journal_path.unlink()

    refused(run("status", "studies/small"), 5, "the journal is missing")

    assert not study.journal_path.exists()
