"""What classifiers and segmenters compute, and which parts are trained."""

from pathlib import Path

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from safetensors.torch import save_file
from torch import Tensor, nn

from tests.in_process import CPU
from xraytune.data.image_set import ImageSet
from xraytune.nets.backbones import build_backbone
from xraytune.nets.networks import Classifier, build_classifier, build_head, build_segmenter
from xraytune.present.pictures import grad_cam
from xraytune.space.parameters import Parameters
from xraytune.tasks import TASKS


def test_the_published_vgg16_has_its_published_number_of_parameters() -> None:
    """Of the fourth origin project (docs/spaces.md), without the memory for them."""
    parameters = Parameters(backbone="vgg16", trainable="head", head="vgg16_two_class")
    with torch.device("meta"):
        network = build_classifier(parameters, 2, weights=None, seed=1)

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


TASK = TASKS["segmentation"]


def small(**values: object) -> Parameters:
    return Parameters.model_validate(
        {"backbone": "resnet18", "weights": "none", "lr": 3e-3, "batch_size": 8, **values}
    )


def test_an_encoder_takes_torchvisions_weights_and_can_be_frozen(tmp_path: Path) -> None:
    """With `last_stage`, the last stage alone is trained."""
    network, _ = build_backbone("resnet18")
    file = tmp_path / "resnet18.safetensors"
    save_file(network.state_dict(), file)
    frozen, partly = (
        build_segmenter(small(trainable=trainable, weights="given"), 1, weights=file, seed=0).unet
        for trainable in ("head", "last_stage")
    )

    for name, tensor in frozen.encoder.state_dict().items():
        assert torch.equal(tensor, network.state_dict()[name])
    assert not any(weights.requires_grad for weights in frozen.encoder.parameters())
    assert not any(module.training for module in frozen.encoder.modules())
    assert frozen.decoder.training
    encoder = partly.encoder.named_parameters()
    trained = {name.partition(".")[0] for name, weights in encoder if weights.requires_grad}
    assert trained == {"layer4"}


@pytest.mark.parametrize("backbone", ["resnet18", "vgg11", "densenet121", "mobilenet_v2"])
@pytest.mark.parametrize("size_px", [33, 100])
def test_a_segmenter_takes_images_of_any_size(backbone: str, size_px: int) -> None:
    network = build_segmenter(small(backbone=backbone), 1, weights=None, seed=0).eval()

    with torch.inference_mode():
        logits = network(torch.zeros(1, 3, size_px, size_px))

    assert logits.shape == (1, 1, size_px, size_px)


def test_loss_is_cross_entropy_plus_one_minus_soft_dice() -> None:
    random = np.random.default_rng(0)
    logits = random.normal(size=(3, 1, 8, 8))
    masks = (random.random((3, 1, 8, 8)) < 0.4).astype(float)
    p = 1 / (1 + np.exp(-logits))
    entropy = -(masks * np.log(p) + (1 - masks) * np.log(1 - p)).mean()
    axes = (1, 2, 3)
    dice = (2 * (p * masks).sum(axes) + 1) / (p.sum(axes) + masks.sum(axes) + 1)

    loss = TASK.loss(torch.from_numpy(logits), torch.from_numpy(masks))

    assert float(loss) == pytest.approx(entropy + 1 - dice.mean(), abs=1e-12)


class Fixed(nn.Module):
    """A network whose outputs are its inputs."""

    def forward(self, inputs: Tensor) -> Tensor:
        return inputs


def test_dice_and_loss_of_each_image_across_batches() -> None:
    random = np.random.default_rng(0)
    logits = random.normal(size=(5, 1, 8, 8)).astype(np.float32)
    masks = np.where(random.random((5, 8, 8)) < 0.4, 255, 0).astype(np.uint8)
    logits[0] = np.where(masks[0], 9, -9)  # perfect
    logits[1] = -9  # nothing found
    network = Fixed().train()
    rows = np.arange(5)
    images = ImageSet(name="val", pixels=masks, rows=rows, targets=rows * 0, inputs={}, masks=masks)

    batches = torch.split(torch.from_numpy(logits), 2)
    loss, results, losses = TASK.predict(network, batches, images, CPU)

    predicted = logits[:, 0] >= 0
    truth = masks > 0
    expected = 2 * (predicted & truth).sum((1, 2)) / (predicted.sum((1, 2)) + truth.sum((1, 2)))
    np.testing.assert_allclose(results[:, 0], expected, atol=1e-12)
    assert results[:2, 0].tolist() == [1, 0]
    entropy = np.logaddexp(0, np.where(truth, -logits[:, 0], logits[:, 0]))
    np.testing.assert_allclose(losses[:, 0], entropy.mean((1, 2)), atol=1e-6)
    assert loss == losses.mean()
    assert network.training
