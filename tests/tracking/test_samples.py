"""The sample grid: real and extra images of each class."""

import numpy as np
import pytest

from xraytune.pipeline.training_set import ImageSource, TrainingSet
from xraytune.tracking.samples import sample_grid

SIDE = 8
PITCH = SIDE + 2
WHITE = 255


def group(name: str, greys: list[int], labels: list[int], side: int = SIDE) -> ImageSource:
    """Make images of one grey each, stored in reverse order, so that rows and positions differ."""
    pixels = np.stack([np.full((side, side), grey, dtype=np.uint8) for grey in reversed(greys)])
    rows = np.arange(len(greys))[::-1]
    return ImageSource(name=name, pixels=pixels, rows=rows, labels=np.array(labels), inputs={})


def training_set(extra_groups: tuple[ImageSource, ...], extra: list[int]) -> TrainingSet:
    real = group("real", [10, 20, 11, 21, 12], [0, 1, 0, 1, 0])
    labels = np.concatenate([part.labels for part in (real, *extra_groups)])
    return TrainingSet(sources=(real, *extra_groups), labels=labels, extra=np.array(extra, dtype=np.int64))


def greys(shown: TrainingSet, class_count: int = 2) -> list[list[int]]:
    """Return the grey in the middle of each cell of a grid with three images on each side."""
    sheet = np.asarray(sample_grid(shown, class_count, SIDE, each=3))
    assert sheet.shape == (class_count * PITCH + 2, 6 * PITCH + 2)
    return [[int(sheet[PITCH * row + 6, PITCH * column + 6]) for column in range(6)] for row in range(class_count)]


def test_sample_grid_has_real_images_left_and_extra_right() -> None:
    made = group("gan", [110, 120, 111, 121], [0, 1, 0, 1])

    shown = greys(training_set((made,), [7, 5, 6, 8]))

    assert shown == [[10, 11, 12, 111, 110, WHITE], [20, 21, WHITE, 120, 121, WHITE]]


def test_without_extra_images_their_side_is_white() -> None:
    assert greys(training_set((), [])) == [[10, 11, 12] + [WHITE] * 3, [20, 21] + [WHITE] * 4]


def test_images_drawn_again_are_the_real_ones() -> None:
    assert [row[3:] for row in greys(training_set((), [4, 4, 1]))] == [[12, 12, WHITE], [20, WHITE, WHITE]]


@pytest.mark.parametrize("side", [4, 16])
def test_images_of_another_size_are_resized_to_that_of_the_real_ones(side: int) -> None:
    made = group("gan", [110, 120], [0, 1], side=side)

    assert [row[3] for row in greys(training_set((made,), [5, 6]))] == [110, 120]


def test_a_class_without_images_has_a_white_row() -> None:
    assert greys(training_set((), []), class_count=3)[2] == [WHITE] * 6
