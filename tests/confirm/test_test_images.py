"""The sealed test folder is checked by names and hashes, and opened once."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest

from xraytune.config.settings import DataSettings, Settings, SplitSettings
from xraytune.confirm.test_images import find_test, open_test
from xraytune.data.phantom import draw_phantoms
from xraytune.errors import DataError, StudyError, XraytuneError
from xraytune.pipeline.prepare import Prepared, prepare

pytestmark = pytest.mark.slow


class Lab:
    """Phantoms with a test folder, prepared as a search does."""

    def __init__(self, folder: Path) -> None:
        self.xrays, self.cache = folder / "xrays", folder / "cache"
        draw_phantoms(self.xrays, patients=60, seed=4, image_size_px=32)
        self.data = DataSettings(path=self.xrays, image_size=32, split=SplitSettings(val_a=0.2, val_b=0.2))

    def prepared(self) -> Prepared:
        return prepare(Settings(name="any", data=self.data), self.cache)[0]


@pytest.fixture
def lab(tmp_path: Path) -> Lab:
    return Lab(tmp_path)


def test_the_studys_own_test_folder_is_found_and_opened(lab: Lab) -> None:
    prepared = lab.prepared()

    sealed = find_test(lab.data, prepared, None)
    group = open_test(sealed, prepared, lab.cache)

    assert sealed.fingerprint == prepared.test_fingerprint
    assert group.labels.tolist() == [image.label for image in sealed.images]
    assert group.pixels.shape == (len(sealed.images), 32, 32)
    assert not {image.patient for image in sealed.images} & {image.patient for image in prepared.images}


def test_a_test_folder_that_changed_is_refused(lab: Lab) -> None:
    prepared = lab.prepared()
    next((lab.xrays / "test" / "NORMAL").iterdir()).unlink()

    with pytest.raises(StudyError, match="the test folder changed since the search"):
        find_test(lab.data, prepared, None)


def test_training_images_that_changed_are_refused(lab: Lab) -> None:
    prepared = lab.prepared()
    image = lab.xrays / prepared.images[0].file
    shutil.copy(lab.xrays / prepared.images[-1].file, image)

    with pytest.raises(XraytuneError, match="1 images changed or are gone since the search"):
        find_test(lab.data, prepared, None)


def test_without_a_test_folder_another_one_is_asked_for_and_taken(lab: Lab, tmp_path: Path) -> None:
    shutil.move(lab.xrays / "test", tmp_path / "elsewhere")
    prepared = lab.prepared()

    with pytest.raises(DataError, match=r"there is no test/ folder to confirm on\n.*--test DIR"):
        find_test(lab.data, prepared, None)
    sealed = find_test(lab.data, prepared, tmp_path / "elsewhere")

    assert len(sealed.images) > 10


def test_another_test_folder_beside_the_sealed_one_is_refused(lab: Lab) -> None:
    with pytest.raises(StudyError, match="the study has a sealed test folder of its own"):
        find_test(lab.data, lab.prepared(), lab.xrays / "test")


def test_patients_who_were_trained_on_are_named(lab: Lab, tmp_path: Path) -> None:
    shutil.rmtree(lab.xrays / "test")
    prepared = lab.prepared()
    known = prepared.images[0].file
    for name in ("NORMAL", "PNEUMONIA"):
        (tmp_path / "other" / name).mkdir(parents=True)
    shutil.copy(lab.xrays / known, tmp_path / "other" / Path(*Path(known).parts[-2:]))

    with pytest.raises(DataError, match=f"trained or validated on: .*{Path(known).name}"):
        find_test(lab.data, prepared, tmp_path / "other")


def test_too_few_patients_in_a_class_are_refused(lab: Lab) -> None:
    files = sorted((lab.xrays / "test" / "NORMAL").iterdir())
    for file in files[1:]:
        file.unlink()
    prepared = lab.prepared()

    with pytest.raises(DataError, match="class NORMAL has 1 patients in the test folder; an interval needs 5 or more"):
        find_test(lab.data, prepared, None)
