"""Grad-CAM: the map is where the evidence is."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from xraytune.nets.classifier import Classifier
from xraytune.nets.grad_cam import grad_cam

pytestmark = pytest.mark.slow


@pytest.mark.parametrize("corner", [0, 5])
def test_the_map_is_where_the_evidence_is(corner: int) -> None:
    """A network whose first class is the brightness of the image: the map is the bright square."""
    conv = nn.Conv2d(1, 1, 1, bias=False)
    nn.init.ones_(conv.weight)
    head = nn.Linear(1, 2, bias=False)
    head.weight.data = torch.tensor([[1.0], [-1.0]])
    network = Classifier(nn.Sequential(conv, nn.ReLU(inplace=True), nn.AdaptiveAvgPool2d(1), nn.Flatten()), head)
    image = torch.zeros(1, 1, 8, 8)
    image[..., corner : corner + 3, corner : corner + 3] = 2.0

    found = grad_cam(network.eval().requires_grad_(False), image)

    torch.testing.assert_close(torch.from_numpy(found), image[:, 0].detach().double() / 2)
