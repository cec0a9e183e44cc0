"""Blocks of a pool depend on the seed, the class and the block number only."""

from __future__ import annotations

from io import BytesIO

import numpy as np
import pytest
import torch
from PIL import Image

from tests.in_process import CPU
from tests.synth.conftest import tiny
from xraytune.base.seeding import derive_seed
from xraytune.synth.grids import image_grid, png_bytes
from xraytune.synth.networks import Generator
from xraytune.synth.pool import BLOCK, draw_noise, generate, sample_block


@pytest.fixture
def generator() -> Generator:
    """A generator with the full range of grey values and batch norm statistics, as after training."""
    network = Generator(tiny(), class_count=2)
    with torch.no_grad():
        for parameter in network.upsamples.parameters():
            parameter.mul_(20)
        network(torch.randn(32, 8), torch.arange(32) % 2)
    return network.eval()


@pytest.mark.slow
def test_a_block_is_a_function_of_seed_class_and_number_alone(generator: Generator) -> None:
    """Of 256 uint8 images; it does not depend on earlier draws."""
    blocks = [
        sample_block(generator, label, number, seed=seed, compute=CPU).pixels
        for label, number, seed in [(0, 0, 1), (1, 0, 1), (0, 1, 1), (0, 0, 2), (0, 0, 1)]
    ]

    assert {(block.shape, str(block.dtype)) for block in blocks} == {((256, 32, 32), "uint8")}
    assert len({block.tobytes() for block in blocks}) == 4
    assert np.array_equal(blocks[0], blocks[-1])


def test_an_image_does_not_depend_on_the_others_in_its_block(generator: Generator) -> None:
    z = draw_noise(generator, BLOCK, derive_seed(1, "pool", 0, 0))

    alone = generate(generator, z[:3], torch.zeros(3).long(), CPU).pixels

    in_block = sample_block(generator, 0, 0, seed=1, compute=CPU).pixels[:3]
    assert np.abs(alone.astype(int) - in_block.astype(int)).max() <= 1  # rounding depends on the batch size


@pytest.mark.slow
def test_one_class_generators_use_different_noise_per_class() -> None:
    generator = Generator(tiny(), class_count=1).eval()

    normal, pneumonia = (sample_block(generator, label, 0, seed=1, compute=CPU).pixels for label in (0, 1))

    assert not np.array_equal(normal, pneumonia)


def test_image_grid_is_in_reading_order_with_white_gaps() -> None:
    images = np.stack([np.full((4, 4), grey, dtype=np.uint8) for grey in (10, 20, 30, 40, 50)])

    sheet = np.asarray(Image.open(BytesIO(png_bytes(image_grid(images, columns=3)))))

    assert sheet.shape == (2 * 6 + 2, 3 * 6 + 2)
    assert (sheet[2:6, 14:18] == 30).all()
    assert (sheet[8:12, 8:12] == 50).all()
    assert (sheet[8:12, 14:18] == 255).all()  # the last row is short
    assert (sheet[:2] == 255).all()
