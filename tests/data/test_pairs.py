"""Folders of pairs: which masks belong to which image, and what is refused before anything is decoded."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from tests.pair_files import block, save, write_pairs
from xraytune.base.errors import ConfigError, DataError
from xraytune.data.index import ImageIndex, read_folder, read_index, read_labelled, read_labelled_folder
from xraytune.space.settings import DataSettings, SplitSettings

STEMS = ("p1", "p2", "p3", "p4")
CLASSES = ("image",)


@pytest.fixture
def pairs(tmp_path: Path) -> Path:
    return write_pairs(tmp_path / "pairs", STEMS)


def read(root: Path, group_regex: str | None = None) -> ImageIndex:
    return read_index(DataSettings(path=root, split=SplitSettings(group_regex=group_regex)), pairs=True)


def refusal(root: Path) -> str:
    with pytest.raises(DataError) as caught:
        read(root)
    return str(caught.value)


def test_images_are_paired_with_the_mask_of_their_name(pairs: Path) -> None:
    index = read(pairs)

    assert index.class_names == CLASSES
    assert {image.file: image.masks for image in index.images} == {
        f"images/{stem}.png": (f"masks/{stem}.png",) for stem in STEMS
    }
    assert {image.label for image in index.images} == {0}


def test_all_masks_of_an_image_belong_to_it_and_the_longest_name_decides(pairs: Path) -> None:
    save(pairs / "images" / "p1_2.JPG", np.zeros((32, 48), dtype=np.uint8))
    for mask in ("P1_2_left.PNG", "right/p1-2.png", "p1_2-right.tif", "p2_mask.png", "left/p3.png", "right/p3.tiff"):
        save(pairs / "masks" / mask, block(1))

    index = read(pairs)

    masks = {Path(image.file).stem: [*image.masks] for image in index.images}
    assert masks["p1"] == ["masks/p1.png", "masks/right/p1-2.png"]
    assert masks["p1_2"] == ["masks/P1_2_left.PNG", "masks/p1_2-right.tif"]
    assert masks["p2"] == ["masks/p2.png", "masks/p2_mask.png"]
    assert masks["p3"] == ["masks/left/p3.png", "masks/p3.png", "masks/right/p3.tiff"]
    (note,) = [warning for warning in index.warnings if "several masks" in warning]
    assert (
        "4 of 5 images have several masks, which are merged (masks/p1.png and masks/right/p1-2.png for p1.png)" in note
    )


def test_unpaired_images_and_masks_are_counted_and_named_in_one_error(pairs: Path, tmp_path: Path) -> None:
    mask = (pairs / "masks" / "p1.png").rename(tmp_path / "elsewhere.png")
    (pairs / "masks" / "p1.png").symlink_to(mask)
    (pairs / "masks" / "p2.png").rename(pairs / "masks" / "p22.png")

    text = refusal(pairs)

    assert (
        "2 of 4 images without a mask: images/p1.png, images/p2.png; 1 of 3 masks without an image: masks/p22" in text
    )
    assert "masks of X.png are named X.png, X_left.png or X-mask.tif" in text
    assert "links to folders, or out of the data folder, are not followed: 1" in text


def test_images_of_one_name_and_masks_with_loss_are_refused_together(pairs: Path) -> None:
    save(pairs / "images" / "more" / "P1.tif", np.zeros((32, 48), dtype=np.uint8))
    save(pairs / "masks" / "p2_left.jpeg", np.zeros((32, 48), dtype=np.uint8))

    text = refusal(pairs)

    assert "makes their masks ambiguous: images/more/P1.tif and images/p1.png" in text
    assert "have another format: masks/p2_left.jpeg" in text


def test_a_folder_without_images_or_masks_is_refused(pairs: Path, kermany: Path) -> None:
    (pairs / "masks").rename(pairs / "NORMAL")

    found = "there is no masks/ here, and segmentation needs both (folders found: NORMAL/"
    assert found in refusal(pairs)
    assert "there is no images/ and no masks/ here" in refusal(kermany)


def test_pairs_are_refused_for_classification(pairs: Path) -> None:
    """With `classes: auto`, a classifier would otherwise tell X-rays from masks."""
    with pytest.raises(DataError, match="this is a folder of pairs"):
        read_index(DataSettings(path=pairs, classes="auto"))
    for reader in (read_labelled, read_labelled_folder):
        with pytest.raises(DataError, match="this is a folder of pairs"):
            reader(pairs, ("images", "masks"))


def test_pairs_with_classes_in_a_table_can_be_classified(pairs: Path) -> None:
    classes = {"p1": "NORMAL", "p2": "NORMAL", "p3": "NORMAL", "p4": "PNEUMONIA", "p5": "PNEUMONIA", "p6": "PNEUMONIA"}
    write_pairs(pairs, classes)
    rows = [f"{folder}/{stem}.png,{stem},{name}" for stem, name in classes.items() for folder in ("images", "masks")]
    (pairs / "patients.csv").write_text("file,patient,class\n" + "\n".join(rows), encoding="utf-8")

    assert read_index(DataSettings(path=pairs)).class_names == ("NORMAL", "PNEUMONIA")


@pytest.fixture
def parts(tmp_path: Path) -> Path:
    root = tmp_path / "parts"
    write_pairs(root / "train", STEMS)
    write_pairs(root / "test", ("t1", "t2"))
    return root


def test_of_the_test_part_only_names_and_hashes_are_read(parts: Path) -> None:
    """A mask that cannot be decoded goes unnoticed there; a changed one changes the fingerprint."""
    before = read(parts)
    (parts / "test" / "masks" / "t1.png").write_bytes(b"no image")

    after = read(parts)

    assert [image.file for image in after.test] == ["test/images/t1.png", "test/images/t2.png"]
    assert after.images == before.images
    assert after.test_fingerprint not in (None, before.test_fingerprint)


def test_every_part_needs_masks(parts: Path) -> None:
    (parts / "test" / "masks").rename(parts / "test" / "lungs")

    assert f"{parts / 'test'}: there is no masks/ here" in refusal(parts)


def test_copies_of_an_image_are_one_patient_even_with_different_masks(pairs: Path) -> None:
    (pairs / "images" / "p2.png").write_bytes((pairs / "images" / "p1.png").read_bytes())

    first, second, *_ = read(pairs).images

    assert first.patient == second.patient
    assert first.masks_sha256 != second.masks_sha256


def test_few_patients_are_refused_without_speaking_of_classes(tmp_path: Path) -> None:
    text = refusal(write_pairs(tmp_path, ("p1", "p2")))

    assert "there are 2 patients; train, val-A and val-B need one each" in text
    assert "add images of other patients" in text


def test_patients_csv_names_the_patients_of_images_by_their_bare_name(parts: Path) -> None:
    rows = [f"{stem}.png,P{stem[-1]}{stem[0]}" for stem in (*STEMS, "t1", "t2")]
    (parts / "patients.csv").write_text("file,patient\n" + "\n".join(rows), encoding="utf-8")

    index = read(parts)
    labelled = read_labelled(parts / "test", CLASSES, pairs=True)

    assert [image.patient for image in index.images] == ["P1p", "P2p", "P3p", "P4p"]
    assert labelled.images == index.test
    assert labelled.data.path == parts


def test_an_expression_names_the_patients_in_the_data_folder_and_in_its_test_part(parts: Path) -> None:
    index = read(parts, "/images/([a-z][0-9])")

    assert [image.patient for image in index.images] == [*STEMS]
    assert read_labelled(parts / "test", CLASSES, pairs=True, group_regex="/images/([a-z][0-9])").images == index.test


def test_pairs_to_score_come_from_one_part(parts: Path, pairs: Path) -> None:
    assert (
        read_labelled(pairs, CLASSES, pairs=True).images
        == read_labelled_folder(pairs, CLASSES, pairs=True)
        == read(pairs).images
    )
    with pytest.raises(DataError, match=r"it contains test/ and train/"):
        read_labelled(parts, CLASSES, pairs=True)


def test_label_tables_are_for_classification(pairs: Path) -> None:
    (pairs / "labels.csv").write_text("file,label\n", encoding="utf-8")
    (pairs / "data.yaml").write_text(
        "data:\n  table: {file: labels.csv, image: file, label: label}\n", encoding="utf-8"
    )

    with pytest.raises(ConfigError, match="label tables are for classification"):
        read_labelled(pairs / "data.yaml", CLASSES, pairs=True)


def test_a_folder_of_either_kind_is_recognised(pairs: Path, parts: Path, kermany: Path) -> None:
    assert read_folder(DataSettings(path=pairs)) == read(pairs)
    assert read_folder(DataSettings(path=parts)) == read(parts)
    assert read_folder(DataSettings(path=kermany)) == read_index(DataSettings(path=kermany))


def test_a_turned_image_has_its_upright_size(pairs: Path) -> None:
    tags = Image.Exif()
    tags[274] = 6
    Image.new("L", (32, 48)).save(pairs / "images" / "p9.jpeg", exif=tags)
    save(pairs / "masks" / "p9.png", block(1))

    turned = read(pairs).images[-1]

    assert (turned.width_px, turned.height_px) == (48, 32)
