"""The examples as a person uses them: installed, named in a file, and run by other processes."""

from __future__ import annotations

from pathlib import Path

import pytest

from examples.transform_folder import transform_folder
from tests.examples.conftest import on_path
from tests.in_process import CPU, command
from tests.pair_files import draw_xrays
from xraytune.base.errors import MachineError
from xraytune.base.files import read_json
from xraytune.data.index import read_index
from xraytune.data.phantom import paint_phantoms
from xraytune.space.data_settings import DataSettings
from xraytune.trial.saved_model import open_bundle

SPACE = """\
name: own
data: {path: xrays, image_size: 32, split: {val_a: 0.25, val_b: 0.25}}
parameters:
  source: {value: blend}
  synthetic_ratio: {value: 0.5}
  backbone: {value: tiny_net}
  weights: {value: none}
  augmentation: {value: flip}
  lr: {value: 5e-3}
  batch_size: {value: 8}
budget: {trials: 2, max_epochs: 2, steps_per_epoch: 6}
quality: {allow_memorised: true}
resources: {gpus_per_trial: 0, concurrent: 1}
"""


@pytest.fixture(scope="module")
def lab(module_path: Path, examples_path: list[str]) -> Path:
    """Return a folder with `xrays`, a space of the examples, and a `model` trained on it."""
    draw_xrays(module_path, patients=40, seed=3, image_size_px=48)
    (module_path / "own.yaml").write_text(SPACE)
    with on_path(*map(Path, examples_path[:2])):
        done = command(
            f"train --config {module_path}/own.yaml -o {module_path}/model",
            f"--cache={module_path}/cache",
        )
    assert done.exit_code == 0, done.stderr
    return module_path


def test_model_records_the_versions_of_its_extensions_and_is_refused_without_them(
    lab: Path,
) -> None:
    packages = read_json(lab / "model/bundle.json")["packages"]

    assert packages["backbone tiny_net"].startswith("tiny_net of xraytune-examples 0.1.0 ")
    assert packages["source blend"].startswith("blend of xraytune-examples 0.1.0 ")
    with pytest.raises(MachineError, match=r"tiny_net needs xraytune-examples 0\.1\.0"):
        open_bundle(lab / "model").network(CPU)


@pytest.mark.usefixtures("installed")
def test_an_unknown_name_suggests_an_installed_extension() -> None:
    done = command("space check gan_ratio_cpu --set backbone=tinynet")

    assert done.exit_code == 2
    assert "backbone: unknown value 'tinynet'\n  fix: did you mean 'tiny_net'?" in done.stderr


def test_transformed_copies_are_a_data_folder_with_the_patients_of_their_originals(
    tmp_path: Path,
) -> None:
    xrays = tmp_path / "xrays"
    copies = tmp_path / "copies"
    paint_phantoms(xrays, patients=12, seed=1, image_size_px=32)

    transform_folder(xrays, copies, copies=2)

    originals, copied = (read_index(DataSettings(path=folder)) for folder in (xrays, copies))
    assert len(copied.images) == 2 * len(originals.images)
    assert {image.sha256 for image in copied.images}.isdisjoint(
        image.sha256 for image in originals.images
    )
    assert {*copied.images.patients} == {*originals.images.patients}
    assert "test__" not in (copies / "patients.csv").read_text(), "the test folder stays sealed"
