"""From stored pixels to a network's input: resize, match the resolution, normalise.

Real and synthetic images take the same path, so that no image has detail beyond the GAN's
resolution; a GAN's images may still be blurrier within it. The `InputFormat` is stored with a
trained model and repeated for predictions.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor

from xraytune.data.decoding import InputFormat
from xraytune.nets.backbones import pixel_constants
from xraytune.nets.compute import constants
from xraytune.space.paths import is_path
from xraytune.space.settings import Experiment


def input_format(experiment: Experiment, *, train_mean: float, train_std: float) -> InputFormat:
    """Return the format of an experiment.

    Networks without pretrained weights are normalised by the training images.

    `train_mean` and `train_std` are those of the real training pixels, in [0, 1].
    """
    parameters = experiment.parameters
    data = experiment.settings.data
    channels = parameters.input_channels
    mean = (train_mean,) * channels
    std = (train_std,) * channels
    own = experiment.settings.weights_pixels
    if own is not None and is_path("weights", parameters.weights):
        mean = (own.mean,) * channels
        std = (own.std,) * channels
    elif parameters.weights != "none":
        mean, std = pixel_constants(parameters.backbone)
        if channels == 1:
            mean = (sum(mean) / 3,)
            std = (sum(std) / 3,)
    return InputFormat(
        image_size_px=data.image_size,
        resize=data.resize,
        resolution_px=experiment.resolution_px,
        mean=mean,
        std=std,
    )


def to_unit(pixels: Tensor, input_format: InputFormat) -> Tensor:
    """Resize images, uint8 [B, h, w], to the network's size, float32 [B, 1, S, S] in [0, 1].

    Images larger than the resolution (or the size) are downsampled with antialiasing; smaller ones
    are upsampled to the size. At the resolution, real images are rounded to 8 bits, as synthetic
    images have been.
    """
    size_px = input_format.image_size_px
    resolution_px = min(size_px, input_format.resolution_px or size_px)
    images = pixels[:, None].to(torch.float32)
    if max(images.shape[2:]) > resolution_px:
        images = F.interpolate(
            images, size=(resolution_px, resolution_px), mode="bilinear", antialias=True
        )
        if resolution_px < size_px:
            images = images.round()
    if images.shape[2:] != (size_px, size_px):
        images = F.interpolate(images, size=(size_px, size_px), mode="bilinear")
    return images / 255


def normalise(images: Tensor, input_format: InputFormat) -> Tensor:
    """Standardise images, float32 [B, 1, S, S] in [0, 1], to [B, C, S, S] in channels_last."""
    mean = constants(input_format.mean, images.device)[:, None, None]
    std = constants(input_format.std, images.device)[:, None, None]
    return (images - mean).div_(std).contiguous(memory_format=torch.channels_last)
