"""`data transform`: a folder of copies that is a data folder itself, and says where each copy is from."""

from __future__ import annotations

import hashlib
import json
import shutil
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from tests.data.conftest import KERMANY
from xraytune.config.settings import DataSettings, SplitSettings
from xraytune.data.index import read_index, read_labelled_folder
from xraytune.data.transform import Strengths, TransformParameters, TransformSummary, transform_folder, transform_image
from xraytune.errors import ConfigError, DataError

pytestmark = pytest.mark.slow

Write = Callable[[Path, Iterable[str]], None]


def transform(folder: Path, out: Path, strengths: Strengths | None = None, **options: Any) -> TransformSummary:
    """Two copies with seed 0 and the default strengths, unless said otherwise."""
    settings = DataSettings(
        path=folder,
        classes=options.pop("classes", "binary"),
        split=SplitSettings(group_regex=options.pop("group_regex", None)),
    )
    return transform_folder(settings, out, strengths or Strengths(), **({"copies": 2, "seed": 0} | options))


def hashes(folder: Path) -> dict[str, str]:
    """SHA-256 of each image below a folder, by its path."""
    return {
        path.relative_to(folder).as_posix(): hashlib.sha256(path.read_bytes()).hexdigest()
        for path in sorted(folder.rglob("*.png"))
    }


def provenance(out: Path) -> dict[str, Any]:
    content: dict[str, Any] = json.loads((out / "provenance.json").read_text(encoding="utf-8"))
    return content


def test_copies_of_training_images_are_read_with_their_patients(kermany: Path, tmp_path: Path) -> None:
    made = transform(kermany, tmp_path / "copies")

    originals = {image.file: image for image in read_index(DataSettings(path=kermany)).images}
    copies = read_index(DataSettings(path=tmp_path / "copies"))
    assert made.counts == {"NORMAL": 8, "PNEUMONIA": 16}
    assert (made.source_count, made.patient_count, made.sealed_count) == (12, 12, 0)
    assert copies.class_names == ("NORMAL", "PNEUMONIA")
    assert [image.file for image in copies.images if "virus_2" in image.file] == [
        "PNEUMONIA/person2_virus_2__t1.png",
        "PNEUMONIA/person2_virus_2__t2.png",
    ]
    for image in copies.images:
        original = originals[image.file.rpartition("__t")[0] + ".jpeg"]
        assert (image.patient, image.label) == (original.patient, original.label)


def test_the_test_part_stays_sealed_and_val_is_training(official: Path, tmp_path: Path) -> None:
    made = transform(official, tmp_path / "copies")

    sources = {image["source"] for image in provenance(tmp_path / "copies")["images"]}
    assert sources == {
        *(f"train/{file}" for file in KERMANY),
        *("val/NORMAL/IM-0050-0001.jpeg", "val/PNEUMONIA/person50_virus_50.jpeg"),
    }
    assert made.sealed_count == 2


def test_copies_are_8_bit_grey_png_of_their_originals_size(tmp_path: Path, write: Write) -> None:
    write(tmp_path / "xrays", KERMANY[1:])
    colours = np.zeros((31, 17, 3), dtype=np.uint8) + np.array([200, 100, 50], dtype=np.uint8)
    Image.fromarray(colours).save(tmp_path / "xrays" / "NORMAL" / "IM-0001-0001.png")

    transform(tmp_path / "xrays", tmp_path / "copies", copies=1)

    with Image.open(tmp_path / "copies" / "NORMAL" / "IM-0001-0001__t1.png") as copy:
        assert (copy.size, copy.mode, copy.format) == ((17, 31), "L", "PNG")
    with Image.open(tmp_path / "copies" / "NORMAL" / "IM-0002-0001__t1.png") as copy:
        assert copy.size == (16, 12)


def test_rotated_photo_is_transformed_upright(tmp_path: Path, write: Write) -> None:
    write(tmp_path / "xrays", KERMANY[1:])
    orientation = Image.Exif()
    orientation[274] = 6
    Image.new("L", (20, 10), 128).save(tmp_path / "xrays" / "NORMAL" / "IM-0001-0001.jpeg", exif=orientation)

    transform(tmp_path / "xrays", tmp_path / "copies", copies=1)

    with Image.open(tmp_path / "copies" / "NORMAL" / "IM-0001-0001__t1.png") as copy:
        assert copy.size == (10, 20)


def test_copies_do_not_depend_on_other_files(kermany: Path, tmp_path: Path) -> None:
    transform(kermany, tmp_path / "all")
    (kermany / "NORMAL" / "IM-0002-0001.jpeg").unlink()
    transform(kermany, tmp_path / "fewer")

    everything, fewer = hashes(tmp_path / "all"), hashes(tmp_path / "fewer")
    assert len(everything) == 24
    assert len(fewer) == 22
    assert fewer.items() <= everything.items()


def test_two_runs_give_the_same_folder_and_another_seed_another(kermany: Path, tmp_path: Path) -> None:
    for name, seed in {"a": 0, "b": 0, "c": 1}.items():
        transform(kermany, tmp_path / name, seed=seed)

    assert hashes(tmp_path / "a") == hashes(tmp_path / "b")
    for file in ("provenance.json", "patients.csv"):
        assert (tmp_path / "a" / file).read_bytes() == (tmp_path / "b" / file).read_bytes()
    assert not hashes(tmp_path / "a").items() & hashes(tmp_path / "c").items()


def test_fewer_copies_are_a_prefix_of_more(kermany: Path, tmp_path: Path) -> None:
    transform(kermany, tmp_path / "few", copies=1)
    transform(kermany, tmp_path / "many", copies=3)

    assert len(hashes(tmp_path / "many")) == 36
    assert hashes(tmp_path / "few").items() <= hashes(tmp_path / "many").items()


def test_copy_is_reproducible_from_its_record(kermany: Path, tmp_path: Path) -> None:
    transform(kermany, tmp_path / "copies", Strengths(rotate=30), seed=7)

    written = provenance(tmp_path / "copies")
    assert (written["version"], written["seed"], written["copies"]) == (1, 7, 2)
    assert written["strengths"]["rotate"] == 30
    assert len(written["images"]) == 24
    for image in written["images"]:
        source = kermany / image["source"]
        assert hashlib.sha256(source.read_bytes()).hexdigest() == image["source_sha256"]
        with Image.open(source) as original, Image.open(tmp_path / "copies" / image["file"]) as copy:
            assert np.array_equal(
                transform_image(np.asarray(original), TransformParameters(**image["drawn"])), np.asarray(copy)
            )


def test_folder_contains_no_absolute_paths(kermany: Path, tmp_path: Path) -> None:
    transform(kermany, tmp_path / "copies")

    for path in (tmp_path / "copies").rglob("*.*"):
        assert str(tmp_path).encode() not in path.read_bytes()


def test_patients_are_those_of_the_expression_and_of_shared_images(tmp_path: Path, write: Write) -> None:
    root = tmp_path / "xrays"
    write(root, [f"NORMAL/p{patient}_{k}.png" for patient in range(1, 5) for k in "ab"])
    write(root, [f"PNEUMONIA/q{patient}_{k}.png" for patient in range(1, 4) for k in "ab"])
    shutil.copy(root / "NORMAL" / "p1_a.png", root / "NORMAL" / "p3_c.png")

    made = transform(root, tmp_path / "copies", group_regex="([pq][0-9])_")

    patients = {image.file: image.patient for image in read_index(DataSettings(path=tmp_path / "copies")).images}
    assert made.patient_count == 6, "p1 and p3 share an image"
    assert patients["NORMAL/p3_b__t2.png"] == patients["NORMAL/p1_a__t1.png"] == "p1"
    assert patients["PNEUMONIA/q2_a__t1.png"] == "q2"


def test_table_escapes_formulas_and_round_trips(tmp_path: Path, write: Write) -> None:
    root, classes = tmp_path / "xrays", ("=NORMAL", "@PNEUMONIA")
    patients = (("-1", "'=a", "b", "+c"), ("-2", "@d", "''+e", "f"))
    write(
        root, [f"{name}/{who}_{k}.png" for name, of in zip(classes, patients, strict=True) for who in of for k in "xy"]
    )

    transform(root, tmp_path / "copies", classes="auto", group_regex="/([^/]+)_[xy]")

    rows = (tmp_path / "copies" / "patients.csv").read_text(encoding="utf-8").splitlines()
    assert not [cell for row in rows for cell in row.split(",") if cell[0] in "=+-@"]
    copies = read_index(DataSettings(path=tmp_path / "copies", classes="auto"))
    assert {image.patient for image in copies.images} == {*patients[0], *patients[1]}


def test_three_classes_are_three_folders(kermany: Path, tmp_path: Path) -> None:
    made = transform(kermany, tmp_path / "copies", classes="three")

    assert made.counts == {"normal": 8, "bacterial": 8, "viral": 8}
    copies = read_labelled_folder(tmp_path / "copies", ("normal", "bacterial", "viral"))
    assert sum(image.label == 2 for image in copies) == 8


@pytest.mark.parametrize("name", ["a b,c.png", 'quo"te.png', "Größe.png", "x" * 240 + ".png", "new\nline.png"])
def test_copy_name_is_portable_and_identifies_patient(tmp_path: Path, write: Write, name: str) -> None:
    root = tmp_path / "xrays"
    write(root, [*KERMANY, f"NORMAL/{name}"])

    transform(root, tmp_path / "copies", copies=1)

    copies = read_index(DataSettings(path=tmp_path / "copies")).images
    (odd,) = [image for image in copies if image.patient == f"NORMAL/{name}"]
    assert odd.file.isascii()
    assert len(odd.file) < 130
    assert not set(odd.file) & set(' ,"\n')


def test_images_of_one_number_in_two_classes_keep_it(tmp_path: Path, write: Write) -> None:
    write(tmp_path / "xrays", [f"{name}/{i}.png" for name in ("NORMAL", "PNEUMONIA") for i in (1, 2, 3)])

    transform(tmp_path / "xrays", tmp_path / "out", copies=1)

    rows = (tmp_path / "out" / "patients.csv").read_text(encoding="utf-8").splitlines()[1:]
    assert rows[::3] == ["NORMAL/1__t1.png,NORMAL/1.png", "PNEUMONIA/1__t1.png,PNEUMONIA/1.png"]


def test_names_differing_in_replaced_characters_stay_distinct(tmp_path: Path, write: Write) -> None:
    write(tmp_path / "xrays", [*KERMANY, "NORMAL/a b.png", "NORMAL/a,b.png"])

    transform(tmp_path / "xrays", tmp_path / "copies", copies=1)

    assert len(hashes(tmp_path / "copies")) == len(KERMANY) + 2


def test_identical_copies_share_a_patient(tmp_path: Path, write: Write) -> None:
    """A flip alone has two outcomes, so two copies may be the same file: the tool joins what is one patient already."""
    write(tmp_path / "xrays", KERMANY)
    only_flip = Strengths(rotate=0, shift=0, zoom=0, shear=0, contrast=0, elastic=0)

    transform(tmp_path / "xrays", tmp_path / "copies", only_flip, copies=5)

    copies = read_index(DataSettings(path=tmp_path / "copies")).images
    assert len({image.sha256 for image in copies}) < len(copies)
    assert len({image.patient for image in copies}) == 12


def break_images(kermany: Path, *files: str) -> None:
    for file in files:
        (kermany / file).write_bytes((kermany / file).read_bytes()[:100])


def test_broken_images_are_refused_all_at_once(kermany: Path, tmp_path: Path) -> None:
    break_images(kermany, KERMANY[0], KERMANY[6])

    with pytest.raises(DataError) as refused:
        transform(kermany, tmp_path / "copies")

    assert KERMANY[0] in str(refused.value)
    assert KERMANY[6] in str(refused.value)
    assert "--skip-broken" in str(refused.value)
    assert [path.name for path in tmp_path.iterdir()] == ["xrays"]


def test_broken_images_can_be_left_out(kermany: Path, tmp_path: Path) -> None:
    break_images(kermany, KERMANY[0], KERMANY[6])

    made = transform(kermany, tmp_path / "copies", skip_broken=True)

    assert sorted(image.file for image in made.broken) == sorted([KERMANY[0], KERMANY[6]])
    assert made.counts == {"NORMAL": 6, "PNEUMONIA": 14}
    assert len(hashes(tmp_path / "copies")) == 20
    assert len(provenance(tmp_path / "copies")["images"]) == 20


def test_a_folder_of_broken_images_gives_no_folder(kermany: Path, tmp_path: Path) -> None:
    break_images(kermany, *KERMANY)

    with pytest.raises(DataError, match="12 images are broken"):
        transform(kermany, tmp_path / "copies", skip_broken=True)

    assert not (tmp_path / "copies").exists()


def test_all_problems_are_reported_before_writing(kermany: Path, tmp_path: Path) -> None:
    with pytest.raises(ConfigError) as refused:
        transform(kermany, tmp_path / "copies", Strengths(rotate=200, zoom=2), copies=0)

    assert [problem.what for problem in refused.value.problems] == [
        "copies out of bounds: 0",
        "rotate out of bounds: 200",
        "zoom out of bounds: 2",
    ]
    assert [path.name for path in tmp_path.iterdir()] == ["xrays"]


def test_existing_folder_is_refused(kermany: Path, tmp_path: Path) -> None:
    (tmp_path / "copies").mkdir()

    with pytest.raises(ConfigError, match="this path already exists"):
        transform(kermany, tmp_path / "copies")


@pytest.mark.parametrize("place", ["copies", "NORMAL/copies"])
def test_copies_among_their_originals_are_refused(kermany: Path, place: str) -> None:
    """They would be patients of their own at the next look, and stand on both sides of a split."""
    with pytest.raises(ConfigError, match="copies in the image folder"):
        transform(kermany, kermany / place)


def test_an_interrupted_run_leaves_nothing(kermany: Path, tmp_path: Path) -> None:
    def interrupt(what: str, done: int, total: int) -> None:  # noqa: ARG001
        if what == "transforming images" and done == 5:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        transform(kermany, tmp_path / "copies", on_progress=interrupt)

    assert [path.name for path in tmp_path.iterdir()] == ["xrays"]
