"""What `data inspect` tells."""

import json
import shutil
from pathlib import Path

import pytest
from PIL import Image

from tests.data.conftest import DataFolder
from tests.pair_files import draw_xrays
from xraytune.base.records import to_json
from xraytune.data.inspect import inspect_folder
from xraytune.present.inspection import inspection_frame


@pytest.mark.slow
def test_an_inspection_counts_images_patients_duplicates_and_broken_files(
    official: DataFolder,
) -> None:
    normal = official / "train/NORMAL"
    shutil.copy(normal / "IM-0001-0001.jpeg", normal / "IM-0001-0001-0002.jpeg")
    (normal / "IM-0002-0001.jpeg").write_bytes(b"")

    found = inspect_folder(official)

    assert found.images == {
        "train": {"NORMAL": 5, "PNEUMONIA": 8},
        "val": {"NORMAL": 1, "PNEUMONIA": 1},
        "test": {"NORMAL": 1, "PNEUMONIA": 1},
    }
    assert found.patients == {"NORMAL": 5, "PNEUMONIA": 9}
    assert found.images_per_patient == (1, 1.0, 2)
    assert (found.width_px, found.height_px) == ((16, 16), (12, 12))
    assert found.formats == {"JPEG 8-bit": 14}
    assert found.duplicates == (
        ("train/NORMAL/IM-0001-0001-0002.jpeg", "train/NORMAL/IM-0001-0001.jpeg"),
    )
    named = "train/NORMAL/IM-0001-0001-0002.jpeg = train/NORMAL/IM-0001-0001.jpeg"
    assert named in str(inspection_frame(official, found))
    (broken,) = found.broken
    assert broken.file == "train/NORMAL/IM-0002-0001.jpeg"
    assert json.loads(json.dumps(to_json(found)))["images"]["val"] == {"NORMAL": 1, "PNEUMONIA": 1}


@pytest.mark.slow
def test_copies_of_an_image_under_other_patients_are_found_in_training_and_test(
    tmp_path: Path,
) -> None:
    draw_xrays(tmp_path, patients=20, image_size_px=128)
    train = tmp_path / "xrays/train"
    half, saved_again, brighter, *_ = sorted((train / "NORMAL").iterdir())
    with Image.open(half) as image:
        image.resize((64, 64)).save(train / "NORMAL/IM-9001-0001.png")
    with Image.open(saved_again) as image:
        image.save(tmp_path / "xrays/test/NORMAL/IM-9002-0001.jpeg", quality=50)
    with Image.open(brighter) as image:
        image.point([min(255, round(1.1 * level)) for level in range(256)]).save(
            train / "PNEUMONIA/person9003_virus_1.jpeg"
        )

    found = inspect_folder(tmp_path / "xrays").near_duplicates

    assert (found.pairs, found.in_training_and_test, found.in_two_classes) == (3, 1, 1)
    assert [*map(set, found.examples)] == [
        {f"train/NORMAL/{saved_again.name}", "test/NORMAL/IM-9002-0001.jpeg"},
        {f"train/NORMAL/{brighter.name}", "train/PNEUMONIA/person9003_virus_1.jpeg"},
        {f"train/NORMAL/{half.name}", "train/NORMAL/IM-9001-0001.png"},
    ]


def test_a_patient_with_images_of_several_classes_counts_once(xrays: DataFolder) -> None:
    xrays.images("NORMAL/p{1,2,3,4}_1.png PNEUMONIA/p{4,5,6,7}_2.png")

    found = inspect_folder(xrays, group_regex="(p[0-9])_")
    lines = " ".join(str(part) for part in inspection_frame(xrays, found))

    assert (found.patient_count, found.patients_of_several_classes) == (7, 1)
    assert "7, of whom 1 have images of several classes" in lines


@pytest.mark.slow
def test_a_folder_of_broken_images_is_reported_once_per_reason(kermany: DataFolder) -> None:
    """As where Git LFS left its pointers in place of the images."""
    images = [*kermany.rglob("*.jpeg")]
    for number, image in enumerate(images):
        image.write_text(f"version https://git-lfs.github.com/spec/v1 {number}")

    found = inspect_folder(kermany)

    assert len(found.broken) == len(images)
    (line,) = [str(part) for part in inspection_frame(kermany, found) if "broken:" in str(part)]
    assert "it begins with" in line
