"""The layer table of a configuration: every parameter once, layers in the order of their calls; the number of classes."""

from __future__ import annotations

from pathlib import Path

import pytest
from torch import nn

from xraytune.base.errors import ConfigError
from xraytune.data.index import find_class_names
from xraytune.nets.classifier import build_classifier
from xraytune.space.load import load_space
from xraytune.space.rules import check_images
from xraytune.space.settings import Parameters
from xraytune.trial.summary import model_summary, summarise

pytestmark = pytest.mark.slow

# From the VGG-16 project (docs/origins/004.md).
VGG16_TWO_CLASS = """
            Conv2d-1          [8, 64, 224, 224]           1,792
              ReLU-2          [8, 64, 224, 224]               0
            Conv2d-3          [8, 64, 224, 224]          36,928
              ReLU-4          [8, 64, 224, 224]               0
         MaxPool2d-5          [8, 64, 112, 112]               0
            Conv2d-6         [8, 128, 112, 112]          73,856
              ReLU-7         [8, 128, 112, 112]               0
            Conv2d-8         [8, 128, 112, 112]         147,584
              ReLU-9         [8, 128, 112, 112]               0
        MaxPool2d-10           [8, 128, 56, 56]               0
           Conv2d-11           [8, 256, 56, 56]         295,168
             ReLU-12           [8, 256, 56, 56]               0
           Conv2d-13           [8, 256, 56, 56]         590,080
             ReLU-14           [8, 256, 56, 56]               0
           Conv2d-15           [8, 256, 56, 56]         590,080
             ReLU-16           [8, 256, 56, 56]               0
        MaxPool2d-17           [8, 256, 28, 28]               0
           Conv2d-18           [8, 512, 28, 28]       1,180,160
             ReLU-19           [8, 512, 28, 28]               0
           Conv2d-20           [8, 512, 28, 28]       2,359,808
             ReLU-21           [8, 512, 28, 28]               0
           Conv2d-22           [8, 512, 28, 28]       2,359,808
             ReLU-23           [8, 512, 28, 28]               0
        MaxPool2d-24           [8, 512, 14, 14]               0
           Conv2d-25           [8, 512, 14, 14]       2,359,808
             ReLU-26           [8, 512, 14, 14]               0
           Conv2d-27           [8, 512, 14, 14]       2,359,808
             ReLU-28           [8, 512, 14, 14]               0
           Conv2d-29           [8, 512, 14, 14]       2,359,808
             ReLU-30           [8, 512, 14, 14]               0
        MaxPool2d-31           [8, 512, 7, 7]                 0
    AdaptiveAvgPool2d-32       [8, 512, 7, 7]                 0
           Linear-33           [8, 4096]            102,764,544
             ReLU-34           [8, 4096]                      0
          Dropout-35           [8, 4096]                      0
           Linear-36           [8, 4096]             16,781,312
             ReLU-37           [8, 4096]                      0
          Dropout-38           [8, 4096]                      0
           Linear-39           [8, 256]               1,048,832
             ReLU-40           [8, 256]                       0
          Dropout-41           [8, 256]                       0
           Linear-42           [8, 2]                       514
       LogSoftmax-43           [8, 2]                         0
"""


@pytest.fixture
def unset_weights(monkeypatch: pytest.MonkeyPatch) -> None:
    """Skip the initialisation of weights, which takes seconds."""
    for name in ("kaiming_normal_", "kaiming_uniform_", "trunc_normal_", "normal_", "xavier_uniform_", "uniform_"):
        monkeypatch.setattr(nn.init, name, lambda tensor, *_, **__: tensor)


@pytest.mark.usefixtures("unset_weights")
def test_the_published_vgg16_has_its_published_layers_and_counts() -> None:
    parameters = Parameters(backbone="vgg16", trainable="head", head="vgg16_two_class", batch_size=8)

    found = summarise(build_classifier(parameters, 2, weights=None, seed=1), (8, 3, 224, 224))

    rows = enumerate(found.layers, 1)
    table = [f"{layer.kind}-{number} {list(layer.output_shape)} {layer.params:,}" for number, layer in rows]
    assert table == [" ".join(line.split()) for line in VGG16_TWO_CLASS.strip().splitlines()]
    assert (found.total_params, found.trainable_params) == (135_309_890, 1_049_346)
    sizes = (found.input_mebibytes, found.activations_mebibytes, found.params_mebibytes)
    assert [f"{size:.2f}" for size in sizes] == ["4.59", "1750.23", "516.17"]
    assert {layer.name for layer in found.layers if layer.is_trained} == {"head.0", "head.3"}


@pytest.mark.usefixtures("unset_weights")
@pytest.mark.parametrize("backbone", ["small_cnn", "convnext_tiny", "swin_t", "vit_b_32", "googlenet"])
def test_every_parameter_is_counted_once(backbone: str) -> None:
    """Attention, class tokens and layer scales have parameters outside of leaf modules."""
    parameters = Parameters(backbone=backbone, weights="none")  # one of its names
    network = build_classifier(parameters, 2, weights=None, seed=1)
    expected = sum(parameter.numel() for parameter in network.parameters())

    found = summarise(network, (2, 3, 224, 224))

    assert found.total_params == found.trainable_params == expected
    assert sum(layer.params for layer in found.layers) == expected
    assert found.layers[-1].output_shape == (2, 2)


def write_space(folder: Path, line: str, classes: int) -> Path:
    """Write a space with a line, and empty class folders."""
    for number in range(classes):
        (folder / "images" / f"class{number}").mkdir(parents=True, exist_ok=True)
    fixed = "backbone: {value: small_cnn}\n  weights: {value: none}"
    path = folder / "small.yaml"
    data = "name: small\ndata: {path: images, image_size: 32, classes: auto}"
    path.write_text(f"{data}\nparameters:\n  {fixed}\n  {line}\n", encoding="utf-8")
    return path


def test_the_table_is_of_the_files_network_at_its_batch_and_image_size(tmp_path: Path) -> None:
    space = write_space(tmp_path, "batch_size: {value: 4}", 5)

    found = model_summary(space, overrides=["input_channels=1"])

    assert (found.input_shape, found.layers[-1].output_shape) == ((4, 1, 32, 32), (4, 5))
    assert found.total_params == found.trainable_params


@pytest.mark.parametrize(("losses", "classes"), [("bce, cross_entropy", 2), ("cross_entropy", 3), ("bce", 3)])
def test_a_single_neuron_is_refused_for_three_class_folders(tmp_path: Path, losses: str, classes: int) -> None:
    space = load_space(write_space(tmp_path, f"loss: {{values: [{losses}]}}", classes))
    class_count = len(find_class_names(space.settings.data))

    if losses == "bce":
        with pytest.raises(ConfigError, match="loss: bce requires two classes, but the images have 3"):
            check_images(space, class_count=class_count)
    else:
        check_images(space, class_count=class_count)
