"""Images reach the network normalised, in seeded views."""

import math
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from torch import Tensor
from torchvision.transforms.v2 import functional as transforms

from xraytune.data.decoding import InputFormat
from xraytune.nets.inputs import (
    IDENTITY_VIEW,
    VIEW_COLUMNS,
    augment,
    input_format,
    view_table,
)
from xraytune.space.data_settings import DataSettings
from xraytune.space.parameters import Parameters
from xraytune.space.settings import Experiment, Settings


def format_for(**parameters: Any) -> InputFormat:
    """The format if the training images have mean 0.4 and standard deviation 0.2."""
    settings = Settings(name="any", data=DataSettings(path=Path("images")))
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


def test_a_trivial_view_has_at_most_one_change_of_a_random_amount() -> None:
    table = view_table(
        0, image_count=2000, parameters=Parameters(augmentation="trivial", views=2)
    ).reshape(-1, len(VIEW_COLUMNS))
    changes = table - np.array(IDENTITY_VIEW, dtype=np.float32)
    is_changed = np.abs(changes) > 1e-6

    assert (is_changed.sum(axis=1) <= 1).all()
    by_name = dict(zip(VIEW_COLUMNS, is_changed.mean(axis=0), strict=True))
    operations = {"angle_radians", "shift_x", "shift_y", "shear_x", "shear_y"}
    operations |= {"contrast", "exposure", "sharpness"}
    assert {name for name, share in by_name.items() if share > 0} == operations
    assert all(abs(by_name[name] - 30 / 31 / 9) < 0.02 for name in operations)
    angles = np.degrees(changes[:, VIEW_COLUMNS.index("angle_radians")])
    assert angles.max() == pytest.approx(30, abs=1e-3)
    assert angles.min() == pytest.approx(-30, abs=1e-3)


@pytest.mark.parametrize("factor", [0.1, 0.6, 1.4, 1.9])
def test_grey_values_change_as_in_torchvision(factor: float) -> None:
    images = torch.rand(3, 1, 16, 16, generator=torch.Generator().manual_seed(0))
    for name, function in (
        ("exposure", transforms.adjust_brightness),
        ("contrast", transforms.adjust_contrast),
        ("sharpness", transforms.adjust_sharpness),
    ):
        changed = augment(images, view(**{name: factor}).expand(3, -1))
        torch.testing.assert_close(changed, function(images, factor), atol=1e-5, rtol=0)


@pytest.mark.parametrize("name", ["shear_x", "shear_y"])
def test_a_shear_moves_rows_or_columns_in_proportion_to_their_distance_from_the_centre(
    name: str,
) -> None:
    images = torch.zeros(1, 1, 65, 65)
    images[..., 10, 32] = 1  # 22 pixels above the centre
    images[..., 32, 54] = 1  # 22 to the right of it

    moved = augment(images, view(**{name: 0.5}))[0, 0]

    found = [tuple(place) for place in torch.nonzero(moved > 0.4).tolist()]
    expected = {"shear_x": [(10, 21), (32, 54)], "shear_y": [(10, 32), (43, 54)]}
    assert found == expected[name]
