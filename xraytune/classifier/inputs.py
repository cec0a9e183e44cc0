"""From stored pixels to what a network sees: one size, one band, one normalisation.

Takes uint8 images of any size on the device, gives float32 images of the size and the channels that the backbone
expects. Real and synthetic images go the same way, so that no image has detail beyond a GAN's sampling grid. Within it, a
GAN's images may still be blurrier than real ones. `InputFormat` is stored with a trained model: whoever predicts with it
repeats exactly this.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor

from xraytune.config.settings import Experiment
from xraytune.data.decoding import Resize

IMAGENET_MEAN = (0.485, 0.456, 0.406)
IMAGENET_STD = (0.229, 0.224, 0.225)
_HALF_RANGE = ("efficientnet_v2_l", "googlenet", "inception_v3")
"""Backbones whose weights were trained on pixels in [-1, 1]; torchvision hides it for two of them in a first layer that
undoes ImageNet's constants."""


@dataclass(frozen=True, slots=True, kw_only=True)
class InputFormat:
    """How pixels become a network's input.

    Attributes:
        image_size_px: Side S of the network's images.
        resize: How an image file becomes square.
        resolution_px: Side that every image is scaled through first, so that none has detail beyond it; None: none.
        mean: Of each input channel, for pixels in [0, 1].
        std: Of each input channel, for pixels in [0, 1].
    """

    image_size_px: int
    resize: Resize = "squash"
    resolution_px: int | None
    mean: tuple[float, ...]
    std: tuple[float, ...]


def input_format(experiment: Experiment, *, train_mean: float, train_std: float) -> InputFormat:
    """The constants of a pretrained backbone's weights, the train side's for one that starts from random weights.

    With one input channel they are averaged over three.

    Args:
        experiment: Its images' size and band, and its backbone.
        train_mean: Mean of the train side's real pixels, in [0, 1].
        train_std: Their standard deviation.
    """
    parameters, data = experiment.parameters, experiment.settings.data
    if parameters.weights == "none":
        mean, std = (train_mean,) * parameters.input_channels, (train_std,) * parameters.input_channels
    else:
        mean, std = ((0.5,) * 3, (0.5,) * 3) if parameters.backbone in _HALF_RANGE else (IMAGENET_MEAN, IMAGENET_STD)
        if parameters.input_channels == 1:
            mean, std = (sum(mean) / 3,), (sum(std) / 3,)
    return InputFormat(
        image_size_px=data.image_size, resize=data.resize, resolution_px=experiment.resolution_px, mean=mean, std=std
    )


def to_unit(pixels: Tensor, input_format: InputFormat) -> Tensor:
    """Scale images to the network's size, in [0, 1].

    An image larger than the band (or the size) is scaled down to it with an antialiasing filter; what is smaller than
    the size is scaled up. With a band, real images are also rounded to 8 bits there, as synthetic ones have been: at
    that point both have one sampling grid and one set of grey levels, though not one spectrum.

    Args:
        pixels: uint8 [B, h, w].
        input_format: Its sizes are used.

    Returns:
        float32 [B, 1, S, S], on the device of `pixels`.
    """
    size_px = input_format.image_size_px
    band_px = min(size_px, input_format.resolution_px or size_px)
    images = pixels[:, None].to(torch.float32)
    if max(images.shape[2:]) > band_px:
        images = F.interpolate(images, size=(band_px, band_px), mode="bilinear", antialias=True)
        if band_px < size_px:
            images = images.round()
    if images.shape[2:] != (size_px, size_px):
        images = F.interpolate(images, size=(size_px, size_px), mode="bilinear")
    return images / 255


def normalise(images: Tensor, input_format: InputFormat) -> Tensor:
    """Subtract the mean and divide by the standard deviation of each channel.

    Args:
        images: float32 [B, 1, S, S] in [0, 1].
        input_format: Its constants are used.

    Returns:
        float32 [B, C, S, S] in channels_last.
    """
    mean = torch.tensor(input_format.mean, dtype=images.dtype, device=images.device)[:, None, None]
    std = torch.tensor(input_format.std, dtype=images.dtype, device=images.device)[:, None, None]
    return ((images - mean) / std).contiguous(memory_format=torch.channels_last)
