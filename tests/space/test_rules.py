"""The rules that read facts of the images: of a whole space, and of one point."""

from pathlib import Path

import pytest

from xraytune.base.errors import ConfigError
from xraytune.space.domains import ParameterSpec
from xraytune.space.rules import check_images, space_warnings
from xraytune.space.settings import DataSettings, Settings
from xraytune.space.space import Space

SETTINGS = Settings(name="small", data=DataSettings(path=Path("images")))


def space_of(ratios: list[float]) -> Space:
    """A space with these ratios of a GAN; without any, a real-only one."""
    source = ParameterSpec(name="source", values=("gan" if ratios else "none",))
    ratio = ParameterSpec(name="synthetic_ratio", values=tuple(ratios))
    return Space(settings=SETTINGS, specs=(source, ratio) if ratios else (source,))


@pytest.mark.parametrize(
    ("ratios", "is_valid"),
    [([], True), ([0.01], True), ([0.01, 2.0], True), ([0.0099], False), ([2.0, 0.0099], False)],
)
def test_a_ratio_that_adds_less_than_half_an_image_is_an_error(
    ratios: list[float], is_valid: bool
) -> None:
    if is_valid:
        check_images(space_of(ratios), training_images=50)
        return
    with pytest.raises(ConfigError) as error:
        check_images(space_of(ratios), training_images=50)

    (problem,) = error.value.problems
    assert problem.what.startswith("synthetic_ratio: 0.0099, source: gan, 50 training images: ")
    assert problem.fix.startswith("write synthetic_ratio: 0.02")


@pytest.mark.parametrize(
    ("low", "distribution", "is_rarely_small"),
    [
        (1e-5, "uniform", True),
        (1e-5, "log_uniform_values", False),
        (0.0, "uniform", False),
        (1e-5, None, False),
    ],
)
def test_a_uniform_range_over_orders_of_magnitude_gives_a_warning(
    low: float, distribution: str | None, is_rarely_small: bool
) -> None:
    lr = ParameterSpec(name="lr", values=(low, 0.1), distribution=distribution)

    warnings = [*space_warnings(Space(settings=SETTINGS, specs=(lr,)))]

    assert [warning.partition(";")[0] for warning in warnings] == [
        "lr: 1e-05 to 0.1 is drawn uniformly: nine of ten values are above 0.01"
    ] * is_rarely_small


def test_a_single_neuron_is_refused_for_three_classes() -> None:
    """Unless another loss is searched as well."""
    loss = ParameterSpec(name="loss", values=("bce",))
    space = Space(settings=SETTINGS, specs=(loss,))

    check_images(space, class_count=2)
    with pytest.raises(ConfigError, match="loss: bce, 3 classes: "):
        check_images(space, class_count=3)
