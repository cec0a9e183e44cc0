"""Checks of the test folder: patients by name, table and content."""

import shutil
from pathlib import Path

import pytest

from xraytune.base.errors import DataError, StudyError
from xraytune.confirm.sealed import SealedTest, choose_test
from xraytune.data.index import read_labelled
from xraytune.data.phantom import paint_phantoms
from xraytune.data.prepare import SplitData, prepare
from xraytune.space.data_settings import DataSettings, SplitSettings
from xraytune.space.parameters import Parameters
from xraytune.space.settings import Settings
from xraytune.space.source_settings import FolderSettings


@pytest.fixture(scope="module")
def phantoms(module_path: Path) -> Path:
    folder = module_path / "xrays"
    paint_phantoms(folder, patients=60, seed=4, image_size_px=32)
    return folder


class Lab:
    """Phantoms with a test folder, prepared as a search does."""

    def __init__(self, folder: Path, phantoms: Path) -> None:
        self.xrays = shutil.copytree(phantoms, folder / "xrays")
        self.cache = folder / "cache"
        data = DataSettings(
            path=self.xrays, image_size=32, split=SplitSettings(val_a=0.2, val_b=0.2)
        )
        self.settings = Settings(name="any", data=data)

    def prepared(self) -> SplitData:
        return prepare(self.settings, self.cache)[0]

    def sealed(
        self,
        test: Path | None = None,
        *,
        prepared: SplitData | None = None,
        extra: Path | None = None,
    ) -> SealedTest:
        """The images that a confirmation of a finalist with these extra images scores."""
        prepared, compared = prepared or self.prepared(), list[Parameters]()
        if extra:
            compared.append(Parameters(source="folder", folder=FolderSettings(path=extra)))
        given = read_labelled(test, prepared.class_names) if test else None
        return choose_test(self.settings, prepared, replicates=2, mixes=compared, test=given)


@pytest.fixture
def lab(tmp_path: Path, phantoms: Path) -> Lab:
    return Lab(tmp_path, phantoms)


def test_other_patients_of_the_test_images_are_refused(lab: Lab) -> None:
    """Intervals are over patients. The names themselves, and those of files, do not matter."""
    write_table(lab.xrays)
    prepared, first, second = lab.prepared(), *pneumonia(lab.xrays / "test")[:2]

    write_table(lab.xrays, **{first.stem: "anna"})
    lab.sealed(prepared=prepared)
    write_table(lab.xrays, **{first.stem: "anna", second.stem: "anna"})
    with pytest.raises(StudyError, match="the test folder, or its grouping by patient, changed"):
        lab.sealed(prepared=prepared)


def pneumonia(root: Path) -> list[Path]:
    return sorted((root / "PNEUMONIA").iterdir())


def write_table(root: Path, **patients: str) -> None:
    """Write `patients.csv` with patients by file stem; every other file is its own patient."""
    files = sorted(path for path in root.rglob("*.jpeg") if "masks" not in path.parts)
    lines = [
        f"{file.relative_to(root).as_posix()},{patients.get(file.stem, file.stem)}\n"
        for file in files
    ]
    (root / "patients.csv").write_text("file,patient\n" + "".join(lines))


@pytest.mark.parametrize(("by", "is_own"), [("patient", True), ("file", False)])
def test_patients_of_a_folder_of_extra_images_are_named(
    lab: Lab, tmp_path: Path, by: str, is_own: bool
) -> None:
    """For the study's own test folder and another, by the patient's name and by content."""
    test = lab.xrays / "test"
    given = None
    if not is_own:
        test = given = Path(shutil.move(test, tmp_path / "other"))
    prepared = lab.prepared()
    known = pneumonia(test)[0]
    stranger = next(path for path in pneumonia(lab.xrays / "train"))
    extra = tmp_path / "extra"
    (extra / "PNEUMONIA").mkdir(parents=True)
    source, name = (stranger, known.name) if by == "patient" else (known, "synthetic1.jpeg")
    shutil.copy(source, extra / "PNEUMONIA" / name)

    fix = (
        f"start a new search without them in {extra}"
        if is_own
        else "remove them, or list them in patients.csv there as other patients"
    )
    with pytest.raises(
        DataError, match=f"used for training or validation: .*{known.name}.*\n.*fix: {fix}[:;] "
    ):
        lab.sealed(given, prepared=prepared, extra=extra)


def test_a_processed_copy_is_recognised_by_file_name_if_the_study_has_a_patient_table(
    lab: Lab, tmp_path: Path
) -> None:
    other = Path(shutil.move(lab.xrays / "test", tmp_path / "other"))
    ours = pneumonia(lab.xrays / "train")[0].rename(lab.xrays / "train/PNEUMONIA/img1.jpeg")
    write_table(lab.xrays)
    (other / "PNEUMONIA/img1.jpeg").write_bytes(ours.read_bytes() + b"processed")

    with pytest.raises(
        DataError,
        match=r"1 test .* name or content of patients used for training .*: PNEUMONIA/img1\.jpeg",
    ):
        lab.sealed(other)
