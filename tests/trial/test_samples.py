"""Sample grids: real images beside extra ones, by class."""

from pathlib import Path

import numpy as np
import pytest
from numpy.typing import NDArray
from PIL import Image

from tests.trial.conftest import Bench
from tests.trial.test_trial import gan
from xraytune.data.prepare import ImageSource, training_pixels
from xraytune.space.settings import Experiment, GanSettings
from xraytune.synth.sources import pool_block
from xraytune.trial.samples import CELL_PX, COLUMNS, GAP_PX, LINES, save_generator_grid, training_grid
from xraytune.trial.training_set import TrainingSet

SIDE = 8
WHITE = 255
SHOWN = COLUMNS * LINES


def group(name: str, greys: list[int], labels: list[int], side: int = SIDE) -> ImageSource:
    """Make images of one grey each, stored in reverse order, so that rows and positions differ."""
    pixels = np.stack([np.full((side, side), grey, dtype=np.uint8) for grey in reversed(greys)])
    rows = np.arange(len(greys))[::-1]
    return ImageSource(name=name, pixels=pixels, rows=rows, labels=np.array(labels), inputs={})


def training_set(extra_groups: tuple[ImageSource, ...], extra: list[int]) -> TrainingSet:
    real = group("real", [10, 20, 11, 21, 12], [0, 1, 0, 1, 0])
    labels = np.concatenate([part.labels for part in (real, *extra_groups)])
    numbers = np.arange(len(real.labels))
    return TrainingSet(
        sources=(real, *extra_groups), labels=labels, real=numbers, extra=np.array(extra, dtype=np.int64)
    )


def cells(sheet: Image.Image, class_count: int) -> NDArray[np.uint8]:
    """Return the cells of a sheet, [class, block, place, y, x], by their distances from its lower right corner."""
    pixels, pitch = np.asarray(sheet), CELL_PX + GAP_PX
    width, height = COLUMNS * pitch - GAP_PX, LINES * pitch - GAP_PX
    found = np.empty((class_count, 2, SHOWN, CELL_PX, CELL_PX), dtype=np.uint8)
    for label in range(class_count):
        for block in range(2):
            top = pixels.shape[0] - 24 - height - (class_count - 1 - label) * (height + 22)
            left = pixels.shape[1] - 24 - width - (1 - block) * (width + 36)
            for place in range(SHOWN):
                y, x = top + place // COLUMNS * pitch, left + place % COLUMNS * pitch
                found[label, block, place] = pixels[y : y + CELL_PX, x : x + CELL_PX]
    return found


def greys(shown: TrainingSet, class_names: tuple[str, ...] = ("NORMAL", "PNEUMONIA")) -> list[list[list[int]]]:
    """Return the grey of each cell that is not white: by class, real images and extra ones."""
    found = cells(training_grid(shown, class_names, "a trial"), len(class_names))
    assert (found.max(axis=(3, 4)) == found.min(axis=(3, 4))).all(), "a cell is one image of one grey"
    return [[[grey for grey in block if grey != WHITE] for block in one] for one in found[..., 0, 0].tolist()]


def test_each_class_has_a_band_with_real_images_left_and_extra_ones_right() -> None:
    """Without extra images, their block is white; repeated ones are the real ones."""
    made = group("gan", [110, 120, 111, 121], [0, 1, 0, 1])

    assert greys(training_set((made,), [7, 5, 6, 8])) == [[[10, 11, 12], [111, 110]], [[20, 21], [120, 121]]]
    assert greys(training_set((), [])) == [[[10, 11, 12], []], [[20, 21], []]]
    assert greys(training_set((), [4, 4, 1])) == [[[10, 11, 12], [12, 12]], [[20, 21], [20]]]


def test_many_images_of_a_class_are_shown_from_first_to_last() -> None:
    """Neighbours are often of one patient."""
    real = group("real", list(range(100, 200)), [0] * 100)
    shown = TrainingSet(sources=(real,), labels=real.labels, real=np.arange(100), extra=np.arange(0))

    assert greys(shown, ("NORMAL",))[0][0] == [100, 111, 122, 133, 144, 155, 166, 177, 188, 199]


def with_gan(bench: Bench, settings: GanSettings) -> Experiment:
    return bench.experiment(source="gan", gan=settings, synthetic_ratio=0.5)


@pytest.mark.slow
def test_a_gans_grid_shows_its_first_images_beside_training_images_once(bench: Bench, tmp_path: Path) -> None:
    """They are drawn at the GAN's size, like its own. Other steps make another GAN."""
    settings = gan()

    grid = save_generator_grid(with_gan(bench, settings), bench.context, tmp_path)

    with Image.open(grid) as picture:
        found = cells(picture, 2)
    train = bench.prepared.side("train")
    for label in range(2):
        drawn = pool_block(settings, bench.context, label, 0).read()
        assert [cell.tolist() for cell in found[label, 1]] == [enlarged(image) for image in drawn[:SHOWN]]
        real = training_pixels(bench.prepared, bench.cache)[train.rows[train.labels == label]]
        known = [enlarged(image) for image in real]
        assert all(cell.tolist() in known for cell in found[label, 0] if cell.min() < WHITE)
    grid.write_bytes(b"kept")
    assert save_generator_grid(with_gan(bench, settings), bench.context, tmp_path) == grid
    assert grid.read_bytes() == b"kept"
    longer = settings.model_copy(update={"steps": 3})
    assert save_generator_grid(with_gan(bench, longer), bench.context, tmp_path) != grid


def enlarged(pixels: NDArray[np.uint8]) -> list[list[int]]:
    image = Image.fromarray(np.asarray(pixels)).resize((CELL_PX, CELL_PX), Image.Resampling.BICUBIC)
    values: list[list[int]] = np.asarray(image).tolist()
    return values
