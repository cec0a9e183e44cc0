"""Copies are found in every disguise; smooth new images and those of new patients are none."""

from collections.abc import Callable
from functools import cache
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray
from scipy.ndimage import gaussian_filter  # type: ignore[import-untyped]

from xraytune.base.seeding import numpy_generator
from xraytune.synth.memorisation import (
    Memorisation,
    compare_with_unseen,
    measure_closeness,
    measure_unseen,
)

ImageTable = NDArray[np.uint8]


def chests(count: int, purpose: str, size_px: int = 32) -> ImageTable:
    """Draw images with a common shape, a smooth field and fine detail: uint8 [n, S, S]."""
    random = numpy_generator(0, purpose)
    rows, columns = np.mgrid[-1 : 1 : size_px * 1j, -1 : 1 : size_px * 1j]
    shared = 60 * np.exp(-4 * (np.abs(columns) - 0.45) ** 2 - rows**2)
    smooth = gaussian_filter(
        random.normal(size=(count, size_px, size_px)), (0, size_px / 10, size_px / 10)
    )
    detail = gaussian_filter(random.normal(size=(count, size_px, size_px)), (0, 1, 1))
    return as_pixels(120 - shared + 25 * smooth / smooth.std() + 8 * detail / detail.std())


def as_pixels(images: NDArray[np.floating[Any]]) -> ImageTable:
    return images.round().clip(0, 255).astype(np.uint8)


def patients(count: int) -> list[str]:
    return [f"patient {number}" for number in range(count)]


CHESTS = chests(530, "chests")
TRAINING = CHESTS[:80]
UNSEEN = CHESTS[80:330]
NEW = CHESTS[330:]


@cache
def unseen() -> NDArray[np.float64]:
    return measure_unseen(UNSEEN, patients(250), TRAINING, patients(80))


def verdict(synthetic: ImageTable) -> Memorisation:
    return compare_with_unseen(measure_closeness(synthetic, TRAINING, patients(80)).ratio, unseen())


def noisy(images: ImageTable) -> ImageTable:
    return as_pixels(images + numpy_generator(1, "noise").normal(0, 15, images.shape))


DISGUISES: dict[str, Callable[[ImageTable], ImageTable]] = {
    "as they are": lambda images: images,
    "flipped": lambda images: images[:, :, ::-1],
    "shifted": lambda images: np.roll(images, (2, -1), axis=(1, 2)),
    "noisy": noisy,
    "blurred": lambda images: gaussian_filter(images, (0, 1, 1)),
    "darker, with less contrast": lambda images: as_pixels(images * 0.5 + 20),
    "larger": lambda images: images.repeat(2, axis=1).repeat(2, axis=2),
}


@pytest.mark.parametrize("disguise", DISGUISES)
def test_copies_are_detected_under_every_transformation(disguise: str) -> None:
    copies = DISGUISES[disguise](np.tile(TRAINING, (2, 1, 1)))

    found = verdict(copies)

    assert found.near == found.images == 160
    assert found.chance < 1e-10


def test_a_few_copies_among_new_images_are_enough() -> None:
    found = verdict(np.concatenate([NEW[10:], TRAINING[:10]]))

    assert 10 <= found.near <= 15
    assert found.chance < 0.01


@pytest.mark.parametrize("sigma_px", [0, 1, 2])
def test_blurred_new_images_pass(sigma_px: float) -> None:
    assert verdict(gaussian_filter(NEW, (0, sigma_px, sigma_px))).chance > 0.05


def test_further_images_of_a_patient_do_not_hide_a_copy() -> None:
    """Each patient has 60 nearly equal images: among those, a copy of one would not stand out."""
    series = np.repeat(TRAINING[:20], 60, axis=0)
    series = as_pixels(series + numpy_generator(3, "series").normal(0, 3, series.shape))
    who = np.repeat(np.arange(20), 60).astype(str).tolist()

    ratios = measure_closeness(series[::60], series, who).ratio

    assert ratios.max() < 0.05


def test_without_a_reference_no_image_is_near() -> None:
    """One patient, or constant images, as a GAN makes them before its first step."""
    flat = np.full((3, 32, 32), 128, dtype=np.uint8)

    assert measure_closeness(TRAINING[:3], TRAINING[:4], ["a"] * 4).ratio.tolist() == [1, 1, 1]
    assert measure_closeness(flat, flat, ["a", "b", "c"]).ratio.tolist() == [1, 1, 1]
    assert measure_closeness(flat, TRAINING, patients(80)).ratio == pytest.approx([1, 1, 1])


@pytest.mark.parametrize("unseen_count", [3, 20, 250])
def test_false_positive_rate_matches_the_promised_rate(unseen_count: int) -> None:
    """The quantile of 20 images is uncertain: a binomial tail would flag two thirds of pools."""
    random = numpy_generator(4, "splits", unseen_count)
    chances = np.array(
        [
            compare_with_unseen(random.random(256), random.random(unseen_count)).chance
            for _ in range(1000)
        ]
    )

    assert (chances <= 0.05).mean() <= 0.065, "two standard errors above"
    assert (chances <= 0.5).mean() <= 0.53
