"""Segmenters: encoder weights, frozen layers, loss, Dice, and a training that learns."""

from collections.abc import Iterable
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import save_file
from torch import Tensor, nn

from tests.tiny_training import TinyTraining
from xraytune.base.records import Compute, EpochRecord
from xraytune.nets.backbones import build_backbone
from xraytune.nets.segmenter import build_segmenter, mask_loss, segment
from xraytune.space.settings import Parameters

CPU = Compute(device="cpu", threads=1, precision="float32")
SIDE = 32


def small(**values: object) -> Parameters:
    return Parameters.model_validate(
        {"backbone": "resnet18", "weights": "none", "lr": 3e-3, "batch_size": 8, **values}
    )


@pytest.fixture
def weights(tmp_path: Path) -> Path:
    """Torchvision's state dict of a random ResNet-18."""
    network, _ = build_backbone("resnet18")
    file = tmp_path / "resnet18.safetensors"
    save_file(network.state_dict(), file)
    return file


def bright_squares(count: int) -> tuple[Tensor, Tensor]:
    """Noise images [N, 3, S, S] with a bright square of random place and size, and its masks [N, 1, S, S]."""
    generator = torch.Generator().manual_seed(1)
    images, masks = (
        torch.randn(count, 1, SIDE, SIDE, generator=generator),
        torch.zeros(count, 1, SIDE, SIDE),
    )
    for number in range(count):
        left, top, side = (
            int(torch.randint(low, 14, (1,), generator=generator)) for low in (2, 2, 6)
        )
        masks[number, 0, top : top + side, left : left + side] = 1
    return (images + 2 * masks).expand(-1, 3, -1, -1).contiguous(), masks


@pytest.mark.slow
@pytest.mark.parametrize(
    "backbone", ["mobilenet_v2", pytest.param("vgg11_bn", marks=pytest.mark.nightly)]
)
def test_encoder_takes_torchvisions_weights(backbone: str, tmp_path: Path) -> None:
    network, _ = build_backbone(backbone)
    save_file(network.state_dict(), tmp_path / "w.safetensors")

    built = build_segmenter(
        small(backbone=backbone, weights="given"), weights=tmp_path / "w.safetensors", seed=0
    )

    own = built.unet.encoder.state_dict()
    assert len(own) > 20
    assert all(torch.equal(tensor, network.state_dict()[name]) for name, tensor in own.items())


@pytest.mark.slow
def test_frozen_encoder_keeps_weights_and_statistics(weights: Path, tmp_path: Path) -> None:
    parameters = small(trainable="head", weights="given")
    network = build_segmenter(parameters, weights=weights, seed=0)
    before = {name: tensor.clone() for name, tensor in network.unet.encoder.state_dict().items()}

    run(network, parameters, tmp_path, epochs=1)

    assert all(
        torch.equal(before[name], tensor)
        for name, tensor in network.unet.encoder.state_dict().items()
    )
    assert network.unet.decoder.training
    assert not any(module.training for module in network.unet.encoder.modules())
    partly = build_segmenter(
        small(trainable="last_stage", weights="given"), weights=weights, seed=0
    )
    trained = {
        name.split(".")[0]
        for name, one in partly.unet.encoder.named_parameters()
        if one.requires_grad
    }
    assert trained == {"layer4"}


def test_loss_is_cross_entropy_plus_one_minus_soft_dice() -> None:
    random = np.random.default_rng(0)
    logits, masks = (
        random.normal(size=(3, 1, 8, 8)),
        (random.random((3, 1, 8, 8)) < 0.4).astype(float),
    )
    p = 1 / (1 + np.exp(-logits))
    entropy = -(masks * np.log(p) + (1 - masks) * np.log(1 - p)).mean()
    axes = (1, 2, 3)
    dice = (2 * (p * masks).sum(axes) + 1) / (p.sum(axes) + masks.sum(axes) + 1)

    loss = mask_loss(torch.from_numpy(logits), torch.from_numpy(masks))

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

    losses, dices = segment(
        network, torch.split(torch.from_numpy(logits), 2), lambda places: masks[places], compute=CPU
    )

    predicted, truth = logits[:, 0] >= 0, masks > 0
    expected = 2 * (predicted & truth).sum((1, 2)) / (predicted.sum((1, 2)) + truth.sum((1, 2)))
    np.testing.assert_allclose(dices, expected, atol=1e-12)
    assert (dices[0], dices[1]) == (1, 0)
    entropy = np.logaddexp(0, np.where(truth, -logits[:, 0], logits[:, 0]))
    np.testing.assert_allclose(losses, entropy.mean((1, 2)), atol=1e-6)
    assert network.training


def run(
    network: nn.Module, parameters: Parameters, folder: Path, *, epochs: int
) -> list[EpochRecord]:
    images, masks = bright_squares(48)

    def draws(steps: range) -> Iterable[tuple[Tensor]]:
        return ((torch.arange(step * 8, (step + 1) * 8) % 40,) for step in steps)

    def validate(network: nn.Module) -> tuple[float, float]:
        shown = (masks[40:, 0] * 255).byte().numpy()
        losses, dices = segment(network, [images[40:]], lambda places: shown[places], compute=CPU)
        return float(losses.mean()), float(dices.mean())

    training = TinyTraining(
        parameters,
        network,
        draws=draws,
        load=lambda rows: (images[rows], masks[rows]),
        norm_batches=lambda: torch.split(images[:40], 20),
        validate=validate,
        loss=mask_loss,
        max_epochs=epochs,
        steps_per_epoch=6,
    )
    return list(training.epochs(folder))


@pytest.mark.slow
def test_training_learns_to_find_squares(tmp_path: Path) -> None:
    network = build_segmenter(small(), weights=None, seed=0)

    assert run(network, small(), tmp_path, epochs=2)[-1].best_val_score > 0.8
