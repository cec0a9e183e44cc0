"""Whatever lies where a file of ours, or a person's, should lie: it is told in our words, and nothing else happens.

No traceback, no hang, nothing written. Each target damages one kind of file (`fuzzing.py`) and gives it to its reader.
"""

from __future__ import annotations

import json
import resource
import shutil
import struct
import warnings
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image

from tests.data.test_formats import png
from tests.faults.fuzzing import (
    NAMES,
    Edit,
    damaged_bytes,
    damaged_json,
    damaged_lines,
    damaged_rows,
    edited,
    edits,
    fuzzed,
    only_our_errors,
    with_good_crcs,
)
from tests.faults.specimens import (
    TINY_GAN,
    make_bundle,
    make_checkpoints,
    make_gan,
    make_images,
    make_study,
    network,
    optimizer_of,
    seal,
)
from tests.search.studies import CPU
from xraytune.classifier.checkpoint import finished_epochs, load_best, resume
from xraytune.classifier.inputs import normalise, to_unit
from xraytune.classifier.weights import read_weights
from xraytune.config.load import load_space
from xraytune.config.settings import DataSettings
from xraytune.confirm.plan import read_plan
from xraytune.confirm.runs import completed_rows
from xraytune.data.decoding import BrokenImage, decode_block
from xraytune.data.formats import read_header
from xraytune.data.index import read_index
from xraytune.data.patients import PATIENTS_CSV
from xraytune.export.best import export
from xraytune.export.bundle import open_bundle
from xraytune.files import append_jsonl, read_jsonl
from xraytune.gan.checkpoint import checkpoint_generator, load_generator, new_training
from xraytune.gan.checkpoint import resume as resume_gan
from xraytune.pipeline.prepare import Prepared, SideName
from xraytune.search.journal import Journal
from xraytune.search.study import StudyFolder
from xraytune.search.view import status

pytestmark = [
    pytest.mark.filterwarnings("ignore:Generating overly large repr"),  # of a failing input
    pytest.mark.filterwarnings("ignore:Detected pickle protocol"),  # torch says so, and then what is wrong
]
SIDES: tuple[SideName, ...] = ("train", "val_a", "val_b")
SPACES = sorted(Path("search_spaces").glob("*.yaml"))
TRAPS = (
    "a: &a [x, x, x, x, x, x, x, x, x]",
    "b: &b [*a, *a, *a, *a, *a, *a, *a, *a, *a]",
    "c: &c [*b, *b, *b, *b, *b, *b, *b, *b, *b]",
    "&self self: *self",
    "<<: *a",
    "x: !!python/object/apply:os.system ['touch pwned']",
    "x: !!binary aGVsbG8=",
    "x: !!set {a, b}",
    "\tname: tab",
    "---",
    "...",
    "? [a, b] : c",
    "? ",
    "- ",
    "%YAML 9.9",
    "'",
    '"',
    "{",
    "}",
    "[" * 500,
    "{a: " * 500,
    "- " * 500,
    'name: "\\0"',
    'name: "\\ud800"',
    "name: >-",
    "\x00",
    "\ufeff",
    "x: " + "9" * 5000,
    "start_from: [{lr: 1}]",
    "start_from: [[]]",
    "parameters: 1",
    "parameters: []",
    "  source: {values: [none, gan, duplicate, folder]}",
    "  lr: {min: 1e-300, max: 1e+300, step: 1e-300}",
    "  batch_size: {min: 1, max: 4096, when: {batch_size: 1}}",
    "  gan: {parameters: {seed: {min: 0, max: 999999999999999999999999999999}}}",
    "  classical: {values: [0, 1, 2, 3], when: {lr: {gt: 0}}}",
    "  folder: {parameters: {path: {value: '~nobody-at-all/x'}}}",
    '  folder: {parameters: {path: {value: "a\\0b"}}}',
    '  weights: {value: "\\0"}',
)
SCALARS = (
    "~", "yes", "010", "12:30", "2024-01-01", "1e-5", ".inf", ".nan", "!!int x", "*a", "&a x", "|", "@", "`", "%",
    "'~nobody-at-all/x'", '"a\\0b"', '"\\ud800"', "../../x", "[none, gan]", "{value: none}", "{values: []}",
    "{min: 1, max: 2}", "{min: 0, max: 999999999999999999999}", "{min: 0.1, max: 1e300, step: 1e-9}",
    "{values: [1, 1]}", "{when: {lr: 1}}", "{min: 1, max: 9, step: 1e30}", "0x7fffffffffffffff", "1e999",
)  # fmt: skip
KEYS = (
    *("lr", "gan", "gan.steps", "gan.seed", "batch_size", "folder.path", "source", "data", "data.path", "parameters"),
    *(
        "parameters.lr",
        "start_from",
        "name",
        "budget.trials",
        "data.split.seed.x",
        "weights_dir",
        "exported_from.study",
    ),
    *("", "=", "..", "\0"),
)


@pytest.fixture(autouse=True)
def _one_thread() -> Iterator[None]:
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)


def load(path: Path, overrides: tuple[str, ...] = ()) -> None:
    """All that a command does with a space before it starts."""
    space = load_space(path, overrides)
    space.identity()
    space.to_yaml(path.parent)
    space.experiment()


@pytest.mark.parametrize("space", SPACES, ids=lambda path: path.stem)
@pytest.mark.slow
def test_a_damaged_space_file_is_told(tmp_path: Path, space: Path) -> None:
    whole = space.read_text(encoding="utf-8")
    file = tmp_path / "space.yaml"

    @fuzzed(kinds=len(SPACES))
    @given(st.one_of(*[damaged_lines(whole, TRAPS, SCALARS)] * 3, damaged_bytes(whole.encode())))
    def load_it(content: bytes) -> None:
        file.write_bytes(content)
        with only_our_errors(tmp_path):
            load(file)

    load_it()


@pytest.mark.slow
def test_a_damaged_override_is_told(tmp_path: Path) -> None:
    file = tmp_path / "space.yaml"
    shutil.copy("search_spaces/gan_ratio.yaml", file)
    value = st.one_of(st.sampled_from([*SCALARS, *TRAPS]), st.text(max_size=12))
    override = st.builds("{}{}{}".format, st.sampled_from(KEYS), st.sampled_from(["=", "=", "=", ""]), value)

    @fuzzed()
    @given(st.lists(override, min_size=1, max_size=3))
    def load_it(overrides: list[str]) -> None:
        with only_our_errors(tmp_path):
            load(file, tuple(overrides))

    load_it()


@pytest.fixture(scope="module")
def study(tmp_path_factory: pytest.TempPathFactory) -> StudyFolder:
    """A whole study; each test damages a file of it and puts it back."""
    return make_study(tmp_path_factory.mktemp("root"))


@contextmanager
def instead(file: Path, content: bytes) -> Iterator[None]:
    """A file with other content."""
    whole = file.read_bytes()
    file.write_bytes(content)
    try:
        yield
    finally:
        file.write_bytes(whole)


def read_whole_journal(journal: Journal) -> None:
    """All that status, report, export, confirm and a resumed search ask."""
    for number in [trial.number for trial in journal.trials]:
        if journal.status(number):  # else its settings may be on their way
            journal.parameters(number)
        journal.reported(number)
    journal.rows()
    journal.unfinished()
    list(journal.reports())


def damaged_log(file: Path) -> st.SearchStrategy[bytes]:
    """A JSONL file of ours, damaged."""
    return damaged_rows([json.loads(line) for line in file.read_text(encoding="utf-8").splitlines()])


@pytest.mark.slow
@pytest.mark.parametrize("writable", [False, True], ids=["to be read", "to be written"])
def test_a_damaged_journal_is_told(study: StudyFolder, writable: bool) -> None:
    space = study.space()

    @fuzzed(kinds=4)
    @given(damaged_log(study.journal_path))
    def open_it(content: bytes) -> None:
        with instead(study.journal_path, content), only_our_errors(*([] if writable else [study.path.parent.parent])):
            read_whole_journal(Journal(study.journal_path, space, writable=writable))

    open_it()


@pytest.mark.parametrize(
    "read", [status, lambda path: export(path, out=path.parent / "best.yaml")], ids=["status", "export"]
)
@pytest.mark.slow
def test_a_study_with_a_damaged_journal_is_told(study: StudyFolder, read: Callable[[Path], object]) -> None:
    @fuzzed(kinds=4)
    @given(damaged_log(study.journal_path))
    def read_it(content: bytes) -> None:
        (study.path.parent / "best.yaml").unlink(missing_ok=True)
        with instead(study.journal_path, content), only_our_errors(study.path):
            read(study.path)

    read_it()


@pytest.mark.slow
def test_a_damaged_log_is_told_and_can_still_be_added_to(tmp_path: Path) -> None:
    log = tmp_path / "log.jsonl"
    rows = [{"version": 1, "epoch": number, "val_auroc": 0.5} for number in range(3)]

    @fuzzed()
    @given(damaged_rows(rows))
    def read_it(content: bytes) -> None:
        log.write_bytes(content)
        with only_our_errors():
            there = read_jsonl(log)
            assert all(isinstance(row, dict) for row in there)
            append_jsonl(log, {"epoch": 9})
            assert read_jsonl(log) == [*there, {"epoch": 9}]

    read_it()


def use(prepared: Prepared) -> None:
    """What every trial asks of the images."""
    for side in SIDES:
        prepared.side(side)
    assert prepared.fingerprint
    assert prepared.train_fingerprint


FILES_OF_A_STUDY: dict[str, Callable[[StudyFolder], object]] = {
    "split.json": lambda study: use(study.prepared()),
    "environment.json": lambda study: (study.compute(), study.identity()),
    "wall.json": lambda study: status(study.path),
    "trials/0004/progress.json": lambda study: status(study.path),
    "trials/0000/config.json": lambda study: study.experiment(0),
    "confirm/plan.json": lambda study: read_plan(study.path / "confirm"),
    "confirm/verdict.json": lambda study: export(study.path, out=study.path.parent / "best.yaml"),
}


@pytest.mark.parametrize("name", FILES_OF_A_STUDY)
@pytest.mark.slow
def test_a_damaged_file_of_a_study_is_told(study: StudyFolder, name: str) -> None:
    file = study.path / name

    @fuzzed(kinds=len(FILES_OF_A_STUDY))
    @given(damaged_json(json.loads(file.read_bytes())))
    def read_it(content: bytes) -> None:
        (study.path.parent / "best.yaml").unlink(missing_ok=True)
        with instead(file, content), only_our_errors(study.path):
            FILES_OF_A_STUDY[name](study)

    read_it()


@pytest.mark.slow
def test_a_damaged_space_of_a_study_is_told(study: StudyFolder) -> None:
    whole = study.space_path.read_text(encoding="utf-8")

    @fuzzed()
    @given(st.one_of(damaged_lines(whole, TRAPS, SCALARS), damaged_bytes(whole.encode())))
    def read_it(content: bytes) -> None:
        (study.path.parent / "best.yaml").unlink(missing_ok=True)
        with instead(study.space_path, content), only_our_errors(study.path):
            export(study.path, out=study.path.parent / "best.yaml")

    read_it()


@pytest.mark.parametrize("name", ["trials.jsonl", "confirm/runs.jsonl"])
@pytest.mark.slow
def test_a_damaged_log_of_a_study_is_told(study: StudyFolder, name: str) -> None:
    file = study.path / name
    read: Callable[[], object] = study.rows if name == "trials.jsonl" else lambda: completed_rows(file.parent)

    @fuzzed(kinds=2)
    @given(damaged_log(file))
    def read_it(content: bytes) -> None:
        with instead(file, content), only_our_errors(study.path):
            read()

    read_it()


@pytest.mark.parametrize("name", ["checkpoint.pt", "best.safetensors"])
@pytest.mark.slow
def test_a_damaged_checkpoint_of_a_classifier_is_told(tmp_path: Path, name: str) -> None:
    make_checkpoints(tmp_path)
    file = tmp_path / name
    classifier = network()
    optimizer = optimizer_of(classifier)
    whole = file.read_bytes()

    @fuzzed(kinds=5)
    @given(edits())
    def read_it(damage: Sequence[Edit]) -> None:
        with instead(file, edited(whole, damage)), only_our_errors(tmp_path):
            if name == "best.safetensors":
                load_best(tmp_path, classifier)
            else:
                finished_epochs(tmp_path)
                resume(tmp_path, classifier, optimizer)

    read_it()


@pytest.mark.slow
def test_a_checkpoint_of_other_things_is_told(tmp_path: Path) -> None:
    """Tensors and plain values that load, and are not what a checkpoint holds."""
    make_checkpoints(tmp_path)
    classifier = network()
    optimizer = optimizer_of(classifier)
    file = tmp_path / "checkpoint.pt"
    whole = torch.load(file, weights_only=True)
    value: st.SearchStrategy[Any] = st.sampled_from(
        [None, 1, "x", [], {}, [1], {"a": 1}, [{}], [{"epoch": 1}], torch.zeros(2), {"state": {}}]
    )

    @fuzzed(kinds=5)
    @given(st.dictionaries(st.sampled_from(["version", *whole]), value, max_size=2), st.sampled_from([*whole, ""]))
    def read_it(others: dict[str, Any], gone: str) -> None:
        torch.save({key: one for key, one in {**whole, **others}.items() if key != gone}, file)
        with only_our_errors(tmp_path):
            finished_epochs(tmp_path)
            resume(tmp_path, classifier, optimizer)

    read_it()


@pytest.mark.parametrize("name", ["checkpoint.pt", "generator.safetensors"])
@pytest.mark.slow
def test_a_damaged_checkpoint_of_a_gan_is_told(tmp_path: Path, name: str) -> None:
    make_gan(tmp_path)
    file = tmp_path / name
    training = new_training(TINY_GAN, 2, CPU)
    whole = file.read_bytes()

    @fuzzed(kinds=2)
    @given(edits())
    def read_it(damage: Sequence[Edit]) -> None:
        with instead(file, edited(whole, damage)), only_our_errors(tmp_path):
            if name == "checkpoint.pt":
                resume_gan(training, "images", tmp_path)
                checkpoint_generator(file)
            else:
                load_generator(file)

    read_it()


@pytest.mark.parametrize("suffix", [".pth", ".safetensors"])
@pytest.mark.slow
def test_a_damaged_file_of_weights_is_told(tmp_path: Path, suffix: str) -> None:
    make_checkpoints(tmp_path)
    whole = (tmp_path / ("checkpoint.pt" if suffix == ".pth" else "best.safetensors")).read_bytes()
    file = tmp_path / f"weights{suffix}"

    @fuzzed(kinds=2)
    @given(edits())
    def read_it(damage: Sequence[Edit]) -> None:
        file.write_bytes(edited(whole, damage))
        with only_our_errors(tmp_path):
            read_weights(file)

    read_it()


IMAGES = make_images()


@pytest.mark.parametrize("kind", IMAGES)
@pytest.mark.slow
def test_a_damaged_image_is_told(tmp_path: Path, kind: str) -> None:
    file = tmp_path / "image.jpeg"

    @fuzzed(kinds=len(IMAGES))
    @given(damaged_bytes(IMAGES[kind]), st.sampled_from(["squash", "crop"]))
    def decode(content: bytes, resize: Any) -> None:
        file.write_bytes(with_good_crcs(content) if kind.startswith("PNG") else content)
        with only_our_errors(tmp_path), warnings.catch_warnings():  # Pillow's remarks on odd metadata
            warnings.simplefilter("ignore")
            decode_block(str(tmp_path), [file.name], 32, resize)
            read_header(file.read_bytes(), file)

    decode()


def with_size(kind: str, width_px: int, height_px: int) -> bytes:
    """A small file whose header says that it is large."""
    content = bytearray(IMAGES[kind])
    if kind == "JPEG":
        place = content.index(b"\xff\xc0")
        struct.pack_into(">HH", content, place + 5, height_px % 65536, width_px % 65536)
    elif kind == "PNG":
        return png(width_px, height_px, 8, 0, b"\0" * 100)
    elif kind == "TIFF":
        (directory,) = struct.unpack_from("<I", content, 4)
        for number, value in enumerate((width_px, height_px)):
            struct.pack_into("<HII", content, directory + 2 + 12 * number + 2, 4, 1, value)
    else:
        for tag, value in ((b"\x28\0\x10\0US\2\0", height_px), (b"\x28\0\x11\0US\2\0", width_px)):
            struct.pack_into("<H", content, content.index(tag) + 8, value % 65536)
    return bytes(content)


@contextmanager
def little_memory() -> Iterator[None]:
    """A block that may take 200 MB more than what is taken."""
    taken = int(Path("/proc/self/statm").read_text(encoding="ascii").split()[0]) * resource.getpagesize()
    before = resource.getrlimit(resource.RLIMIT_AS)
    resource.setrlimit(resource.RLIMIT_AS, (taken + 200_000_000, before[1]))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_AS, before)


BOMBS = ("JPEG", "PNG", "TIFF", "DICOM")


@pytest.mark.slow
@pytest.mark.parametrize("kind", BOMBS)
def test_an_image_bomb_is_refused_before_memory_is_taken(tmp_path: Path, kind: str) -> None:
    """A file of a kilobyte that would fill gigabytes."""
    sizes = st.integers(20_001, 65_535)

    @fuzzed(kinds=len(BOMBS))
    @given(sizes, sizes)
    def decode(width_px: int, height_px: int) -> None:
        (tmp_path / "bomb").write_bytes(with_size(kind, width_px, height_px))
        with only_our_errors(tmp_path), little_memory():
            (found,) = decode_block(str(tmp_path), ["bomb"], 32, "squash")
        assert isinstance(found, BrokenImage)
        assert "too many for an X-ray" in found.reason

    decode()


def use_bundle(path: Path) -> None:
    """What evaluate and predict ask of a bundle before they look at an image."""
    bundle = open_bundle(path)
    assert bundle.positive >= 0
    assert bundle.study is None or bundle.study.is_absolute()
    assert all(isinstance(image.sha256, str) for image in bundle.prepared().images)
    classifier = bundle.classifier(CPU)
    form = bundle.record.input_format
    pixels = torch.zeros((1, form.image_size_px, form.image_size_px), dtype=torch.uint8)
    with torch.inference_mode():
        classifier(normalise(to_unit(pixels, form), form))


@pytest.fixture(scope="module")
def bundle(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A whole bundle; each test damages a file of it and puts it back."""
    path = tmp_path_factory.mktemp("bundle") / "model"
    make_bundle(path)
    use_bundle(path)
    return path


FILES_OF_A_BUNDLE = ("manifest.json", "bundle.json", "split.json", "config.yaml", "model.safetensors")


@pytest.mark.parametrize("name", FILES_OF_A_BUNDLE)
@pytest.mark.parametrize("sealed", [False, True], ids=["as it lies", "with a manifest that agrees"])
@pytest.mark.slow
def test_a_damaged_bundle_is_told(bundle: Path, name: str, sealed: bool) -> None:
    file, manifest = bundle / name, bundle / "manifest.json"
    whole = file.read_bytes()

    @fuzzed(kinds=2 * len(FILES_OF_A_BUNDLE))
    @given(damaged_json(json.loads(whole)) if name.endswith("json") else edits())
    def read_it(damage: bytes | Sequence[Edit]) -> None:
        content = damage if isinstance(damage, bytes) else edited(whole, damage)
        with instead(manifest, manifest.read_bytes()), instead(file, content):
            if sealed and name != "manifest.json":
                seal(bundle)
            with only_our_errors(bundle.parent):
                use_bundle(bundle)

    read_it()


@pytest.mark.slow
@pytest.mark.parametrize("name", [name for name in NAMES if name])
def test_a_manifest_names_no_file_elsewhere(bundle: Path, name: str) -> None:
    """A bundle's files have fixed names: what its manifest lists beside them is not looked for."""
    manifest = bundle / "manifest.json"
    content = json.loads(manifest.read_bytes())
    content["files"][name] = "0" * 64

    with instead(manifest, json.dumps(content).encode()), only_our_errors(bundle.parent):
        open_bundle(bundle)


WORDS = st.one_of(
    st.sampled_from(["NORMAL", "PNEUMONIA", "a.png", "IM-0001-0001.jpeg", "p1", *NAMES]), st.text(max_size=8)
)


@pytest.mark.parametrize("classes", ["binary", "auto"])
@pytest.mark.slow
def test_a_damaged_table_of_patients_is_told(tmp_path: Path, classes: Any) -> None:
    root = tmp_path / "xrays"
    files = [
        f"{name}/{letter}{number}.png" for name, letter in (("NORMAL", "n"), ("PNEUMONIA", "p")) for number in range(4)
    ]
    for number, file in enumerate(files):
        (root / file).parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(np.full((8, 8), number, dtype=np.uint8)).save(root / file)
    table = root / PATIENTS_CSV
    whole = "\n".join(["file,patient,class", *(f"{file},{file[-6:-4]},{file.partition('/')[0]}" for file in files)])
    words = st.lists(st.lists(WORDS, max_size=4).map(",".join), max_size=4)
    settings = DataSettings(path=root, classes=classes)

    @fuzzed(kinds=2)
    @given(st.one_of(damaged_lines(whole, ["file", ",", '"', "file,file"]), damaged_bytes(whole.encode()), words))
    def read_it(content: bytes | list[str]) -> None:
        lines = content if isinstance(content, bytes) else "\n".join(["file,patient,class", *content])
        table.write_bytes(lines if isinstance(lines, bytes) else lines.encode(errors="surrogatepass"))
        with only_our_errors(tmp_path):
            read_index(settings)

    read_it()


@pytest.mark.slow
def test_odd_names_of_folders_and_files_are_told(tmp_path: Path) -> None:
    pixels = IMAGES["PNG"]
    root, outside = tmp_path / "xrays", tmp_path / "outside"
    outside.mkdir()
    (outside / "secret.png").write_bytes(pixels)
    name = WORDS.filter(lambda word: word not in ("", ".", "..") and not {"/", "\0"} & {*word})
    entry = st.tuples(
        name, name, st.sampled_from([".png", ".jpeg", ".dcm", "", ".csv"]), st.sampled_from(["file", "link", "folder"])
    )

    @fuzzed()
    @given(st.lists(entry, max_size=8), st.sampled_from(["binary", "three", "auto"]))
    def read_it(entries: list[tuple[str, str, str, str]], classes: Any) -> None:
        shutil.rmtree(root, ignore_errors=True)
        root.mkdir()
        for number, (folder, file, suffix, kind) in enumerate(entries):
            with suppress(OSError, ValueError):  # not every name can be one
                path = root / folder / f"{file}{suffix}"
                path.parent.mkdir(exist_ok=True)
                if kind == "link":
                    path.symlink_to(outside / "secret.png")
                elif kind == "folder":
                    path.mkdir()
                else:
                    path.write_bytes(pixels + bytes([number]))
        with only_our_errors(tmp_path):
            index = read_index(DataSettings(path=root, classes=classes))
            assert not any((root / image.file).is_symlink() for image in index.images), "a link out of the folder"
            json.dumps([index.class_names, [image.file for image in index.images]], ensure_ascii=False).encode()

    read_it()
