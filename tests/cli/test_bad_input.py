"""Invalid and hostile input: one clear message, its exit code, and no files left behind.

Each case ends before anything is trained and before Ray starts.
"""

import os
import shutil
import subprocess
from collections.abc import Callable
from pathlib import Path
from typing import TypeAlias

import pytest
from PIL import Image
from typer.testing import Result

from tests.cli.spaces import EXPERIMENT
from tests.faults.ray_processes import PROGRAM
from tests.model.conftest import change_record
from xraytune.data.phantom import draw_phantoms
from xraytune.data.prepare import prepare
from xraytune.nets.compute import choose_compute
from xraytune.study.folder import StudyFolder
from xraytune.study.start import create_study

pytestmark = pytest.mark.slow

Run: TypeAlias = Callable[..., Result]

ENDLESS = "(([^#]|.|..)+)[^.g]$"
"""Backtracks exponentially on a path that ends in g."""


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


def refused(result: Result, exit_code: int, *messages: str) -> None:
    """One clear message: no traceback, nothing on stdout."""
    assert result.exit_code == exit_code, result.stderr
    assert result.stdout == ""
    assert "Traceback" not in result.stderr
    assert "fix:" in result.stderr
    for message in messages:
        assert message in result.stderr


def search(run: Run, *arguments: object) -> Result:
    return run("search", "--space", "space.yaml", "--studies", "studies", "--cache", "cache", *arguments)


def remove_a_class(here: Path) -> None:
    for image in images_of(here):
        image.unlink()


def put_a_file_for_train(here: Path) -> None:
    shutil.rmtree(here / "xrays" / "train")
    (here / "xrays" / "train").write_text("", encoding="utf-8")


@pytest.mark.parametrize(
    ("spoil", "message"), [(remove_a_class, "class without images: NORMAL"), (put_a_file_for_train, "no train/")]
)
def test_a_wrong_folder_is_refused_and_leaves_nothing(
    run: Run, here: Path, spoil: Callable[[Path], None], message: str
) -> None:
    spoil(here)

    refused(search(run), 3, message)

    assert not (here / "studies").exists()


def spoil_images(here: Path) -> None:
    truncated, empty, text, wide, *_ = images_of(here)
    truncated.write_bytes(truncated.read_bytes()[:500])
    empty.write_bytes(b"")
    text.write_text("text\n", encoding="utf-8")
    Image.new("L", (30_000, 10)).save(wide, "PNG")


@pytest.mark.parametrize(
    "arguments",
    [
        ("search", "--space", "space.yaml", "--studies", "out", "--cache", "cache"),
        ("train", "--config", "experiment.yaml", "-o", "out", "--cache", "cache"),
        ("generator", "train", "--space", "space.yaml", "--set", "gan.steps=2", "-o", "out", "--cache", "cache"),
        ("evaluate", "model", "--data", "xrays/train", "--json"),
        ("predict", "model", "xrays/train", "-o", "out", "--json"),
    ],
)
def test_every_broken_image_is_named_with_its_reason(run: Run, here: Path, arguments: tuple[str, ...]) -> None:
    spoil_images(here)

    refused(
        run(*arguments),
        3,
        "the image is truncated or damaged",
        "the file is empty",
        "neither a JPEG, PNG, TIFF nor DICOM",
        "30000 x 10 pixels are too many",
        "4 images are broken",
        "--skip-broken",
    )

    assert not (here / "out").exists()


def test_broken_images_are_left_out_and_listed_on_request(run: Run, here: Path) -> None:
    spoil_images(here)

    result = run("train", "--config", "experiment.yaml", "-o", "out", "--cache", "cache", "--skip-broken")

    assert result.exit_code == 0
    assert result.stderr.count("left out: train/NORMAL/") == 4


def test_class_with_only_broken_images_is_refused(run: Run, here: Path) -> None:
    for image in images_of(here):
        image.write_bytes(b"")

    refused(search(run, "--skip-broken"), 3, "class NORMAL has 0 patients", "broken images were left out")

    assert not (here / "studies").exists()


def test_pipes_and_circular_links_are_skipped(run: Run, here: Path) -> None:
    folder = images_of(here)[0].parent
    (folder / "IM-0001-0001.jpeg").symlink_to("IM-0001-0001.jpeg")
    os.mkfifo(folder / "pipe.jpeg")

    result = run("data", "inspect", "xrays")

    assert result.exit_code == 0
    text = " ".join(result.stdout.split())
    assert "1 pipe or device" in text
    assert "are not followed: 1" in text


@pytest.mark.parametrize(
    ("override", "exit_code", "message"),
    [
        ("foo=1", 2, "unknown key 'foo'"),
        ("weights=IMAGENET1K_V9", 2, "torchvision has no set 'IMAGENET1K_V9'"),
        ("data.split.group_regex=abc", 2, "there is no group in it"),
        ("data.split.group_regex=(abc", 2, "not a regular expression"),
        (f"data.split.group_regex={'(' * 2000}a{')' * 2000}", 2, "not a regular expression"),
        ("backbone=resnet5O", 2, "did you mean 'resnet50'?"),
        ("resources.gpus_per_trial=99", 4, "99 GPUs requested, but torch sees"),
        ("resources.cpus_per_trial=9999", 4, "9999 CPU cores"),
        ("weights=notes.txt", 4, "this weights file cannot be read"),
    ],
)
def test_a_setting_that_cannot_run_is_refused(
    run: Run, here: Path, override: str, exit_code: int, message: str
) -> None:
    refused(search(run, "--set", override), exit_code, message)

    assert not (here / "studies").exists()
    assert not (here / "cache").exists()


@pytest.mark.slow
@pytest.mark.parametrize(
    "arguments",
    [
        ("search", "--space", "space.yaml", "--set", f"data.split.group_regex={ENDLESS}"),
        ("data", "inspect", "xrays", "--group-regex", ENDLESS),
        ("evaluate", "model", "--data", "xrays/test"),
    ],
    ids=lambda arguments: arguments[0],
)
def test_an_expression_that_never_ends_is_refused(run: Run, here: Path, arguments: tuple[str, ...]) -> None:
    change_record(here / "model", group_regex=ENDLESS)

    refused(
        run(*arguments), 2, f"the expression {ENDLESS} takes too long", ".jpeg", "or list the patients in patients.csv"
    )

    assert not (here / "studies").exists()


@pytest.mark.parametrize(
    ("weights", "message"),
    [
        ("imagenet", "the hash of these weights does not match the file name"),
        ("IMAGENET1K_V2", "no official weights of mobilenet_v2"),
        ("notes.txt", "this weights file cannot be read"),
        ("model/model.safetensors", "these weights are not for mobilenet_v2"),
    ],
)
def test_wrong_weights_are_refused(run: Run, here: Path, weights: str, message: str) -> None:
    (here / "weights").mkdir()
    (here / "weights" / "mobilenet_v2-b0353104.pth").write_bytes(b"cut off")

    result = search(
        run, "--set", "backbone=mobilenet_v2", "--set", f"weights={weights}", "--weights-dir", here / "weights"
    )

    refused(result, 4, message)
    assert not (here / "studies").exists()


@pytest.mark.parametrize(
    ("folder", "message"),
    [("nowhere", "there is no such folder"), ("notes.txt", "a file, not a folder"), ("xrays/train", "is empty")],
)
def test_a_wrong_folder_of_extra_images_is_refused_before_ray(run: Run, here: Path, folder: str, message: str) -> None:
    shutil.copytree(here / "xrays" / "train", here / "extra" / "train")
    if folder == "xrays/train":
        folder = "extra/train"
        next((here / folder / "NORMAL").iterdir()).write_bytes(b"")

    result = search(run, "--set", "source=folder", "--set", f"folder.path={folder}")

    refused(result, 3, message)
    assert not (here / "studies").exists()


@pytest.mark.parametrize(
    "arguments",
    [
        ("search", "--space", "space.yaml", "--studies", "notes.txt"),
        ("search", "--space", "space.yaml", "--cache", "notes.txt"),
        ("train", "--config", "experiment.yaml", "-o", "notes.txt/model"),
        ("train", "--config", "experiment.yaml", "-o", "out", "--cache", "notes.txt"),
        ("generator", "train", "--space", "space.yaml", "--set", "gan.steps=2", "-o", "notes.txt/gan"),
        ("generator", "sample", "gan", "-o", "notes.txt/images", "-n", "3"),
        ("predict", "model", "xrays/test", "-o", "notes.txt/table.csv"),
        ("data", "phantom", "notes.txt/xrays", "--patients", "20"),
        ("data", "inspect", "xrays", "--figures", "notes.txt"),
    ],
)
def test_a_file_where_a_folder_is_needed_is_refused_before_any_work(
    run: Run, here: Path, arguments: tuple[str, ...]
) -> None:
    before = sorted(here.rglob("*"))

    refused(run(*arguments), 2, "this is a file, but a folder is needed here")

    assert sorted(here.rglob("*")) == before
    assert (here / "notes.txt").read_text(encoding="utf-8") == "a file\n"


@pytest.mark.parametrize(
    "arguments",
    [
        ("train", "--config", "experiment.yaml", "-o", "model"),
        ("generator", "train", "--space", "space.yaml", "--set", "gan.steps=2", "-o", "model"),
        ("generator", "sample", "gan", "-o", "model", "-n", "3"),
        ("predict", "model", "xrays/test", "-o", "notes.txt"),
        ("data", "phantom", "model", "--patients", "20"),
    ],
)
def test_nothing_is_overwritten(run: Run, here: Path, arguments: tuple[str, ...]) -> None:
    before = {file: file.read_bytes() for file in here.rglob("*") if file.is_file()}

    refused(run(*arguments), 2, "this path already exists")

    assert {file: file.read_bytes() for file in here.rglob("*") if file.is_file()} == before


@pytest.mark.slow
def test_unreadable_file_is_reported_without_traceback(here: Path) -> None:
    (here / "model" / "manifest.json").chmod(0)
    # Root reads everything, unless it gives that up before.
    bound = ["setpriv", "--bounding-set", "-dac_override,-dac_read_search"] if os.geteuid() == 0 else []
    if bound and (shutil.which("setpriv") is None or subprocess.run([*bound, "true"], check=False).returncode):
        pytest.skip("root cannot give up its right to read everything here")

    command = [*bound, PROGRAM, "predict", "model", "xrays/test", "-o", "table.csv"]
    done = subprocess.run(command, capture_output=True, text=True, check=False)

    assert (done.returncode, done.stdout) == (4, ""), done.stderr
    assert "no access (Permission denied)" in done.stderr
    assert "Traceback" not in done.stderr
    assert not (here / "table.csv").exists()


def test_a_gan_is_not_trained_where_the_space_has_none(run: Run, here: Path) -> None:
    """Else `--set gan.steps=2` would be ignored, and the default of 10,000 steps trained."""
    result = run("generator", "train", "--space", "experiment.yaml", "--set", "gan.steps=2", "-o", "gan")

    refused(result, 2, "no generator in this space", "--set source=gan")
    assert not (here / "gan").exists()


@pytest.mark.parametrize("content", ["{", '{"generators": {}, "settings": {"foo": 1}}'])
def test_a_damaged_gan_is_refused(run: Run, here: Path, content: str) -> None:
    (here / "gan").mkdir()
    (here / "gan" / "generator.json").write_text(content, encoding="utf-8")

    refused(run("generator", "sample", "gan", "-o", "images", "-n", "3"), 5, "generator.json is damaged")

    assert not (here / "images").exists()


def test_a_bundle_with_one_byte_changed_is_refused(run: Run, here: Path) -> None:
    content = bytearray((here / "model" / "model.safetensors").read_bytes())
    content[-1] ^= 1
    (here / "model" / "model.safetensors").write_bytes(content)

    refused(run("predict", "model", "xrays/test", "-o", "table.csv"), 5, "its SHA-256 differs from the manifest")

    assert not (here / "table.csv").exists()


@pytest.fixture
def study(here: Path) -> StudyFolder:
    """A new study, `studies/small`."""
    from xraytune.space.load import load_space

    space = load_space(here / "space.yaml")
    prepared, _ = prepare(space.settings, here / "cache")
    folder = StudyFolder(here / "studies" / "small")
    create_study(folder, space, prepared, choose_compute(gpus=0, threads=1))
    return folder


def test_another_space_of_the_same_name_is_refused_with_each_difference(run: Run, study: StudyFolder) -> None:
    before = {file: file.read_bytes() for file in study.path.rglob("*")}

    result = search(run, "--set", "gan.width=8", "--set", "budget.max_epochs=3")

    refused(result, 5, "another space", '-gan.width: {"value": 4', '+gan.width: {"value": 8', "+budget.max_epochs: 3")
    assert {file: file.read_bytes() for file in study.path.rglob("*")} == before


@pytest.mark.parametrize("name", ["split.json", "environment.json", "optuna.journal", "study.yaml"])
@pytest.mark.parametrize("damage", ["removed", "cut off"])
def test_a_damaged_study_is_refused(run: Run, study: StudyFolder, name: str, damage: str) -> None:
    file = study.path / name
    if damage == "removed":
        file.unlink()
    else:
        file.write_bytes(file.read_bytes()[:10])

    refused(search(run), 5, "studies/small")

    assert file.exists() == (damage != "removed")


def test_status_of_a_study_without_a_journal_creates_none(run: Run, study: StudyFolder) -> None:
    study.journal_path.unlink()

    refused(run("status", "studies/small"), 5, "the journal is missing")

    assert not study.journal_path.exists()


def test_folder_that_is_not_a_study_is_unchanged(run: Run, here: Path) -> None:
    (here / "studies" / "small").mkdir(parents=True)
    (here / "studies" / "small" / "thesis.txt").write_text("precious", encoding="utf-8")

    refused(search(run), 5, "this folder is not empty, and is not a study", "--set name=")

    assert [file.name for file in (here / "studies" / "small").iterdir()] == ["thesis.txt"]
