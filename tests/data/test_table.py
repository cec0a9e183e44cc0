"""Tables of labels: which row belongs to which image, and what it gives the image."""

from collections import Counter
from collections.abc import Iterable
from pathlib import Path
from typing import Any
from unicodedata import normalize

import pytest
import yaml

from tests.data.conftest import DataFolder, paths
from xraytune.base.errors import ConfigError, DataError
from xraytune.data.columns import subgroup_columns
from xraytune.data.images import ImageIndex
from xraytune.data.sides import sizes_of_index
from xraytune.data.table import match_names
from xraytune.space.data_settings import DataSettings

FILES = tuple(f"images/{kind}{number}.png" for kind in "ab" for number in range(4))


class Labelled(DataFolder):
    """Images with `labels.csv`, whose classes are found."""

    def rows(self, rows: Iterable[Iterable[str]], header: str = "image,patient,finding") -> None:
        self.table(header, *map(",".join, rows), name="labels.csv")

    def column(self, name: str, cells: Iterable[str]) -> None:
        """Write the table again, with a further column."""
        rows = zip(FILES, FILES, map(class_of, FILES), cells, strict=True)
        self.rows(rows, f"image,patient,finding,{name}")

    @property
    def csv(self) -> str:
        return (self / "labels.csv").read_text("utf-8")

    @csv.setter
    def csv(self, text: str) -> None:
        (self / "labels.csv").write_text(text, "utf-8")

    def settings(self, classes: str = "auto", **table: Any) -> DataSettings:
        columns = {"file": "labels.csv", "image": "image", "patient": "patient", "label": "finding"}
        columns = {key: value for key, value in (columns | table).items() if value is not None}
        return super().settings(classes=classes, table=columns)


@pytest.fixture
def labelled(xrays: DataFolder) -> Labelled:
    """Images a0 to a3 are ill, b0 to b3 healthy."""
    folder = Labelled(xrays)
    folder.images(FILES)
    folder.rows((Path(file).name, f"p{file[7:9]}", class_of(file)) for file in FILES)
    return folder


def class_of(file: str) -> str:
    return "ill" if Path(file).name.startswith("a") else "well"


def classes_in(index: ImageIndex) -> dict[str, str]:
    return {Path(image.file).stem: index.class_names[image.label] for image in index.all_images}


@pytest.mark.parametrize("suffix", [".png", ".jpg", ""])
@pytest.mark.parametrize(
    "start",
    ["", *r"set/train/p1/ train/p1/ ./train//p1/ p1/ train\p1\ D:\data\set\train\p1\ ".split()],
)
def test_row_names_image_by_path_end_of_path_or_name(start: str, suffix: str) -> None:
    name = f"{start}a{suffix}"
    files = ["train/p1/a.png", "train/p1/b.png"]

    assert match_names([name], files, Path()) == {"train/p1/a.png": name}
    for other in "c.png p2/a.png train/p2/a.png xa.png a.png/x".split():
        assert match_names([other], files, Path()) == {}
    assert match_names(["a.png", "a.jpg"], ["x/a.jpg", "x/a.png"], Path()) == {
        "x/a.png": "a.png",
        "x/a.jpg": "a.jpg",
    }


ILL_WELL = {"Ill": "ill", "Well": "well"}
SAME = {"ill": "ill", "well": "well"}
CELLS: dict[str, tuple[Any, ...]] = {
    "cells": (
        "ill; ill; ill; ill; well; well; well; well",
        {},
        "ill ill ill ill well well well well",
    ),
    "the first entry that applies decides": (
        "Mass|Pneumonia; Pneumonia|Mass; Mass; Pneumonia; Edema|Pneumonia; Edema; None; None",
        {"Mass": "mass", "None": "well", "*": "lungs"},
        "mass mass mass lungs lungs lungs well well",
    ),
    "lists, as in PadChest": (
        "['pneumonia']; ['mass', 'pneumonia']; [' pneumonia']; ['mass', 'edema']; "
        "['normal']; ['normal']; ['normal']; []",
        {"pneumonia": "ill", "normal": "well"},
        "ill ill ill - well well well -",
        "images without a class or a known finding: 2 (edema 1, mass 1)",
    ),
    "columns": (
        "1,; Positive,0; true,; -1.0,; Negative,Y; 0,1.0; x,Present; ,0",
        ILL_WELL,
        "ill ill ill - well well well -",
        "labels.csv: cells that say neither yes nor no are no label (x 1)",
    ),
    "commas between labels": (
        "ill, sick; sick; Ill; ill; well; nan; unknown; well",
        SAME,
        "ill - ill ill well - - well",
        "labels.csv: reads ',' between labels (data.table.separator)",
    ),
    "decimal commas": (
        '"1,0",; WAHR,FALSCH; "1,00",; ,; ,"1,0"; "0,0",1; ,1; ,1',
        ILL_WELL,
        "ill ill ill - well well well well",
    ),
}


@pytest.mark.parametrize("name", CELLS)
def test_cells_or_columns_give_the_classes(labelled: Labelled, name: str) -> None:
    cells, labels, expected, *warnings = CELLS[name]
    columns = labels == ILL_WELL
    labelled.rows(
        (
            (Path(file).stem, file, cell if columns else f'"{cell}"')
            for file, cell in zip(FILES, cells.split("; "), strict=True)
        ),
        f"image,patient,{'Ill,Well' if columns else 'finding'}",
    )

    index = labelled.index(label=None if columns else "finding", labels=labels)

    assert [classes_in(index).get(Path(file).stem, "-") for file in FILES] == expected.split()
    assert {*index.images.patients} <= {*FILES}
    assert all(warning in " ".join(index.warnings) for warning in warnings)


def test_a_label_inside_another_is_no_case_for_the_rest(labelled: Labelled) -> None:
    """Such as `ARDS COVID-19`, if `"*"` is the class of images without COVID-19."""
    cells = "Mass; small mass; Edema; Edema; Well; Well; Massive; Well"
    labelled.rows(zip(FILES, FILES, cells.split("; "), strict=True))

    message = labelled.refusal(labels={"Mass": "ill", "*": "well"})
    index = labelled.index(labels={"Mass": "ill", "small mass": "ill", "*": "well"})

    assert message.count("fix:") == 1
    assert "'small mass' has the label 'Mass' in it" in message
    assert [*classes_in(index).values()] == ["ill", "ill", *["well"] * 6]


def test_a_header_may_have_more_commas_than_separators(labelled: Labelled) -> None:
    columns: dict[str, Any] = {
        "image": "file, below images",
        "label": "class, by a radiologist",
    }
    rows = (f"{Path(file).name};{class_of(file)}" for file in FILES)
    labelled.csv = "\n".join([";".join(columns.values()), *rows])

    index = labelled.index(**columns, patient=None)

    assert index.class_names == ("ill", "well")


READERS = ("1,0 0,1 0,1", "1,0 1,0 0,1", "1,0 0,0 0,0", "1,0 , ,", "0,1 0,1")
"""What readers say about a0 to a3 and b0: whether it is ill, and whether it is well."""


@pytest.mark.parametrize("labels", [ILL_WELL, {"Well": "well", "Ill": "ill"}])
def test_disagreeing_rows_are_counted_and_settled(
    labelled: Labelled, labels: dict[str, str]
) -> None:
    """A reader who says no to all labels disagrees with one who says yes; an empty row does not."""
    cells_of = dict(zip(FILES, READERS, strict=False))
    rows = [(file, file, cell) for file, cells in cells_of.items() for cell in cells.split()]
    labelled.rows(rows, "image,patient,Ill,Well")

    index = labelled.index(label=None, labels=labels)

    first = next(iter(labels.values()))
    classes = [classes_in(index)[Path(file).stem] for file in cells_of]
    assert classes == [first, first, "ill", "ill", "well"]
    (note,) = (warning for warning in index.warnings if "disagree" in warning)
    assert "3 of 5 images disagree, such as those of images/a0.png" in note


def test_disagreeing_cells_are_refused(labelled: Labelled) -> None:
    """Two versions of a table of classes."""
    labelled.table(labelled.csv.replace("pa0,ill", "pa0,well"), name="v2.csv")

    message = labelled.refusal(file=["labels.csv", "v2.csv"])

    assert "a0.png has several classes" in message


@pytest.mark.parametrize(
    ("column", "cells", "count"),
    [
        ("view", "PA; L; AP Supine; Lateral", 4),
        ("ViewPosition", "PA; LL; AP; LATERAL", 4),
        ("modality", "X-ray; CT; X-ray; CT", 4),
        ("Frontal/Lateral", "Frontal; Lateral; Frontal; Lateral", 4),
        ("reviewer", "L; CT; RL; AB", 0),
        ("Bilateral_Opacities", "1; L; 0; L", 0),
    ],
)
def test_lateral_views_are_noted(labelled: Labelled, column: str, cells: str, count: int) -> None:
    labelled.column(column, cells.split("; ") * 2)

    notes = " ".join(labelled.index().warnings)

    assert (f"{count} of 8 images are lateral" in notes) == (count > 0)
    assert ("lateral views" in notes) == (count > 0)


def test_a_side_column_has_synonyms_and_agrees_for_an_image(labelled: Labelled) -> None:
    labelled.column("fold", ["train", "Training", "valid", "test"] * 2)

    index = labelled.index(side="fold")

    parts = [image.part for image in index.all_images]
    assert parts == ["train", "train", "val", "test"] * 2
    labelled.csv += f"{FILES[0]},{FILES[0]},ill,test\n"
    assert f"the side of {FILES[0]} is 'test'" in labelled.refusal(side="fold")


def test_sides_by_lists(labelled: Labelled) -> None:
    labelled.table("a3.png", "", "b3.png", "not_downloaded.png", name="held.txt")
    labelled.table(*"a0 a1 a2 b0 b1 b2".split(), name="train.txt")
    labelled.csv += "not_downloaded.png,p9,ill\n"
    rest = labelled.index(side={"test": "held.txt"})
    listed = labelled.index(side={"train": "train.txt"})
    labelled.table("a2", "a3", name="test.txt")

    assert (len(rest.images), len(rest.test)) == (6, 2)
    assert (len(listed.images), listed.test) == (6, ())
    assert "in no list of data.table.side: 2" in listed.warnings[0]
    message = labelled.refusal(side={"train": "train.txt", "test": "test.txt"})
    assert "in another list: images/a2.png" in message
    labelled.table("a3.png 1", name="test.txt")
    message = labelled.refusal(side={"test": "test.txt"})
    assert "name no image of the table: a3.png 1" in message


@pytest.mark.parametrize("folder", ["images/held", "./images/held/", "../xrays/images/held"])
def test_side_by_a_folder(labelled: Labelled, folder: str) -> None:
    (labelled.parent / "elsewhere").mkdir()
    files = ["images/held/a9.png", "images/held/b9.png", "images/held2/a8.png"]
    labelled.images(files)
    labelled.rows((file, file, class_of(file)) for file in (*FILES, *files))

    index = labelled.index(side={"test": folder})

    assert [image.file for image in index.test] == ["images/held/a9.png", "images/held/b9.png"]
    refusal = labelled.refusal(side={"test": "../elsewhere"})
    assert "no image of the table is in it" in refusal


def test_table_without_labels_keeps_class_folders(tmp_path: Path) -> None:
    labelled = Labelled(tmp_path)
    files = paths("train/{NORMAL,PNEUMONIA}/{0,1,2,3}.png")
    labelled.images([*files, "train/NORMAL/extra.png"])
    labelled.rows((file, f"p{i}", "") for i, file in enumerate(files))

    index = labelled.index(classes="binary", label=None)

    assert index.class_names == ("NORMAL", "PNEUMONIA")
    assert [*index.images.patients] == [f"p{i}" for i in range(8)]
    assert index.warnings == (
        "labels.csv: leaves out images without a row: 1 (train/NORMAL/extra.png)",
    )


WRONG = """
    {image: imag} -> no column 'imag' (data.table.image)
    {label: findings} -> no column 'findings' (data.table.label)
    {patient: Patient} -> did you mean 'patient'?
    {label: null, labels: {Ill: ill, x: well}} -> no column 'Ill'
    {labels: {il: ill, well: well}} -> label 'il'
    {labels: {il: ill, well: well}} -> fix: did you mean 'ill'?
    {labels: {ill: ill}} -> fewer than two classes: ill
    {classes: binary} -> other than NORMAL, PNEUMONIA: ill, well
    {file: label.csv} -> label.csv: cannot be read
    {side: patient} -> labels.csv:2: the side of a0.png is 'pa0'
    {image: patient} -> none of its 8 rows
    {side: {test: lost.txt}} -> lost.txt: the list of data.table.side
    {rows: {finding: [ill, sick]}, labels: {ill: ill, well: well}} -> of column finding is 'sick'
    {file: labels.json} -> labels.json: this is JSON
    {file: ~/no such labels.csv} -> HOME/no such labels.csv: cannot be read
"""
"""What the settings of a table are -> what is said of them."""


@pytest.mark.parametrize("case", WRONG.strip().splitlines())
def test_wrong_settings_are_explained(labelled: Labelled, case: str) -> None:
    table, _, message = case.strip().partition(" -> ")
    labelled.table('[{"image": "a0.png", "finding": "ill"}]', name="labels.json")

    refusal = labelled.refusal(**yaml.safe_load(table))

    assert message.replace("HOME", str(Path.home())) in refusal


@pytest.mark.parametrize(
    ("old", "new", "message"),
    [
        ("", "a0.png,pb3,ill\n", ":10: a0.png belongs to patient pb3"),
        ("", "a0.png,pa0,well\n", ":2: a0.png has several classes"),
        ("", ",pa0,well\n", "labels.csv:10: a cell is empty"),
        ("", "images/a0.png,pa0,ill\n", "a0.png and images/a0.png mean images"),
        ("pa0", "", "no patient in column patient: images/a0.png"),
        ("pa0", "nan", "no patient in column patient"),
        ("pa0", "1.23457E+13", "labels.csv:2: patient 1.23457E+13"),
        ("a1.png,pa1,ill", "a1.png,,", "neither patient nor label"),
        ("image,", "Export of today\nimage,", ":2: the header is here"),
        ("image,", "# by hand\n\nimage,", ":3: the header is here"),
        ("image,", "Export,,\n,,\nimage,", ":3: the header is here"),
    ],
)
def test_contradicting_rows_merged_cells_and_titles_are_refused(
    labelled: Labelled, old: str, new: str, message: str
) -> None:
    labelled.csv = labelled.csv.replace(old, new) if old else labelled.csv + new

    assert message in labelled.refusal()


ROWS = [
    f"{name}.png,p{name},seen,{class_of(name)}" for name in ("a0", "a1", "a2", "b0", "b1", "b2")
]


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({3: "a1.png,pa1,opacity, left lung,ill"}, ":3: not a row of a table: it has 5"),
        ({3: "a1.png,pa1,ill"}, "\n  3 | a1.png,pa1,ill\n  fix: write ','"),
        ({1: "image,patient,comment, left,finding"}, ":2: not a row of a table: it has 4"),
        ({1: "image,patient,finding,finding"}, "2 columns have the same name, 'finding'"),
        ({3: 'a1.png,pa1,"5 mm,ill'}, ":3: not a row of a table: unexpected end"),
        ({3: 'a1.png,pa1,"5 mm,ill', 5: 'b0.png,pb0,"well",well'}, ":3: not a row"),
        ({3: 'a1.png,pa1,"5 mm,ill', 4: 'a2.png,pa2,5 mm",ill'}, ":3: not a row"),
        ({3: 'a1.png,pa1,"5 mm,ill', 6: 'b1.png,pb1,5 mm",well'}, "encloses the rows below"),
        (
            {2: f"{ROWS[0]},", 3: 'a1.png,pa1,"5 mm,ill,', 4: "a2.png,pa2,5 mm,ill,"}
            | {6: 'b1.png,pb1,5 mm",well,'},
            "encloses the rows below",
        ),
    ],
)
def test_rows_that_do_not_fit_the_header_are_refused_with_their_line(
    labelled: Labelled, changes: dict[int, str], message: str
) -> None:
    """Line 1 is the header."""
    lines = ["image,patient,comment,finding", *ROWS]
    for number, line in changes.items():
        lines[number - 1] = line
    labelled.csv = "\n".join(lines) + "\n"

    assert message in labelled.refusal()


@pytest.mark.parametrize("header", ["image patient finding\n", ""])
def test_columns_separated_by_blanks_are_explained(labelled: Labelled, header: str) -> None:
    labelled.csv = header + labelled.csv.replace(",", " ").partition("\n")[2]

    assert "fix: separate the columns by commas" in labelled.refusal()


@pytest.mark.parametrize("separator", [",", ";", "\t"])
@pytest.mark.parametrize("start", ["", "\ufeff", "sep={}\n"])
def test_tables_as_programs_write_them_are_read(
    labelled: Labelled, separator: str, start: str
) -> None:
    """An index column, empty columns and rows, cells with separators, line feeds and quotes."""
    report = '"Lungs: clear, wide; no\tmass\nHeart, aorta, bones\nA ""normal"" chest, 2 views"'
    lines = [",image,\u200bpatient,report,finding,", *(f"7,{row},,," for row in ROWS)]
    table = "\n".join([*lines, ",,,,,", "", ""]).replace(",", separator).replace("seen", report)
    labelled.csv = start.format(separator) + table

    index = labelled.index()

    assert classes_in(index) == {row[:2]: class_of(row) for row in ROWS}
    assert {*index.images.patients} == {f"p{row[:2]}" for row in ROWS}
    unnamed = labelled.index(patient=None).images
    assert [image.patient for image in unnamed] == [image.file for image in unnamed]


def test_rows_without_image_are_counted_also_where_they_leave_a_class_empty(
    labelled: Labelled,
) -> None:
    """And a patients.csv beside a table would be ignored."""
    labels = SAME
    (labelled / "images/a0.png").unlink()
    note = "labels.csv: leaves out rows without an image: 1 of 8"
    assert labelled.index(labels=labels).warnings == (note,)

    for number in range(1, 4):
        (labelled / f"images/a{number}.png").unlink()
    message = labelled.refusal(labels=labels)
    assert "no training images of ill" in message
    assert "rows without an image: 4 of 8" in message

    labelled.table("file,patient", "a0.png,p")
    message = labelled.refusal(ConfigError)
    assert "patients.csv would be ignored" in message


def test_notes_are_shown_with_the_error_that_they_explain(labelled: Labelled) -> None:
    for file in FILES[1:4]:
        (labelled / file).unlink()

    with pytest.raises(DataError, match=r"(?s)has 1 patient.*rows without an image: 3 of 8"):
        sizes_of_index(labelled.index(), labelled.settings())


def test_further_columns_are_subgroups(labelled: Labelled) -> None:
    rows = "a0.png,p0,ill,AP,40 a0.png,p0,ill,PA,40 b0.png,p1,well,,50"
    labelled.rows([[row] for row in rows.split()], "image,patient,finding,view,age")
    images = labelled.index().images

    assert subgroup_columns(images, ["view", "age"], labelled) == {
        "view": {"images/a0.png": "AP|PA", "images/b0.png": "(no value)"},
        "age": {"images/a0.png": "40", "images/b0.png": "50"},
    }
    with pytest.raises(ConfigError, match=r"0 different values.*\n.*use one of: age, finding"):
        subgroup_columns(images, ["weight"], labelled)


def test_many_numbers_are_grouped_into_thirds(labelled: Labelled) -> None:
    """An age that is not known is in none of them."""
    labelled.images("images/{a,b}{0,1,2,3,4,5,6,7,8,9}{0,1,2}.png")
    files = sorted(path.name for path in (labelled / "images").glob("*[ab]??.png"))
    labelled.rows(
        (
            [file, file, class_of(file), f"{age}", f"t{age}", f"202001{age:02}"]
            + [f"{age or empty}" for empty in ("nan", "NA")]
            for age, file in enumerate(files)
        ),
        "image,patient,finding,age,town,date,of_some,of_others",
    )
    images = labelled.index().images

    def groups(column: str) -> dict[str, int]:
        return Counter(subgroup_columns(images, [column], labelled)[column].values())

    assert groups("age") == {"0 to 19": 20, "20 to 39": 20, "40 to 59": 20}
    assert groups("date").keys() == {
        "20200100 to 20200119",
        "20200120 to 20200139",
        "20200140 to 20200159",
    }
    known = {"1 to 20", "21 to 39", "40 to 59"}
    assert groups("of_some").keys() == groups("of_others").keys() == {"(no value)", *known}
    with pytest.raises(ConfigError, match=r"60 different values.*\n.*fewer values"):
        subgroup_columns(images, ["town"], labelled)


@pytest.mark.parametrize("form", ["NFC", "NFD"])
def test_umlauts_of_one_or_two_code_points_are_the_same(xrays: DataFolder, form: Any) -> None:
    """Archives from macOS decompose the umlauts in names of files, but a table may not."""
    files = paths("gesund/Röntgengesund{0,1,2}.png Entzündung/RöntgenEntzündung{0,1,2}.png")
    xrays.images(normalize("NFD", file) for file in files)
    rows = (f"{normalize(form, file)},p{number}" for number, file in enumerate(files))
    xrays.table("file,patient", *rows)

    index = xrays.index(classes="auto", positive=normalize(form, "Entzündung"))

    assert {*index.images.patients} == {f"p{i}" for i in range(6)}
    assert index.class_names[index.positive] == "Entzündung"
