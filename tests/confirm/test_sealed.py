"""Checks of the test folder: patients by name, table and content."""

from pathlib import Path

import pytest

from tests.confirm.labs import Lab
from tests.pair_files import draw_xrays, write_patients
from xraytune.base.errors import DataError, StudyError
from xraytune.data.index import read_labelled
from xraytune.data.prepare import SplitData, prepare

SPACE = """\
name: any
data: {path: xrays, image_size: 32, split: {val_a: 0.2, val_b: 0.2}}
parameters: {source: {value: none}}
"""


@pytest.fixture
def lab(tmp_path: Path) -> Lab:
    """Phantoms with a test folder."""
    draw_xrays(tmp_path, patients=60, seed=4)
    (tmp_path / "space.yaml").write_text(SPACE)
    return Lab(tmp_path)


def prepared_of(lab: Lab) -> SplitData:
    """What a search records of the images."""
    return prepare(lab.settings, lab.cache)[0]


def pneumonia(root: Path) -> list[Path]:
    return sorted((root / "PNEUMONIA").iterdir())


def write_table(root: Path, **patients: str) -> None:
    """Write `patients.csv` with patients by file stem; every other file is its own patient."""
    files = sorted(path for path in root.rglob("*.jpeg") if "masks" not in path.parts)
    write_patients(root, {f.relative_to(root): patients.get(f.stem, f.stem) for f in files})


def test_other_patients_of_the_test_images_are_refused(lab: Lab) -> None:
    """Intervals are over patients. The names themselves, and those of files, do not matter."""
    write_table(lab.xrays)
    prepared = prepared_of(lab)
    first, second, *_ = (file.stem for file in pneumonia(lab.xrays / "test"))

    write_table(lab.xrays, **{first: "anna"})
    lab.choose(prepared=prepared)
    write_table(lab.xrays, **{first: "anna", second: "anna"})
    with pytest.raises(StudyError, match="the test folder, or its grouping"):
        lab.choose(prepared=prepared)


def test_a_processed_copy_is_recognised_by_file_name_if_the_study_has_a_patient_table(
    lab: Lab,
) -> None:
    (lab.xrays / "test").rename(lab.test)
    ours = pneumonia(lab.xrays / "train")[0].rename(lab.xrays / "train/PNEUMONIA/img1.jpeg")
    write_table(lab.xrays)
    (lab.test / "PNEUMONIA/img1.jpeg").write_bytes(ours.read_bytes() + b"processed")
    given = read_labelled(lab.test, ("NORMAL", "PNEUMONIA"))

    with pytest.raises(DataError, match=r"1 test .* used for training .*: PNEUMONIA/img1\.jpeg"):
        lab.choose(prepared=prepared_of(lab), test=given)
