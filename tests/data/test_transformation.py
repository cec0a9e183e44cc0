"""One copy of an image: numbers within their bounds, and pixels that do what the numbers say."""

from __future__ import annotations

import math
from dataclasses import asdict, replace
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray

from xraytune.data.transform import (
    Strengths,
    TransformParameters,
    sample_parameters,
    strength_problems,
    transform_image,
)
from xraytune.seeding import numpy_generator

pytestmark = pytest.mark.slow

IDENTITY = TransformParameters(
    flip=False,
    rotate_degrees=0.0,
    shift_x=0.0,
    shift_y=0.0,
    zoom=1.0,
    shear_x_degrees=0.0,
    shear_y_degrees=0.0,
    contrast=1.0,
    elastic_percent=0.0,
    elastic_seed=0,
)
OFF = Strengths(flip=False, rotate=0, shift=0, zoom=0, shear=0, contrast=0, elastic=0)


def noise(height: int = 40, width: int = 60) -> NDArray[np.uint8]:
    return numpy_generator(0, "noise").integers(0, 256, (height, width), dtype=np.uint8)


def position_of(pixels: NDArray[np.uint8]) -> tuple[float, float]:
    """The centre of what is bright: x to the right, y down, from the middle of the image."""
    height, width = pixels.shape
    weight = pixels.astype(np.float64)
    x = (weight.sum(axis=0) * (np.arange(width) - (width - 1) / 2)).sum() / weight.sum()
    y = (weight.sum(axis=1) * (np.arange(height) - (height - 1) / 2)).sum() / weight.sum()
    return float(x), float(y)


def spot(x: int, y: int, *, height: int = 200, width: int = 300) -> NDArray[np.uint8]:
    """A bright disc of 10 pixels' radius, `x` right of the middle and `y` below it."""
    rows, columns = np.mgrid[:height, :width]
    distance = np.hypot(columns - (width - 1) / 2 - x, rows - (height - 1) / 2 - y)
    return np.where(distance <= 10, 255, 0).astype(np.uint8)


def test_identity_transformation_changes_no_pixel() -> None:
    assert np.array_equal(transform_image(noise(), IDENTITY), noise())


def test_a_flip_is_the_mirror_image() -> None:
    assert np.array_equal(transform_image(noise(), replace(IDENTITY, flip=True)), noise()[:, ::-1])


def test_a_shift_moves_by_shares_of_the_sides() -> None:
    moved = transform_image(noise(), replace(IDENTITY, shift_x=0.1, shift_y=-0.25))

    assert np.array_equal(moved[:30, 6:], noise()[10:, :54])
    assert not moved[30:].any()
    assert not moved[:, :6].any()


@pytest.mark.parametrize(
    ("changes", "expected"),
    [
        ({"rotate_degrees": 90.0}, (0.0, 60.0)),  # clockwise: from the right to below
        ({"zoom": 1.5}, (90.0, 0.0)),
        ({"zoom": 0.5}, (30.0, 0.0)),
        ({"shear_x_degrees": 20.0}, (60.0, 0.0)),
        ({"shear_y_degrees": 20.0}, (60.0, -60 * math.tan(math.radians(20)))),
        ({"rotate_degrees": 30.0, "shift_x": 0.1}, (60 * math.cos(math.pi / 6) + 30, 30.0)),
    ],
)
def test_spot_moves_as_specified(changes: dict[str, Any], expected: tuple[float, float]) -> None:
    moved = transform_image(spot(60, 0), replace(IDENTITY, **changes))

    assert position_of(moved) == pytest.approx(expected, abs=0.6)


def test_contrast_is_about_the_mean_grey_and_ends_at_black_and_white() -> None:
    pixels = np.repeat(np.array([[50, 100, 150, 200]], dtype=np.uint8), 4, axis=0)

    assert transform_image(pixels, replace(IDENTITY, contrast=0.5))[0].tolist() == [88, 112, 138, 162]
    assert transform_image(pixels, replace(IDENTITY, contrast=1.9))[0].tolist() == [0, 78, 172, 255]


@pytest.mark.parametrize(("height", "width"), [(200, 200), (150, 300)])
def test_elastic_deformation_has_recorded_size(height: int, width: int) -> None:
    """Read from two ramps: a pixel's grey says which column, or which row, it comes from."""
    drawn = replace(IDENTITY, elastic_percent=2.0, elastic_seed=7)
    rows, columns = np.mgrid[:height, :width]
    inner = (slice(height // 6, -height // 6), slice(width // 6, -width // 6))
    displacement = []
    for position, side in ((columns, width), (rows, height)):
        ramp = np.rint(position * 255 / side).astype(np.uint8)
        bent = transform_image(ramp, drawn).astype(np.float64)
        displacement.append(((bent - ramp) * side / 255)[inner])

    root_mean_square = math.sqrt(np.mean(displacement[0] ** 2 + displacement[1] ** 2))
    assert root_mean_square == pytest.approx(0.02 * min(height, width), rel=0.35)


def test_elastic_seed_determines_the_shape() -> None:
    bends = [
        transform_image(noise(), replace(IDENTITY, elastic_percent=2.0, elastic_seed=seed)).tobytes()
        for seed in (1, 1, 2)
    ]

    assert bends[0] == bends[1] != bends[2]


@settings(max_examples=60)
@given(
    rotate=st.floats(0, 180),
    shift=st.floats(0, 0.5),
    zoom=st.floats(0, 0.5),
    shear=st.floats(0, 45),
    contrast=st.floats(0, 0.9),
    elastic=st.floats(0, 5),
    flip=st.booleans(),
    seed=st.integers(-5, 2**70),
    copy=st.integers(1, 100),
    size=st.tuples(st.integers(1, 30), st.integers(1, 30)),
)
def test_every_strength_bounds_its_number_and_every_copy_is_an_image(
    rotate: float,
    shift: float,
    zoom: float,
    shear: float,
    contrast: float,
    elastic: float,
    flip: bool,
    seed: int,
    copy: int,
    size: tuple[int, int],
) -> None:
    strengths = Strengths(
        flip=flip, rotate=rotate, shift=shift, zoom=zoom, shear=shear, contrast=contrast, elastic=elastic
    )
    drawn = sample_parameters(strengths, "NORMAL/a.png", copy, seed)

    assert drawn == sample_parameters(strengths, "NORMAL/a.png", copy, seed)
    assert abs(drawn.rotate_degrees) <= rotate
    assert max(abs(drawn.shift_x), abs(drawn.shift_y)) <= shift
    assert abs(drawn.zoom - 1) <= zoom + 1e-12
    assert max(abs(drawn.shear_x_degrees), abs(drawn.shear_y_degrees)) <= shear
    assert abs(drawn.contrast - 1) <= contrast + 1e-12
    assert 0 <= drawn.elastic_percent <= elastic
    assert flip or not drawn.flip
    transformed = transform_image(noise(*size), drawn)
    assert transformed.shape == size
    assert transformed.dtype == np.uint8


def test_every_number_is_drawn_in_both_directions_and_up_to_its_strength() -> None:
    drawn = [asdict(sample_parameters(Strengths(), "a", copy, 0)) for copy in range(1, 401)]

    bounds = {"rotate_degrees": 10, "shift_x": 0.05, "shift_y": 0.05, "shear_x_degrees": 5, "shear_y_degrees": 5}
    for name, bound in bounds.items():
        values = [numbers[name] for numbers in drawn]
        assert min(values) < -0.95 * bound
        assert max(values) > 0.95 * bound
    for name, bound in {"zoom": 0.1, "contrast": 0.2}.items():
        values = [numbers[name] for numbers in drawn]
        assert min(values) < 1 - 0.95 * bound
        assert max(values) > 1 + 0.95 * bound
    assert 0.4 < np.mean([numbers["flip"] for numbers in drawn]) < 0.6
    assert len({numbers["elastic_seed"] for numbers in drawn}) == 400


def test_strengths_scale_the_same_draws() -> None:
    """So that a weaker set of copies shows the same turns as a stronger one, only less of them."""
    weak = sample_parameters(Strengths(rotate=5, shift=0), "a", 1, 3)
    strong = sample_parameters(Strengths(rotate=10, shift=0.1), "a", 1, 3)

    assert strong.rotate_degrees == pytest.approx(2 * weak.rotate_degrees)
    assert (strong.shear_x_degrees, strong.elastic_seed) == (weak.shear_x_degrees, weak.elastic_seed)
    assert weak.shift_x == 0


@pytest.mark.parametrize(
    ("name", "value", "fix"),
    [
        ("rotate", 180.5, "give 0 to 180"),
        ("rotate", -1.0, "give 0 to 180"),
        ("shift", 0.6, "give 0 to 0.5"),
        ("zoom", 1.0, "give 0 to 0.5"),
        ("shear", 90.0, "give 0 to 45"),
        ("contrast", 1.0, "give 0 to 0.9"),
        ("elastic", 5.1, "give 0 to 5"),
        ("elastic", math.nan, "give 0 to 5"),
        ("zoom", math.inf, "give 0 to 0.5"),
    ],
)
def test_a_strength_out_of_bounds_is_a_problem(name: str, value: Any, fix: str) -> None:
    (problem,) = strength_problems(replace(Strengths(), **{name: value}))

    assert problem.what == f"{name} out of bounds: {value:g}"
    assert problem.fix == fix


def test_transformations_that_are_all_off_are_a_problem() -> None:
    (problem,) = strength_problems(OFF)

    assert problem.what == "every transformation is off"
    assert "source: duplicate" in problem.fix
    assert strength_problems(replace(OFF, flip=True)) == []
    assert strength_problems(replace(OFF, elastic=0.1)) == []


def test_every_copy_of_every_file_has_its_own_random_numbers() -> None:
    drawn = {sample_parameters(Strengths(), file, copy, seed) for file in "ab" for copy in (1, 2) for seed in (0, 1)}

    assert len(drawn) == 8
