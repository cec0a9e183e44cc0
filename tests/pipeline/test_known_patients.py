"""By which names a patient is known, and by which not."""

from __future__ import annotations

from pathlib import Path

from xraytune.data.index import ImageFile
from xraytune.pipeline.known_patients import known_patients, told_names


def image(file: str, patient: str) -> ImageFile:
    return ImageFile(file=file, label=0, patient=patient, sha256=f"{file} of {patient}", width_px=1, height_px=1)


def test_two_patients_whose_files_have_one_name_are_two(tmp_path: Path) -> None:
    """A scanner calls every patient's first file the same; who they are stands in the files."""
    ours, theirs = image("NORMAL/IM000001", "dicom:1"), image("NORMAL/IM000001", "dicom:2")
    names = told_names([ours.file], tmp_path / "ours", None)[ours.file]

    assert known_patients([theirs], tmp_path, [ours], known_as=names) == set()
    assert known_patients([image("NORMAL/IM000002", "dicom:1")], tmp_path, [ours], known_as=names) == {"dicom:1"}


def test_the_studys_expression_and_the_name_of_the_file_tell_whose_a_copy_is(tmp_path: Path) -> None:
    ours = [image("NORMAL/p1_a.png", "p1"), image("PNEUMONIA/person7_virus_1.jpeg", "another name")]
    copies = [
        image("NORMAL/p1_blurred.png", "NORMAL/p1_blurred.png"),
        image("PNEUMONIA/person7_virus_9.png", "virus:7"),
    ]

    assert known_patients(copies, tmp_path, ours, group_regex=r"(p\d+)_") == {image.patient for image in copies}
    assert known_patients(copies, tmp_path, ours) == {"virus:7"}
