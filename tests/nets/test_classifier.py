"""What a classifier computes, and which parts are trained."""

from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import nn

from xraytune.nets.classifier import Classifier, build_classifier, build_head
from xraytune.present.pictures import grad_cam
from xraytune.space.settings import Parameters

pytestmark = pytest.mark.slow


def new_classifier(
    backbone: str = "small_cnn", *, classes: int = 2, seed: int = 1, **changes: Any
) -> Classifier:
    """A classifier with random weights; the settings accept `trainable` only with `weights`."""
    weights = "none" if changes.get("trainable", "all") == "all" else "given"
    parameters = Parameters.model_validate({"backbone": backbone, "weights": weights, **changes})
    return build_classifier(parameters, classes, weights=None, seed=seed)


def test_the_published_vgg16_has_its_published_number_of_parameters() -> None:
    """Of the fourth origin project (docs/spaces.md), without the memory for them."""
    with torch.device("meta"):
        network = new_classifier("vgg16", trainable="head", head="vgg16_two_class")

    sizes = [(parameter.numel(), parameter.requires_grad) for parameter in network.parameters()]
    assert sum(size for size, _ in sizes) == 135_309_890
    assert sum(size for size, is_trained in sizes if is_trained) == 1_049_346


FEATURES = torch.randn(8, 5, generator=torch.Generator().manual_seed(2))
LABELS = torch.tensor([0, 1] * 4)


def test_a_single_neuron_trains_as_with_binary_cross_entropy() -> None:
    head = build_head(Parameters(loss="bce"), 5, 2, seed=1)
    layer = head[1]
    assert isinstance(layer, torch.nn.Linear)

    neuron = layer(FEATURES)[:, 0]
    loss = F.cross_entropy(head(FEATURES), LABELS)
    expected = F.binary_cross_entropy_with_logits(neuron, LABELS.float())

    assert layer.weight.shape == (1, 5)
    torch.testing.assert_close(loss, expected)
    torch.testing.assert_close(
        *(torch.autograd.grad(value, layer.weight)[0] for value in (loss, expected))
    )
    torch.testing.assert_close(head(FEATURES).softmax(dim=1)[:, 1], neuron.sigmoid())


def test_the_published_vgg_head_trains_as_with_negative_log_likelihood() -> None:
    log_probabilities = build_head(Parameters(head="vgg16_two_class"), 5, 2, seed=1)(FEATURES)

    torch.testing.assert_close(log_probabilities.exp().sum(dim=1), torch.ones(8))
    torch.testing.assert_close(
        F.cross_entropy(log_probabilities, LABELS), F.nll_loss(log_probabilities, LABELS)
    )


@pytest.mark.parametrize("corner", [0, 5])
def test_the_grad_cam_is_where_the_evidence_is(corner: int) -> None:
    """A network whose first class is the brightness of the image: the map is the bright square."""
    conv = nn.Conv2d(1, 1, 1, bias=False)
    head = nn.Linear(1, 2, bias=False)
    nn.init.ones_(conv.weight)
    head.weight.data = torch.tensor([[1.0], [-1.0]])
    network = Classifier(
        nn.Sequential(conv, nn.ReLU(inplace=True), nn.AdaptiveAvgPool2d(1), nn.Flatten()), head
    )
    image = torch.zeros(1, 1, 8, 8)
    image[..., corner : corner + 3, corner : corner + 3] = 2.0

    found = grad_cam(network.eval().requires_grad_(False), image)

    torch.testing.assert_close(torch.from_numpy(found), image[:, 0].detach().double() / 2)
