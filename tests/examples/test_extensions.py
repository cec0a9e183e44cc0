"""What other packages bring: found by name, held to the same rules, and told apart by version.

The examples are installed as a person would, and named in a file.
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest
import torch

from tests.examples.conftest import on_path, write_metadata
from tests.in_process import CPU, command
from tests.pair_files import draw_xrays
from xraytune.base.errors import MachineError
from xraytune.base.files import read_json
from xraytune.nets.backbones import accepts, build_backbone
from xraytune.nets.networks import trained_parameters
from xraytune.space.backbones import BACKBONES
from xraytune.space.load import load_space
from xraytune.trial.saved_model import open_bundle

CODE = """\
from dataclasses import dataclass
from torch import nn
class Whole(nn.Flatten): pass
class Sized(Whole):
    @dataclass
    class Settings:
        width: int = 8
class Few:
    def fit(self, images, targets, **_): pass
    def sample(self, targets, **_): pass
"""


@pytest.fixture
def package(tmp_path: Path) -> Iterator[Path]:
    """Install a small package, and return its file."""
    (tmp_path / "of_somebody.py").write_text(CODE)
    points = {"whole": "of_somebody:Whole", "gone": "nowhere:Net", "resnet18": "of_somebody:Whole"}
    points["sized"] = "of_somebody:Sized"
    sources = {"few": "of_somebody:Few", "lost": "of_somebody:Lost"}
    groups = {"xraytune.backbones": points, "xraytune.sources": sources}
    project = {"name": "somebody", "version": "2.1", "entry-points": groups}
    write_metadata(tmp_path, project)
    with on_path(tmp_path):
        yield tmp_path / "of_somebody.py"


@pytest.mark.usefixtures("package")
def test_extension_cannot_override_builtin_name() -> None:
    assert BACKBONES.check("whole") == "whole"
    assert BACKBONES.check("resnet18") == "resnet18"
    assert BACKBONES.identity("resnet18") == "resnet18"


@pytest.mark.usefixtures("package")
def test_extensions_that_cannot_be_imported_are_refused_with_those_installed(
    tmp_path: Path,
) -> None:
    space = tmp_path / "space.yaml"
    space.write_text("name: x\ndata: {path: xrays}\nparameters: {weights: {value: none}}\n")

    with pytest.raises(MachineError) as caught:
        load_space(space, ["source={values: [none, few, lost]}"])
    with pytest.raises(MachineError) as of_backbone:
        load_space(space, ["backbone=gone"])

    (lost,) = caught.value.problems
    (gone,) = of_backbone.value.problems
    assert "source lost cannot be loaded: module 'of_somebody' has no attribute 'Lost'" in lost.what
    assert lost.where == "of_somebody:Lost"
    assert lost.fix.endswith("installed are few, lost")
    assert gone.fix.endswith("installed are gone, resnet18, sized, whole")


@pytest.mark.usefixtures("package")
def test_the_settings_of_an_installed_backbone_are_a_block_of_a_space(tmp_path: Path) -> None:
    space = tmp_path / "space.yaml"
    space.write_text(
        "name: x\ndata: {path: xrays}\nparameters:\n  weights: {value: none}\n"
        "  backbone: {value: sized}\n  sized: {parameters: {width: {values: [4, 8]}}}\n"
    )

    assert load_space(space).searched == ("sized.width",)


@pytest.mark.usefixtures("installed")
def test_extension_backbone_is_built_like_builtin_ones(tmp_path: Path) -> None:
    network, feature_count = build_backbone(BACKBONES.check("tiny_net"))
    torch.save(network.state_dict(), tmp_path / "tiny_net.pth")
    grey, _ = build_backbone("tiny_net", weights=tmp_path / "tiny_net.pth", input_channels=1)
    images = torch.rand(2, 1, 32, 32)

    assert feature_count == 64
    torch.testing.assert_close(grey(images), network(images.repeat(1, 3, 1, 1)))
    assert network.training
    assert trained_parameters("tiny_net", network) == {
        "layers.4.weight",
        "layers.4.bias",
    }
    assert accepts("tiny_net", 32)


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
