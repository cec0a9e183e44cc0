"""Segmenters: U-Nets from segmentation-models-pytorch, with a backbone as encoder.

The package is optional and takes seconds to import, so it is imported only where a network is
built.

Source: Ronneberger et al. 2015, "U-Net: Convolutional Networks for Biomedical Image Segmentation"
(arXiv:1505.04597).
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any, Self

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from xraytune.base.arrays import UInt8Array
from xraytune.base.records import Compute
from xraytune.nets.augment import MASK_THRESHOLD
from xraytune.nets.backbones import load_weights, to_one_channel
from xraytune.nets.classifier import freeze, train_unless_frozen
from xraytune.nets.compute import seeded
from xraytune.nets.infer import outputs_of
from xraytune.space.settings import Parameters
from xraytune.stats.classification import Floats

_SMOOTHING = 1.0
"""Pixels added to both sides of the Dice loss, so that an empty mask has a gradient."""


class Segmenter(nn.Module):
    """A U-Net, of `encoder`, `decoder` and `segmentation_head`; its output is the mask's logit."""

    def __init__(self, unet: Any) -> None:
        super().__init__()
        self.unet = unet

    def forward(self, images: Tensor) -> Tensor:
        """Compute logits, float32 [B, 1, S, S], for images [B, C, S, S]; S is a multiple of 32."""
        logits: Tensor = self.unet(images)
        return logits.float()

    def train(self, mode: bool = True) -> Self:
        """Set the mode; modules of the encoder with a frozen parameter stay in eval mode."""
        super().train(mode)
        train_unless_frozen(self.unet.encoder, mode)
        return self


def build_segmenter(parameters: Parameters, *, weights: Path | None, seed: int) -> Segmenter:
    """Build the network of a trial, on the CPU, in train mode and channels_last.

    Weights and errors as in `build_backbone`.

    With `trainable: head`, the encoder is frozen; with `last_stage`, all but its last stage. The
    decoder is always trained.
    """
    from segmentation_models_pytorch import Unet

    with seeded(seed, "segmenter"):
        unet = Unet(parameters.backbone, encoder_weights=None, in_channels=3, classes=1)
    if weights is not None:
        load_weights(unet.encoder, parameters.backbone, weights)
    if parameters.input_channels == 1:
        to_one_channel(unet.encoder, parameters.backbone)
    freeze(unet.encoder, parameters)
    return Segmenter(unet).to(memory_format=torch.channels_last).train()


def mask_loss(logits: Tensor, masks: Tensor) -> Tensor:
    """Return binary cross-entropy plus soft Dice loss, the mean over images.

    Both float32 [B, 1, S, S], masks 0 or 1.

    Source: Milletari et al. 2016, "V-Net" (arXiv:1606.04797), equation of section 3, without
    squares; the sum of both losses as in Isensee et al. 2021, "nnU-Net".
    """
    probabilities = logits.sigmoid()
    overlap = (probabilities * masks).sum(dim=(1, 2, 3))
    sizes = probabilities.sum(dim=(1, 2, 3)) + masks.sum(dim=(1, 2, 3))
    dice = (2 * overlap + _SMOOTHING) / (sizes + _SMOOTHING)
    return F.binary_cross_entropy_with_logits(logits, masks) + (1 - dice).mean()


def segment(
    network: nn.Module,
    batches: Iterable[Tensor],
    read_masks: Callable[[slice], UInt8Array],
    *,
    compute: Compute,
) -> tuple[Floats, Floats]:
    """Return binary cross-entropy, in nats, and Dice of each image, both float64 [N].

    `read_masks` returns the masks of a slice of the images, [n, S, S]; pixels above 0 belong to the
    mask.

    Source: Dice 1945, "Measures of the amount of ecologic association between species": 2 |A and B|
    / (|A| + |B|).
    """
    losses = []
    dices = []
    start = 0
    for logits in outputs_of(network, batches, compute=compute):
        inside = read_masks(slice(start, start + len(logits)))[:, None] > 0
        masks = torch.from_numpy(inside).to(logits.device)
        start += len(logits)
        entropy = F.binary_cross_entropy_with_logits(logits, masks.float(), reduction="none")
        losses.append(entropy.mean((1, 2, 3)))
        predicted = logits.sigmoid() >= MASK_THRESHOLD
        overlap = (predicted & masks).sum((1, 2, 3))
        sizes = predicted.sum((1, 2, 3)) + masks.sum((1, 2, 3))
        dices.append(2 * overlap.double() / sizes)
    return torch.cat(losses).double().cpu().numpy(), torch.cat(dices).cpu().numpy()
