"""Blocks of a pool depend on the seed, the class and the block number only."""

from __future__ import annotations

from collections.abc import Callable
from io import BytesIO

import numpy as np
import pytest
import torch
from PIL import Image

from xraytune.base.records import Compute
from xraytune.base.seeding import derive_seed
from xraytune.space.settings import GanSettings
from xraytune.synth.grids import image_grid, png_bytes
from xraytune.synth.networks import Generator
from xraytune.synth.pool import BLOCK, draw_noise, generate, sample_block


@pytest.fixture
def generator(tiny: Callable[..., GanSettings]) -> Generator:
    """A generator with the full range of grey values and batch norm statistics, as after training."""
    network = Generator(tiny(), class_count=2)
    with torch.no_grad():
        for parameter in network.upsamples.parameters():
            parameter.mul_(20)
        network(torch.randn(32, 8), torch.arange(32) % 2)
    return network.eval()


@pytest.mark.slow
def test_a_block_is_256_uint8_images(generator: Generator, cpu: Compute) -> None:
    block = sample_block(generator, 0, 0, seed=1, compute=cpu).pixels

    assert block.shape == (BLOCK, 32, 32) == (256, 32, 32)
    assert block.dtype == np.uint8


@pytest.mark.slow
def test_block_does_not_depend_on_earlier_draws(generator: Generator, cpu: Compute) -> None:
    third_alone = sample_block(generator, 1, 2, seed=1, compute=cpu).pixels

    in_order = [sample_block(generator, 1, number, seed=1, compute=cpu).pixels for number in range(3)]

    assert np.array_equal(in_order[2], third_alone)


@pytest.mark.slow
def test_seed_class_and_number_each_change_the_images(generator: Generator, cpu: Compute) -> None:
    blocks = [
        sample_block(generator, label, number, seed=seed, compute=cpu).pixels
        for label, number, seed in [(0, 0, 1), (1, 0, 1), (0, 1, 1), (0, 0, 2)]
    ]

    assert len({block.tobytes() for block in blocks}) == 4


def test_an_image_does_not_depend_on_the_others_in_its_block(generator: Generator, cpu: Compute) -> None:
    z = draw_noise(generator, BLOCK, derive_seed(1, "pool", 0, 0))

    alone = generate(generator, z[:3], torch.zeros(3).long(), cpu).pixels

    in_block = sample_block(generator, 0, 0, seed=1, compute=cpu).pixels[:3]
    assert np.abs(alone.astype(int) - in_block.astype(int)).max() <= 1  # rounding depends on the batch size


@pytest.mark.slow
def test_one_class_generators_use_different_noise_per_class(tiny: Callable[..., GanSettings], cpu: Compute) -> None:
    generator = Generator(tiny(), class_count=1).eval()

    normal, pneumonia = (sample_block(generator, label, 0, seed=1, compute=cpu).pixels for label in (0, 1))

    assert not np.array_equal(normal, pneumonia)


def test_image_grid_is_in_reading_order_with_white_gaps() -> None:
    images = np.stack([np.full((4, 4), grey, dtype=np.uint8) for grey in (10, 20, 30, 40, 50)])

    sheet = np.asarray(Image.open(BytesIO(png_bytes(image_grid(images, columns=3)))))

    assert sheet.shape == (2 * 6 + 2, 3 * 6 + 2)
    assert (sheet[2:6, 14:18] == 30).all()
    assert (sheet[8:12, 8:12] == 50).all()
    assert (sheet[8:12, 14:18] == 255).all()  # the last row is short
    assert (sheet[:2] == 255).all()
