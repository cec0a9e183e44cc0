"""Sample grids: real images beside generated ones, by class."""

from pathlib import Path

import numpy as np
import pytest
from numpy.typing import NDArray
from PIL import Image

from tests.trial.conftest import Bench
from tests.trial.test_trial import gan
from xraytune.data.prepare import training_pixels
from xraytune.space.settings import Experiment, GanSettings
from xraytune.synth.sources import pool_block
from xraytune.trial.samples import (
    CELL_PX,
    COLUMNS,
    GAP_PX,
    LINES,
    save_generator_grid,
)

WHITE = 255
SHOWN = COLUMNS * LINES


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
