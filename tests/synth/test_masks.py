"""Blocks of a pool, and the plausible masks of generated pairs."""

from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from tests.in_process import CPU
from tests.synth.conftest import DISCS, draw, full_range_generator, tiny, train
from xraytune.synth.generator_inputs import NETWORK_FILE
from xraytune.synth.saved_generator import MaskRange, generate_block, save_generator
from xraytune.synth.sources.source import BLOCK


def squares(*sizes: int, side: int = 64) -> NDArray[np.uint8]:
    """Return a mask with a square of each size, apart from each other."""
    mask = np.zeros((side, side), dtype=np.uint8)
    for number, size in enumerate(sizes):
        mask[2 : 2 + size, 16 * number : 16 * number + size] = 255
    return mask


def test_masks_outside_the_ranges_of_the_training_masks_are_not_plausible() -> None:
    """A square of 2 px is a speck, and no component of its own."""
    typical = MaskRange.of(np.stack([squares(10, 10), squares(12, 12, 2)]))

    asked = np.stack(
        [squares(11, 11), squares(9, 9), squares(13, 13), squares(15), squares(8, 8, 8)]
    )

    assert typical.includes(asked).tolist() == [True, False, False, False, False]
    assert str(typical) == "4.88 to 7.13 % of the image, 2 to 2 components"


def test_a_generator_of_pairs_learns_masks_that_fit_its_images(tmp_path: Path) -> None:
    settings = tiny(steps=180, width=8, lr_g=2e-3, lr_d=2e-3)
    train(settings, tmp_path, masks=DISCS, report_every_steps=50)

    drawn = generate_block(tmp_path / NETWORK_FILE, 0, 0, seed=0, compute=CPU)

    pixels = drawn[:, 0]
    masks = drawn[:, 1]
    assert set(np.unique(masks)) == {0, 255}
    contrast = pixels[masks > 0].mean() - pixels[masks == 0].mean()
    assert contrast > 40, "0 without a mask that fits, and 150 in the training images"


def test_a_block_holds_the_plausible_pairs_of_its_rounds_in_order(tmp_path: Path) -> None:
    file = tmp_path / NETWORK_FILE
    save_generator(full_range_generator(1, channels=2), file)
    first = generate_block(file, 0, 3, seed=1, compute=CPU)
    areas = (first[:, 1] > 0).mean(axis=(1, 2))
    typical = MaskRange(area=(0.0, float(np.median(areas))), parts=(0, 1000))

    block = generate_block(file, 0, 3, seed=1, compute=CPU, typical=typical)

    assert block.shape == (BLOCK, 2, 32, 32)
    assert typical.includes(block[:, 1]).all()
    expected = first[areas <= typical.area[1]]
    assert len(expected) > BLOCK / 2 - 1
    assert np.array_equal(block[: len(expected)], expected)
    assert len({image.tobytes() for image in block[:, 0]}) == BLOCK, "each round has its own noise"


def test_a_block_is_a_function_of_seed_class_and_number_alone(tmp_path: Path) -> None:
    """Of 256 uint8 images."""
    file = tmp_path / NETWORK_FILE
    save_generator(full_range_generator(2), file)
    blocks = [draw(file, *which) for which in [(0, 0, 1), (1, 0, 1), (0, 1, 1), (0, 0, 2)]]

    assert {(block.shape, str(block.dtype)) for block in blocks} == {((256, 32, 32), "uint8")}
    assert len({block.tobytes() for block in blocks}) == 4
    assert np.array_equal(blocks[0], draw(file, 0, 0, 1))
