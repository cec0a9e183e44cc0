"""Origin probe: signs of synthetic images in one class reveal the class, the same signs in all classes do not."""

from __future__ import annotations

import numpy as np
import pytest

from xraytune.metrics.classification import Floats
from xraytune.metrics.origin import OriginGap, origin_aurocs, origin_gap

CLASSES = ("NORMAL", "PNEUMONIA")


def images(seed: int, marks: tuple[int | None, int | None]) -> list[list[tuple[Floats, Floats]]]:
    """Features of two classes; the synthetic images of each may have a mark, which shifts one feature."""
    random = np.random.default_rng(seed)
    found = []
    for label, mark in enumerate(marks):
        real, synthetic = random.normal(label, 1, (2, 120, 20))
        if mark is not None:
            synthetic[:, mark] += 4
        found.append([(real, synthetic)])
    return found


def gap(marks: tuple[int | None, int | None], shares: tuple[float, float] = (0.5, 0.5), seed: int = 0) -> OriginGap:
    aurocs = origin_aurocs(images(seed, marks)).tolist()
    by_class = {name: dict(zip(CLASSES, row, strict=True)) for name, row in zip(CLASSES, aurocs, strict=True)}
    return origin_gap(by_class, dict(zip(CLASSES, shares, strict=True)))


@pytest.mark.parametrize(
    ("marks", "is_large"),
    [((3, None), True), ((None, 3), True), ((3, 3), False), ((None, None), False), ((3, 7), True)],
)
def test_only_signs_that_differ_between_classes_are_flagged(
    marks: tuple[int | None, int | None], is_large: bool
) -> None:
    assert gap(marks).is_large is is_large


def test_unequal_shares_of_recognisable_images_are_flagged_with_a_remedy() -> None:
    found = gap((3, 3), (0.6, 0.1))

    assert (found.is_large, found.towards) == (True, "NORMAL")
    assert found.gap == pytest.approx(0.5, abs=0.05)
    assert "a classifier can learn that synthetic means NORMAL: use balance: natural" in found.sentence
    assert not gap((None, None), (0.6, 0.1)).is_large, "nobody can tell their origin"
    assert "look for marks or texture that only images of PNEUMONIA have" in gap((None, 3)).sentence


def test_the_best_view_counts() -> None:
    blind = [[(real[:, 4:], synthetic[:, 4:])] for ((real, synthetic),) in images(0, (3, None))]
    both = [[*one, *other] for one, other in zip(blind, images(0, (3, None)), strict=True)]

    assert origin_aurocs(blind)[0, 0] < 0.65
    assert origin_aurocs(both)[0, 0] > 0.95
