"""Sample grids: real images beside generated ones, by class."""

from pathlib import Path

import pytest
from PIL import Image, ImageOps

from tests.trial.conftest import Bench
from tests.trial.test_trial import gan
from xraytune.data.prepare import training_pixels
from xraytune.synth.grids import image_grid
from xraytune.synth.quality import sample_evenly
from xraytune.synth.sources.which import block_reader
from xraytune.trial.samples import BLOCK_PX, CAPTION_PX, MARGIN_PX, save_generator_grid


@pytest.mark.slow
def test_a_gans_grid_shows_its_first_images_beside_training_images_once(
    bench: Bench, tmp_path: Path
) -> None:
    """They are drawn at the GAN's size, like its own. Other steps make another GAN."""
    settings = gan()
    experiment = bench.experiment(source="gan", gan=settings, synthetic_ratio=0.5)

    grid = save_generator_grid(experiment, bench.context, tmp_path)

    sheet = Image.open(grid).convert("L")
    train, pixels = bench.prepared.side("train"), training_pixels(bench.prepared, bench.cache)
    for label in range(2):
        real = pixels[sample_evenly(train.rows[train.labels == label], 10)]
        y = MARGIN_PX + 2 * CAPTION_PX + label * (CAPTION_PX + BLOCK_PX[1] + MARGIN_PX)
        for number, images in enumerate(
            (real, block_reader(experiment, bench.context)(label, 0).read()[:10])
        ):
            expected = ImageOps.contain(image_grid(images, 5), BLOCK_PX)
            x = MARGIN_PX + number * (BLOCK_PX[0] + MARGIN_PX)
            drawn = sheet.crop((x, y, x + expected.width, y + expected.height))
            assert drawn.tobytes() == expected.tobytes()
    grid.write_bytes(b"kept")
    assert save_generator_grid(experiment, bench.context, tmp_path) == grid
    assert grid.read_bytes() == b"kept"
    longer = bench.experiment(source="gan", gan=gan(steps=3), synthetic_ratio=0.5)
    assert save_generator_grid(longer, bench.context, tmp_path) != grid
