"""Masks: the formats that are read, those that are refused, and how they become square."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Literal

import numpy as np
import pytest
from numpy.typing import NDArray
from PIL import Image

from tests.pair_files import HEIGHT_PX, WIDTH_PX, block, save
from xraytune.base.errors import DataError
from xraytune.data.decoding import BrokenImage, decode_file
from xraytune.data.index import ImageFile
from xraytune.data.masks import connected_parts, map_masks, outlined, read_mask, square_mask

MASK = block(3)
EIGHT_BIT = MASK.astype(np.uint8)
PALETTE = Image.fromarray(EIGHT_BIT, mode="P")
PALETTE.putpalette([0, 0, 0, 128, 0, 0])
FORMATS = {
    "1-bit.png": Image.fromarray(MASK),
    "1-bit.tif": Image.fromarray(MASK),
    "8-bit of 0 and 1.png": Image.fromarray(EIGHT_BIT),
    "8-bit of 0 and 255.tif": Image.fromarray(EIGHT_BIT * np.uint8(255)),
    "16-bit of 0 and 1.png": Image.fromarray(EIGHT_BIT.astype(np.uint16)),
    "16-bit of 0 and 65535.tif": Image.fromarray(EIGHT_BIT.astype(np.uint16) * np.uint16(65535)),
    "palette.png": PALETTE,
    "rgb.png": Image.fromarray(np.repeat(EIGHT_BIT[:, :, None] * np.uint8(200), 3, axis=2)),
}


@pytest.mark.parametrize("name", FORMATS)
def test_a_mask_is_the_same_in_every_format(tmp_path: Path, name: str) -> None:
    FORMATS[name].save(tmp_path / name)

    assert np.array_equal(read_mask(tmp_path, [name]), MASK)


def test_masks_of_one_image_are_united(tmp_path: Path) -> None:
    masks = {"left.png": block(0), "right.png": block(3), "none.png": np.zeros_like(MASK)}
    for name, mask in masks.items():
        save(tmp_path / name, mask)

    assert np.array_equal(read_mask(tmp_path, [*masks]), block(0) | block(3))


def greys(*values: int) -> NDArray[np.uint8]:
    """Return an image, [32, 48], of these grey levels."""
    return np.resize(np.array(values, dtype=np.uint8), (HEIGHT_PX, WIDTH_PX))


@pytest.mark.parametrize(
    ("pixels", "message"),
    [
        (greys(0, 1, 2), r"the mask has 3 values \(0, 1, 2\); it needs two: 0 and one other"),
        (greys(*range(256)), r"the mask has 256 values \(0, 1, 2, 3, 4 and 251 more\)"),
        (greys(1, 2), r"the mask has 2 values \(1, 2\)"),
        (greys(0), "the mask is empty"),
        (greys(255), "the mask is full: it covers the whole image"),
        (~MASK, "the mask looks inverted: it covers 80% of the image and 100% of its border; swap its values"),
        (MASK[:20], "the mask has 48 x 20 pixels, but its image has 48 x 32"),
    ],
)
def test_a_mask_that_cannot_be_meant_is_refused(
    tmp_path: Path, pixels: NDArray[np.uint8] | NDArray[np.bool_], message: str
) -> None:
    save(tmp_path / "mask.png", pixels)

    with pytest.raises(DataError, match=message):
        read_mask(tmp_path, ["mask.png"], size_px=(WIDTH_PX, HEIGHT_PX))


def test_a_large_object_and_a_frame_are_no_inverted_masks(tmp_path: Path) -> None:
    large = np.zeros_like(MASK)
    large[2:-2, 2:-2] = True
    save(tmp_path / "large.png", large)
    save(tmp_path / "frame.png", ~large)

    assert np.array_equal(read_mask(tmp_path, ["large.png"]), large)
    assert np.array_equal(read_mask(tmp_path, ["frame.png"]), ~large)


@pytest.mark.parametrize("resize", ["squash", "crop"])
def test_a_mask_stays_on_its_image(tmp_path: Path, resize: Literal["squash", "crop"]) -> None:
    """An image that is bright exactly where its mask is: resized, both still agree, except along the edge."""
    save(tmp_path / "mask.png", np.repeat(np.repeat(MASK, 10, axis=0), 10, axis=1))

    pixels = decode_file(tmp_path / "mask.png", 40, resize).pixels
    square = square_mask(read_mask(tmp_path, ["mask.png"]), 40, resize)

    assert set(np.unique(square)) == {0, 255}
    assert np.mean((pixels >= 128) == (square > 0)) > 0.98


def test_a_pixel_belongs_to_a_mask_that_covers_half_of_it() -> None:
    mask = np.zeros((4, 4), dtype=np.bool_)
    mask[0, 0] = mask[0, 2] = mask[1, 3] = True

    assert np.array_equal(square_mask(mask, 2, "squash"), [[0, 255], [0, 0]])


def test_a_mask_that_vanishes_in_a_small_image_is_refused() -> None:
    mask = np.zeros((320, 320), dtype=np.bool_)
    mask[5, 5] = True

    with pytest.raises(DataError, match="the mask is empty after resizing to 32 x 32 pixels"):
        square_mask(mask, 32, "squash")


def test_all_unusable_masks_of_an_image_are_named(tmp_path: Path) -> None:
    save(tmp_path / "good.png", MASK)
    save(tmp_path / "small.png", MASK[:20])
    (tmp_path / "broken.png").write_bytes(b"no image")
    good = ImageFile(
        file="x", label=0, patient="x", sha256="x", width_px=WIDTH_PX, height_px=HEIGHT_PX, masks=("good.png",)
    )
    bad = replace(good, masks=("good.png", "small.png", "broken.png", "missing.png"))

    usable, broken = map_masks(tmp_path, [good, bad], connected_parts)

    assert usable == 1
    assert isinstance(broken, list)
    assert [one.file for one in broken] == ["small.png", "broken.png", "missing.png"]
    assert broken[0] == BrokenImage(file="small.png", reason="the mask has 48 x 20 pixels, but its image has 48 x 32")


def test_an_outline_lies_around_the_mask() -> None:
    changed = (outlined(np.full(MASK.shape, 100, dtype=np.uint8), MASK) != 100).any(axis=2)

    assert changed.any()
    assert not (changed & MASK).any()
