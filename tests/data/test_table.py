"""Tables of labels: which row belongs to which image, and what it gives the image."""

from collections.abc import Iterable
from pathlib import Path
from typing import Any
from unicodedata import normalize

import pytest

from tests.data.conftest import WriteImages
from xraytune.base.errors import DataError, XraytuneError
from xraytune.data.images import ImageIndex
from xraytune.data.index import read_index
from xraytune.data.sides import sizes_of_index
from xraytune.data.split import split_by_patient
from xraytune.data.table import match_names, subgroup_columns
from xraytune.space.settings import DataSettings, SplitSettings

FILES = tuple(f"images/{kind}{number}.png" for kind in "ab" for number in range(4))


def data_of(root: Path, classes: str = "auto", **table: Any) -> DataSettings:
    content = {
        "file": "labels.csv",
        "image": "image",
        "patient": "patient",
        "label": "finding",
    } | table
    content = {key: value for key, value in content.items() if value is not None}
    return DataSettings.model_validate({"path": root, "classes": classes, "table": content})


@pytest.fixture
def xrays(tmp_path: Path, write: WriteImages) -> Path:
    """Images a0 to a3 are ill, b0 to b3 healthy."""
    write(tmp_path, FILES)
    write_rows(tmp_path, ((Path(file).name, f"p{file[7:9]}", class_of(file)) for file in FILES))
    return tmp_path


def class_of(file: str) -> str:
    return "ill" if Path(file).name.startswith("a") else "well"


def write_rows(
    root: Path, rows: Iterable[Iterable[str]], header: str = "image,patient,finding"
) -> None:
    lines = [header, *(",".join(row) for row in rows)]
    (root / "labels.csv").write_text("\n".join(lines) + "\n", "utf-8")


def classes_in(index: ImageIndex) -> dict[str, str]:
    return {Path(image.file).stem: index.class_names[image.label] for image in index.all_images}


def refusal(data: DataSettings) -> str:
    with pytest.raises(XraytuneError) as refused:
        split_by_patient(read_index(data).images, SplitSettings())
    return str(refused.value)


@pytest.mark.parametrize(
    ("name", "is_a"),
    [
        *(
            (f"{start}a{suffix}", True)
            for start in (
                "set/train/p1/",
                "train/p1/",
                "./train//p1/",
                "p1/",
                "",
                "train\\p1\\",
                "D:\\data\\set\\train\\p1\\",
            )
            for suffix in (".png", ".jpg", "")
        ),
        *((name, False) for name in ("c.png", "p2/a.png", "train/p2/a.png", "xa.png", "a.png/x")),
    ],
)
def test_row_names_image_by_path_end_of_path_or_name(name: str, is_a: bool) -> None:
    found = match_names([name], ["train/p1/a.png", "train/p1/b.png"], Path())

    assert found == ({"train/p1/a.png": name} if is_a else {})
    assert match_names(["a.png", "a.jpg"], ["x/a.jpg", "x/a.png"], Path()) == {
        "x/a.png": "a.png",
        "x/a.jpg": "a.jpg",
    }


@pytest.mark.parametrize(
    ("cells", "labels", "expected", "warning"),
    [
        (["ill"] * 4 + ["well"] * 4, {}, "ill ill ill ill well well well well", ""),
        (
            [
                "Mass|Pneumonia",
                "Pneumonia|Mass",
                "Mass",
                "Pneumonia",
                "Edema|Pneumonia",
                "Edema",
                "None",
                "None",
            ],
            {"Mass": "mass", "None": "well", "*": "lungs"},
            "mass mass mass lungs lungs lungs well well",
            "",
        ),
        (
            [
                "['pneumonia']",
                "['mass', 'pneumonia']",
                "[' pneumonia']",
                "['mass', 'edema']",
                *["['normal']"] * 3,
                "[]",
            ],
            {"pneumonia": "ill", "normal": "well"},
            "ill ill ill - well well well -",
            "images without a class or a known finding: 2 (edema 1, mass 1)",
        ),
        (
            ["1,", "Positive,0", "true,", "-1.0,", "Negative,Y", "0,1.0", "x,Present", ",0"],
            {"Ill": "ill", "Well": "well"},
            "ill ill ill - well well well -",
            "labels.csv: cells that say neither yes nor no are no label (x 1)",
        ),
        (
            ["ill, sick", "sick", "Ill", "ill", "well", "nan", "unknown", "well"],
            {"ill": "ill", "well": "well"},
            "ill - ill ill well - - well",
            "labels.csv: reads ',' between labels (data.table.separator)",
        ),
        (
            ['"1,0",', "WAHR,FALSCH", '"1,00",', ",", ',"1,0"', '"0,0",1', ",1", ",1"],
            {"Ill": "ill", "Well": "well"},
            "ill ill ill - well well well well",
            "",
        ),
    ],
    ids=[
        "cells",
        "the first entry that applies decides",
        "lists, as in PadChest",
        "columns",
        "commas between labels",
        "decimal commas",
    ],
)
def test_cells_or_columns_give_the_classes(
    xrays: Path, cells: list[str], labels: dict[str, str], expected: str, warning: str
) -> None:
    columns = "Ill" in labels
    rows = (
        (Path(file).stem, file, cell if columns else f'"{cell}"')
        for file, cell in zip(FILES, cells, strict=True)
    )
    write_rows(xrays, rows, f"image,patient,{'Ill,Well' if columns else 'finding'}")

    index = read_index(data_of(xrays, label=None if columns else "finding", labels=labels))

    assert [classes_in(index).get(Path(file).stem, "-") for file in FILES] == expected.split()
    assert {image.patient for image in index.images} <= {*FILES}
    assert warning in " ".join(index.warnings)


def test_a_label_inside_another_is_no_case_for_the_rest(xrays: Path) -> None:
    """Such as `ARDS COVID-19`, if `"*"` is the class of images without COVID-19."""
    cells = ["Mass", "small mass", "Edema", "Edema", "Well", "Well", "Massive", "Well"]
    write_rows(xrays, zip(FILES, FILES, cells, strict=True))

    message = refusal(data_of(xrays, labels={"Mass": "ill", "*": "well"}))
    index = read_index(data_of(xrays, labels={"Mass": "ill", "small mass": "ill", "*": "well"}))

    assert message.count("fix:") == 1
    assert "'small mass' has the label 'Mass' in it, but would be well by *" in message
    assert [*classes_in(index).values()] == ["ill", "ill", *["well"] * 6]


def test_a_header_may_have_more_commas_than_separators(xrays: Path) -> None:
    rows = ((Path(file).name, class_of(file)) for file in FILES)
    lines = ["file, below images;class, by a radiologist", *map(";".join, rows)]
    (xrays / "labels.csv").write_text("\n".join(lines), "utf-8")
    data = data_of(xrays, image="file, below images", label="class, by a radiologist", patient=None)

    index = read_index(data)

    assert index.class_names == ("ill", "well")


READERS = (
    ["1,0", "0,1", "0,1"],
    ["1,0", "1,0", "0,1"],
    ["1,0", "0,0", "0,0"],
    ["1,0", ",", ","],
    ["0,1", "0,1"],
)
"""What readers say about a0 to a3 and b0: whether it is ill, and whether it is well."""


@pytest.mark.parametrize("labels", [{"Ill": "ill", "Well": "well"}, {"Well": "well", "Ill": "ill"}])
def test_disagreeing_rows_are_counted_and_settled(xrays: Path, labels: dict[str, str]) -> None:
    """A reader who says no to all labels disagrees with one who says yes; an empty row does not."""
    rows = [
        (file, file, cell) for file, cells in zip(FILES, READERS, strict=False) for cell in cells
    ]
    write_rows(xrays, rows, "image,patient,Ill,Well")

    index = read_index(data_of(xrays, label=None, labels=labels))

    first = next(iter(labels.values()))
    classes = [classes_in(index)[Path(file).stem] for file in FILES[:5]]
    assert classes == [first, first, "ill", "ill", "well"]
    (note,) = (warning for warning in index.warnings if "disagree" in warning)
    assert "the rows of 3 of 5 images disagree, such as those of images/a0.png" in note


def test_disagreeing_cells_are_refused(xrays: Path) -> None:
    """Two versions of a table of classes."""
    table = (xrays / "labels.csv").read_text("utf-8")
    (xrays / "v2.csv").write_text(table.replace("pa0,ill", "pa0,well"), "utf-8")

    message = refusal(data_of(xrays, file=["labels.csv", "v2.csv"]))

    assert "a0.png has several classes: ill, well" in message


@pytest.mark.parametrize(
    ("column", "cells", "count"),
    [
        ("view", ["PA", "L", "AP Supine", "Lateral"], 4),
        ("ViewPosition", ["PA", "LL", "AP", "LATERAL"], 4),
        ("modality", ["X-ray", "CT", "X-ray", "CT"], 4),
        ("Frontal/Lateral", ["Frontal", "Lateral", "Frontal", "Lateral"], 4),
        ("reviewer", ["L", "CT", "RL", "AB"], 0),
        ("Bilateral_Opacities", ["1", "L", "0", "L"], 0),
    ],
)
def test_lateral_views_are_noted(xrays: Path, column: str, cells: list[str], count: int) -> None:
    rows = ((file, file, class_of(file), cells[int(file[8])]) for file in FILES)
    write_rows(xrays, rows, f"image,patient,finding,{column}")

    notes = " ".join(read_index(data_of(xrays)).warnings)

    assert (f"{count} of 8 images are lateral views or CT" in notes) == (count > 0)
    assert ("lateral views" in notes) == (count > 0)


def test_a_side_column_has_synonyms_and_agrees_for_an_image(xrays: Path) -> None:
    words = ["train", "Training", "valid", "test"] * 2
    rows = [(file, file, class_of(file), side) for file, side in zip(FILES, words, strict=True)]
    write_rows(xrays, rows, "image,patient,finding,fold")

    index = read_index(data_of(xrays, side="fold"))

    parts = [image.part for image in index.all_images]
    assert parts == ["train", "train", "val", "test"] * 2
    write_rows(xrays, [*rows, (FILES[0], FILES[0], "ill", "test")], "image,patient,finding,fold")
    assert f"the side of {FILES[0]} is 'test'" in refusal(data_of(xrays, side="fold"))


def test_sides_by_lists(xrays: Path) -> None:
    (xrays / "held.txt").write_text("a3.png\n\nb3.png\nnot_downloaded.png\n", "utf-8")
    (xrays / "train.txt").write_text("a0\na1\na2\nb0\nb1\nb2", "utf-8")
    with (xrays / "labels.csv").open("a", encoding="utf-8") as table:
        table.write("not_downloaded.png,p9,ill\n")
    rest = read_index(data_of(xrays, side={"test": "held.txt"}))
    listed = read_index(data_of(xrays, side={"train": "train.txt"}))
    (xrays / "test.txt").write_text("a2\na3", "utf-8")

    assert (len(rest.images), len(rest.test)) == (6, 2)
    assert (len(listed.images), listed.test) == (6, ())
    assert "images in no list of data.table.side: 2" in listed.warnings[0]
    message = refusal(data_of(xrays, side={"train": "train.txt", "test": "test.txt"}))
    assert "1 images are also in another list: images/a2.png" in message
    (xrays / "test.txt").write_text("a3.png 1", "utf-8")
    assert "1 of its 1 lines name no image of the table: a3.png 1" in refusal(
        data_of(xrays, side={"test": "test.txt"})
    )


@pytest.mark.parametrize("folder", ["images/held", "./images/held/", "../xrays/images/held"])
def test_side_by_a_folder(tmp_path: Path, write: WriteImages, folder: str) -> None:
    root = tmp_path / "xrays"
    (tmp_path / "elsewhere").mkdir()
    files = [*FILES, "images/held/a9.png", "images/held/b9.png", "images/held2/a8.png"]
    write(root, files)
    write_rows(root, ((file, file, class_of(file)) for file in files))

    index = read_index(data_of(root, side={"test": folder}))

    assert [image.file for image in index.test] == ["images/held/a9.png", "images/held/b9.png"]
    assert "no image of the table is in it" in refusal(data_of(root, side={"test": "../elsewhere"}))


def test_table_without_labels_keeps_class_folders(tmp_path: Path, write: WriteImages) -> None:
    files = [f"train/{name}/{i}.png" for name in ("NORMAL", "PNEUMONIA") for i in range(4)]
    write(tmp_path, [*files, "train/NORMAL/extra.png"])
    write_rows(tmp_path, ((file, f"p{i}", "") for i, file in enumerate(files)))

    index = read_index(data_of(tmp_path, classes="binary", label=None))

    assert index.class_names == ("NORMAL", "PNEUMONIA")
    assert [image.patient for image in index.images] == [f"p{i}" for i in range(8)]
    assert index.warnings == (
        "labels.csv: leaves out images without a row: 1 (train/NORMAL/extra.png)",
    )


@pytest.mark.parametrize(
    ("table", "message"),
    [
        ({"image": "imag"}, "no column 'imag' (data.table.image); found image, patient, finding"),
        ({"label": "findings"}, "no column 'findings' (data.table.label)"),
        ({"patient": "Patient"}, "did you mean 'patient'?"),
        ({"label": None, "labels": {"Ill": "ill", "x": "well"}}, "no column 'Ill'"),
        (
            {"labels": {"il": "ill", "well": "well"}},
            "no cell of column finding has the label 'il'\n  fix: did you mean 'ill'?",
        ),
        ({"labels": {"ill": "ill"}}, "there are fewer than two classes: ill"),
        ({"classes": "binary"}, "has classes other than NORMAL, PNEUMONIA: ill, well"),
        ({"file": "label.csv"}, "label.csv: cannot be read"),
        ({"side": "patient"}, "labels.csv:2: the side of a0.png is 'pa0'; it must be"),
        ({"image": "patient"}, "none of its 8 rows matches an image"),
        ({"side": {"test": "lost.txt"}}, "lost.txt: the list of data.table.side cannot be read"),
        ({"rows": {"finding": ["ill", "sick"]}}, "no cell of column finding is 'sick'"),
        ({"file": "labels.json"}, "labels.json: this is JSON, and tables are CSV"),
        ({"file": "~/no such labels.csv"}, f"{Path.home()}/no such labels.csv: cannot be read"),
    ],
)
def test_wrong_settings_are_explained(xrays: Path, table: dict[str, Any], message: str) -> None:
    if "rows" in table:
        table["labels"] = {"ill": "ill", "well": "well"}
    (xrays / "labels.json").write_text('[{"image": "a0.png", "finding": "ill"}]', "utf-8")

    assert message in refusal(data_of(xrays, **table))


@pytest.mark.parametrize(
    ("old", "new", "message"),
    [
        ("pb3,well\n", "pb3,well\na0.png,pb3,ill\n", ":10: a0.png belongs to patient pb3 here"),
        ("pb3,well\n", "pb3,well\na0.png,pa0,well\n", ":2: a0.png has several classes: ill, well"),
        ("pb3,well\n", "pb3,well\n,pa0,well\n", "labels.csv:10: a cell is empty"),
        ("pb3,well\n", "pb3,well\nimages/a0.png,pa0,ill\n", "a0.png and images/a0.png mean images"),
        ("pa0", "", "1 of 8 images have no row with a patient in column patient: images/a0.png"),
        ("pa0", "nan", "1 of 8 images have no row with a patient in column patient"),
        ("pa0", "1.23457E+13", "labels.csv:2: patient 1.23457E+13 is a number that lost its"),
    ],
)
def test_contradicting_rows_are_refused(xrays: Path, old: str, new: str, message: str) -> None:
    table = xrays / "labels.csv"
    table.write_text(table.read_text("utf-8").replace(old, new), "utf-8")

    assert message in refusal(data_of(xrays))


ROWS = [
    f"{name}.png,p{name},seen,{'ill' if name[0] == 'a' else 'well'}"
    for name in ("a0", "a1", "a2", "b0", "b1", "b2")
]


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({3: "a1.png,pa1,opacity, left lung,ill"}, ":3: not a row of a table: it has 5 cells"),
        ({3: "a1.png,pa1,ill"}, "the header 4\n  3 | a1.png,pa1,ill\n  fix: write ',' for each"),
        ({1: "image,patient,comment, left,finding"}, ":2: not a row of a table: it has 4 cells"),
        ({1: "image,patient,finding,finding"}, "2 columns have the same name, 'finding'"),
        ({3: 'a1.png,pa1,"5 mm,ill'}, ":3: not a row of a table: unexpected end of data"),
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
    xrays: Path, changes: dict[int, str], message: str
) -> None:
    """Line 1 is the header."""
    lines = ["image,patient,comment,finding", *ROWS]
    for number, line in changes.items():
        lines[number - 1] = line
    (xrays / "labels.csv").write_text("\n".join(lines) + "\n", "utf-8")

    assert message in refusal(data_of(xrays))


@pytest.mark.parametrize("header", ["image patient finding\n", ""])
def test_columns_separated_by_blanks_are_explained(xrays: Path, header: str) -> None:
    rows = (xrays / "labels.csv").read_text("utf-8").replace(",", " ").partition("\n")[2]
    (xrays / "labels.csv").write_text(header + rows, "utf-8")

    assert "fix: separate the columns by commas, and name them" in refusal(data_of(xrays))


@pytest.mark.parametrize("separator", [",", ";", "\t"])
@pytest.mark.parametrize("start", ["", "\ufeff", "sep={}\n"])
def test_tables_as_programs_write_them_are_read(xrays: Path, separator: str, start: str) -> None:
    """An index column, empty columns and rows, cells with separators, line feeds and quotes."""
    report = '"Lungs: clear, wide; no\tmass\nHeart, aorta, bones\nA ""normal"" chest, 2 views"'
    lines = [",image,\u200bpatient,report,finding,", *(f"7,{row},,," for row in ROWS)]
    table = "\n".join([*lines, ",,,,,", "", ""]).replace(",", separator).replace("seen", report)
    (xrays / "labels.csv").write_text(start.format(separator) + table, "utf-8")

    index = read_index(data_of(xrays))

    assert classes_in(index) == {row[:2]: class_of(row) for row in ROWS}
    assert {image.patient for image in index.images} == {f"p{row[:2]}" for row in ROWS}
    unnamed = read_index(data_of(xrays, patient=None)).images
    assert [image.patient for image in unnamed] == [image.file for image in unnamed]


def test_rows_without_image_are_counted_also_where_they_leave_a_class_empty(xrays: Path) -> None:
    """And a patients.csv beside a table would be ignored."""
    data = data_of(xrays, labels={"ill": "ill", "well": "well"})
    (xrays / "images/a0.png").unlink()
    assert read_index(data).warnings == ("labels.csv: leaves out rows without an image: 1 of 8",)

    for number in range(1, 4):
        (xrays / f"images/a{number}.png").unlink()
    message = refusal(data)
    assert "no training images of ill" in message
    assert "labels.csv: leaves out rows without an image: 4 of 8" in message

    (xrays / "patients.csv").write_text("file,patient\na0.png,p\n", "utf-8")
    assert "data.table is given, so patients.csv would be ignored" in refusal(data)


def test_notes_are_shown_with_the_error_that_they_explain(xrays: Path) -> None:
    for file in FILES[1:4]:
        (xrays / file).unlink()
    data = data_of(xrays)

    with pytest.raises(DataError, match=r"(?s)has 1 patient.*rows without an image: 3 of 8"):
        sizes_of_index(read_index(data), data)


def test_further_columns_are_subgroups(xrays: Path) -> None:
    rows = [
        ("a0.png", "p0", "ill", "AP", "40"),
        ("a0.png", "p0", "ill", "PA", "40"),
        ("b0.png", "p1", "well", "", "50"),
    ]
    write_rows(xrays, rows, "image,patient,finding,view,age")
    images = read_index(data_of(xrays)).images

    assert subgroup_columns(images, ["view", "age"], xrays) == {
        "view": {"images/a0.png": "AP|PA"},
        "age": {"images/a0.png": "40", "images/b0.png": "50"},
    }
    with pytest.raises(XraytuneError, match=r"0 different values.*\n.*use one of: age, finding"):
        subgroup_columns(images, ["weight"], xrays)


@pytest.mark.parametrize("form", ["NFC", "NFD"])
def test_umlauts_of_one_or_two_code_points_are_the_same(
    tmp_path: Path, write: WriteImages, form: Any
) -> None:
    """Archives from macOS decompose the umlauts in names of files, but a table may not."""
    files = [
        f"{name}/Röntgen{name}{number}.png"
        for name in ("gesund", "Entzündung")
        for number in range(3)
    ]
    write(tmp_path, (normalize("NFD", file) for file in files))
    rows = "\n".join(f"{normalize(form, file)},p{number}" for number, file in enumerate(files))
    (tmp_path / "patients.csv").write_text(f"file,patient\n{rows}\n", "utf-8")
    data = DataSettings(path=tmp_path, classes="auto", positive=normalize(form, "Entzündung"))

    index = read_index(data)

    assert {image.patient for image in index.images} == {f"p{i}" for i in range(6)}
    assert index.class_names[index.positive] == "Entzündung"
