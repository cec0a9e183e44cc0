"""Segmenters: U-Nets from segmentation-models-pytorch, with a backbone as encoder.

The package is optional and takes seconds to import, so it is imported only where a network is
built.

Source: Ronneberger et al. 2015, "U-Net: Convolutional Networks for Biomedical Image Segmentation"
(arXiv:1505.04597).
"""

from __future__ import annotations

from pathlib import Path
from typing import Any, Self

import torch
from torch import Tensor, nn

from xraytune.nets.backbones import load_weights, to_one_channel
from xraytune.nets.classifier import freeze, train_unless_frozen
from xraytune.nets.compute import seeded
from xraytune.space.settings import Parameters


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
