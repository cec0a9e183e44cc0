"""Real and synthetic images reach the network at the same size and resolution."""

from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

from xraytune.base.seeding import derive_seed
from xraytune.data.decoding import InputFormat
from xraytune.nets.inputs import input_format, to_unit
from xraytune.space.settings import Experiment, Parameters, Settings


def format_of(image_size_px: int, resolution_px: int | None = None) -> InputFormat:
    return InputFormat(
        image_size_px=image_size_px, resolution_px=resolution_px, mean=(0.5,), std=(0.25,)
    )


def format_for(data: dict[str, Any] | None = None, **parameters: Any) -> InputFormat:
    """The format if the training images have mean 0.4 and standard deviation 0.2."""
    settings = Settings.model_validate(
        {"name": "any", "data": {"path": Path("images"), **(data or {})}}
    )
    experiment = Experiment(settings=settings, parameters=Parameters.model_validate(parameters))
    return input_format(experiment, train_mean=0.4, train_std=0.2)


def noise(image_count: int, size_px: int, purpose: str = "noise") -> Tensor:
    """White noise: energy at all frequencies."""
    generator = torch.Generator().manual_seed(derive_seed(1, purpose))
    return torch.randint(
        0, 256, (image_count, size_px, size_px), generator=generator, dtype=torch.uint8
    )


def test_a_real_image_stored_at_the_gans_size_is_the_same_image_after_matching() -> None:
    """Matching is one operation: upscaling the stored small image gives exactly the matched one."""
    real = noise(4, 128)
    small = torch.nn.functional.interpolate(
        real[:, None].float(), size=(64, 64), mode="bilinear", antialias=True
    ).round()[:, 0]

    matched = to_unit(real, format_of(128, 64))

    assert torch.equal(matched, to_unit(small.to(torch.uint8), format_of(128, 64)))


def test_untrained_networks_use_the_constants_of_the_training_images() -> None:
    """Pretrained ones on grey images use the mean of theirs."""
    grey = format_for(backbone="resnet18", input_channels=1)
    untrained = format_for(backbone="resnet18", weights="none")

    assert grey.mean + grey.std == pytest.approx((0.449, 0.226))
    assert (untrained.mean, untrained.std) == ((0.4, 0.4, 0.4), (0.2, 0.2, 0.2))
