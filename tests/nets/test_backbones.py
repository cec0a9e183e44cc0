"""Backbones from torchvision's classifiers."""

from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn

from xraytune.nets.backbones import accepts, build_backbone, fold_batch_norms, to_one_channel
from xraytune.nets.networks import trained_parameters
from xraytune.space.backbones import BACKBONES, ENCODERS
from xraytune.space.encoders import XRAY_ENCODERS

HEAVY = (
    "alexnet convnext_tiny efficientnet_b0 efficientnet_v2_s googlenet maxvit_t mnasnet0_5 "
    "mobilenet_v2 regnet_x_400mf regnet_y_400mf resnet50 resnext50_32x4d shufflenet_v2_x0_5 "
    "swin_t swin_v2_t vgg11_bn vit_b_32 wide_resnet50_2"
).split()


def nightly(*values: Any) -> list[Any]:
    """Those that take long; the code is the same."""
    return [pytest.param(value, marks=pytest.mark.nightly) for value in values]


LIGHT = ["densenet121", "inception_v3", "mobilenet_v3_small", "resnet18", "squeezenet1_1"]


def fill(network: nn.Module) -> None:
    """Draw weights that keep the scale of the inputs of a layer."""
    torch.manual_seed(1)
    with torch.no_grad():
        for weights in network.parameters():
            weights.uniform_(0.5, 1.5) if weights.ndim < 2 else weights.normal_(
                std=weights[0].numel() ** -0.5
            )


def side(backbone: str) -> int:
    """The side of a small image that this backbone accepts."""
    return next(side for side in (64, 96, 224) if accepts(backbone, side))


def test_the_names_are_those_of_torchvision_and_of_encoders_of_x_rays() -> None:
    from torchvision import models  # seconds, which only this test should pay

    others = {"small_cnn", *XRAY_ENCODERS}
    assert {*BACKBONES.built_in} - others == set(models.list_models(module=models))
    assert (
        {"densenet121", "mobilenet_v2", "resnet18", "vgg16"} < {*ENCODERS} < {*BACKBONES.built_in}
    )


@pytest.mark.usefixtures("unset_weights")
@pytest.mark.parametrize("backbone", ["small_cnn", *LIGHT, *nightly(*HEAVY)])
def test_a_grey_image_gives_what_three_equal_channels_give(backbone: str) -> None:
    network, feature_count = build_backbone(backbone)
    fill(network)
    grey = torch.rand(2, 1, side(backbone), side(backbone))

    network.eval().requires_grad_(False)
    expected = network(grey.repeat(1, 3, 1, 1))
    to_one_channel(network, backbone)
    given = network(grey).detach()

    assert expected.shape == (2, feature_count)
    assert expected.std() > 0
    scale = expected.abs().max()  # random weights make features of any size
    torch.testing.assert_close(given / scale, expected / scale, rtol=0, atol=1e-5)


@pytest.mark.usefixtures("unset_weights")
@pytest.mark.parametrize("backbone", [*LIGHT, *nightly("alexnet", "convnext_tiny", "swin_t")])
def test_torchvisions_weights_give_the_features_that_its_own_head_receives(
    backbone: str, tmp_path: Path
) -> None:
    from torchvision import models  # seconds, which only this test should pay

    options = {"init_weights": True} if backbone in {"googlenet", "inception_v3"} else {}
    official = models.get_model(backbone, weights=None, **options).eval()
    fill(official)
    torch.save(official.state_dict(), tmp_path / "weights.pth")
    images = torch.rand(2, 3, side(backbone), side(backbone))
    seen: list[torch.Tensor] = []
    layers = [m for m in official.modules() if isinstance(m, nn.Linear | nn.Conv2d)]
    layers[-1].register_forward_pre_hook(lambda _, inputs: seen.append(inputs[0]))

    backbone_alone = build_backbone(backbone, weights=tmp_path / "weights.pth")[0].eval()
    with torch.inference_mode():
        official(images)
        features = backbone_alone(images)

    expected = seen[0].mean(dim=(2, 3)) if seen[0].ndim == 4 else seen[0]
    assert expected.std() > 0
    scale = expected.abs().max()
    torch.testing.assert_close(features / scale, expected / scale, rtol=0, atol=1e-5)


LAST_STAGES = """\
densenet121: features.denseblock4
inception_v3: Mixed_7a
mobilenet_v2: features.14
resnet50: layer4
small_cnn: 6
vgg16: features.24
vit_b_32: encoder.layers.encoder_layer_11
"""


@pytest.mark.usefixtures("unset_weights")
@pytest.mark.parametrize("case", LAST_STAGES.splitlines())
def test_the_last_stage_is_the_coarsest_resolution_and_all_after_it(case: str) -> None:
    backbone, stage = case.split(": ")
    network, _ = build_backbone(backbone)
    names = [name for name, _ in network.named_parameters()]

    trained = trained_parameters(backbone, network)

    first = next(number for number, name in enumerate(names) if name.startswith(f"{stage}."))
    assert trained == set(names[first:])


@pytest.mark.parametrize(
    ("backbone", "accepted"),
    [
        ("alexnet", 63),
        ("inception_v3", 75),
        pytest.param("vit_b_32", 224, marks=pytest.mark.nightly),
    ],
)
def test_sizes_are_refused_that_do_not_work_in_the_network(backbone: str, accepted: int) -> None:
    assert accepts(backbone, accepted)
    assert not accepts(backbone, accepted - 1)


def test_a_batch_norm_cannot_be_trained_on_a_single_value() -> None:
    """At 32 px, the last feature maps of a ResNet have one pixel."""
    assert accepts("resnet18", 32)
    assert not accepts("resnet18", 32, trains_on_one=True)
    assert accepts("resnet18", 64, trains_on_one=True)


@pytest.mark.parametrize("backbone", ["resnet18", "mobilenet_v3_small", "densenet121"])
def test_folded_batch_norms_give_the_same_features(backbone: str) -> None:
    """Of a DenseNet, about half of them follow no convolution."""
    network, _ = build_backbone(backbone)
    for module in network.modules():
        if isinstance(module, nn.BatchNorm2d):
            module.get_buffer("running_mean").uniform_(-0.1, 0.1)
            module.get_buffer("running_var").uniform_(0.5, 2)
    images = torch.rand(2, 3, 96, 96)

    folded = fold_batch_norms(network)

    with torch.inference_mode():
        torch.testing.assert_close(folded(images), network.eval()(images), atol=1e-4, rtol=1e-4)
    left = sum(isinstance(module, nn.BatchNorm2d) for module in folded.modules())
    assert left == (62 if backbone == "densenet121" else 0)
