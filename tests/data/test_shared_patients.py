"""Which names identify a patient, and which do not."""

import pytest

from tests.data.conftest import DataFolder, paths
from xraytune.data.images import ImageFile
from xraytune.data.shared_patients import patients_by_file_name, patients_by_key, shared_patients
from xraytune.data.table import add_rows, find_table


def image(file: str, patient: str = "", content: str = "") -> ImageFile:
    """An image of a patient, by default one that is called like its file."""
    content = f"{file} of {patient} {content}"
    return ImageFile(file=file, label=0, patient=patient or file, sha256=content)


def shared(
    ours: list[ImageFile], theirs: list[ImageFile], root: DataFolder | None = None
) -> set[str]:
    """The patients of our images who are also in theirs, by the table of their folder."""
    if root:
        theirs = [*add_rows(theirs, find_table(root.settings()))]
    external = patients_by_key(theirs, owners=patients_by_file_name(ours))
    found = shared_patients(patients_by_key(ours), external)
    assert len(found) == len(shared_patients(external, patients_by_key(ours)))
    return found


NUMBERED = [*map(image, paths("{NORMAL,PNEUMONIA}/{1,2}.png"))]


def test_equal_file_names_of_two_patients_stay_separate() -> None:
    """A scanner gives every patient's first file the same name; the header names the patient."""
    ours = image("NORMAL/IM000001", "dicom:1")

    assert shared([ours], [image("NORMAL/IM000001", "dicom:2")]) == set()
    assert shared([ours], [image("NORMAL/IM000002", "dicom:1")]) == {"dicom:1"}


def test_per_folder_numbers_identify_no_patient() -> None:
    """PNEUMONIA has more images than NORMAL, so its last numbers occur once."""
    numbered = paths("NORMAL/scan{1,2}.png PNEUMONIA/scan{1,2,3,4,5}.png")
    ours = [*map(image, numbered), image("PNEUMONIA/left12.png", "p12")]

    assert patients_by_file_name(ours) == {"left12": "p12"}
    assert shared(ours, [image("a/scan5.png"), image("a/left12.jpg")]) == {"p12"}


def test_equal_path_of_extra_image_does_not_identify_patient() -> None:
    """`synthetic/NORMAL/1.png` beside a study whose images are numbered in each class folder."""
    assert shared(NUMBERED, [image("NORMAL/1.png", content="another")]) == set()
    assert shared(NUMBERED, [NUMBERED[0]]) == {"NORMAL/1.png"}, "the same content"


def test_table_can_name_patients_by_image_paths(xrays: DataFolder) -> None:
    """As `examples/transform_folder.py` writes it."""
    xrays.table("file,patient", "NORMAL/1.png,NORMAL/1.png", "NORMAL/2__t1.png,NORMAL/2.png")
    extra = [
        image("NORMAL/1.png", content="another"),
        image("NORMAL/2__t1.png", "NORMAL/2.png"),
    ]

    assert shared(NUMBERED, extra, xrays) == {"NORMAL/1.png", "NORMAL/2.png"}


def test_table_or_header_overrides_file_name(xrays: DataFolder) -> None:
    xrays.table("file,patient", "img1.png,somebody else")
    ours = [image("train/NORMAL/img1.jpeg", "p1")]

    assert shared(ours, [image("NORMAL/img1.png", "somebody else")], xrays) == set()
    assert shared(ours, [image("NORMAL/img1", "dicom:2")]) == set()


@pytest.mark.parametrize(("ours", "theirs"), [("0012", "12"), ("12", "0012.0"), ("00", "0")])
def test_a_number_is_one_patient_with_and_without_leading_zeros(
    xrays: DataFolder, ours: str, theirs: str
) -> None:
    """Two tables, of which a spreadsheet has saved one."""
    xrays.table("file,patient", f"x.png,{theirs}", "y.png,120")

    assert shared([image("a.png", ours)], [image("x.png"), image("y.png")], xrays) == {ours}
