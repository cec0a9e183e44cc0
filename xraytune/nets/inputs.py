"""Turn stored pixels into a network's input: resize, augment, normalise.

Real and synthetic images take the same path. The `InputFormat` is stored with a trained model and
repeated for predictions.

Augmentation shows views of an image, computed on the device. A view is a row of numbers,
`VIEW_COLUMNS`, sampled before training. So the features of a frozen backbone can be cached for all
views, and a resumed or longer run sees the same images. With `affine`, the degrees scale the same
numbers: an image turns the same way, only further. Pixels from outside the image are black.

`trivial` is TrivialAugment with its narrower ranges, without the operations that give grey values
another meaning (Posterize, Solarize, Equalize, AutoContrast) or need colours. From: Müller &
Hutter 2021, "TrivialAugment" (arXiv:2103.10158), table 1.
"""

import math

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from xraytune.base.arrays import Float32Array
from xraytune.base.seeding import numpy_generator
from xraytune.data.decoding import InputFormat
from xraytune.nets.backbones import pixel_constants
from xraytune.nets.compute import constants
from xraytune.space.parameters import Parameters
from xraytune.space.settings import Experiment

VIEW_COLUMNS = (
    "flip",
    "angle_radians",
    "shift_x",
    "shift_y",
    "scale",
    "contrast",
    "brightness",
    "shear_x",
    "shear_y",
    "exposure",
    "sharpness",
)
"""Shifts are shares of a side; contrast, exposure, sharpness and scale are factors; and brightness
is added to pixels in [0, 1]."""
IDENTITY_VIEW = (1.0, 0.0, 0.0, 0.0, 1.0, 1.0, 0.0, 0.0, 0.0, 1.0, 1.0)
_FLIP_PROBABILITY = 0.5
MASK_THRESHOLD = 0.5
"""Pixels with at least this probability belong to the mask."""
_AFFINE = {
    "angle_radians": math.radians(15),
    "shift_x": 0.10,
    "shift_y": 0.10,
    "scale": 0.20,
    "contrast": 0.30,
    "brightness": 0.15,
}
"""The largest changes of `affine` with 15 degrees; changes are uniform, up or down."""
_AFFINE_DEGREES = 15
_TRIVIAL = {
    "angle_radians": math.radians(30),
    "shift_x": 10 / 32,
    "shift_y": 10 / 32,
    "shear_x": 0.3,
    "shear_y": 0.3,
    "contrast": 0.9,
    "exposure": 0.9,
    "sharpness": 0.9,
}
"""The largest change of each operation of `trivial`; a view has at most one operation."""
_TRIVIAL_STRENGTHS = 30
"""The number of strengths above 0 that an operation can have."""
_BLUR = ((1.0, 1.0, 1.0), (1.0, 5.0, 1.0), (1.0, 1.0, 1.0))
"""The smoothing kernel of sharpness, times 13, as in Pillow's SMOOTH."""


def input_format(experiment: Experiment, *, train_mean: float, train_std: float) -> InputFormat:
    """Return the format of an experiment.

    Networks without pretrained weights are normalised by the training images.

    `train_mean` and `train_std` are the mean and standard deviation of the real training pixels, in
    [0, 1].
    """
    parameters = experiment.parameters
    data = experiment.settings.data
    mean: tuple[float, ...] = (train_mean,)
    std: tuple[float, ...] = (train_std,)
    if parameters.pixel_mean is not None and parameters.pixel_std is not None:
        mean = (parameters.pixel_mean,)
        std = (parameters.pixel_std,)
    elif parameters.weights != "none":
        mean, std = pixel_constants(parameters.backbone, parameters.weights)
    return InputFormat(
        image_size_px=data.image_size,
        resize=data.resize,
        mean=_for_channels(mean, parameters.channels),
        std=_for_channels(std, parameters.channels),
    )


def _for_channels(constants: tuple[float, ...], channels: int) -> tuple[float, ...]:
    """Return a constant for each channel; a single channel gets the mean of three."""
    if len(constants) == channels:
        return constants
    return (sum(constants) / len(constants),) * channels


def to_unit(pixels: Tensor, input_format: InputFormat) -> Tensor:
    """Resize images, uint8 [B, h, w], to the network's size, float32 [B, 1, S, S] in [0, 1].

    Larger images are downsampled with antialiasing.
    """
    size_px = input_format.image_size_px
    images = pixels[:, None].to(torch.float32)
    if images.shape[2:] != (size_px, size_px):
        is_larger = max(images.shape[2:]) > size_px
        images = F.interpolate(
            images, size=(size_px, size_px), mode="bilinear", antialias=is_larger
        )
    return images / 255


def normalise(images: Tensor, input_format: InputFormat) -> Tensor:
    """Standardise images, float32 [B, 1, S, S] in [0, 1], to [B, C, S, S] in channels_last."""
    mean = constants(input_format.mean, images.device)[:, None, None]
    std = constants(input_format.std, images.device)[:, None, None]
    return (images - mean).div_(std).contiguous(memory_format=torch.channels_last)


def view_table(
    seed: int, *purpose: str | int, image_count: int, parameters: Parameters
) -> Float32Array:
    """Sample a table of views, float32 [image_count, views, 11]; one view is not augmented.

    Columns are `VIEW_COLUMNS`. A table of more images starts with the table of fewer images; each
    `purpose` has numbers of its own.
    """
    identity = np.array(IDENTITY_VIEW, dtype=np.float32)
    augmentation = parameters.augmentation
    if not parameters.is_augmented:
        return np.tile(identity, (image_count, 1, 1))
    shape = (image_count, parameters.views, len(identity))
    uniform = numpy_generator(seed, *purpose).random(shape, dtype=np.float32)
    table = np.broadcast_to(identity, shape).copy()
    if augmentation == "flip" or parameters.with_flips:
        table[..., 0] = np.where(uniform[..., 0] < _FLIP_PROBABILITY, -1, 1)
    if augmentation == "affine":
        strength = parameters.degrees / _AFFINE_DEGREES
        for name, largest in _AFFINE.items():
            column = VIEW_COLUMNS.index(name)
            table[..., column] += (2 * uniform[..., column] - 1) * strength * largest
    elif augmentation == "trivial":
        choice = (uniform[..., 0] * (len(_TRIVIAL) + 1)).astype(np.int64)
        share = np.floor(uniform[..., 1] * (_TRIVIAL_STRENGTHS + 1)) / _TRIVIAL_STRENGTHS
        sign = np.where(uniform[..., 2] < 0.5, -1, 1)
        for index, (name, largest) in enumerate(_TRIVIAL.items()):
            change = (choice == index) * sign * share * largest
            table[..., VIEW_COLUMNS.index(name)] += change.astype(np.float32)
    return table


def augment(images: Tensor, views: Tensor) -> Tensor:
    """Flip, shear, rotate, scale and shift images (bilinear), then change their grey values.

    Images are float32 [B, 1, S, S] in [0, 1], before and after; views are float32 [B, 11] on the
    same device, with the columns `VIEW_COLUMNS`. For an identity view, the result is bit-identical
    to the image.
    """
    contrast = views[:, 5, None, None, None]
    brightness = views[:, 6, None, None, None]
    exposure = views[:, 9, None, None, None]
    sharpness = views[:, 10, None, None, None]
    moved = _move(images, views) * exposure
    moved = torch.lerp(_blur(moved), moved, sharpness)
    mean = moved.mean(dim=(1, 2, 3), keepdim=True)
    augmented = torch.addcmul(mean * (1 - contrast) + brightness, moved, contrast).clamp_(0, 1)
    # Exact for weights of 0 and 1, and faster than torch.where, which is slow if it has to
    # broadcast.
    return torch.lerp(augmented, images, _is_identity(views).to(images.dtype))


def augment_masks(masks: Tensor, views: Tensor) -> Tensor:
    """Move masks, float32 [B, 1, S, S] of 0 and 1, as `augment` moves their images.

    Masks are interpolated bilinearly, and values of at least 0.5 become 1.
    """
    return torch.where(
        _is_identity(views), masks, (_move(masks, views) >= MASK_THRESHOLD).to(masks.dtype)
    )


def _blur(images: Tensor) -> Tensor:
    """Return images whose inner pixels are smoothed; pixels at the border are not changed."""
    kernel = constants(tuple(weight / 13 for row in _BLUR for weight in row), images.device)
    blurred = images.clone()
    blurred[..., 1:-1, 1:-1] = F.conv2d(images, kernel.reshape(1, 1, 3, 3))
    return blurred


def _move(images: Tensor, views: Tensor) -> Tensor:
    # A view maps x to s R K F x + d. The inverse, x = F K' R' (y - d) / s, maps output to input
    # coordinates in [-1, 1]. A view has at most one of the shears in K, so that their order does
    # not matter.
    flip, angle, shift_x, shift_y, scale = views[:, :5].unbind(dim=1)
    shear_x, shear_y = views[:, 7:9, None].unbind(dim=1)
    cosine = torch.cos(angle) / scale
    sine = torch.sin(angle) / scale
    turned_x = torch.stack([cosine, sine], 1)
    turned_y = torch.stack([-sine, cosine], 1)
    rows = [flip[:, None] * (turned_x - shear_x * turned_y), turned_y - shear_y * turned_x]
    rotation = torch.stack(rows, dim=1)
    shift = 2 * torch.stack([shift_x, shift_y], dim=1)[:, :, None]  # a side is 2 long
    inverse = torch.cat([rotation, -rotation @ shift], dim=2)[:, :, None, None]
    # One plane for x and one for y, each a sum over rows and columns: pairs (x, y) and
    # F.affine_grid are slower.
    from_x, from_y, constant = inverse.unbind(dim=-1)  # [B, 2, 1, 1] each
    side = images.shape[-1]
    centres = (torch.arange(side, device=images.device, dtype=images.dtype) * 2 + 1) / side - 1
    grid = from_x * centres + (from_y * centres[:, None] + constant)
    return F.grid_sample(
        images,
        grid.permute(0, 2, 3, 1),
        mode="bilinear",
        padding_mode="zeros",
        align_corners=False,
    )


def _is_identity(views: Tensor) -> Tensor:
    return (views == constants(IDENTITY_VIEW, views.device)).all(dim=1)[:, None, None, None]
