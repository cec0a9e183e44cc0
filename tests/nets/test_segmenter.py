"""Segmenters: encoder weights, frozen layers, loss and Dice."""

from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import save_file
from torch import Tensor, nn

from tests.in_process import CPU
from xraytune.data.prepare import ImageSource
from xraytune.nets.backbones import build_backbone
from xraytune.nets.segmenter import build_segmenter
from xraytune.space.settings import Parameters
from xraytune.tasks import TASKS

TASK = TASKS["segmentation"]


def small(**values: object) -> Parameters:
    return Parameters.model_validate(
        {"backbone": "resnet18", "weights": "none", "lr": 3e-3, "batch_size": 8, **values}
    )


@pytest.mark.slow
def test_an_encoder_takes_torchvisions_weights_and_can_be_frozen(tmp_path: Path) -> None:
    """With `last_stage`, the last stage alone is trained."""
    network, _ = build_backbone("resnet18")
    file = tmp_path / "resnet18.safetensors"
    save_file(network.state_dict(), file)
    frozen, partly = (
        build_segmenter(small(trainable=trainable, weights="given"), weights=file, seed=0).unet
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
    images = ImageSource(
        name="val", pixels=masks, rows=rows, labels=rows * 0, inputs={}, masks=masks
    )

    batches = torch.split(torch.from_numpy(logits), 2)
    loss, results, losses = TASK.predict(network, batches, images, CPU)

    predicted, truth = logits[:, 0] >= 0, masks > 0
    expected = 2 * (predicted & truth).sum((1, 2)) / (predicted.sum((1, 2)) + truth.sum((1, 2)))
    np.testing.assert_allclose(results[:, 0], expected, atol=1e-12)
    assert results[:2, 0].tolist() == [1, 0]
    entropy = np.logaddexp(0, np.where(truth, -logits[:, 0], logits[:, 0]))
    np.testing.assert_allclose(losses[:, 0], entropy.mean((1, 2)), atol=1e-6)
    assert loss == losses.mean()
    assert network.training
