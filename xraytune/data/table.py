"""Read tables that give images patient, class and side: `data.table` or `patients.csv`.

A row names its image by the path below the data folder, by a longer path that ends with it, by the
end of it, or by the bare file name; the suffix may be missing or another one, and Windows'
separators are read too. Rows of one image are united, also those of several tables.
"""

from __future__ import annotations

import csv
import io
import os
import re
from collections import Counter, defaultdict
from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import replace
from pathlib import Path, PurePosixPath
from typing import TypeAlias

from xraytune.base.errors import ConfigError, DataError, Problem, SourceLine, join_names
from xraytune.base.files import read_bytes
from xraytune.base.records import frozen
from xraytune.data.decoding import without_suffix
from xraytune.data.findings import ABSENT, PRESENT, UNKNOWN
from xraytune.data.guesses import (
    EMPTY,
    NO,
    READ_CELLS,
    UNCERTAIN,
    YES,
    composed,
    folded,
    is_view_column,
    means_no_disease,
    part_named,
    pneumonia_type,
    says_other_view,
)
from xraytune.data.images import ImageFile, Images, TableRow
from xraytune.data.patients import PATIENTS_CSV, patient_key
from xraytune.space.messages import nearest
from xraytune.space.settings import FOLDER_NAME, DataSettings, TableSettings

_MOST_SUBGROUPS = 20
_STATES = {"ignore": UNKNOWN, "zeros": ABSENT, "ones": PRESENT}
_PATIENTS_TABLE = TableSettings(
    file=(PATIENTS_CSV,), image="file", patient="patient", label="class"
)

_Rows: TypeAlias = list[tuple[SourceLine, dict[str, str]]]
"""Rows of a table, each with its line and its cells by column."""


@frozen
class LabelTable:
    """The rows of a table, each under the name that it gives its image, in order.

    Of several tables, `path` is the first. `findings` are those of each row, and `unread` counts
    the cells of their columns, or of those of labels, that say neither yes nor no. `others` are the
    columns that the settings do not name.
    """

    path: Path
    settings: TableSettings
    rows: Mapping[str, TableRow]
    findings: tuple[str, ...]
    unread: Mapping[str, int]
    others: tuple[str, ...]

    def rows_of(self, files: Iterable[str]) -> dict[str, TableRow]:
        """Return the row of each file (a path below the data folder) that has one.

        Raises DataError if that is ambiguous.
        """
        names = match_names(self.rows, files, self.path)
        return {file: self.rows[name] for file, name in names.items()}


def add_rows(images: Iterable[ImageFile], table: LabelTable | None) -> Images:
    """Return images with their rows of a table; DataError if these are ambiguous."""
    images = Images(images)
    rows = table.rows_of(image.file for image in images) if table else {}
    return Images(replace(image, in_table=rows.get(image.file)) for image in images)


def match_names(names: Iterable[str], files: Iterable[str], where: Path) -> dict[str, str]:
    """Return the name of each file that one of the names means; see the head of this file.

    A name that is the path of a file means only that one. Of files that differ only in their
    suffix, it means the one with its own suffix. An umlaut of one or of two code points is the
    same. Raises DataError if a name means several files, or several names mean one.
    """
    by_path = defaultdict(list)
    by_end = defaultdict(list)
    for file in files:
        path = _plain_path(file)
        by_path[path].append(file)
        while path:
            by_end[path].append(file)
            path = path.partition("/")[2]
    matched: dict[str, str] = {}
    ambiguous = []
    for name in names:
        end = _plain_path(name)
        found = by_path.get(end) or by_end.get(end, [])
        while not found and "/" in end:
            end = end.partition("/")[2]
            found = by_path.get(end, [])
        if len(found) > 1:
            bare = composed(re.split(r"[/\\]", name)[-1])
            found = [file for file in found if composed(file).endswith(bare)] or found
        if len(found) > 1:
            ambiguous.append(f"{name} means {join_names(found, 3)}")
        for file in found:
            if file in matched:
                ambiguous.append(f"{matched[file]} and {name} mean {file}")
            matched[file] = name
    if ambiguous:
        what = f"names of images are ambiguous: {join_names(ambiguous)}"
        fix = "write the path of each image below the data folder, in one row"
        raise DataError(what, where, fix)
    return matched


def _plain_path(name: str) -> str:
    path = composed(without_suffix(name)).replace("\\", "/")
    return str(PurePosixPath(path)).lstrip("/")


def find_table(data: DataSettings) -> LabelTable | None:
    """Read the table that `data` describes, else the folder's `patients.csv` if there is one.

    Raises ConfigError if there are both, and DataError if the table is missing or malformed.
    """
    file = data.path / PATIENTS_CSV
    if not os.path.lexists(file):
        return _read_table(data.table, data) if data.table else None
    if data.table is None:
        return _read_table(_PATIENTS_TABLE, DataSettings(path=data.path))
    if PATIENTS_CSV not in data.table.file:
        what = f"data.table is given, so {PATIENTS_CSV} would be ignored"
        raise ConfigError(what, file, "move it away")
    return _read_table(data.table, data)


def subgroup_columns(
    images: Sequence[ImageFile], names: Sequence[str]
) -> dict[str, Mapping[str, str]]:
    """Return the values of images in some columns of their table: column -> file -> value.

    Several different cells of one image are joined by `|`; files without a row and empty cells are
    missing. `pneumonia` is bacterial or viral, as Kermany file names state, unless the table has a
    column of that name.

    Raises ConfigError if a column is missing, empty for these files, or has too many values.
    """
    cells_of = {image.file: image.in_table.cells if image.in_table else () for image in images}
    columns: dict[str, Mapping[str, str]] = {}
    problems = []
    for name in names:
        values = {}
        for file, rows in cells_of.items():
            values[file] = "|".join({row[name]: None for row in rows if row.get(name)})
        if name == "pneumonia" and not any(values.values()):
            values = {file: pneumonia_type(file) or "" for file in cells_of}
        columns[name] = {file: value for file, value in values.items() if value}
        count = len({*columns[name].values()})
        if not 0 < count <= _MOST_SUBGROUPS:
            what = f"the table of these images has {count} different values in this column; "
            what += f"1 to {_MOST_SUBGROUPS} make subgroups"
            known = {column for rows in cells_of.values() for row in rows for column in row}
            fix = nearest(name, sorted(known), f"add such a column to {PATIENTS_CSV} or data.table")
            problems.append(Problem(what, f"--by {name}", fix))
    if problems:
        raise ConfigError(*problems)
    return columns


def _read_rows(path: Path, image: str) -> tuple[list[str], _Rows]:
    """Return the names of the columns, and the rows that are not empty.

    `image` is the column that names the images.

    Raises DataError if two columns have the same name, or some rows do not fit the header.
    """
    try:
        text = composed(read_bytes(path, DataError).decode("utf-8-sig"))
    except OSError as error:
        fix = "data.table.file is relative to data.path"
        raise DataError(f"cannot be read ({error.strerror})", path, fix) from error
    except UnicodeDecodeError as error:
        fix = "unpack it (gunzip), or save it as CSV in UTF-8"
        raise DataError(f"not a table in UTF-8: {error}", path, fix) from error
    lines = [*io.StringIO(text, newline="")]
    header = text.lstrip().partition("\n")[0]
    delimiter = max(",;\t", key=header.count)
    reader = csv.reader(lines, delimiter=delimiter, strict=True)
    columns: list[str] = []
    rows = []
    above = 0
    try:
        for cells in reader:
            cells = [cell.strip() for cell in cells]
            if not any(cells) or cells[0].startswith("sep="):  # a blank line, or Excel's first one
                pass
            elif not columns:
                columns = cells
            elif len(cells) != len(columns):
                raise csv.Error(f"it has {len(cells)} cells, and the header {len(columns)}")
            else:
                row = dict(zip(columns, cells, strict=True))
                row.pop("", None)  # such as pandas' index
                for line in lines[above + 1 : reader.line_num] if image in row else ():
                    below = line.split(delimiter)
                    name = below[columns.index(image)] if len(below) == len(cells) else "?"
                    if _outline(name) == _outline(row[image]):
                        raise csv.Error("a quotation mark encloses the rows below")
                rows.append((SourceLine(path, above + 1, lines[above]), row))
            above = reader.line_num
    except csv.Error as error:
        where = SourceLine(path, above + 1, lines[above])
        fix = 'put a cell that contains a separator into quotation marks, "a, b", and close them'
        raise DataError(f"not a row of a table: {error}", where, fix) from error
    names = [column for column in columns if column]
    for name, count in Counter(names).items():
        if count > 1:
            what = f"{count} columns have the same name, {name!r}"
            raise DataError(what, path, "rename or remove all but one of them")
    return names, rows


def _outline(name: str) -> set[str]:
    """Return the punctuation of a name, and whether it has digits, as `{".", "0"}` of `a1.png`."""
    return {*re.sub(r"\d", "0", re.sub(r"[^\W\d]", "", name.strip()))}


def _read_table(settings: TableSettings, data: DataSettings) -> LabelTable:
    """Unite the rows of each image over all tables; raise DataError with the first problems."""
    path = data.path / settings.file[0]
    columns: dict[str, None] = {}
    by_image: dict[str, _Rows] = defaultdict(list)
    for file in settings.file:
        names, rows = _read_rows(data.path / file, settings.image)
        _require_columns({"image": settings.image}, names, data.path / file)
        columns |= dict.fromkeys(names)
        for where, cells in rows:
            by_image[cells[settings.image]].append((where, cells))
    if "" in by_image:
        where, _ = by_image[""][0]
        raise DataError("a cell is empty", where, "name the image")

    needed = {"patient": settings.patient, "side": settings.side_column}
    needed |= {f"rows.{column}": column for column in settings.rows}
    if settings is not _PATIENTS_TABLE:
        needed["label"] = settings.label
    every_row = [cells for rows in by_image.values() for _, cells in rows]
    others = [column for column in columns if column not in {settings.image, *needed.values()}]
    findings: tuple[str, ...] = ()
    if not data.findings:
        if settings.label is None:
            needed |= {f"labels.{column}": column for column in settings.labels}
    elif data.findings != "auto":
        findings = tuple(map(composed, data.findings))
    elif settings.label is None:
        findings = tuple(_finding_columns(others, every_row))
    else:
        words = {label for cells in every_row for label in _labels(settings, cells, data)}
        findings = tuple(sorted(word for word in words if not means_no_disease(word)))
    _require_columns(needed, [*columns], path)

    united = {}
    problems: list[Problem] = []
    for name, rows in by_image.items():
        try:
            united[name] = _unite(name, rows, settings, findings, data)
        except DataError as error:
            problems += error.problems
    if problems:
        raise DataError(*problems[:10])
    yes_no = set() if settings.label else {*(findings or settings.labels)}
    said = Counter(cells[column] for cells in every_row for column in yes_no & cells.keys())
    return LabelTable(
        path=path,
        settings=settings,
        rows=united,
        findings=findings,
        unread={cell: count for cell, count in said.items() if cell.casefold() not in READ_CELLS},
        others=tuple(column for column in others if column not in yes_no),
    )


def _require_columns(needed: Mapping[str, str | None], columns: Sequence[str], path: Path) -> None:
    fix = "a table of patients or studies needs a row for each image (docs/data.md, Joining tables)"
    if len(columns) == 1:
        fix = "separate the columns by commas, and name them in the first line"
    problems = [
        Problem(
            f"there is no column {column!r} (data.table.{key}); found {join_names(columns, 20)}",
            path,
            nearest(column, columns, fix),
        )
        for key, column in needed.items()
        if column is not None and column not in columns
    ]
    if problems:
        raise DataError(*problems)


def _unite(
    name: str, rows: _Rows, settings: TableSettings, findings: Sequence[str], data: DataSettings
) -> TableRow:
    """Return what the rows of an image say together; raise DataError if they contradict."""
    patient = ""
    part = None
    left_out_as = ""
    labels: dict[str, None] = {}
    votes: set[str | None] = set()  # for a class or, with None, against all
    states = []
    for where, cells in rows:
        its_patient = _patient(cells.get(settings.patient or "", ""), where)
        if its_patient and patient_key(patient or its_patient) != patient_key(its_patient):
            what = f"{name} belongs to patient {its_patient} here, but to {patient} in another row"
            raise DataError(what, where, "keep one patient for each image")
        patient = patient or its_patient
        side = cells.get(settings.side_column or "")
        if side is not None:
            its_part = part_named(side)
            if its_part is None or its_part != (part or its_part):
                what = f"the side of {name} is {side!r}; it must be train, val or test in all rows"
                raise DataError(what, where, "write one side for each image")
            part = its_part
        for column, accepted in settings.rows.items():
            shown = cells.get(column)
            if shown is not None and folded(shown) not in map(folded, accepted):
                left_out_as = f"{column} {shown or '(nothing)'}"
        its_labels = _labels(settings, cells, data)
        labels |= dict.fromkeys(its_labels)
        if its_labels or any(cells.get(label, "").casefold() in NO for label in settings.labels):
            votes.add(_class_of(settings, its_labels))
        if settings.label is None:
            states.append(_findings_of(findings, cells, data))
        else:
            there = {folded(label) for label in its_labels}
            absent = ABSENT if there else UNKNOWN
            states.append([PRESENT if folded(word) in there else absent for word in findings])

    class_name = None
    by_finding = [*zip(*states, strict=True)]  # present if a row says so
    united = "".join(min(of_one, key="10?".index) for of_one in by_finding)
    is_disputed = any({PRESENT, ABSENT} <= {*of_one} for of_one in by_finding)
    if not data.findings:
        class_name = _class_of(settings, labels)
        is_disputed = len(votes) > 1
        where, _ = rows[0]
        if len(labels) > 1 and not settings.labels:
            what = f"{name} has several classes: {', '.join(sorted(labels))}"
            fix = "give data.table.labels, of which the first entry that applies is used"
            raise DataError(what, where, fix)
        if class_name is not None and not re.fullmatch(FOLDER_NAME, class_name):
            what = f"the class {class_name!r} cannot be the name of a folder"
            raise DataError(what, where, "use up to 64 characters, no slash, and no leading dot")
    views = [cell for _, cells in rows for key, cell in cells.items() if is_view_column(key)]
    return TableRow(
        patient=patient,
        part=part,
        labels=tuple(labels),
        class_name=class_name,
        findings=united,
        is_disputed=is_disputed,
        is_other_view=any(map(says_other_view, views)),
        left_out_as=left_out_as,
        cells=tuple(cells for _, cells in rows),
    )


def _patient(cell: str, where: SourceLine) -> str:
    """Return a patient's ID as it was before a spreadsheet or pandas wrote it."""
    if re.fullmatch(r"\d(\.\d+)?[eE]\+\d+", cell):
        what = f"patient {cell} is a number that lost its digits, as in a spreadsheet"
        raise DataError(what, where, "write the IDs again from their source, as text")
    return "" if cell.casefold() in EMPTY else re.sub(r"^(\d+)\.0$", r"\1", cell)


def _labels(settings: TableSettings, cells: Mapping[str, str], data: DataSettings) -> list[str]:
    """Return the labels of a row: those in its cell, or the columns that say yes."""
    if settings.label is None:
        return [label for label in settings.labels if cells.get(label, "").casefold() in YES]
    cell = cells.get(settings.label, "")
    labels = cell.split("|") if settings.labels or data.findings else [cell]
    if cell.startswith("[") and cell not in settings.labels:  # a list, as Python writes it
        labels = [label.strip().strip("'\"") for label in cell.strip("[]").split(",")]
    return [label.strip() for label in labels if label.strip()]


def _findings_of(names: Sequence[str], cells: Mapping[str, str], data: DataSettings) -> list[str]:
    """Return the findings of a row by a column for each, unknown without one.

    `No Finding` without a column is the absence of all others.
    """
    states = []
    for name in names:
        uncertain = data.uncertain
        if not isinstance(uncertain, str):
            uncertain = uncertain.get(name, "ignore")
        meanings = ((YES, "ones"), (NO, "zeros"), (UNCERTAIN, uncertain), (EMPTY, data.empty))
        word = cells.get(name, "?").casefold()
        uses = [use for words, use in meanings if word in words] or ["ignore"]
        states.append(_STATES[uses[0]])
    for place, name in enumerate(names):
        if name not in cells and means_no_disease(name):
            others = {*states[:place], *states[place + 1 :]}
            if PRESENT in others:
                states[place] = ABSENT
            elif others == {ABSENT}:
                states[place] = PRESENT
    return states


def _finding_columns(columns: Iterable[str], rows: Sequence[Mapping[str, str]]) -> list[str]:
    """Return the columns whose cells say yes, no or neither, and some yes."""
    found = []
    for column in columns:
        words = {row[column].casefold() for row in rows if column in row}
        if words <= READ_CELLS and words & YES and not is_view_column(column):
            found.append(column)
    return found


def _class_of(settings: TableSettings, labels: Collection[str]) -> str | None:
    """Return the class of an image with these labels."""
    if not settings.labels or not labels:
        return min(labels, default=None)
    words = (name for label, name in settings.labels.items() if label in {*labels, "*"})
    return next(words, None)
