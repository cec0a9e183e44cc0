"""What a classifier computes, and which of its parts may change."""

from __future__ import annotations

from typing import Literal, get_args

import pytest
import torch

from xraytune.classifier.backbones import Classifier, build_classifier
from xraytune.config.settings import BackboneName, Parameters

Trainable = Literal["head", "last_stage", "all"]


def new_classifier(
    backbone: BackboneName = "small_cnn",
    *,
    trainable: Trainable = "all",
    input_channels: Literal[1, 3] = 3,
    dropout: float = 0.0,
    seed: int = 1,
) -> Classifier:
    """A classifier of two classes with random weights; `weights` only lets the settings accept `trainable`."""
    parameters = Parameters(
        backbone=backbone,
        weights="none" if trainable == "all" else "given",
        trainable=trainable,
        input_channels=input_channels,
        dropout=dropout,
    )
    return build_classifier(parameters, 2, weights=None, seed=seed)


@pytest.mark.parametrize("backbone", get_args(BackboneName))
def test_features_and_logits_have_the_promised_shapes(backbone: BackboneName) -> None:
    classifier = new_classifier(backbone).eval()
    images = torch.rand(2, 3, 32, 32)

    assert classifier.backbone(images).shape == (2, classifier.feature_count)
    assert classifier(images).shape == (2, 2)
    assert torch.equal(classifier.head(classifier.backbone(images)), classifier(images))


@pytest.mark.parametrize("backbone", get_args(BackboneName))
def test_one_channel_gives_what_three_equal_channels_give(backbone: BackboneName) -> None:
    three = new_classifier(backbone, input_channels=3).eval()
    one = new_classifier(backbone, input_channels=1).eval()
    grey = torch.rand(2, 1, 64, 64)

    torch.testing.assert_close(one(grey), three(grey.repeat(1, 3, 1, 1)), rtol=1e-5, atol=1e-5)


def test_the_same_seed_gives_the_same_weights_and_leaves_torchs_generator_alone() -> None:
    before = torch.get_rng_state()

    first, second, other = (new_classifier(seed=seed).state_dict() for seed in (1, 1, 2))

    assert torch.equal(torch.get_rng_state(), before)
    assert all(torch.equal(first[name], second[name]) for name in first)
    assert not torch.equal(first["head.1.weight"], other["head.1.weight"])
    assert not torch.equal(first["backbone.0.0.weight"], other["backbone.0.0.weight"])


def test_training_the_head_leaves_only_the_head_to_train() -> None:
    classifier = new_classifier("resnet18", trainable="head")

    trained = {name for name, parameter in classifier.named_parameters() if parameter.requires_grad}

    assert trained == {"head.1.weight", "head.1.bias"}
    assert classifier.head.training
    assert not any(module.training for module in classifier.backbone.modules())


@pytest.mark.parametrize(
    ("backbone", "first_trained"),
    [
        ("small_cnn", "6.0.weight"),
        ("resnet18", "layer4.0.conv1.weight"),
        ("mobilenet_v2", "features.14.conv.0.0.weight"),
    ],
)
def test_training_the_last_stage_trains_the_coarsest_resolution(backbone: BackboneName, first_trained: str) -> None:
    classifier = new_classifier(backbone, trainable="last_stage")
    names = [name for name, _ in classifier.backbone.named_parameters()]
    split_at = names.index(first_trained)

    flags = [parameter.requires_grad for parameter in classifier.backbone.parameters()]

    assert flags == [False] * split_at + [True] * (len(names) - split_at)


def test_frozen_parts_stay_in_eval_mode_when_the_network_is_set_to_train() -> None:
    classifier = new_classifier(trainable="last_stage")

    classifier.eval()
    classifier.train()

    normalisations = [m for m in classifier.backbone.modules() if isinstance(m, torch.nn.BatchNorm2d)]
    assert [m.training for m in normalisations] == [False] * 6 + [True] * 2


def test_logits_are_float32_under_autocast() -> None:
    classifier = new_classifier().eval()
    images = torch.rand(2, 3, 32, 32)

    with torch.autocast("cpu", dtype=torch.bfloat16):
        logits = classifier(images)
        features = classifier.backbone(images).float()

    assert logits.dtype == torch.float32
    assert torch.equal(logits, classifier.head(features))
