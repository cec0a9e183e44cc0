"""Published encoders of X-rays: their files, images and features; with random weights."""

from collections.abc import Mapping
from copy import deepcopy
from pathlib import Path
from typing import get_args

import numpy as np
import pytest
import torch
import torchvision
from safetensors.torch import save_file
from torch import Tensor, nn

from examples.convert_xrv import convert
from tests.space.conftest import WriteSpace, write_space
from xraytune.base.errors import ConfigError, DataError, MachineError
from xraytune.nets.backbones import build_backbone
from xraytune.nets.inputs import input_format, normalise, to_unit
from xraytune.space.backbones import identity_of
from xraytune.space.data_settings import DataSettings
from xraytune.space.encoders import XRAY_ENCODERS, DataSet
from xraytune.space.load import load_space
from xraytune.space.parameters import Parameters
from xraytune.space.settings import Experiment, Settings
from xraytune.trial.preflight import require_inputs

__all__ = ["write_space"]
XRV = "xrv_densenet121_nih"


@pytest.fixture(scope="module")
def dense_net() -> nn.Module:
    """A network like those of TorchXRayVision: a DenseNet for one channel, with 18 outputs."""
    torch.manual_seed(0)
    network: nn.Module = torchvision.models.densenet121(weights=None, num_classes=18)
    first = nn.Conv2d(1, 64, kernel_size=7, stride=2, padding=3, bias=False)
    network.set_submodule("features.conv0", first)
    return network.eval()


def published(network: nn.Module) -> dict[str, Tensor]:
    """The state dict of one of them, which also has the thresholds of its outputs."""
    return {**network.state_dict(), "op_threshs": torch.rand(18)}


def test_a_dense_net_of_torchxrayvision_gets_its_own_pixels_and_gives_its_features(
    dense_net: nn.Module, tmp_path: Path
) -> None:
    torch.save(published(dense_net), tmp_path / "nih.pth")
    parameters = Parameters(backbone=XRV, weights=str(tmp_path / "nih.pth"), trainable="head")
    settings = Settings(name="any", data=DataSettings(path=tmp_path))
    experiment = Experiment(settings=settings, parameters=parameters)
    form = input_format(experiment, train_mean=0, train_std=1)
    images = np.random.default_rng(0).integers(256, size=(2, 224, 224), dtype=np.uint8)

    network, count = build_backbone(XRV, weights=tmp_path / "nih.pth")
    inputs = normalise(to_unit(torch.from_numpy(images), form), form)
    with torch.inference_mode():
        features = network.eval()(inputs)
        own_inputs = (torch.from_numpy(images)[:, None] / 255 * 2 - 1) * 1024
        maps = dense_net.get_submodule("features")(own_inputs)

    assert form.image_size_px == experiment.settings.data.image_size == 224
    assert inputs.shape == (2, 1, 224, 224)
    assert count == 1024
    torch.testing.assert_close(features, maps.relu().mean(dim=(2, 3)), rtol=1e-4, atol=1e-4)


def test_a_network_that_the_example_converts_is_an_encoder(
    dense_net: nn.Module, tmp_path: Path
) -> None:
    """The thresholds of outputs that it was not trained for are NaN, and are left out."""
    network = deepcopy(dense_net)
    network.register_buffer("op_threshs", torch.full((18,), float("nan")))

    convert(network, tmp_path / "xrv.safetensors")
    encoder, _ = build_backbone(XRV, weights=tmp_path / "xrv.safetensors")

    expected = network.state_dict()
    layers = encoder.state_dict()
    torch.testing.assert_close(
        layers.pop("features.conv0.weight"), expected["features.conv0.weight"]
    )
    assert all(torch.equal(tensor, expected[name]) for name, tensor in layers.items())


def renamed(tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
    return {name.replace("denseblock4", "block4"): tensor for name, tensor in tensors.items()}


def narrower(tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Half-matching: the file of a network with other widths in its last block."""
    return {
        name: tensor[:16] if "denseblock4" in name and "conv2" in name else tensor
        for name, tensor in tensors.items()
    }


@pytest.mark.parametrize(
    ("damage", "words"),
    [
        ("renamed", r"not for xrv(.|\n)*difference: features\.denseblock4\.denselayer1\.norm1"),
        ("narrower", r"difference: features\.denseblock4\.denselayer1\.conv2\.weight"),
        ("truncated", "cannot be read"),
        ("pickled", r"cannot be read(.|\n)*examples/convert_xrv\.py"),
        ("of another backbone", r"not for xrv(.|\n)*difference: features\.conv0\.weight"),
    ],
)
def test_wrong_weights_are_refused_before_any_training(
    dense_net: nn.Module, tmp_path: Path, damage: str, words: str
) -> None:
    """The data folder does not even exist: what is wrong with both is said together."""
    file = tmp_path / "weights.pt"
    tensors = published(dense_net)
    content = {
        "renamed": renamed(tensors),
        "narrower": narrower(tensors),
        "pickled": dense_net,
        "of another backbone": torchvision.models.resnet18().state_dict(),
    }
    torch.save(content.get(damage, tensors), file)
    if damage == "truncated":
        file.write_bytes(file.read_bytes()[:-1000])
    settings = Settings(name="any", data=DataSettings(path=tmp_path / "images"))
    trial = Parameters(backbone=XRV, weights=str(file), trainable="head")

    with pytest.raises(DataError) as together:
        require_inputs(settings, [trial])
    with pytest.raises(MachineError, match=words):
        build_backbone(XRV, weights=file)

    assert {str(file), str(settings.data.path)} <= {
        str(problem.where) for problem in together.value.problems
    }


@pytest.mark.parametrize("name", ["rad_dino", "biomedclip"])
def test_a_vision_transformer_loads_its_published_names_and_ignores_the_rest(
    name: str, tmp_path: Path
) -> None:
    """Half precision keeps the file small."""
    pytest.importorskip("timm", reason="this encoder needs pip install 'xraytune[timm]'")
    encoder = XRAY_ENCODERS[name]
    patch_px = 14 if name == "rad_dino" else 16
    tensors = {
        f"{encoder.prefix}{key}": torch.full(shape, 0.5, dtype=torch.float16)
        for key, shape in vision_transformer(encoder.images.side_px, patch_px).items()
    }
    extra = {
        "rad_dino": {"mask_token": torch.zeros(1, 768)},
        "biomedclip": {
            "text.proj.0.weight": torch.zeros(1),
            "visual.head.proj.weight": torch.ones(1),
        },
    }
    file = tmp_path / "weights.safetensors"
    save_file({**tensors, **extra[name]}, file)

    network, count = build_backbone(name, weights=file)

    assert count == 768
    assert all(bool((tensor == 0.5).all()) for tensor in network.state_dict().values())
    assert identity_of(name).startswith(f"{name} of timm ")
    tensors.pop(f"{encoder.prefix}blocks.11.mlp.fc2.bias")
    save_file(tensors, file)
    with pytest.raises(MachineError, match=r"difference: blocks\.11\.mlp\.fc2\.bias"):
        build_backbone(name, weights=file)


def vision_transformer(side_px: int, patch_px: int) -> dict[str, tuple[int, ...]]:
    """The names and shapes of a ViT-B, which DINOv2 (patches of 14) publishes with layer scales."""
    patches = (side_px // patch_px) ** 2
    shapes: dict[str, tuple[int, ...]] = {
        "cls_token": (1, 1, 768),
        "pos_embed": (1, 1 + patches, 768),
        "patch_embed.proj.weight": (768, 3, patch_px, patch_px),
        "patch_embed.proj.bias": (768,),
    }
    for number in range(12):
        layers = {"attn.qkv": (2304, 768), "attn.proj": (768, 768)}
        layers |= {"mlp.fc1": (3072, 768), "mlp.fc2": (768, 3072)}
        block = f"blocks.{number}"
        for name, shape in layers.items():
            shapes[f"{block}.{name}.weight"] = shape
            shapes[f"{block}.{name}.bias"] = shape[:1]
        for norm in ("norm1", "norm2"):
            shapes |= {f"{block}.{norm}.{name}": (768,) for name in ("weight", "bias")}
        if patch_px == 14:
            shapes |= {f"{block}.{scale}.gamma": (768,) for scale in ("ls1", "ls2")}
    return shapes | {"norm.weight": (768,), "norm.bias": (768,)}


def test_encoders_of_one_space_have_their_own_sizes_and_channels(write_space: WriteSpace) -> None:
    file = write_space(
        "backbone: {values: [mobilenet_v2, rad_dino, xrv_densenet121_nih]}",
        "weights: {value: encoder.pth}",
        "trainable: {value: head}",
        after="",
    )

    space = load_space(file)

    assert space.sizes_px() == [128, 224, 518]
    assert [trial.channels for trial in space.networks()] == [3, 3, 1]
    (channels,) = (spec for spec in space.specs if spec.name == "input_channels")
    assert channels.when == {"backbone": ("mobilenet_v2", "rad_dino")}
    with pytest.raises(ConfigError, match="no weights of this name"):
        load_space(write_space("backbone: {value: rad_dino}"))


def test_every_row_names_its_reference_and_known_sets() -> None:
    for encoder in XRAY_ENCODERS.values():
        assert encoder.reference.startswith("https://")
        assert {*encoder.seen} <= {*get_args(DataSet)} - {"other"}
        assert len(encoder.images.mean) == len(encoder.images.std)
