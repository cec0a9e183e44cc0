"""Folders of pairs: masks of an image, what is refused, and how masks become square."""

from dataclasses import replace
from pathlib import Path
from typing import Literal

import numpy as np
import pytest
from PIL import ExifTags, Image

from tests.data.conftest import DataFolder
from tests.pair_files import HEIGHT_PX, WIDTH_PX, block, save, write_pairs
from xraytune.base.arrays import BoolArray, UInt8Array
from xraytune.base.errors import ConfigError, DataError
from xraytune.data.decoding import BrokenImage, GreyImage, decode_files
from xraytune.data.images import ImageFile
from xraytune.data.index import read_folder, read_labelled
from xraytune.data.masks import connected_parts, read_mask, square_mask, use_mask

STEMS = ("p1", "p2", "p3", "p4")
CLASSES = ("image",)


@pytest.fixture
def pairs(tmp_path: Path) -> DataFolder:
    return DataFolder(write_pairs(tmp_path / "pairs", STEMS))


@pytest.fixture
def parts(tmp_path: Path) -> DataFolder:
    root = DataFolder(tmp_path / "parts")
    write_pairs(root / "train", STEMS)
    write_pairs(root / "test", ("t1", "t2"))
    return root


def test_all_masks_of_an_image_belong_to_it_and_the_longest_name_decides(
    pairs: DataFolder,
) -> None:
    save(pairs / "images/p1_2.JPG", np.zeros((32, 48), dtype=np.uint8))
    added = "P1_2_left.PNG right/p1-2.png p1_2-right.tif p2_mask.png leftMask/p3.gif right/p3.tiff"
    for mask in added.split():
        save(pairs / "masks" / mask, block(1))

    index = pairs.index(pairs=True)

    masks = {Path(image.file).stem: [*image.masks] for image in index.images}
    assert masks["p1"] == ["masks/p1.png", "masks/right/p1-2.png"]
    assert masks["p1_2"] == ["masks/P1_2_left.PNG", "masks/p1_2-right.tif"]
    assert masks["p2"] == ["masks/p2.png", "masks/p2_mask.png"]
    assert masks["p3"] == ["masks/leftMask/p3.gif", "masks/p3.png", "masks/right/p3.tiff"]
    (note,) = [warning for warning in index.warnings if "several masks" in warning]
    assert "4 of 5 images" in note
    assert "(masks/p1.png and masks/right/p1-2.png for images/p1.png)" in note


def test_all_faults_of_pairs_are_counted_and_named_in_one_error(pairs: DataFolder) -> None:
    (pairs / "masks/p3.png").rename(pairs / "masks/p33.png")
    save(pairs / "images/more/P1.tif", np.zeros((32, 48), dtype=np.uint8))

    text = pairs.refusal(pairs=True)

    assert "same name: images/more/P1.tif, images/p1.png; " in text
    assert "no image: masks/p33.png" in text
    assert "images/p3.png" in text


def test_a_folder_without_images_or_masks_is_refused(
    pairs: DataFolder, parts: DataFolder, kermany: DataFolder
) -> None:
    (pairs / "masks").rename(pairs / "NORMAL")
    (parts / "test/masks").rename(parts / "test/lungs")

    needed = "segmentation needs images/ and masks/ here"
    assert f"{needed} (folders found: NORMAL, images)" in pairs.refusal(pairs=True)
    assert f"{needed} (folders found: NORMAL, PNEUMONIA)" in kermany.refusal(pairs=True)
    assert f"{parts / 'test'}: {needed}" in parts.refusal(pairs=True)


def test_pairs_are_refused_for_classification(pairs: DataFolder) -> None:
    """With `classes: auto`, a classifier would otherwise tell X-rays from masks."""
    assert "this is a folder of pairs" in pairs.refusal(classes="auto")
    with pytest.raises(DataError, match="this is a folder of pairs"):
        read_labelled(pairs, ("images", "masks"))


def test_of_the_test_part_only_names_and_hashes_are_read(parts: DataFolder) -> None:
    """A mask that cannot be decoded goes unnoticed there; a changed one changes the fingerprint."""
    before = parts.index(pairs=True)
    (parts / "test/masks/t1.png").write_bytes(b"no image")

    after = parts.index(pairs=True)

    assert [image.file for image in after.test] == ["test/images/t1.png", "test/images/t2.png"]
    assert after.images == before.images
    assert after.test_fingerprint not in (None, before.test_fingerprint)


def test_patients_csv_names_the_patients_of_images_by_their_bare_name(parts: DataFolder) -> None:
    rows = [f"{stem}.png,P{stem[-1]}{stem[0]}" for stem in (*STEMS, "t1", "t2")]
    parts.table("file,patient", *rows)

    index = parts.index(pairs=True)
    labelled = read_labelled(parts / "test", CLASSES, "segmentation")

    assert [*index.images.patients] == ["P1p", "P2p", "P3p", "P4p"]
    assert labelled.images == index.test
    assert labelled.data.path == parts


def test_pairs_to_score_come_from_one_part(
    parts: DataFolder, pairs: DataFolder, kermany: DataFolder
) -> None:
    """And a folder of either kind is recognised, but a label table is for classification."""
    index = pairs.index(pairs=True)
    assert read_labelled(pairs, CLASSES, "segmentation").images == index.images
    with pytest.raises(DataError, match=r"it contains test/, train/"):
        read_labelled(parts, CLASSES, "segmentation")
    assert read_folder(pairs.settings()) == index
    assert read_folder(parts.settings()) == parts.index(pairs=True)
    assert read_folder(kermany.settings()) == kermany.index()
    pairs.table("file,label", name="labels.csv")
    table = "data:\n  table: {file: labels.csv, image: file, label: label}"
    pairs.table(table, name="data.yaml")
    with pytest.raises(ConfigError, match="label tables are for classification"):
        read_labelled(pairs / "data.yaml", CLASSES, "segmentation")


def image_with(*masks: str) -> ImageFile:
    return ImageFile(file="x", label=0, width_px=WIDTH_PX, height_px=HEIGHT_PX, masks=masks)


MASK = block(3)
EIGHT_BIT = MASK.astype(np.uint8)
PALETTE = Image.fromarray(EIGHT_BIT, mode="P")
PALETTE.putpalette([0, 0, 0, 128, 0, 0])
FORMATS = {
    "1-bit.png": Image.fromarray(MASK),
    "8-bit of 0 and 1.png": Image.fromarray(EIGHT_BIT),
    "8-bit of 0 and 255.tif": Image.fromarray(EIGHT_BIT * np.uint8(255)),
    "16-bit of 0 and 1.png": Image.fromarray(EIGHT_BIT.astype(np.uint16)),
    "16-bit of 0 and 65535.tif": Image.fromarray(EIGHT_BIT.astype(np.uint16) * np.uint16(65535)),
    "palette.png": PALETTE,
    "palette.gif": PALETTE,
    "rgb.png": Image.fromarray(np.repeat(EIGHT_BIT[:, :, None] * np.uint8(200), 3, axis=2)),
}


@pytest.mark.parametrize("name", FORMATS)
def test_a_mask_is_the_same_in_every_format(tmp_path: Path, name: str) -> None:
    FORMATS[name].save(tmp_path / name)

    assert np.array_equal(read_mask(tmp_path, image_with(name)), MASK)


def test_masks_of_one_image_are_united(tmp_path: Path) -> None:
    masks = {"left.png": block(0), "right.png": block(3), "none.png": np.zeros_like(MASK)}
    for name, mask in masks.items():
        save(tmp_path / name, mask)

    assert np.array_equal(read_mask(tmp_path, image_with(*masks)), block(0) | block(3))


def greys(*values: int) -> UInt8Array:
    """Return an image, [32, 48], of these grey levels."""
    return np.resize(np.array(values, dtype=np.uint8), (HEIGHT_PX, WIDTH_PX))


@pytest.mark.parametrize(
    ("pixels", "message"),
    [
        (greys(0, 1, 2), r"3 values \(0, 1, 2\); it needs two"),
        (greys(*range(256)), r"256 values \(0, 1, 2, 3, 4 and 251 more\)"),
        (greys(1, 2), r"2 values \(1, 2\)"),
        (greys(0), "empty, full or inverted: it covers 0% "),
        (greys(255), "empty, full or inverted: it covers 100% "),
        (~MASK, "full or inverted: it covers 80% .* 100% of its border"),
        (MASK[:20], "48 x 20 pixels, but its image has 48 x 32"),
    ],
)
def test_a_mistaken_mask_is_refused(
    tmp_path: Path, pixels: UInt8Array | BoolArray, message: str
) -> None:
    save(tmp_path / "mask.png", pixels)

    with pytest.raises(DataError, match=message):
        read_mask(tmp_path, image_with("mask.png"))


@pytest.mark.parametrize("kind", ["png", "tif"])
@pytest.mark.parametrize(("tag", "is_refused"), [(1, False), (6, True), (3, True)])
def test_a_mask_has_the_orientation_tag_of_its_image(
    tmp_path: Path, kind: str, tag: int, is_refused: bool
) -> None:
    """A viewer that ignores the tag shows, and draws on, other pixels than xraytune reads."""
    exif = Image.Exif()
    exif[ExifTags.Base.Orientation] = tag
    write_pairs(tmp_path, "xyz")
    for name, its_exif in (("x", exif), ("y", exif), ("z", None)):
        (tmp_path / f"images/{name}.png").unlink()
        Image.fromarray(greys(*range(90))).save(tmp_path / f"images/{name}.{kind}", exif=exif)
        Image.fromarray(MASK).save(tmp_path / f"masks/{name}.png", exif=its_exif)

    x, y, z = DataFolder(tmp_path).index(pairs=True).images

    assert read_mask(tmp_path, x).shape == read_mask(tmp_path, y).shape == (x.height_px, x.width_px)
    broken = use_mask(tmp_path, z, connected_parts)
    reason = broken.reason if isinstance(broken, BrokenImage) else ""
    assert ("orientation tag (EXIF)" in reason) == is_refused


@pytest.mark.parametrize("resize", ["squash", "crop"])
def test_a_mask_stays_on_its_image(tmp_path: Path, resize: Literal["squash", "crop"]) -> None:
    """An image that is bright exactly where its mask is: resized, both still agree."""
    save(tmp_path / "mask.png", np.repeat(np.repeat(MASK, 10, axis=0), 10, axis=1))

    (image,) = decode_files(tmp_path, ["mask.png"], 40, resize)
    whole = replace(image_with("mask.png"), width_px=0)
    square = square_mask(read_mask(tmp_path, whole), 40, resize)

    assert isinstance(image, GreyImage)
    assert set(np.unique(square)) == {0, 255}
    assert np.mean((image.pixels >= 128) == (square > 0)) > 0.98


def test_a_mask_that_vanishes_in_a_small_image_is_refused() -> None:
    mask = np.zeros((320, 320), dtype=np.bool_)
    mask[5, 5] = True

    with pytest.raises(DataError, match="empty after resizing to 32 x 32"):
        square_mask(mask, 32, "squash")


def test_an_unusable_mask_of_an_image_is_named(tmp_path: Path) -> None:
    save(tmp_path / "good.png", MASK)
    save(tmp_path / "small.png", MASK[:20])

    assert use_mask(tmp_path, image_with("good.png"), connected_parts) == 1
    for name, reason in {"small.png": "48 x 20 pixels", "missing.png": "No such file"}.items():
        broken = use_mask(tmp_path, image_with("good.png", name), connected_parts)
        assert isinstance(broken, BrokenImage)
        assert broken.file == name
        assert reason in broken.reason
