"""Blocks of a pool, and masks of generated images: the plausible ones, blocks that hold only these, training on pairs."""

from pathlib import Path

import numpy as np
import pytest
from numpy.typing import NDArray
from PIL import Image

from tests.in_process import CPU
from tests.synth.conftest import BLOBS, DISCS, full_range_generator, tiny, train
from xraytune.data.masks import OUTLINE_RGB
from xraytune.synth.checkpoint import CHECKPOINT_NAME, checkpoint_generator
from xraytune.synth.masks import MaskRange, binarise, count_parts, mask_range
from xraytune.synth.pool import draw_block, sample_block
from xraytune.synth.sources.source import BLOCK
from xraytune.synth.train import resize_planes


def squares(*sizes: int, side: int = 64) -> NDArray[np.uint8]:
    """Return a mask with a square of each size, apart from each other."""
    mask = np.zeros((side, side), dtype=np.uint8)
    for number, size in enumerate(sizes):
        mask[2 : 2 + size, 16 * number : 16 * number + size] = 255
    return mask


def test_specks_are_no_parts() -> None:
    """Of 64 x 64 pixels, 0.2 % are 8.2: a square of 2 px is a speck, one of 3 px is a part."""
    masks = np.stack([squares(10, 10), squares(10, 3), squares(10, 2, 2), squares()])

    assert count_parts(masks).tolist() == [2, 2, 1, 0]


def test_masks_outside_the_ranges_of_the_training_masks_are_not_plausible() -> None:
    typical = mask_range(np.stack([squares(10, 10), squares(12, 12)]))

    asked = np.stack(
        [squares(11, 11), squares(9, 9), squares(13, 13), squares(15), squares(8, 8, 8)]
    )

    assert typical.includes(asked).tolist() == [True, False, False, False, False]
    assert str(typical) == "4.88 to 7.03 % of the image in 2 components"


@pytest.mark.slow
def test_a_generator_of_pairs_learns_masks_that_fit_its_images(tmp_path: Path) -> None:
    settings = tiny(steps=180, width=8, lr_g=2e-3, lr_d=2e-3)
    train(settings, tmp_path, masks=DISCS, grid_dir=tmp_path / "grids", report_every_steps=50)

    drawn = sample_block(
        checkpoint_generator(tmp_path / CHECKPOINT_NAME), 0, 0, seed=0, compute=CPU
    )

    assert drawn.masks is not None
    assert set(np.unique(drawn.masks)) == {0, 255}
    inside = drawn.masks > 0
    contrast = drawn.pixels[inside].mean() - drawn.pixels[~inside].mean()
    assert contrast > 40, "0 without a mask that fits, and 150 in the training images"
    with Image.open(tmp_path / "grids" / "step_000180.png") as sheet:
        assert (np.asarray(sheet) == OUTLINE_RGB).all(axis=-1).any()


def test_masks_stay_binary_when_they_are_resized() -> None:
    """A grey value of 128 or more is inside."""
    planes = resize_planes(BLOBS[0], DISCS, 64)

    assert binarise(np.array([0, 127, 128, 255], dtype=np.uint8)).tolist() == [0, 0, 255, 255]
    assert planes.shape == (24, 2, 64, 64)
    assert set(np.unique(planes[:, 1])) == {0, 255}
    assert abs((planes[:, 1] > 0).mean() - (DISCS > 0).mean()) < 0.005


@pytest.mark.slow
def test_a_block_holds_the_plausible_pairs_of_its_rounds_in_order() -> None:
    generator = full_range_generator(1, channels=2)
    rounds = [
        sample_block(generator, 0, 3, seed=1, compute=CPU, round_number=number)
        for number in range(2)
    ]
    areas = np.concatenate(
        [(one.masks > 0).mean(axis=(1, 2)) for one in rounds if one.masks is not None]
    )
    typical = MaskRange(area=(0.0, float(np.median(areas[:BLOCK]))), parts=(0, 1000))

    block = draw_block(generator, 0, 3, seed=1, compute=CPU, typical=typical)

    assert block.masks is not None
    assert block.pixels.shape == block.masks.shape == (BLOCK, 32, 32)
    assert typical.includes(block.masks).all()
    expected = np.concatenate([one.pixels for one in rounds])[areas <= typical.area[1]][:BLOCK]
    assert len(expected) > BLOCK / 2
    assert not np.array_equal(rounds[0].pixels, rounds[1].pixels), (
        "each round has random numbers of its own"
    )
    assert np.array_equal(block.pixels[: len(expected)], expected)


@pytest.mark.slow
@pytest.mark.parametrize("class_count", [1, 2])
def test_a_block_is_a_function_of_seed_class_and_number_alone(class_count: int) -> None:
    """Of 256 uint8 images; it does not depend on earlier draws. One network for each class has its own noise, too."""
    generator = full_range_generator(class_count)
    blocks = [
        sample_block(generator, label, number, seed=seed, compute=CPU).pixels
        for label, number, seed in [(0, 0, 1), (1, 0, 1), (0, 1, 1), (0, 0, 2), (0, 0, 1)]
    ]

    assert {(block.shape, str(block.dtype)) for block in blocks} == {((256, 32, 32), "uint8")}
    assert len({block.tobytes() for block in blocks}) == 4
    assert np.array_equal(blocks[0], blocks[-1])
