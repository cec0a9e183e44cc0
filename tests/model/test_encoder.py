"""A model of `xraytune train` as the encoder of another study."""

import shutil
from collections.abc import Sequence
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file

from tests.in_process import CPU, one_thread
from tests.model.conftest import Lab
from xraytune.base.errors import ArtifactError, MachineError
from xraytune.confirm.sealed import choose_test
from xraytune.data.phantom import paint_phantoms
from xraytune.data.prepare import RunContext, SplitData
from xraytune.space.domains import Point
from xraytune.space.load import load_space
from xraytune.space.parameters import Parameters
from xraytune.space.space import Space
from xraytune.study.start import inputs_of_space, read_inputs
from xraytune.trial.network import TrialNetwork
from xraytune.trial.preflight import prepare_space, require_inputs
from xraytune.trial.saved_model import open_bundle

SPACE = """\
name: other
data: {path: both, image_size: 48, split: {val_a: 0.3, val_b: 0.3}}
parameters:
  backbone: {value: small_cnn}
  weights: {value: model}
  trainable: {values: [head, all]}
  input_channels: {values: [1, 3]}
"""
SIDES = {"train", "val_a", "val_b"}
"""The sides of a search; those of a confirmation are a draw for each replicate, and test."""


def write_space(folder: Path, model: Path) -> Path:
    file = folder / "space.yaml"
    file.write_text(SPACE.replace("value: model", f"value: {model}"))
    return file


def prepared_of(space: Space, cache: Path) -> tuple[SplitData, list[str]]:
    notes = list[str]()
    prepared, _ = prepare_space(space, cache, note=notes.append)
    return prepared, notes


@pytest.fixture
def both(lab: Lab, tmp_path: Path) -> Path:
    """Return a space that uses the model, for images of the lab and of other patients."""
    paint_phantoms(tmp_path / "other", patients=80, seed=9, image_size_px=64)
    for part in ("NORMAL", "PNEUMONIA"):
        (tmp_path / "both" / part).mkdir(parents=True)
        for folder, start in ((lab.xrays, "lab"), (tmp_path / "other", "other")):
            for file in (folder / "train" / part).iterdir():
                shutil.copy(file, tmp_path / "both" / part / f"{start}_{file.name}")
    return write_space(tmp_path, lab.model)


def test_its_layers_size_and_pixel_constants_are_used(lab: Lab, both: Path, tmp_path: Path) -> None:
    space = load_space(both)
    prepared, _ = prepared_of(space, tmp_path / "cache")
    input_format = open_bundle(lab.model).record.input_format
    context = RunContext(prepared=prepared, cache=tmp_path / "cache", compute=CPU)
    tensors = load_file(lab.model / "model.safetensors")

    assert space.sizes_px() == [prepared.image_size_px] == [input_format.image_size_px] == [32]
    for trainable in ("head", "all"):
        point: Point = {"trainable": trainable, "input_channels": 3}
        specs = [spec for spec in space.specs if spec.name not in point]
        values = {spec.name: spec.values[0] for spec in specs if spec.is_active_at(point)}
        with one_thread():
            network = TrialNetwork(space.at({**values, **point}).experiment(), context)
        assert network.input_format == input_format
        backbone = network.whole.get_submodule("backbone").state_dict()
        for name, tensor in backbone.items():
            torch.testing.assert_close(tensor, tensors[f"backbone.{name}"])


def test_its_patients_are_on_no_side_that_is_scored(both: Path, tmp_path: Path) -> None:
    prepared, notes = prepared_of(load_space(both), tmp_path / "cache")

    known = [image for image in prepared.images if Path(image.file).name.startswith("lab_")]
    validated = [image for image in prepared.images if image.side != "train"]

    assert known
    assert {image.side for image in known} == {"train"}
    assert validated
    count = len({image.patient for image in known})
    assert any(f"{count} patients on no validation" in note for note in notes)


def test_its_patients_are_neither_drawn_nor_tested_by_a_confirmation(
    both: Path, tmp_path: Path
) -> None:
    """They are unused patients, who would be scored without this encoder."""
    small = ["data.train_patients=4", "data.split={val_a: 0.1, val_b: 0.1}", "confirm.test=unused"]
    space = load_space(both, small)
    cache = tmp_path / "cache"
    prepared, _ = prepared_of(space, cache)

    def lab_images(compared: Sequence[Parameters]) -> set[str]:
        chosen = choose_test(space.settings, prepared, replicates=2, mixes=compared)
        assert chosen.kind == "outside"
        assert chosen.images
        drawn = [image for image in chosen.prepared.images if image.side not in SIDES]
        files = {Path(image.file).name for image in (*drawn, *chosen.images)}
        return {file for file in files if file.startswith("lab_")}

    assert lab_images([])
    assert lab_images(space.networks()) == set()


def test_a_damaged_or_unsuitable_model_is_refused_before_any_training(
    private: Lab, both: Path, tmp_path: Path
) -> None:
    model = private.model
    space = load_space(write_space(tmp_path, model))
    other = load_space(both, ["backbone=mobilenet_v2"])
    require_inputs(space.settings, space.networks())
    prepared, _ = prepared_of(space, tmp_path / "cache")
    inputs = inputs_of_space(space)
    before = read_inputs(inputs, space.settings, prepared, tmp_path / "cache")

    with pytest.raises(MachineError, match=r"not for mobilenet_v2(.|\n)*difference: features"):
        require_inputs(other.settings, other.networks())
    weights = model / "model.safetensors"
    weights.write_bytes(weights.read_bytes()[:-10])
    with pytest.raises(ArtifactError, match=r"(?s)model\.safetensors.*missing, or damaged"):
        require_inputs(space.settings, space.networks())
    (model / "manifest.json").write_text("{}")
    after = read_inputs(inputs, space.settings, prepared, tmp_path / "cache")

    assert before.keys() == after.keys() == {("weights", model)}
    assert before != after, "a study refuses to go on with a model that changed"
