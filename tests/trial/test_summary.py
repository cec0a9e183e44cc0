"""The layer table of a configuration: every parameter once, layers in the order of their calls."""

from pathlib import Path

import pytest

from xraytune.nets.classifier import build_classifier
from xraytune.space.settings import Parameters
from xraytune.trial.summary import model_summary, summarise_layers

pytestmark = pytest.mark.slow

VGG16_STAGES = ((2, 64), (2, 128), (3, 256), (3, 512), (3, 512))
"""The number and width of the convolutions at each resolution."""


def published_table() -> list[str]:
    """The table of the VGG-16 project (docs/origins/004.md), with its counts from the sizes of the layers."""
    layers, channels = list[tuple[str, list[int], int]](), 3
    for stage, (count, width) in enumerate(VGG16_STAGES):
        side = 224 >> stage
        for _ in range(count):
            layers += [("Conv2d", [width, side, side], 9 * channels * width + width), ("ReLU", [width, side, side], 0)]
            channels = width
        layers.append(("MaxPool2d", [width, side // 2, side // 2], 0))
    layers.append(("AdaptiveAvgPool2d", [512, 7, 7], 0))
    for before, width in ((512 * 49, 4096), (4096, 4096), (4096, 256)):
        layers += [("Linear", [width], before * width + width), ("ReLU", [width], 0), ("Dropout", [width], 0)]
    layers += [("Linear", [2], 514), ("LogSoftmax", [2], 0)]
    return [f"{kind}-{number} {[8, *shape]} {params:,}" for number, (kind, shape, params) in enumerate(layers, 1)]


@pytest.mark.usefixtures("unset_weights")
def test_the_published_vgg16_has_its_published_layers_and_counts() -> None:
    parameters = Parameters(backbone="vgg16", trainable="head", head="vgg16_two_class", batch_size=8)

    found = summarise_layers(build_classifier(parameters, 2, weights=None, seed=1), (8, 3, 224, 224))

    rows = enumerate(found.layers, 1)
    table = [f"{layer.kind}-{number} {list(layer.output_shape)} {layer.params:,}" for number, layer in rows]
    assert table == published_table()
    assert (found.total_params, found.trainable_params) == (135_309_890, 1_049_346)
    sizes = (found.input_mebibytes, found.activations_mebibytes, found.params_mebibytes)
    assert [f"{size:.2f}" for size in sizes] == ["4.59", "1750.23", "516.17"]
    assert {layer.name for layer in found.layers if layer.is_trained} == {"head.0", "head.3"}


@pytest.mark.usefixtures("unset_weights")
@pytest.mark.parametrize("backbone", ["small_cnn", "convnext_tiny", "swin_t", "vit_b_32"])
def test_every_parameter_is_counted_once(backbone: str) -> None:
    """Attention, class tokens and layer scales have parameters outside of leaf modules."""
    parameters = Parameters(backbone=backbone, weights="none")  # one of its names
    network = build_classifier(parameters, 2, weights=None, seed=1)
    expected = sum(parameter.numel() for parameter in network.parameters())

    found = summarise_layers(network, (2, 3, 224, 224))

    assert found.total_params == found.trainable_params == expected
    assert sum(layer.params for layer in found.layers) == expected
    assert found.layers[-1].output_shape == (2, 2)


def test_the_table_is_of_the_files_network_at_its_batch_and_image_size(tmp_path: Path) -> None:
    for number in range(5):
        (tmp_path / "images" / f"class{number}").mkdir(parents=True)
        (tmp_path / "images" / f"class{number}" / "xray.png").touch()
    space = tmp_path / "small.yaml"
    parameters = "{backbone: {value: small_cnn}, weights: {value: none}, batch_size: {value: 4}}"
    data = "{path: images, image_size: 32, classes: auto}"
    space.write_text(f"name: small\ndata: {data}\nparameters: {parameters}\n", encoding="utf-8")

    found = model_summary(space, overrides=["input_channels=1"])

    assert (found.input_shape, found.layers[-1].output_shape) == ((4, 1, 32, 32), (4, 5))
    assert found.total_params == found.trainable_params
