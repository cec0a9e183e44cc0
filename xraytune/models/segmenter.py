"""Segmenters: a U-Net of segmentation-models-pytorch whose encoder is a backbone with torchvision's layers and weights.

The package is an extra, and takes seconds to import: it is imported where a network is built.

Source: Ronneberger et al. 2015, "U-Net: Convolutional Networks for Biomedical Image Segmentation" (arXiv:1505.04597).
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any, Self

import numpy as np
import torch
import torch.nn.functional as F
from numpy.typing import NDArray
from torch import Tensor, nn

from xraytune.compute import autocast
from xraytune.config.settings import Parameters
from xraytune.errors import MachineError, Problem
from xraytune.metrics.classification import Floats
from xraytune.models.backbones import last_stage_names, load_weights, to_one_channel
from xraytune.models.classifier import train_unless_frozen
from xraytune.records import Compute
from xraytune.seeding import derive_seed

MASK_THRESHOLD = 0.5
"""Pixels with at least this probability belong to the mask."""
_SMOOTHING = 1.0
"""Pixels added to both sides of the Dice loss, so that an empty mask has a gradient."""


class Segmenter(nn.Module):
    """A U-Net with one output, the logit of the mask.

    Attributes:
        unet: `encoder`, `decoder` and `segmentation_head`.
    """

    def __init__(self, unet: Any) -> None:
        super().__init__()
        self.unet = unet

    def forward(self, images: Tensor) -> Tensor:
        """Compute logits, float32 [B, 1, S, S], for images [B, C, S, S]; S is a multiple of 32."""
        logits: Tensor = self.unet(images)
        return logits.float()

    def train(self, mode: bool = True) -> Self:
        """Set the mode, except for modules of the encoder with a frozen parameter, which stay in eval mode."""
        super().train(mode)
        train_unless_frozen(self.unet.encoder, mode)
        return self


def build_segmenter(parameters: Parameters, *, weights: Path | None, seed: int) -> Segmenter:
    """Build the network of a trial, on the CPU, in train mode and channels_last; for `weights` see `build_backbone`.

    Of the encoder, `trainable: head` trains nothing and `last_stage` its last stage; the decoder is always trained.

    Raises:
        MachineError: segmentation-models-pytorch is not installed, or the weights cannot be read or are for another network.
    """
    with torch.random.fork_rng(devices=[]):
        torch.default_generator.manual_seed(derive_seed(seed, "segmenter"))
        unet = unet_class()(parameters.backbone, encoder_weights=None, in_channels=3, classes=1)
    if weights is not None:
        load_weights(unet.encoder, parameters.backbone, weights)
    if parameters.input_channels == 1:
        to_one_channel(unet.encoder, parameters.backbone)
    if parameters.trainable != "all":
        last_stage = parameters.trainable == "last_stage"
        trained = last_stage_names(parameters.backbone, unet.encoder) if last_stage else ()
        for name, parameter in unet.encoder.named_parameters():
            parameter.requires_grad_(name in trained)
    return Segmenter(unet).to(memory_format=torch.channels_last).train()


def unet_class() -> Any:
    """Import and return `segmentation_models_pytorch.Unet`.

    Raises:
        MachineError: The package is not installed.
    """
    try:
        from segmentation_models_pytorch import Unet
    except ImportError as error:
        what = "task: segmentation needs segmentation-models-pytorch"
        raise MachineError(Problem(what, fix="pip install 'xraytune[segmentation]'")) from error
    return Unet


def mask_loss(logits: Tensor, masks: Tensor) -> Tensor:
    """Return binary cross entropy plus soft Dice loss, the mean over images; float32 [B, 1, S, S] both, masks 0 or 1.

    Source: Milletari et al. 2016, "V-Net" (arXiv:1606.04797), equation of section 3, without squares; the sum of both losses
    as in Isensee et al. 2021, "nnU-Net".
    """
    probabilities = logits.sigmoid()
    overlap = (probabilities * masks).sum(dim=(1, 2, 3))
    sizes = probabilities.sum(dim=(1, 2, 3)) + masks.sum(dim=(1, 2, 3))
    dice = (2 * overlap + _SMOOTHING) / (sizes + _SMOOTHING)
    return F.binary_cross_entropy_with_logits(logits, masks) + (1 - dice).mean()


def segment(
    network: nn.Module,
    batches: Iterable[Tensor],
    read_masks: Callable[[slice], NDArray[np.uint8]],
    *,
    compute: Compute,
) -> tuple[Floats, Floats]:
    """Return binary cross entropy, in nats, and Dice coefficient of each image, float64 [N] both, in eval mode.

    Args:
        network: A `Segmenter`, on the device.
        batches: Its inputs.
        read_masks: Returns the masks of some images, in the order of the inputs, [n, S, S], 0 or above.
        compute: Device and precision.

    Source: Dice 1945, "Measures of the amount of ecologic association between species": 2 |A and B| / (|A| + |B|).
    """
    was_training, losses, dices, start = network.training, list[Tensor](), list[Tensor](), 0
    network.eval()
    try:
        for inputs in batches:
            with torch.inference_mode(), autocast(compute):
                logits = network(inputs).float()
            masks = torch.from_numpy(read_masks(slice(start, start + len(inputs))) > 0).to(logits.device)[:, None]
            start += len(inputs)
            losses.append(F.binary_cross_entropy_with_logits(logits, masks.float(), reduction="none").mean((1, 2, 3)))
            predicted = logits.sigmoid() >= MASK_THRESHOLD
            overlap, sizes = (predicted & masks).sum((1, 2, 3)), predicted.sum((1, 2, 3)) + masks.sum((1, 2, 3))
            dices.append(2 * overlap.double() / sizes)
    finally:
        network.train(was_training)
    return torch.cat(losses).double().cpu().numpy(), torch.cat(dices).cpu().numpy()
