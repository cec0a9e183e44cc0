"""Images reach the network normalised, in seeded views."""

import math
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from torch import Tensor

from xraytune.data.decoding import InputFormat
from xraytune.nets.inputs import (
    IDENTITY_VIEW,
    VIEW_COLUMNS,
    augment,
    input_format,
    view_table,
)
from xraytune.space.settings import Experiment, Parameters, Settings


def format_for(**parameters: Any) -> InputFormat:
    """The format if the training images have mean 0.4 and standard deviation 0.2."""
    settings = Settings.model_validate({"name": "any", "data": {"path": Path("images")}})
    experiment = Experiment(settings=settings, parameters=Parameters.model_validate(parameters))
    return input_format(experiment, train_mean=0.4, train_std=0.2)


def test_untrained_networks_use_the_constants_of_the_training_images() -> None:
    """Pretrained ones on grey images use the mean of theirs."""
    grey = format_for(backbone="resnet18", input_channels=1)
    untrained = format_for(backbone="resnet18", weights="none")

    assert grey.mean + grey.std == pytest.approx((0.449, 0.226))
    assert (untrained.mean, untrained.std) == ((0.4, 0.4, 0.4), (0.2, 0.2, 0.2))


def disc(x: float, y: float, size_px: int = 64) -> Tensor:
    """A soft bright disc at (x, y), in [-1, 1], on black."""
    axis = (torch.arange(size_px) + 0.5) * 2 / size_px - 1
    squared_distance = (axis[None, :] - x) ** 2 + (axis[:, None] - y) ** 2
    return torch.exp(-squared_distance / 0.02)[None, None]


def view(**changes: float) -> Tensor:
    values = dict(zip(VIEW_COLUMNS, IDENTITY_VIEW, strict=True)) | changes
    return torch.tensor([list(values.values())], dtype=torch.float32)


def test_identity_view_is_bit_identical() -> None:
    images = torch.rand(2, 1, 33, 33)

    changed = augment(images, torch.cat([view(), view(angle_radians=0.1)]))

    assert torch.equal(changed[0], images[0])
    assert not torch.equal(changed[1], images[1])


@pytest.mark.parametrize(
    ("changes", "where"),
    [
        ({"flip": -1.0}, (-0.4, 0.2)),
        ({"shift_x": 0.1, "shift_y": -0.2}, (0.6, -0.2)),
        ({"scale": 1.5}, (0.6, 0.3)),
        ({"angle_radians": math.pi / 2}, (-0.2, 0.4)),
        ({"flip": -1.0, "angle_radians": math.pi / 2, "scale": 1.5, "shift_x": 0.1}, (-0.1, -0.6)),
    ],
)
def test_disc_moves_as_specified_by_the_view(
    changes: dict[str, float], where: tuple[float, float]
) -> None:
    """The order is flip, turn (clockwise on the screen), scale, shift."""
    moved = augment(disc(0.4, 0.2), view(**changes))[0, 0]

    row, column = divmod(int(moved.argmax()), 64)
    assert (column + 0.5) / 32 - 1 == pytest.approx(where[0], abs=0.04)
    assert (row + 0.5) / 32 - 1 == pytest.approx(where[1], abs=0.04)


@pytest.mark.slow
def test_contrast_spreads_around_the_mean_and_brightness_adds() -> None:
    images = 0.4 + 0.2 * torch.rand(1, 1, 16, 16)

    contrasted = augment(images, view(contrast=1.5))
    brightened = augment(images, view(brightness=0.1))

    torch.testing.assert_close(contrasted.mean(), images.mean())
    torch.testing.assert_close(contrasted.std(), 1.5 * images.std())
    torch.testing.assert_close(brightened, images + 0.1)


def test_tables_depend_on_seed_and_purpose_and_a_longer_one_starts_with_a_shorter_one() -> None:
    def table(seed: int, purpose: str, image_count: int = 4) -> NDArray[np.float32]:
        parameters = Parameters(augmentation="affine", views=3)
        return view_table(seed, purpose, image_count=image_count, parameters=parameters)

    assert table(7, "real").shape == (4, 3, len(VIEW_COLUMNS))
    assert table(7, "real").dtype == np.float32
    assert np.array_equal(table(7, "real", 20)[:4], table(7, "real"))
    assert not np.array_equal(table(7, "real"), table(8, "real"))
    assert not np.array_equal(table(7, "real"), table(7, "extra"))
    assert len(np.unique(table(7, "real").reshape(12, -1), axis=0)) == 12
