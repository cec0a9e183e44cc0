"""`examples/convert_xrv.py`, with a network of random weights like those of TorchXRayVision."""

from pathlib import Path

import torch
import torchvision
from torch import nn

from examples.convert_xrv import convert
from xraytune.nets.backbones import build_backbone


def test_a_converted_network_is_an_encoder(tmp_path: Path) -> None:
    """The thresholds of outputs that it was not trained for are NaN, and are left out."""
    network = torchvision.models.densenet121(weights=None, num_classes=18)
    network.features.conv0 = nn.Conv2d(1, 64, kernel_size=7, stride=2, padding=3, bias=False)
    network.register_buffer("op_threshs", torch.full((18,), float("nan")))

    convert(network, tmp_path / "xrv.safetensors")
    encoder, _ = build_backbone("xrv_densenet121_all", weights=tmp_path / "xrv.safetensors")

    expected = network.state_dict()
    layers = encoder.state_dict()
    torch.testing.assert_close(
        layers.pop("features.conv0.weight"), expected["features.conv0.weight"]
    )
    assert all(torch.equal(tensor, expected[name]) for name, tensor in layers.items())
