"""Checkpoints, weights and bundles, whatever is in them: told in our words, and nothing else happens."""

from __future__ import annotations

import json
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from tests.faults.fuzzing import NAMES, Edit, damaged_json, edited, edits, fuzzed, instead, only_our_errors
from tests.faults.specimens import TINY_GAN, make_bundle, make_checkpoints, make_gan, network, optimizer_of, seal
from tests.in_process import CPU, one_thread
from xraytune.model.load import open_bundle
from xraytune.nets.checkpoint import finished_epochs, load_best, resume
from xraytune.nets.inputs import normalise, to_unit
from xraytune.nets.weights import read_weights
from xraytune.synth.checkpoint import checkpoint_generator, load_generator, new_training
from xraytune.synth.checkpoint import resume as resume_gan

pytestmark = [
    pytest.mark.filterwarnings("ignore:Generating overly large repr"),  # of a failing input
    pytest.mark.filterwarnings("ignore:Detected pickle protocol"),  # torch says so, and then what is wrong
]


@pytest.fixture(autouse=True)
def _one_thread() -> Iterator[None]:
    with one_thread():
        yield


@pytest.mark.parametrize("name", ["checkpoint.pt", "best.safetensors"])
@pytest.mark.slow
def test_damaged_classifier_checkpoint_is_reported(tmp_path: Path, name: str) -> None:
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
def test_checkpoint_with_other_content_is_reported(tmp_path: Path) -> None:
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
def test_damaged_gan_checkpoint_is_reported(tmp_path: Path, name: str) -> None:
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
def test_damaged_weights_file_is_reported(tmp_path: Path, suffix: str) -> None:
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


def use_bundle(path: Path) -> None:
    """What evaluate and predict ask of a bundle before they look at an image."""
    bundle = open_bundle(path)
    assert bundle.positive >= 0
    assert bundle.study is None or bundle.study.is_absolute()
    assert all(isinstance(image.sha256, str) for image in bundle.prepared().images)
    classifier = bundle.network(CPU)
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
def test_damaged_bundle_is_reported(bundle: Path, name: str, sealed: bool) -> None:
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
def test_manifest_cannot_name_files_outside_its_folder(bundle: Path, name: str) -> None:
    """A bundle's files have fixed names: what its manifest lists beside them is not looked for."""
    manifest = bundle / "manifest.json"
    content = json.loads(manifest.read_bytes())
    content["files"][name] = "0" * 64

    with instead(manifest, json.dumps(content).encode()), only_our_errors(bundle.parent):
        open_bundle(bundle)
