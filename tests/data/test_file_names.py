"""Patients in the file names of public sets, and the expression that is proposed for others."""

import re
from pathlib import Path

import pytest

from tests.data.conftest import DataFolder, paths
from xraytune.base.files import read_json, with_checksum, without_checksum, write_json
from xraytune.base.records import ignore_progress
from xraytune.confirm.sealed import read_unchanged
from xraytune.data.file_names import (
    OLDEST_SETS,
    PATTERNS,
    SETS,
    NamePattern,
    class_in_name,
    patient_of,
    propose_patients,
)
from xraytune.data.index import read_index
from xraytune.data.patients import match_patients
from xraytune.data.prepare import prepare, prepare_index, read_prepared, write_prepared
from xraytune.space.data_settings import DataSettings
from xraytune.space.settings import Settings

SHARED = Path(__file__).parents[3] / "shared/data"
COPIES = (
    "{}_jpeg.rf.0a1b2c3d",
    "{}_aug_3",
    "{} copy (2)",
    "{} - Copy",
    "{}(1)",
    "{}_0_4821",
    "{}-flipped",
)
"""How Roboflow, augmentors, browsers and file managers name copies."""


@pytest.mark.parametrize("pattern", PATTERNS, ids=lambda pattern: pattern.example)
def test_each_public_set_has_an_example(pattern: NamePattern) -> None:
    folder, slash, name = pattern.example.rpartition("/")
    stem, dot, suffix = name.partition(".")

    assert patient_of(pattern.example) == pattern.patient
    assert patient_of(f"train/NORMAL/{pattern.example}") == pattern.patient
    for copy in COPIES:
        copied = f"{folder}{slash}{copy.format(stem)}{dot}{suffix}"
        assert patient_of(copied) == pattern.patient, copied


OTHER_NAMES = """
    train/PNEUMONIA/person447_virus_921_1.jpeg -> virus:447
    IM-0115-0001-0002.jpeg -> IM:0115
    BACTERIA-1008087-0002.jpeg -> BACTERIA:1008087
    NORMAL_original_IM-0115-0001.jpeg_0a1b2c3d-4e5f.jpeg -> IM:0115
    patient00001_study1_view1_frontal.jpg -> chexpert:00001
    sub-01_ses-1.png -> bids:01
    sub-01/ses-1/xray.png -> bids:01
    a.png -> None
    person12.jpeg -> None
    xIM-0115-0001.jpeg -> None
    person1_fungus_2.jpeg -> None
    IM-1.jpeg -> None
    20240131_001.png -> None
    abandoned_patient00001.png -> None
"""


@pytest.mark.parametrize("case", OTHER_NAMES.strip().splitlines())
def test_other_names_of_these_sets_and_of_others(case: str) -> None:
    """A date and a number look like a patient of NIH and a visit."""
    file, _, patient = case.strip().partition(" -> ")

    assert str(patient_of(file)) == patient


def test_only_kermany_names_state_a_class() -> None:
    assert class_in_name("IM-0115-0001.jpeg") == "normal"
    assert class_in_name("person1_virus_2.jpeg") == "viral"
    assert class_in_name("00001280_004.png") is None


@pytest.mark.parametrize(
    ("files", "group_regex", "patient_count"),
    [
        ("{NORMAL,TB}/{1,2,3}{4,5}_{1,2}.png", "((?:.+/)?[^_/]+)_[^/]*$", 12),
        ("{NORMAL,TB}_{1,2,3}{4,5}_{1,2}.png", "([^_/]+_[^_/]+)_[^/]*$", 12),
        ("TB/p{1,2,3}{4,5}/{a,b,c}_1.png", "([^/]+)/[^/]+$", 6),
        ("scan{1,2,3}{4,5}_jpg.rf.{0a,1b,2c}.jpg", r"([^_./]+)[_.][^/]*$", 6),
        ("{NORMAL,TB}/scan{1,2,3}{4,5}.png", None, 0),
        ("COVID-{1,2,3}{4,5,6}.png", None, 0),
        ("batch{1,2}_{1,2,3}{4,5}{6,7,8}.png", None, 0),
        ("{a,b,c}{d,e,f}_{1,2,3}.png", None, 0),
    ],
)
def test_names_that_begin_alike_propose_an_expression(
    files: str, group_regex: str | None, patient_count: int
) -> None:
    """It is ready to paste: it gives as many patients as the note says."""
    names = paths(files)

    proposal = propose_patients(names)

    assert (proposal and proposal.group_regex) == group_regex
    if proposal:
        patients = match_patients(proposal.group_regex, names)
        assert patients.keys() == {*names}
        assert len({*patients.values()}) == proposal.patient_count == patient_count


def test_a_note_on_names_is_one_line_with_the_expression(xrays: DataFolder) -> None:
    xrays.images("{NORMAL,PNEUMONIA}/{1,2,3,4}{5,6}_{a,b}.png")

    (note,) = xrays.index().warnings
    proposed = re.search("--group-regex '(.+)' would make 16 patients", note)

    assert proposed
    patients = xrays.index(split={"group_regex": proposed[1]}).images.patients
    assert len({*patients}) == 16


def test_a_set_whose_names_are_of_studies_or_images_is_noted(xrays: DataFolder) -> None:
    study = "2168401113669640127680255099420101520980"
    xrays.images(f"NORMAL/{study}{{10,11,12}}_00-097-{{088,089}}.png")
    xrays.images(f"PNEUMONIA/{{a,b,c}}{'0' * 31}.png")

    index = xrays.index()

    assert len({*index.images.patients}) == 6
    assert "each study or image counts as one" in index.warnings[0]


def test_a_study_keeps_the_patients_that_it_was_recorded_with(
    xrays: DataFolder, tmp_path: Path
) -> None:
    """It began when NIH's names were not known, so that each image was a patient."""
    for part in ("train", "test"):
        number = 1 + (part == "test")
        xrays.images(
            f"{part}/NORMAL/0000{number}{{123,456,789}}_00{{1,2}}.png "
            f"{part}/PNEUMONIA/0000{number}{{321,654,987}}_00{{1,2}}.png"
        )
    settings = Settings.model_validate({"name": "any", "data": xrays.settings(image_size=32)})
    began = read_index(settings.data, name_sets=OLDEST_SETS)
    prepared, _ = prepare_index(began, settings.data, tmp_path / "cache")
    record = tmp_path / "split.json"
    write_prepared(prepared, record)
    content = without_checksum(read_json(record))
    del content["name_sets"]
    write_json(record, with_checksum(content))

    recorded = read_prepared(record)
    index = read_unchanged(settings, recorded, ignore_progress)

    assert recorded == prepared
    assert len({*index.images.patients}) == len({*index.test.patients}) == 12
    known, _ = prepare(settings, tmp_path / "cache")
    assert len({image.patient for image in known.images}) == 6
    assert known.name_sets == SETS


@pytest.mark.skipif(not SHARED.exists(), reason="shared/data is not beside the clone")
@pytest.mark.parametrize(
    ("folder", "images", "patients"), [("nih", 732, 496), ("sakha_tb", 347, 347)]
)
def test_real_sets_have_their_patients_without_an_option(
    folder: str, images: int, patients: int
) -> None:
    index = read_index(DataSettings(path=SHARED / folder, classes="auto"))

    assert len(index.images) == images
    assert len({*index.images.patients}) == patients
