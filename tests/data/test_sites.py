"""The hospitals of a data folder: recognised by folders, or named by a table, header or path."""

from collections import Counter
from pathlib import Path
from typing import Any

import pytest

from tests.data.conftest import DataFolder, labels_of, paths
from tests.data.image_files import dicom, ramp
from tests.in_process import said
from xraytune.base.errors import ConfigError
from xraytune.data.columns import subgroup_columns
from xraytune.data.images import ImageIndex
from xraytune.data.index import read_labelled
from xraytune.data.prepare import read_prepared, write_prepared

ONLY_NUMBERS = "{1,2,3}.png"


def sites_of(index: ImageIndex) -> dict[str, int]:
    """The number of images of each site."""
    return dict(Counter(image.site for image in index.all_images))


@pytest.mark.parametrize(
    ("classes", "folders", "names"),
    [
        ("binary", "{NORMAL,PNEUMONIA}", ("NORMAL", "PNEUMONIA")),
        ("auto", "{NORMAL,PNEUMONIA}", ("NORMAL", "PNEUMONIA")),
        ("auto", "{covid,Normal,tb}", ("Normal", "covid", "tb")),
        ("three", "{normal,BACTERIA,virus}", ("normal", "bacterial", "viral")),
    ],
)
@pytest.mark.parametrize("parts", ["", "{train,test}/"])
def test_outer_folders_with_the_same_class_folders_are_sites(
    xrays: DataFolder, classes: Any, folders: str, names: Any, parts: str
) -> None:
    xrays.images(f"{parts}{{a,b,c}}/{folders}/{ONLY_NUMBERS}")

    index = xrays.index(classes=classes)

    count = len(index.all_images)
    assert index.class_names == names
    assert labels_of(index) == dict.fromkeys(range(len(names)), 9)
    assert sites_of(index) == dict.fromkeys("abc", count // 3)
    assert not [note for note in index.warnings if "class" in note]


@pytest.mark.parametrize(
    ("classes", "files"),
    [
        ("binary", f"{{a,b}}/NORMAL/{ONLY_NUMBERS} a/PNEUMONIA/{ONLY_NUMBERS}"),
        ("binary", f"a/{{NORMAL,PNEUMONIA}}/{ONLY_NUMBERS}"),
        ("binary", f"{{NORMAL,PNEUMONIA}}/{{a,b}}/{ONLY_NUMBERS}"),
        ("auto", f"{{normal,tb}}/{{paris,rome}}/{ONLY_NUMBERS}"),
        ("auto", f"{{clear,tb}}/{{0,1}}/{ONLY_NUMBERS}"),
        ("auto", f"{{fold_0,fold_1}}/{{normal,tb}}/{ONLY_NUMBERS}"),
    ],
)
def test_other_folders_are_no_sites(xrays: DataFolder, classes: Any, files: str) -> None:
    """Where a class is missing in one of them, they may be anything."""
    xrays.images(files)

    assert sites_of(xrays.index(classes=classes)).keys() == {""}


def test_it_must_be_said_which_folders_are_sites_if_no_name_tells(xrays: DataFolder) -> None:
    xrays.images(f"{{paris,rome}}/{{covid,tb}}/{ONLY_NUMBERS}")
    refusal = xrays.refusal(classes="auto")
    assert "would be classes" in refusal
    assert "fix: give data.split.site: folder" in refusal
    xrays.images("oslo/tb/9.png")
    index = xrays.index(classes="auto", positive="tb", split={"site": "folder"})

    assert index.class_names == ("covid", "tb")
    assert sites_of(index) == {"oslo": 1, "paris": 6, "rome": 6}


def test_folders_are_sites_where_a_table_gives_the_classes(xrays: DataFolder) -> None:
    files = paths("{paris,rome}/{1,2,3,4}.png")
    xrays.images(files)
    rows = [f"{file},{name}" for file, name in zip(files, ["covid", "tb"] * 4, strict=True)]
    xrays.table("file,disease", *rows, name="labels.csv")

    index = xrays.index(
        positive="tb",
        table={"file": "labels.csv", "image": "file", "label": "disease"},
        split={"site": "folder"},
    )

    assert index.class_names == ("covid", "tb")
    assert sites_of(index) == {"paris": 4, "rome": 4}


def test_inspect_names_sites_and_classes_and_a_study_records_the_sites(
    xrays: DataFolder, tmp_path: Path
) -> None:
    xrays.images("{a,b,c}/{NORMAL,PNEUMONIA}/{1,2,3,4,5,6}.png")

    inspected = said("data", "inspect", xrays)
    prepared, notes = xrays.prepared()
    write_prepared(prepared, tmp_path / "split.json")
    recorded = read_prepared(tmp_path / "split.json")

    assert inspected["parts"][0] == notes[0] == "3 sites: a, b, c; 2 classes"
    assert {image.site == image.file[0] for image in recorded.images} == {True}
    labelled = read_labelled(xrays, ("NORMAL", "PNEUMONIA"))
    by_site = subgroup_columns(labelled.images, ["site"], xrays)["site"]
    assert by_site == {image.file: image.file[0] for image in labelled.images}


def test_a_column_or_an_expression_gives_the_site(xrays: DataFolder) -> None:
    files = paths("{NORMAL,PNEUMONIA}/{x,y}_{1,2,3}.png")
    xrays.images(files)

    def write(first: str, second: str) -> None:
        units = (first, second) * 6
        rows = [f"{file},{file},{unit}" for file, unit in zip(files, units, strict=True)]
        xrays.table("file,patient,unit", *rows)

    def refusal(site: str) -> str:
        return xrays.refusal(split={"site": site})

    by_path = xrays.index(split={"site": "([xy])_"})
    assert sites_of(by_path) == {"x": 6, "y": 6}
    write("", "w2")
    assert "6 images have no site (data.split.site): NORMAL/x_1" in refusal("unit")
    write("w1", "w2")
    assert sites_of(xrays.index(split={"site": "unit"})) == {"w1": 6, "w2": 6}
    data_file = xrays / "data.yaml"
    data_file.write_text("data: {split: {site: unit, group_regex: (.)}}")
    labelled = read_labelled(data_file, ("NORMAL", "PNEUMONIA"))
    assert {*labelled.images.sites} == {"w1", "w2"}
    assert len({*labelled.images.patients}) == 12
    assert "12 images have no site" in refusal("ward")
    assert "12 images have no site" in refusal("([z])_")
    with pytest.raises(ConfigError, match=r"data[.]split[.]site: not a regular"):
        xrays.index(split={"site": "(x"})


def test_a_dicom_header_gives_the_site_and_subgroups(xrays: DataFolder) -> None:
    for number in range(12):
        content = dicom(
            ramp(number, 4095),
            PatientID=f"p{number}",
            InstitutionName="AB"[number // 6],
            PatientSex="FM"[number % 2],
        )
        xrays.write(f"{('NORMAL', 'PNEUMONIA')[number % 2]}/{number}.dcm", content)

    index = xrays.index(split={"site": "InstitutionName"})

    assert sites_of(index) == {"A": 6, "B": 6}
    sexes = subgroup_columns(index.images, ["PatientSex"], xrays)["PatientSex"]
    assert Counter(sexes.values()) == {"F": 6, "M": 6}
    assert sites_of(xrays.index()) == {"": 12}
    with pytest.raises(ConfigError, match="0 different values"):
        subgroup_columns(index.images, ["StationName"], xrays)


def test_a_patient_of_two_sites_is_refused_where_sites_are_asked_for(xrays: DataFolder) -> None:
    """Two hospitals may both count from 1."""
    xrays.images("{a,b}/{NORMAL,PNEUMONIA}/p{1,2,3,4}.png")
    split = {"site": "folder", "group_regex": "(.+)[.]png"}
    same = {"group_regex": "[ab]/(.+)[.]png"}

    assert sites_of(xrays.index(split=split)) == {"a": 8, "b": 8}
    refusal = xrays.refusal(split=split | same)
    assert "images of several sites: NORMAL/p1 (a" in refusal
    assert len({*xrays.index(split=same).images.patients}) == 8
