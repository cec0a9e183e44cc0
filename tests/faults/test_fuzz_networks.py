"""Checkpoints, weights and bundles, whatever is in them: told in our words, and nothing else happens."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
import torch

from tests.faults.fuzzing import NAMES, damaged_bytes, damaged_json, only_our_errors, read_damaged
from tests.faults.specimens import TINY_GAN, make_bundle, make_checkpoints, make_gan, network, seal, used_optimizer
from tests.in_process import CPU, one_thread
from xraytune.base.tensors import read_weights
from xraytune.model.load import open_bundle
from xraytune.nets.checkpoint import load_best, resume
from xraytune.nets.inputs import normalise, to_unit
from xraytune.synth.checkpoint import checkpoint_generator, load_generator
from xraytune.synth.checkpoint import resume as resume_gan
from xraytune.synth.gan import new_training

pytestmark = [
    pytest.mark.slow,
    pytest.mark.filterwarnings("ignore:Detected pickle protocol"),  # torch says so, and then what is wrong
]


@pytest.fixture(autouse=True)
def _one_thread() -> Iterator[None]:
    with one_thread():
        yield


def resume_classifier(file: Path) -> None:
    classifier = network()
    resume(file.parent, classifier, used_optimizer(classifier))


def resume_generator(file: Path) -> None:
    resume_gan(new_training(TINY_GAN, 2, CPU), file.parent)
    checkpoint_generator(file)


READERS: dict[str, tuple[Callable[[Path], None], str, Callable[[Path], object]]] = {
    "checkpoint": (make_checkpoints, "checkpoint.pt", resume_classifier),
    "best network": (make_checkpoints, "best.safetensors", lambda file: load_best(file.parent, network())),
    "weights .pt": (make_checkpoints, "checkpoint.pt", read_weights),
    "weights .safetensors": (make_checkpoints, "best.safetensors", read_weights),
    "GAN checkpoint": (make_gan, "checkpoint.pt", resume_generator),
    "generator": (make_gan, "generator.safetensors", load_generator),
}


@pytest.mark.parametrize("reader", READERS)
def test_damaged_tensors_are_reported(tmp_path: Path, reader: str) -> None:
    make, name, read = READERS[reader]
    make(tmp_path)
    file = tmp_path / name

    read_damaged(file, damaged_bytes(file.read_bytes()), lambda: read(file), tmp_path, kinds=len(READERS))


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


@pytest.fixture
def bundle(tmp_path: Path) -> Path:
    make_bundle(tmp_path / "model")
    use_bundle(tmp_path / "model")
    return tmp_path / "model"


@pytest.mark.parametrize("name", ["manifest.json", "bundle.json", "split.json", "config.yaml", "model.safetensors"])
@pytest.mark.parametrize("sealed", [False, True], ids=["as it lies", "with a manifest that agrees"])
def test_damaged_bundle_is_reported(bundle: Path, name: str, sealed: bool) -> None:
    file = bundle / name
    whole = file.read_bytes()
    damage = damaged_json(json.loads(whole)) if name.endswith("json") else damaged_bytes(whole)

    def read() -> None:
        if sealed and name != "manifest.json":
            seal(bundle)
        use_bundle(bundle)

    read_damaged(file, damage, read, *([] if sealed else [bundle.parent]), kinds=10)


@pytest.mark.parametrize("name", [name for name in NAMES if name])
def test_manifest_cannot_name_files_outside_its_folder(bundle: Path, name: str) -> None:
    """A bundle's files have fixed names: what its manifest lists beside them is not looked for."""
    manifest = bundle / "manifest.json"
    content = json.loads(manifest.read_bytes())
    content["files"][name] = "0" * 64
    manifest.write_bytes(json.dumps(content).encode())

    with only_our_errors(bundle.parent):
        open_bundle(bundle)
