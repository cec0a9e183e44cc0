"""Sample grids: real images beside generated ones, by class."""

from pathlib import Path

from PIL import Image

from tests.trial.conftest import Bench, block_of, gan
from xraytune.synth.grids import image_grid
from xraytune.trial.samples import CAPTION_PX, COLUMNS, save_generator_grid


def test_a_gans_grid_shows_its_first_images_below_training_images_once(
    bench: Bench, tmp_path: Path
) -> None:
    """Other steps make another GAN."""
    experiment = bench.experiment(source="gan", gan=gan(), synthetic_ratio=0.5)

    grid = save_generator_grid(experiment, bench.context, tmp_path)

    drawn = image_grid(block_of(experiment, bench.context).read()[: 2 * COLUMNS], COLUMNS)
    y = 2 * CAPTION_PX + 36  # below a row of 8 training images
    shown = Image.open(grid).convert("L").crop((0, y, drawn.width, y + drawn.height))
    assert shown.tobytes() == drawn.convert("L").tobytes()
    grid.write_bytes(b"kept")
    assert save_generator_grid(experiment, bench.context, tmp_path) == grid
    assert grid.read_bytes() == b"kept"
    longer = bench.experiment(source="gan", gan=gan(steps=3), synthetic_ratio=0.5)
    assert save_generator_grid(longer, bench.context, tmp_path) != grid
