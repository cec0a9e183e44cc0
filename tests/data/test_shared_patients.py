"""Which names identify a patient, and which do not."""

from pathlib import Path

import pytest

from xraytune.data.images import ImageFile
from xraytune.data.shared_patients import (
    names_by_file,
    patient_aliases,
    patients_by_file_name,
    shared_patients,
)
from xraytune.data.table import find_table


def image(file: str, patient: str) -> ImageFile:
    return ImageFile(
        file=file, label=0, patient=patient, sha256=f"{file} of {patient}", width_px=1, height_px=1
    )


def test_equal_file_names_of_two_patients_stay_separate() -> None:
    """A scanner gives every patient's first file the same name; the header names the patient."""
    ours, theirs = image("NORMAL/IM000001", "dicom:1"), image("NORMAL/IM000001", "dicom:2")
    names = names_by_file([ours], None, None)[ours.file]

    assert shared_patients([theirs], None, [ours], aliases=names) == set()
    assert shared_patients([image("NORMAL/IM000002", "dicom:1")], None, [ours], aliases=names) == {
        "dicom:1"
    }


def test_per_folder_numbers_identify_no_patient() -> None:
    """PNEUMONIA has more images than NORMAL, so its last numbers occur once."""
    ours = [image(f"NORMAL/scan{i}.png", f"NORMAL/scan{i}.png") for i in range(1, 3)]
    ours += [image(f"PNEUMONIA/scan{i}.png", f"PNEUMONIA/scan{i}.png") for i in range(1, 6)]
    ours += [image("PNEUMONIA/left12.png", "p12")]

    assert patients_by_file_name(ours) == {"left12": "p12"}


def test_equal_path_of_extra_image_does_not_identify_patient() -> None:
    """`synthetic/NORMAL/1.png` beside a study whose images are numbered in each class folder."""
    ours = [
        image(f"{name}/{i}.png", f"{name}/{i}.png")
        for name in ("NORMAL", "PNEUMONIA")
        for i in (1, 2)
    ]
    extra = ImageFile(
        file="NORMAL/1.png",
        label=0,
        patient="NORMAL/1.png",
        sha256="another",
        width_px=1,
        height_px=1,
    )

    assert shared_patients([extra], None, ours, owners=patients_by_file_name(ours)) == set()
    aliases = patient_aliases([extra], None, None, patients_by_file_name(ours))
    assert shared_patients(ours, None, [extra], aliases=aliases) == set()


def test_table_can_name_patients_by_image_paths(tmp_path: Path) -> None:
    """As `examples/transform_folder.py` writes it."""
    ours = [
        image(f"{name}/{i}.png", f"{name}/{i}.png")
        for name in ("NORMAL", "PNEUMONIA")
        for i in (1, 2)
    ]
    (tmp_path / "patients.csv").write_text(
        "file,patient\nNORMAL/1.png,NORMAL/1.png\nNORMAL/2__t1.png,NORMAL/2.png\n", encoding="utf-8"
    )
    extra = [
        ImageFile(file=file, label=0, patient=patient, sha256="x" + file, width_px=1, height_px=1)
        for file, patient in (
            ("NORMAL/1.png", "NORMAL/1.png"),
            ("NORMAL/2__t1.png", "NORMAL/2.png"),
        )
    ]

    assert shared_patients(
        extra, find_table(tmp_path), ours, owners=patients_by_file_name(ours)
    ) == {
        "NORMAL/1.png",
        "NORMAL/2.png",
    }
    aliases = patient_aliases(extra, find_table(tmp_path), None, patients_by_file_name(ours))
    assert shared_patients(ours, None, extra, aliases=aliases) == {"NORMAL/1.png", "NORMAL/2.png"}


def test_table_or_header_overrides_file_name(tmp_path: Path) -> None:
    ours = image("train/NORMAL/img1.jpeg", "p1")
    (tmp_path / "patients.csv").write_text(
        "file,patient\nimg1.png,somebody else\n", encoding="utf-8"
    )
    theirs = image("NORMAL/img1.png", "somebody else")

    assert (
        shared_patients(
            [theirs], find_table(tmp_path), [ours], owners=patients_by_file_name([ours])
        )
        == set()
    )
    scanned = image("NORMAL/img1", "dicom:2")
    assert shared_patients([scanned], None, [ours], owners=patients_by_file_name([ours])) == set()


@pytest.mark.parametrize(("ours", "theirs"), [("0012", "12"), ("12", "0012.0"), ("00", "0")])
def test_a_number_is_one_patient_with_and_without_leading_zeros(
    tmp_path: Path, ours: str, theirs: str
) -> None:
    """Two tables, of which a spreadsheet has saved one."""
    (tmp_path / "patients.csv").write_text(
        f"file,patient\nx.png,{theirs}\ny.png,120\n", encoding="utf-8"
    )
    table = find_table(tmp_path)
    known, images = [image("a.png", ours)], [image("x.png", "x"), image("y.png", "y")]

    assert shared_patients(images, table, known, owners=patients_by_file_name(known)) == {"x"}
    assert shared_patients(
        known, None, [image("z.png", "z")], aliases=patient_aliases(images, table, None)
    ) == {ours}
