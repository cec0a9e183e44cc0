"""Backbones of timm: built by name, with their own data about sizes, constants and heads."""

from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file

from xraytune.base.errors import ConfigError, MachineError
from xraytune.nets.backbones import accepts, build_backbone, find_weights, pixel_constants
from xraytune.nets.networks import trained_parameters
from xraytune.space.load import load_space
from xraytune.trial.preflight import require_network

timm = pytest.importorskip("timm", reason="backbone: timm/NAME needs pip install 'xraytune[timm]'")


@pytest.mark.parametrize(
    ("name", "stage"),
    [("test_resnet", "layer4"), ("test_convnext", "stages.3"), ("test_vit", "blocks.5")],
)
def test_a_file_of_timm_gives_its_features_and_the_last_stage_is_found(
    name: str, stage: str, tmp_path: Path
) -> None:
    torch.manual_seed(1)
    official = timm.create_model(name, pretrained=False).eval()
    save_file(official.state_dict(), tmp_path / "weights.safetensors")
    images = torch.rand(2, 3, 160, 160)

    network, feature_count = build_backbone(
        f"timm/{name}", weights=tmp_path / "weights.safetensors"
    )
    with torch.inference_mode():
        features = network.eval()(images)
        expected = official.forward_head(official.forward_features(images), pre_logits=True)

    assert features.shape == (2, feature_count)
    torch.testing.assert_close(features, expected)
    names = [name for name, _ in network.named_parameters()]
    first = next(number for number, name in enumerate(names) if name.startswith(f"{stage}."))
    assert trained_parameters(f"timm/{name}", network) == {*names[first:]}


def test_an_encoder_of_grey_images_gives_its_own_features(tmp_path: Path) -> None:
    """Such as those pretrained on chest X-rays, whose first layer has one channel."""
    torch.manual_seed(1)
    official = timm.create_model("test_resnet", in_chans=1, num_classes=0).eval()
    save_file(official.state_dict(), tmp_path / "grey.safetensors")
    images = torch.rand(2, 1, 64, 64)

    for channels in (1, 3):
        network, _ = build_backbone(
            "timm/test_resnet", weights=tmp_path / "grey.safetensors", input_channels=channels
        )
        with torch.inference_mode():
            torch.testing.assert_close(
                network.eval()(images.expand(-1, channels, -1, -1)), official(images)
            )


def test_sizes_and_constants_come_from_timm(tmp_path: Path) -> None:
    """A vision transformer takes only the size that it was made for."""
    assert pixel_constants("timm/resnet18.a1_in1k") == (
        (0.485, 0.456, 0.406),
        (0.229, 0.224, 0.225),
    )
    assert pixel_constants("timm/vit_tiny_patch16_224.augreg_in21k")[0] == (0.5, 0.5, 0.5)
    assert accepts("timm/test_resnet", 96)
    file = tmp_path / "space.yaml"
    parameters = "{backbone: {value: timm/vit_tiny_patch16_224}, weights: {value: none}}"
    file.write_text(f"name: x\ndata: {{path: xrays}}\nparameters: {parameters}\n")

    space = load_space(file)

    with pytest.raises(ConfigError, match=r"vit_tiny_patch16_224 .* 128 px(.|\n)*often 224"):
        require_network(space.settings, space.experiment().parameters)


def test_what_timm_does_not_have_is_refused(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with pytest.raises(ConfigError, match="did you mean 'resnet18'"):
        build_backbone("timm/resnet8")
    with pytest.raises(ConfigError, match=r"timm has no model resnet18\.nowhere"):
        build_backbone("timm/resnet18.nowhere")
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    monkeypatch.setenv("HF_HOME", str(tmp_path))
    with pytest.raises(MachineError, match=r"resnet18\.a1_in1k cannot be downloaded"):
        find_weights("timm/resnet18.a1_in1k", "hub", None)


def test_a_check_downloads_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HF_HOME", str(tmp_path))

    assert find_weights("timm/resnet18.a1_in1k", "hub", None, may_download=False) is None
