"""Files from elsewhere run nothing, lead nowhere, and nothing secret is written down."""

from __future__ import annotations

import io
import json
import os
import pickle
import socket
import uuid
import zipfile
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from tests.data.test_formats import png
from tests.faults.fuzzing import little_memory, only_our_errors
from tests.faults.specimens import make_bundle, make_study, network, seal, used_optimizer
from tests.in_process import CPU, one_thread, search_in_process
from tests.study.studies import two_images, write_space
from xraytune.base.errors import ArtifactError, ConfigError, StudyError, XraytuneError
from xraytune.base.files import read_json, write_array, write_bytes, write_json
from xraytune.base.tensors import load_content, read_weights
from xraytune.confirm.arms import read_plan
from xraytune.confirm.run import confirm
from xraytune.confirm.test_access import log_test_access
from xraytune.data.decoding import decode_file
from xraytune.data.index import read_index
from xraytune.data.phantom import draw_phantoms
from xraytune.data.prepare import prepare
from xraytune.data.table import find_table
from xraytune.model.best import export
from xraytune.model.load import open_bundle
from xraytune.nets.checkpoint import load_best, resume
from xraytune.search.run import search
from xraytune.space.load import load_space
from xraytune.space.settings import DataSettings, GanSettings
from xraytune.study.folder import StudyFolder, locked
from xraytune.study.journal import Journal
from xraytune.study.row import ended_trials
from xraytune.study.start import create_study
from xraytune.study.status import status
from xraytune.synth.checkpoint import checkpoint_generator, load_generator
from xraytune.synth.train import train_generator

NAMES_THAT_LEAD_OUT = ("../outside", "/outside", "a/../../outside", "nul\0", "..", "")


@pytest.fixture(autouse=True)
def pinned() -> Iterator[None]:
    with one_thread():
        yield


class Trap:
    """Unpickled, it makes a folder."""

    def __init__(self, mark: Path) -> None:
        self.mark = mark

    def __reduce__(self) -> tuple[Callable[..., object], tuple[object, ...]]:
        return os.mkdir, (str(self.mark),)


def pickles_of(trap: Trap) -> Iterator[bytes]:
    """By pickle, as torch wrote it; by torch; by NumPy."""
    yield pickle.dumps({"version": 1, "network": trap}, protocol=2)
    by_torch, by_numpy = io.BytesIO(), io.BytesIO()
    torch.save({"version": 1, "network": trap}, by_torch)
    np.save(by_numpy, np.array([trap], dtype=object), allow_pickle=True)
    yield from (by_torch.getvalue(), by_numpy.getvalue())


def resume_a_gan(folder: Path) -> None:
    """A damaged checkpoint is told in the log, and training starts anew."""
    settings = GanSettings.model_validate({"image_size": 32, "steps": 1, "width": 4, "z_dim": 8, "batch_size": 4})
    pixels = np.zeros((4, 32, 32), dtype=np.uint8)
    labels = np.zeros(4, dtype=np.int64)
    list(train_generator(settings, pixels, labels, 1, compute=CPU, checkpoint_dir=folder))
    raise ArtifactError("trained anew")


def open_in_a_bundle(file: Path) -> None:
    """Use a bundle whose other files are whole, and whose manifest agrees with this one."""
    make_bundle(file.parent / "whole")
    for other in (file.parent / "whole").iterdir():
        if not os.path.lexists(file.parent / other.name):
            other.rename(file.parent / other.name)
    if file.is_file() and file.stat().st_size < 2**20:
        seal(file.parent)
    bundle = open_bundle(file.parent)
    bundle.experiment(), bundle.prepared(), bundle.network(CPU)


def read_manifest(file: Path) -> None:
    write_json(file.with_name("bundle.json"), {})
    open_bundle(file.parent)


FILES_FROM_ELSEWHERE: dict[str, Callable[[Path], object]] = {
    "space.yaml": load_space,
    "patients.csv": lambda file: find_table(file.parent),
    "image.png": lambda file: decode_file(str(file), 32, "squash"),
    "image.dcm": lambda file: decode_file(str(file), 32, "squash"),
    "own.pth": read_weights,
    "own.bin": read_weights,
    "own.safetensors": read_weights,
    "model/manifest.json": read_manifest,
    "model/bundle.json": open_in_a_bundle,
    "model/config.yaml": open_in_a_bundle,
    "model/split.json": open_in_a_bundle,
    "model/model.safetensors": open_in_a_bundle,
    "generator.safetensors": load_generator,
    "best.safetensors": lambda file: load_best(file.parent, torch.nn.Linear(2, 2)),
    "checkpoint.pt": lambda file: resume(file.parent, network(), used_optimizer(network())),
    "gan/checkpoint.pt": checkpoint_generator,
    "plan.json": lambda file: read_plan(file.parent),
    "trials/0000/val_b.npy": lambda file: StudyFolder(file.parents[2]).results(0, "val_b", 3, two_images()),
    "optuna.journal": lambda file: Journal(file, write_space(file.parent), writable=True),
    "trials.jsonl": lambda file: ended_trials(StudyFolder(file.parent)),
    "split.json": lambda file: StudyFolder(file.parent).prepared(),
}
TEXTS = {"space.yaml", "patients.csv", "image.png", "image.dcm", "plan.json", "optuna.journal", "trials.jsonl"}
TENSORS = {name: read for name, read in FILES_FROM_ELSEWHERE.items() if name not in {*TEXTS, "split.json"}}
TENSORS["training/checkpoint.pt"] = lambda file: resume_a_gan(file.parent)
VAL_B = "trials/0000/val_b.npy"
SPECIAL = ("named pipe", "socket", "device")


def place_of(name: str, folder: Path) -> Path:
    file = folder / name
    file.parent.mkdir(parents=True, exist_ok=True)
    return file


@pytest.mark.slow
@pytest.mark.parametrize("name", TENSORS)
def test_malicious_pickle_is_refused_and_not_executed(tmp_path: Path, name: str) -> None:
    mark = tmp_path / "it ran"
    for number, content in enumerate(pickles_of(Trap(mark))):
        file = place_of(name, tmp_path / f"{number}")
        write_bytes(file, content, is_recorded=name == VAL_B)

        with pytest.raises(XraytuneError):
            TENSORS[name](file)

    assert not mark.exists()
    pickle.loads(next(pickles_of(Trap(mark))))  # noqa: S301  else the test would see nothing
    assert mark.is_dir()


@pytest.mark.slow
def test_an_image_bomb_among_the_images_is_named_and_refused(tmp_path: Path) -> None:
    draw_phantoms(tmp_path / "xrays", patients=20, seed=1, image_size_px=32)
    (tmp_path / "xrays" / "train" / "NORMAL" / "bomb.png").write_bytes(png(60_000, 60_000, 8, 0, b"\0"))
    write_space(tmp_path)
    settings = load_space(tmp_path / "small.yaml").settings

    with pytest.raises(XraytuneError, match=r"bomb\.png.*too many for an X-ray"), little_memory():
        prepare(settings, tmp_path / "cache")


@pytest.mark.parametrize("name", [*NAMES_THAT_LEAD_OUT, ".hidden", "a/b", "a\\b", "a\n", "x" * 65])
def test_the_name_of_a_study_is_the_name_of_a_folder(tmp_path: Path, name: str) -> None:
    file = tmp_path / "space.yaml"
    text = "name: {}\ndata: {{path: x}}\nparameters: {{lr: {{min: 1e-5, max: 1e-3}}}}\n"

    for inside, overrides in (("small", [f"name={json.dumps(name)}"]), (json.dumps(name), [])):
        file.write_text(text.format(inside), encoding="utf-8")
        with pytest.raises(ConfigError, match="name"):
            load_space(file, overrides)


def write_image(path: Path, level: int) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    pixels = np.random.default_rng(level).integers(0, 255, (32, 32), dtype=np.uint8)
    Image.fromarray(pixels).save(path)


@pytest.mark.parametrize("with_classes", [False, True])
def test_patient_table_cannot_add_outside_files(tmp_path: Path, with_classes: bool) -> None:
    """Neither by its path nor by a link."""
    root, secret = tmp_path / "xrays", tmp_path / "secret.png"
    write_image(secret, 0)
    files = [f"{name}/{number}.png" for name in ("NORMAL", "PNEUMONIA") for number in range(12)]
    if with_classes:
        files = [file.replace("/", "_") for file in files]
    for number, file in enumerate(files):
        write_image(root / file, 1 + number)
    (root / "link.png").symlink_to(secret)
    rows = [*files, "../secret.png", str(secret), "link.png", "nul\0.png"]
    table = ["file,patient,class"] if with_classes else ["file,patient"]
    for number, file in enumerate(rows):
        row = [file, f"p{number}", "PNEUMONIA" if "PNEUMONIA" in file else "NORMAL"]
        table.append(",".join(row if with_classes else row[:2]))
    (root / "patients.csv").write_text("\n".join(table) + "\n", encoding="utf-8")

    try:
        index = read_index(DataSettings(path=root))
    except XraytuneError:
        return
    assert sorted(image.file for image in index.images) == sorted(files)


@pytest.fixture
def study(tmp_path: Path) -> StudyFolder:
    folder = StudyFolder(tmp_path / "studies" / "small")
    create_study(folder, write_space(tmp_path), two_images(), CPU)
    return folder


COMMANDS: tuple[Callable[[Path], object], ...] = (
    lambda study: search(study.parent.parent / "small.yaml", studies=study.parent),
    confirm,
    status,
    lambda study: export(study, out=study.parent / "best.yaml"),
)
FILES_OF_A_STUDY = (
    *("study.yaml", "optuna.journal", "trials.jsonl", "wall.json", ".lock", ".ray.log", "trials/0000/config.json"),
    *("confirm/runs.jsonl", "trials/0000/checkpoint/checkpoint.pt"),
)
FOLDERS_OF_A_STUDY = (".tune", "trials", "trials/0006", "confirm", "trials/0000/wandb")


@pytest.fixture(scope="module")
def whole_study(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Each test puts something into it, and takes it out again."""
    root = tmp_path_factory.mktemp("root")
    (root / "xrays").mkdir()
    (root / "elsewhere").mkdir()
    return make_study(root).path


@pytest.mark.slow
@pytest.mark.parametrize("name", [*FILES_OF_A_STUDY, *FOLDERS_OF_A_STUDY])
def test_a_link_in_a_study_is_refused_and_never_written_through(whole_study: Path, name: str) -> None:
    """And a pipe is refused at once."""
    root, path = whole_study.parent.parent, whole_study / name
    kept = root / "elsewhere" / path.name
    path.parent.mkdir(parents=True, exist_ok=True)
    if name in FOLDERS_OF_A_STUDY:
        path.mkdir(exist_ok=True)
    else:
        path.touch()
    path.rename(kept)

    for kind in ("symbolic link", "named pipe")[: 1 + (name in FILES_OF_A_STUDY)]:
        if kind == "named pipe":
            os.mkfifo(path)
        else:
            path.symlink_to(kept)
        for command in COMMANDS:
            with only_our_errors(root), pytest.raises(StudyError, match=kind) as refusal:
                command(whole_study)
            assert str(path) in str(refusal.value)
        path.unlink()
    kept.rename(path)


def test_symlinks_of_wandb_and_optuna_are_accepted(tmp_path: Path) -> None:
    folder = make_study(tmp_path)
    logs = folder.trial_path(0) / "wandb" / "offline-run-1" / "logs"
    logs.mkdir(parents=True)
    (logs / "debug-core.log").symlink_to(tmp_path / "cache" / "wandb" / "core-debug.log")
    (logs.parents[1] / "latest-run").symlink_to("offline-run-1")
    (folder.path / "optuna.journal.lock").symlink_to(tmp_path / "where it was copied from" / "optuna.journal")

    assert status(folder.path).trials


@pytest.mark.parametrize("name", ["test_access.jsonl", ".test_access.jsonl.turn"])
@pytest.mark.parametrize("kind", ["link", "dangling link", "pipe"])
def test_test_access_is_logged_only_in_model_folder(tmp_path: Path, name: str, kind: str) -> None:
    model, elsewhere = tmp_path / "model", tmp_path / "elsewhere"
    model.mkdir()
    elsewhere.mkdir()
    (elsewhere / "link").write_bytes(b"kept")
    if kind == "pipe":
        os.mkfifo(model / name)
    else:
        (model / name).symlink_to(elsewhere / kind)

    with only_our_errors(elsewhere), pytest.raises(ArtifactError, match=r"test_access\.jsonl.*: this is a "):
        log_test_access(model, command="evaluate", fingerprint="0", reason="", image_count=1)


@pytest.mark.slow
@pytest.mark.parametrize(
    ("name", "kind"),
    [
        *((name, "too large") for name in FILES_FROM_ELSEWHERE),
        *((name, f"a {kind}") for name in sorted(FILES_FROM_ELSEWHERE.keys() - {"optuna.journal"}) for kind in SPECIAL),
    ],
)
def test_special_or_huge_file_is_refused_at_once(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, name: str, kind: str
) -> None:
    """Before memory is allocated."""
    file = place_of(name, tmp_path)
    listener = socket.socket(socket.AF_UNIX)
    if kind == "a named pipe":
        os.mkfifo(file)
    elif kind == "a device":
        file.symlink_to("/dev/zero")
    elif kind == "a socket":
        monkeypatch.chdir(file.parent)  # its whole path would be too long for a socket
        listener.bind(file.name)
    else:
        file.touch()
        os.truncate(file, 40 * 2**30)

    with listener, only_our_errors(), pytest.raises(XraytuneError) as refusal, little_memory():
        FILES_FROM_ELSEWHERE[name](file)

    assert str(file) in str(refusal.value)
    expected = ("too large", "40,960.00 MiB") if kind == "too large" else (f"this is {kind}",)
    assert all(words in str(refusal.value) for words in expected)


@pytest.mark.slow
def test_a_small_file_with_huge_content_is_refused_at_once(tmp_path: Path) -> None:
    file = tmp_path / "model" / "bundle.json"
    make_bundle(file.parent)
    write_json(file, read_json(file) | {"class_names": [f"{number}" for number in range(300_000)]})
    seal(file.parent)

    with only_our_errors(), pytest.raises(XraytuneError) as refusal, little_memory():
        open_bundle(file.parent)

    assert str(file) in str(refusal.value)


def test_compressed_tensors_are_refused(tmp_path: Path) -> None:
    """torch.save compresses nothing; torch.load would fill gigabytes from a file of megabytes."""
    stream = io.BytesIO()
    torch.save({"weight": torch.zeros(1_000_000, dtype=torch.uint8)}, stream)
    bomb = tmp_path / "checkpoint.pt"
    with zipfile.ZipFile(stream) as whole, zipfile.ZipFile(bomb, "w", zipfile.ZIP_DEFLATED) as packed:
        for member in whole.infolist():
            packed.writestr(member.filename, whole.read(member))

    with pytest.raises(XraytuneError, match="this weights file cannot be read"):
        read_weights(bomb)
    with pytest.raises(ValueError, match="compressed"):
        load_content(bomb)


def test_scores_allocate_no_more_than_their_file_size(tmp_path: Path) -> None:
    file, header = place_of(VAL_B, tmp_path), io.BytesIO()
    np.lib.format.write_array_header_1_0(header, {"shape": (10**13, 2), "fortran_order": False, "descr": "<f8"})
    write_bytes(file, header.getvalue(), is_recorded=True)

    with pytest.raises(StudyError, match=r"val_b\.npy: .*mmap"), little_memory():
        FILES_FROM_ELSEWHERE[VAL_B](file)


WRONG_RESULTS = {
    "not between 0 and 1": np.full((3, 2), 7.5),
    "not between": np.array([[np.nan, 0.5]] * 3),
    "sum to 1": np.full((3, 2), 0.4),
    r"\(2, 3\)": np.full((2, 3), 1 / 3),
    "float32": np.full((3, 2), 0.5, dtype=np.float32),
    "<U3": np.full((3, 2), "0.5"),
    "not what was written": np.full((3, 2), 0.5),
}


@pytest.mark.parametrize("why", WRONG_RESULTS)
def test_results_that_no_network_can_have_or_that_were_changed_are_refused(tmp_path: Path, why: str) -> None:
    """Those that no network can have also with a checksum that matches."""
    file = place_of(VAL_B, tmp_path)
    write_array(file, WRONG_RESULTS[why], is_recorded=True)
    if why == "not what was written":
        assert FILES_FROM_ELSEWHERE[VAL_B](file) is not None
        np.save(file, np.array([[0.5, 0.5], [0.5, 0.5], [0.4, 0.6]]))

    with pytest.raises(StudyError, match=rf"(?s)val_b\.npy: .*{why}.*remove it"):
        FILES_FROM_ELSEWHERE[VAL_B](file)


@pytest.mark.slow
def test_environment_secrets_are_not_written(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Not in the study, its lock, or the artifacts."""
    names = ("WANDB_API_KEY", "RAY_AUTH_TOKEN", "AWS_SECRET_ACCESS_KEY", "HF_TOKEN", "DATABASE_URL", "PGPASSWORD")
    secrets = {name: uuid.uuid4().hex for name in names}
    for name, value in secrets.items():
        monkeypatch.setenv(name, value)
    draw_phantoms(tmp_path / "xrays", patients=30, seed=3, image_size_px=32)
    small = ("data.image_size=64", "backbone=small_cnn", "weights=none", "source=none")
    budget = ("budget.trials=1", "budget.max_epochs=1", "budget.steps_per_epoch=1")

    folder = search_in_process(write_space(tmp_path, *small, *budget), tmp_path)

    with locked(folder):
        written = [file for file in tmp_path.rglob("*") if file.is_file()]
        contents = {file: file.read_bytes() for file in written}
    assert {"optuna.journal", "environment.json", "config.json", "epochs.jsonl", "manifest.json", ".lock"} <= {
        file.name for file in written
    }
    assert status(folder.path).trials
    told = [
        (name, file) for name, value in secrets.items() for file, text in contents.items() if value.encode() in text
    ]
    assert told == []
