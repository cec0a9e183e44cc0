"""What other packages bring: found by name, held to the same rules, and told apart by version."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest
import torch

from tests.examples.conftest import on_path, write_metadata
from tests.in_process import CPU
from tests.pair_files import draw_xrays
from xraytune.base.errors import MachineError
from xraytune.data.prepare import RunContext, prepare
from xraytune.nets.backbones import accepts, build_backbone
from xraytune.nets.networks import trained_parameters
from xraytune.space.backbones import BACKBONES
from xraytune.space.load import load_space
from xraytune.space.settings import DataSettings, Parameters, Settings
from xraytune.space.space import require_extensions
from xraytune.synth.sources.which import source_of

CODE = """\
from torch import nn
class Whole(nn.Flatten): pass
def floats(pixels, **_): return pixels[[0] * 256] / 255
def few(pixels, **_): return pixels[:1]
"""


@pytest.fixture
def package(tmp_path: Path) -> Iterator[Path]:
    """Install a small package, and return its file."""
    (tmp_path / "of_somebody.py").write_text(CODE)
    points = {"whole": "of_somebody:Whole", "gone": "nowhere:Net", "resnet18": "of_somebody:Whole"}
    sources = {"floats": "of_somebody:floats", "few": "of_somebody:few", "lost": "of_somebody:lost"}
    groups = {"xraytune.backbones": points, "xraytune.sources": sources}
    project = {"name": "somebody", "version": "2.1", "entry-points": groups}
    write_metadata(tmp_path, project)
    with on_path(tmp_path):
        yield tmp_path / "of_somebody.py"


@pytest.mark.usefixtures("package")
def test_extension_cannot_override_builtin_name() -> None:
    assert BACKBONES.names() == ("gone", "whole")
    assert BACKBONES.identity("resnet18") == "resnet18"


@pytest.mark.usefixtures("package")
def test_extensions_that_cannot_be_imported_are_refused_with_those_installed(
    tmp_path: Path,
) -> None:
    space = tmp_path / "space.yaml"
    space.write_text("name: x\ndata: {path: xrays}\nparameters: {weights: {value: none}}\n")

    with pytest.raises(MachineError) as caught:
        require_extensions(load_space(space, ["source={values: [none, few, lost]}"]))
    with pytest.raises(MachineError) as of_backbone:
        require_extensions(load_space(space, ["backbone=gone"]))

    (lost,) = caught.value.problems
    (gone,) = of_backbone.value.problems
    assert "source lost cannot be loaded: module 'of_somebody' has no attribute 'lost'" in lost.what
    assert lost.where == "of_somebody:lost"
    assert lost.fix.endswith("installed are few, floats, lost")
    assert gone.fix.endswith("installed are gone, whole")


@pytest.mark.slow
@pytest.mark.usefixtures("installed")
def test_extension_backbone_is_built_like_builtin_ones(tmp_path: Path) -> None:
    network, feature_count = build_backbone("tiny_net")
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


@pytest.mark.usefixtures("package")
@pytest.mark.parametrize(
    ("source", "given"), [("floats", r"float64 \[256, 32, 32\]"), ("few", r"uint8 \[1, 32, 32\]")]
)
@pytest.mark.slow
def test_source_with_invalid_output_is_reported(tmp_path: Path, source: str, given: str) -> None:
    draw_xrays(tmp_path, patients=20)
    settings = Settings(name="x", data=DataSettings(path=tmp_path / "xrays", image_size=32))
    prepared, _ = prepare(settings, tmp_path / "cache")

    with pytest.raises(MachineError, match=f"source {source} returned {given}"):
        source_of(Parameters(source=source)).block(
            settings, RunContext(prepared=prepared, cache=tmp_path / "cache", compute=CPU), 0, 0
        )
