"""The hospitals of a data folder: recognised by folders, or named by a table, header or path."""

from collections import Counter
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from tests.data.conftest import WriteImages
from tests.data.test_dicom import dicom, index_of
from tests.data.test_index import labels_of, paths
from tests.in_process import said
from xraytune.base.errors import ConfigError, DataError
from xraytune.data.images import ImageIndex
from xraytune.data.index import read_index, read_labelled
from xraytune.data.prepare import prepare, read_prepared, write_prepared
from xraytune.data.table import subgroup_columns
from xraytune.space.settings import DataSettings, Settings

ONLY_NUMBERS = "{1,2,3}.png"


def read(root: Path, classes: Any = "binary", site: str | None = None, **data: Any) -> ImageIndex:
    split = {"site": site, **data.pop("split", {})}
    settings = {"path": root, "classes": classes, "split": split, **data}
    return read_index(DataSettings.model_validate(settings))


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
    tmp_path: Path, write: WriteImages, classes: Any, folders: str, names: Any, parts: str
) -> None:
    write(tmp_path, paths(f"{parts}{{a,b,c}}/{folders}/{ONLY_NUMBERS}"))

    index = read(tmp_path, classes)

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
    ],
)
def test_other_folders_are_no_sites(
    tmp_path: Path, write: WriteImages, classes: Any, files: str
) -> None:
    """Where a class is missing in one of them, they may be anything."""
    write(tmp_path, paths(files))

    assert sites_of(read(tmp_path, classes)).keys() == {""}


def test_it_must_be_said_which_folders_are_sites_if_no_name_tells(
    tmp_path: Path, write: WriteImages
) -> None:
    write(tmp_path, paths(f"{{paris,rome}}/{{covid,tb}}/{ONLY_NUMBERS}"))
    with pytest.raises(DataError, match=r"(?s)would be classes.*fix: give data.split.site: folder"):
        read(tmp_path, "auto")
    write(tmp_path, ["oslo/tb/9.png"])
    index = read(tmp_path, "auto", "folder", positive="tb")

    assert index.class_names == ("covid", "tb")
    assert sites_of(index) == {"oslo": 1, "paris": 6, "rome": 6}


def test_inspect_names_sites_and_classes_and_a_study_records_the_sites(
    tmp_path: Path, write: WriteImages
) -> None:
    root = tmp_path / "xrays"
    write(root, paths("{a,b,c}/{NORMAL,PNEUMONIA}/{1,2,3,4,5,6}.png"))
    settings = Settings.model_validate({"name": "study", "data": {"path": root, "image_size": 32}})

    inspected = said("data", "inspect", root)
    prepared, notes = prepare(settings, tmp_path / "cache")
    write_prepared(prepared, tmp_path / "split.json")
    recorded = read_prepared(tmp_path / "split.json")

    assert inspected["parts"][0] == "3 sites: a, b, c; 2 classes"
    assert notes[0] == "3 sites: a, b, c; 2 classes"
    assert {image.site == image.file[0] for image in recorded.images} == {True}
    labelled = read_labelled(root, ("NORMAL", "PNEUMONIA"))
    by_site = subgroup_columns(labelled.images, ["site"], root)["site"]
    assert by_site == {image.file: image.file[0] for image in labelled.images}


def test_a_column_or_an_expression_gives_the_site(tmp_path: Path, write: WriteImages) -> None:
    files = paths("{NORMAL,PNEUMONIA}/{x,y}_{1,2,3}.png")
    write(tmp_path, files)
    rows = [f"{file},p{number},{'ward' * (number % 2)}" for number, file in enumerate(files)]

    by_path = read(tmp_path, site="([xy])_")
    table = "\n".join(["file,patient,unit", *(row.replace(",ward", ",w2") for row in rows)])
    (tmp_path / "patients.csv").write_text(table, "utf-8")

    assert sites_of(by_path) == {"x": 6, "y": 6}
    with pytest.raises(DataError, match=r"6 images have no site \(data.split.site\): NORMAL/x_1"):
        read(tmp_path, site="unit")
    (tmp_path / "patients.csv").write_text(table.replace(",\n", ",w1\n"), "utf-8")
    assert sites_of(read(tmp_path, site="unit")) == {"w1": 6, "w2": 6}
    for wrong in ("ward", "([z])_"):
        with pytest.raises(DataError, match="12 images have no site"):
            read(tmp_path, site=wrong)
    with pytest.raises(ConfigError, match=r"data[.]split[.]site: not a regular"):
        read(tmp_path, site="(x")


def test_a_dicom_header_gives_the_site_and_subgroups(tmp_path: Path) -> None:
    for number in range(12):
        file = tmp_path / ("NORMAL", "PNEUMONIA")[number % 2] / f"{number}.dcm"
        file.parent.mkdir(exist_ok=True)
        header: dict[str, Any] = {
            "InstitutionName": "AB"[number // 6],
            "PatientSex": "FM"[number % 2],
        }
        levels = np.arange(64, dtype=np.uint16).reshape(8, 8) + number
        file.write_bytes(dicom(levels, 12, PatientID=f"p{number}", **header))

    index = read(tmp_path, site="InstitutionName")

    assert sites_of(index) == {"A": 6, "B": 6}
    sexes = subgroup_columns(index.images, ["PatientSex"], tmp_path)["PatientSex"]
    assert Counter(sexes.values()) == {"F": 6, "M": 6}
    assert sites_of(index_of(tmp_path)) == {"": 12}
    with pytest.raises(ConfigError, match="these images have 0 different values of it"):
        subgroup_columns(index.images, ["StationName"], tmp_path)


def test_a_patient_of_two_sites_is_refused_where_sites_are_asked_for(
    tmp_path: Path, write: WriteImages
) -> None:
    """Two hospitals may both count from 1."""
    write(tmp_path, paths("{a,b}/{NORMAL,PNEUMONIA}/p{1,2,3,4}.png"))
    split = {"group_regex": "(.+)[.]png"}
    same = {"group_regex": "[ab]/(.+)[.]png"}

    assert sites_of(read(tmp_path, site="folder", split=split)) == {"a": 8, "b": 8}
    with pytest.raises(DataError, match=r"8 patients have images of several sites: NORMAL/p1 \(a"):
        read(tmp_path, site="folder", split=same)
    assert len({image.patient for image in read(tmp_path, split=same).images}) == 8
