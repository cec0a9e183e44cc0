"""Tables of labels: which row belongs to which image, and what it gives the image."""

import shutil
from collections.abc import Iterable
from pathlib import Path
from typing import Any
from unicodedata import normalize

import pytest

from tests.data.conftest import WriteImages
from xraytune.base.errors import XraytuneError
from xraytune.data.images import ImageIndex
from xraytune.data.index import read_index
from xraytune.data.split import split_by_patient
from xraytune.data.table import match_names, table_columns
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
    write_rows(
        tmp_path,
        (
            (Path(file).name, f"p{file[7:9]}", "ill" if "a" in file[7:] else "well")
            for file in FILES
        ),
    )
    return tmp_path


def write_rows(
    root: Path, rows: Iterable[Iterable[str]], header: str = "image,patient,finding"
) -> None:
    lines = [header, *(",".join(row) for row in rows)]
    (root / "labels.csv").write_text("\n".join(lines) + "\n", encoding="utf-8")


def classes_in(index: ImageIndex) -> dict[str, str]:
    return {
        Path(image.file).stem: index.class_names[image.label]
        for image in (*index.images, *index.test)
    }


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
    found = match_names([name], ["train/p1/a.png", "train/p1/b.png"]).by_file

    assert found == ({"train/p1/a.png": name} if is_a else {})
    assert match_names(["a.png", "a.jpg"], ["x/a.jpg", "x/a.png"]).by_file == {
        "x/a.png": "a.png",
        "x/a.jpg": "a.jpg",
    }


def test_ambiguous_row_is_refused(xrays: Path, write: WriteImages) -> None:
    write(xrays, ["others/a1.png"])

    assert "names that belong to several files: a1.png (images/a1.png, others/a1.png)" in refusal(
        data_of(xrays)
    )


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
            "none of the labels pneumonia, normal: 2 (edema 1, mass 1)",
        ),
        (
            ["1,", "Positive,0", "true,", "-1.0,", "Negative,Y", "0,1.0", "absent,Present", ",0"],
            {"Ill": "ill", "Well": "well"},
            "ill ill ill - well well well -",
            "",
        ),
    ],
    ids=["cells", "the first entry that applies decides", "lists, as in PadChest", "columns"],
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


@pytest.mark.parametrize(
    ("cell", "message"),
    [
        ("seen", "the columns Ill, Well contain 0 8, probable 4, seen 4"),
        ("0", "contain 0 12, probable 4"),
    ],
)
def test_without_any_yes_the_cells_are_shown(xrays: Path, cell: str, message: str) -> None:
    rows = ((file, file, cell if "a" in file[7:] else "probable", "0") for file in FILES)
    write_rows(xrays, rows, "image,patient,Ill,Well")

    assert message in refusal(data_of(xrays, label=None, labels={"Ill": "ill", "Well": "well"}))


def test_cells_that_say_neither_yes_nor_no_are_counted(xrays: Path) -> None:
    cells = ["1,0", "1,0", "1,0", "probable,-1", "0,1", "0,1", "0,1", ",x"]
    rows = ((file, file, cell) for file, cell in zip(FILES, cells, strict=True))
    write_rows(xrays, rows, "image,patient,Ill,Well")

    index = read_index(data_of(xrays, label=None, labels={"Ill": "ill", "Well": "well"}))

    assert len(index.images) == 6
    assert (
        "labels.csv: cells that say neither yes nor no are no label: probable 1, x 1"
        in index.warnings
    )


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
    """A reader who says no to all labels disagrees with one who says yes; one who says nothing does not."""
    rows = [
        (file, file, cell) for file, cells in zip(FILES, READERS, strict=False) for cell in cells
    ]
    write_rows(xrays, rows, "image,patient,Ill,Well")

    index = read_index(data_of(xrays, label=None, labels=labels))

    first = next(iter(labels.values()))
    classes = [classes_in(index)[Path(file).stem] for file in FILES[:5]]
    assert classes == [first, first, "ill", "ill", "well"]
    (note,) = (warning for warning in index.warnings if "disagree" in warning)
    assert (
        "the rows of 3 of 5 images disagree, such as those of images/a0.png (well 2, ill 1)" in note
    )


def test_disagreeing_cells_are_refused(xrays: Path) -> None:
    """Two versions of a table of classes."""
    rows = [f"{Path(file).name},{'well' if 'a' in file[7:] else 'ill'}" for file in FILES]
    (xrays / "v2.csv").write_text("\n".join(["image,finding", *rows]), encoding="utf-8")

    message = refusal(data_of(xrays, file=["labels.csv", "v2.csv"]))

    assert "a0.png has several classes: ill, well" in message


UNRELATED = ("age", "reviewer", "Bilateral_Opacities")


@pytest.mark.parametrize(
    ("column", "cells"),
    [
        ("view", ["PA", "L", "AP Supine", "Lateral"]),
        ("ViewPosition", ["PA", "LL", "AP", "LATERAL"]),
        ("modality", ["X-ray", "CT", "X-ray", "CT"]),
        ("Frontal/Lateral", ["Frontal", "Lateral", "Frontal", "Lateral"]),
        ("age", ["L", "lateral", "CT", "4"]),
        ("reviewer", ["L", "CT", "RL", "AB"]),
        ("Bilateral_Opacities", ["1", "L", "0", "L"]),
    ],
)
def test_lateral_views_are_noted(xrays: Path, column: str, cells: list[str]) -> None:
    rows = (
        (file, file, "ill" if "a" in file[7:] else "well", cells[int(file[8])]) for file in FILES
    )
    write_rows(xrays, rows, f"image,patient,finding,{column}")

    notes = [
        warning
        for warning in read_index(data_of(xrays)).warnings
        if "lateral views or CT" in warning
    ]

    assert [note.partition(" are")[0] for note in notes] == (
        [] if column in UNRELATED else ["4 of 8 images"]
    )


def test_lateral_views_are_noted_by_their_names(tmp_path: Path, write: WriteImages) -> None:
    names = ("p1_lateral", "view2_Lateral", "bilateral", "frontal")
    write(
        tmp_path,
        (
            f"{name}/{file}{n}.png"
            for name in ("NORMAL", "PNEUMONIA")
            for n in range(2)
            for file in names
        ),
    )

    (note,) = (
        warning
        for warning in read_index(DataSettings(path=tmp_path)).warnings
        if "lateral views" in warning
    )

    assert note.startswith(
        "8 of 16 images are lateral views or CT, by name, header or table (NORMAL/p1_lateral0.png"
    )


def test_rows_of_several_tables_are_united(xrays: Path) -> None:
    """Labels in one table, one row for each; patients and age in another, with tabs."""
    rows = [(f"b{i}.png", "Edema") for i in range(4)] + [(f"a{i}.png", "Mass") for i in range(4)]
    write_rows(xrays, [*rows, ("b0.png", "Pneumonia"), ("b1.png", "Pneumonia")], "image,finding")
    people = "\n".join(f"{kind}{i}.png\tp{kind}{i}\t{60 + i}" for kind in "ab" for i in range(4))
    (xrays / "people.tsv").write_text(f"image\tpatient\tage\n{people}\n", encoding="utf-8")
    labels = {"Pneumonia": "other", "Mass": "mass", "Edema": "edema"}
    data = data_of(xrays, file=["labels.csv", "people.tsv"], labels=labels)

    assert refusal(data).count("has 2 patients: none for val-A and val-B") == 2
    assert table_columns(data, FILES) == {"age": {file: str(60 + int(file[8])) for file in FILES}}


def test_side_column_and_part_folders_have_synonyms(xrays: Path, write: WriteImages) -> None:
    words = ["train", "Training", "valid", "test"]
    parts = ["train", "train", "val", "test"] * 2
    sides = dict(zip(FILES, words * 2, strict=True))
    rows = (
        (file, file, "ill" if "a" in file[7:] else "well", side) for file, side in sides.items()
    )
    write_rows(xrays, rows, "image,patient,finding,fold")
    by_column = read_index(data_of(xrays, side="fold"))
    shutil.rmtree(xrays / "images")
    files = [f"{word}/{kind}{number}.png" for kind in "ab" for number, word in enumerate(words)]
    write(xrays, files)
    write_rows(xrays, ((file, file, "ill" if "/a" in file else "well") for file in files))
    by_folder = read_index(data_of(xrays))

    for index, names in ((by_column, FILES), (by_folder, files)):
        found = {image.file: image.part for image in (*index.images, *index.test)}
        assert found == dict(zip(names, parts, strict=True))


def test_sides_by_lists(xrays: Path) -> None:
    (xrays / "held.txt").write_text("a3.png\n\nb3.png\nnot_downloaded.png\n", encoding="utf-8")
    (xrays / "train.txt").write_text(
        "\n".join(f"{kind}{i}" for kind in "ab" for i in range(3)), encoding="utf-8"
    )

    with (xrays / "labels.csv").open("a", encoding="utf-8") as table:
        table.write("not_downloaded.png,p9,ill\n")
    rest = read_index(data_of(xrays, side={"test": "held.txt"}))
    listed = read_index(data_of(xrays, side={"train": "train.txt"}))
    (xrays / "test.txt").write_text("a2\na3", encoding="utf-8")

    assert (len(rest.images), len(rest.test)) == (6, 2)
    assert (len(listed.images), listed.test) == (6, ())
    assert "images in no list of data.table.side: 2" in listed.warnings[0]
    message = refusal(data_of(xrays, side={"train": "train.txt", "test": "test.txt"}))
    assert "test.txt: 1 images are also in train.txt: images/a2.png" in message
    (xrays / "test.txt").write_text("a3.png 1", encoding="utf-8")
    assert "1 of its 1 lines name no image of the table: a3.png 1" in refusal(
        data_of(xrays, side={"test": "test.txt"})
    )


def test_table_without_labels_keeps_class_folders(tmp_path: Path, write: WriteImages) -> None:
    files = [f"train/{name}/{i}.png" for name in ("NORMAL", "PNEUMONIA") for i in range(4)]
    write(tmp_path, [*files, "train/NORMAL/extra.png"])
    write_rows(tmp_path, ((file, f"p{i}", "") for i, file in enumerate(files)))

    index = read_index(data_of(tmp_path, classes="binary", label=None))

    assert index.class_names == ("NORMAL", "PNEUMONIA")
    assert [image.patient for image in index.images] == [f"p{i}" for i in range(8)]
    assert index.warnings == (
        "labels.csv leaves out images without a row: 1 (train/NORMAL/extra.png)",
    )


@pytest.mark.parametrize(
    ("table", "message"),
    [
        (
            {"image": "imag"},
            "data.table.image: there is no column 'imag'; found image, patient, finding",
        ),
        ({"label": "findings"}, "data.table.label: there is no column 'findings'"),
        ({"patient": "Patient"}, "did you mean 'patient'?"),
        (
            {"label": None, "labels": {"Ill": "ill", "x": "well"}},
            "data.table.labels: there is no column 'Ill'",
        ),
        ({"labels": {"il": "ill", "well": "well"}}, "no cell of column finding has the label 'il'"),
        ({"labels": {"il": "ill", "well": "well"}}, "did you mean 'ill'?"),
        ({"labels": {"ill": "ill"}}, "there is only one class, ill"),
        ({"classes": "binary"}, "has classes other than NORMAL, PNEUMONIA: ill, well"),
        ({"file": "label.csv"}, "label.csv: there is no such table"),
        ({"side": "patient"}, "labels.csv:2: the side 'pa0' is not train, val or test"),
        ({"image": "patient"}, "none of its 8 rows matches an image"),
        ({"side": {"test": "lost.txt"}}, "lost.txt: the list of data.table.side cannot be read"),
    ],
)
def test_wrong_settings_are_explained(xrays: Path, table: dict[str, Any], message: str) -> None:
    assert message in refusal(data_of(xrays, **table))


@pytest.mark.parametrize(
    ("old", "new", "message"),
    [
        (
            "pb3,well\n",
            "pb3,well\na0.png,pb3,ill\n",
            "labels.csv:10: a0.png belongs to patient pb3 here, but to pa0 in",
        ),
        (
            "pb3,well\n",
            "pb3,well\na0.png,pa0,well\n",
            "labels.csv:2: a0.png has several classes: ill, well",
        ),
        ("pb3,well\n", "pb3,well\n,pa0,well\n", "labels.csv:10: a cell is empty"),
        (
            "pb3,well\n",
            "pb3,well\nimages/a0.png,pa0,ill\n",
            "several rows: images/a0.png (as a0.png and images/a0.png)",
        ),
        ("pa0", "", "1 of 8 images have no patient in column patient: images/a0.png"),
        ("pa0", "nan", "1 of 8 images have no patient in column patient: images/a0.png"),
        (
            "pa0",
            "1.23457E+13",
            "labels.csv:2: patient 1.23457E+13 is a number that lost its digits",
        ),
    ],
)
def test_contradicting_rows_are_refused(xrays: Path, old: str, new: str, message: str) -> None:
    table = xrays / "labels.csv"
    table.write_text(table.read_text(encoding="utf-8").replace(old, new), encoding="utf-8")

    assert message in refusal(data_of(xrays))


ROWS = [
    f"{name}.png,p{name},seen,{'ill' if name[0] == 'a' else 'well'}"
    for name in ("a0", "a1", "a2", "b0", "b1", "b2")
]


def write_comments(
    root: Path, changes: dict[int, str], header: str = "image,patient,comment,finding"
) -> None:
    """Write `ROWS` below a header, which is line 1; some lines are other ones."""
    lines = [header, *ROWS]
    for number, line in changes.items():
        lines[number - 1] = line
    (root / "labels.csv").write_text("\n".join(lines) + "\n", encoding="utf-8")


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        (
            {3: "a1.png,pa1,opacity, left lung,ill"},
            "labels.csv:3: the header has 4 cells, but line 3 has 5",
        ),
        (
            {3: "a1.png,pa1,ill", 5: "b0.png"},
            "labels.csv:3: the header has 4 cells, but line 3 has 3, line 5 has 1",
        ),
        (
            {1: "image,patient,comment, left,finding"},
            "labels.csv:2: the header has 5 cells, but line 2 has 4",
        ),
        ({1: "image,patient,finding,finding"}, "columns 3 and 4 have the same name, 'finding'"),
        ({3: 'a1.png,pa1,"5 mm,ill'}, "labels.csv:3: not a row of a table: unexpected end of data"),
        ({3: 'a1.png,pa1,"5 mm,ill', 5: 'b0.png,pb0,"well",well'}, "labels.csv:3: not a row"),
        (
            {3: 'a1.png,pa1,"5 mm,ill', 4: 'a2.png,pa2,5 mm",ill'},
            "labels.csv:3: a quotation mark in this row encloses",
        ),
        (
            {3: 'a1.png,pa1,"5 mm,ill', 6: 'b1.png,pb1,5 mm",well'},
            "labels.csv:3: a quotation mark in this row encloses",
        ),
    ],
)
def test_rows_that_do_not_fit_the_header_are_refused_with_their_line(
    xrays: Path, changes: dict[int, str], message: str
) -> None:
    write_comments(xrays, changes)

    assert message in refusal(data_of(xrays))
    assert message in refusal(data_of(xrays, classes="binary", label=None))


@pytest.mark.parametrize(
    ("file", "name", "how"),
    [
        ("img_{}.png", "IMG_{}.PNG", "if capitals are ignored"),
        ("Größe {}%20.png", "Gr%C3%B6%C3%9Fe%20{}%2520.png", "with %20 and the like decoded"),
        ("ser_{}.dcm.png", "ser_{}.dcm", "without .dcm"),
        ("ser_{}.png", "ser_{}.dcm.png", "without .dcm"),
        ("{}.png", "/data/local-files/?d=images/{}.png", "from their last = on"),
        ("{}.png", "/data/upload/2/1a2b3c4d-{}.png", "from their last - on"),
        ("a{}.png", "b{}.png", ""),
    ],
)
def test_names_that_differ_a_little_are_refused_with_what_was_tried(
    tmp_path: Path, write: WriteImages, file: str, name: str, how: str
) -> None:
    write(tmp_path, [f"images/{file.format(number)}" for number in range(4)])
    write_rows(tmp_path, [(name.format(number), "p", "ill") for number in range(4)])

    fix = f"4 of them match {how}: write the names of the files" if how else "check data.path"
    assert f"fix: {fix}" in refusal(data_of(tmp_path))


def test_lists_with_blanks_between_the_cells_are_refused_as_such(xrays: Path) -> None:
    write_rows(xrays, [], header="p1 a1.png ill source")

    (problem,) = refusal(data_of(xrays)).split("\n  fix:")[:-1]
    assert "its first line, 'p1 a1.png ill source', has no comma, semicolon or tab" in problem


@pytest.mark.parametrize("separator", [",", ";", "\t"])
@pytest.mark.parametrize("start", ["", "\ufeff", "sep={}\n", "\ufeffsep={}\r\n"])
def test_tables_as_programs_write_them_are_read(xrays: Path, separator: str, start: str) -> None:
    """An index column, empty columns and rows at the end, and cells with separators, line feeds and quotation marks."""
    report = '"Lungs: clear, wide; no\tmass\nHeart, aorta, bones, soft tissue\nA ""normal"" chest, 2 views"'
    lines = [",image,patient,report,finding,", *(f"7,{row}," for row in ROWS)]
    table = "\n".join([*lines, ",,,,,", ""]).replace(",", separator).replace("seen", report)
    (xrays / "labels.csv").write_text(start.format(separator) + table, encoding="utf-8")

    index = read_index(data_of(xrays))

    expected = {
        name: "ill" if name[0] == "a" else "well" for name in ("a0", "a1", "a2", "b0", "b1", "b2")
    }
    assert classes_in(index) == expected
    assert {image.patient for image in index.images} == {f"p{name}" for name in expected}


def test_rows_without_image_are_counted_and_patients_csv_would_be_ignored(xrays: Path) -> None:
    (xrays / "images" / "a0.png").unlink()
    assert read_index(data_of(xrays)).warnings == (
        "labels.csv leaves out rows without an image: 1 of 8",
    )

    (xrays / "patients.csv").write_text("file,patient\na0.png,p\n", encoding="utf-8")
    assert "data.table is given, so patients.csv would be ignored" in refusal(data_of(xrays))


def test_a_class_that_is_missing_is_refused_with_the_rows_that_have_no_image(xrays: Path) -> None:
    """The cause: the table describes images that are elsewhere."""
    for number in range(4):
        (xrays / f"images/a{number}.png").unlink()

    message = refusal(data_of(xrays, labels={"ill": "ill", "well": "well"}))

    assert "no training images of ill" in message
    assert "labels.csv leaves out rows without an image: 4 of 8" in message


def test_further_columns_by_file(xrays: Path) -> None:
    rows = [
        ("a0.png", "p0", "ill", "AP", "40"),
        ("a0.png", "p0", "ill", "PA", "40"),
        ("b0.png", "p1", "well", "", "50"),
    ]
    write_rows(xrays, rows, "image,patient,finding,view,age")

    assert table_columns(data_of(xrays), FILES) == {
        "view": {"images/a0.png": "AP|PA"},
        "age": {"images/a0.png": "40", "images/b0.png": "50"},
    }
    assert table_columns(DataSettings(path=xrays), FILES) == {}


@pytest.mark.parametrize("folder", ["images/held", "./images/held/", "../xrays/images/held"])
def test_side_by_a_folder(tmp_path: Path, write: WriteImages, folder: str) -> None:
    root = tmp_path / "xrays"
    (tmp_path / "elsewhere").mkdir()
    files = [*FILES, "images/held/a9.png", "images/held/b9.png", "images/held2/a8.png"]
    write(root, files)
    write_rows(root, ((file, file, "ill" if "a" in Path(file).stem else "well") for file in files))

    index = read_index(data_of(root, side={"test": folder}))

    assert [image.file for image in index.test] == ["images/held/a9.png", "images/held/b9.png"]
    assert "no image of the table is in it" in refusal(data_of(root, side={"test": "../elsewhere"}))


@pytest.mark.parametrize("form", ["NFC", "NFD"])
def test_umlauts_of_one_or_two_code_points_are_the_same(
    tmp_path: Path, write: WriteImages, form: Any
) -> None:
    """Archives from macOS decompose the umlauts in the names of files and folders, but a table or a setting may not."""
    files = [
        f"{name}/Röntgen{name}{number}.png"
        for name in ("gesund", "Entzündung")
        for number in range(3)
    ]
    write(tmp_path, (normalize("NFD", file) for file in files))
    rows = "\n".join(f"{normalize(form, file)},p{number}" for number, file in enumerate(files))
    (tmp_path / "patients.csv").write_text(f"file,patient\n{rows}\n", encoding="utf-8")
    data = DataSettings(path=tmp_path, classes="auto", positive=normalize(form, "Entzündung"))

    index = read_index(data)

    assert {image.patient for image in index.images} == {f"p{i}" for i in range(6)}
    assert index.class_names[index.positive] == "Entzündung"
