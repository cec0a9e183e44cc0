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


def image(file: str, patient: str = "", content: str = "") -> ImageFile:
    """An image of a patient, by default one that is called like its file."""
    content = f"{file} of {patient} {content}"
    return ImageFile(file=file, label=0, patient=patient or file, sha256=content)


NUMBERED = [image(f"{name}/{i}.png") for name in ("NORMAL", "PNEUMONIA") for i in (1, 2)]


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
    ours = [image(f"NORMAL/scan{i}.png") for i in range(1, 3)]
    ours += [image(f"PNEUMONIA/scan{i}.png") for i in range(1, 6)]
    ours += [image("PNEUMONIA/left12.png", "p12")]

    assert patients_by_file_name(ours) == {"left12": "p12"}


def test_equal_path_of_extra_image_does_not_identify_patient() -> None:
    """`synthetic/NORMAL/1.png` beside a study whose images are numbered in each class folder."""
    extra = image("NORMAL/1.png", content="another")
    owners = patients_by_file_name(NUMBERED)

    assert shared_patients([extra], None, NUMBERED, owners=owners) == set()
    aliases = patient_aliases([extra], None, None, owners)
    assert shared_patients(NUMBERED, None, [extra], aliases=aliases) == set()


def test_table_can_name_patients_by_image_paths(tmp_path: Path) -> None:
    """As `examples/transform_folder.py` writes it."""
    (tmp_path / "patients.csv").write_text(
        "file,patient\nNORMAL/1.png,NORMAL/1.png\nNORMAL/2__t1.png,NORMAL/2.png\n", encoding="utf-8"
    )
    extra = [
        image("NORMAL/1.png", content="another"),
        image("NORMAL/2__t1.png", "NORMAL/2.png"),
    ]
    table = find_table(tmp_path)
    owners = patients_by_file_name(NUMBERED)
    both = {"NORMAL/1.png", "NORMAL/2.png"}

    assert shared_patients(extra, table, NUMBERED, owners=owners) == both
    aliases = patient_aliases(extra, table, None, owners)
    assert shared_patients(NUMBERED, None, extra, aliases=aliases) == both


def test_table_or_header_overrides_file_name(tmp_path: Path) -> None:
    ours = image("train/NORMAL/img1.jpeg", "p1")
    (tmp_path / "patients.csv").write_text(
        "file,patient\nimg1.png,somebody else\n", encoding="utf-8"
    )
    theirs = image("NORMAL/img1.png", "somebody else")
    owners = patients_by_file_name([ours])

    assert shared_patients([theirs], find_table(tmp_path), [ours], owners=owners) == set()
    scanned = image("NORMAL/img1", "dicom:2")
    assert shared_patients([scanned], None, [ours], owners=owners) == set()


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
