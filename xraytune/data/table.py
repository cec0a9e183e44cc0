"""Read tables with the patient, class and side of images: `data.table` or `patients.csv`.

A row names its image by the path below the data folder, by a longer path that ends with this path,
by the end of the path, or by the bare file name. The suffix may be missing or differ, and Windows'
separators are also read. Rows of one image are united, even across several tables.
"""

import csv
import io
import os
import re
from collections import Counter, defaultdict
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import replace
from itertools import chain
from pathlib import Path, PurePosixPath
from typing import TypeAlias

from xraytune.base.errors import ConfigError, DataError, FileLine, Problem, counted, join_names
from xraytune.base.files import read_bytes
from xraytune.base.records import frozen
from xraytune.data.decoding import without_suffix
from xraytune.data.findings import ABSENT, PRESENT
from xraytune.data.guesses import (
    EMPTY,
    READ_CELLS,
    PartName,
    casefold_text,
    is_view_column,
    normalise_text,
    part_named,
    says_other_view,
    word_in,
)
from xraytune.data.images import NO_ROW, ImageFile, ImageTable, TableRow
from xraytune.data.labels import CellReader
from xraytune.data.patients import PATIENTS_CSV, patient_key
from xraytune.space.data_settings import FOLDER_NAME, DataSettings, TableSettings
from xraytune.space.messages import nearest

JOINING = "docs/data.md, Other formats"
_PATIENTS_TABLE = TableSettings(
    file=(PATIENTS_CSV,), image="file", patient="patient", label="class"
)

_Rows: TypeAlias = list[tuple[FileLine, dict[str, str]]]
"""Rows of a table, each with its line and its cells by column."""


@frozen
class LabelTable:
    """The rows of a table, each under the name that it gives its image, in order.

    If there are several tables, `path` is the first one. `findings` are the names of the findings
    of each row, and `separator` is the text between labels. `unread` counts the cells in columns of
    findings or labels that say neither yes nor no or, with `table.label`, the labels that are no
    finding. `other_names` has these labels, or the columns that the settings do not name.
    """

    path: Path
    settings: TableSettings
    rows: Mapping[str, TableRow]
    findings: tuple[str, ...]
    separator: str
    unread: Mapping[str, int]
    other_names: tuple[str, ...]

    def rows_of(self, files: Iterable[str]) -> dict[str, TableRow]:
        """Return the row of each file (a path below the data folder) that has one.

        Raises DataError if the row of a file is ambiguous.
        """
        names = match_names(self.rows, files, self.path)
        return {file: self.rows[name] for file, name in names.items()}


def add_rows(images: Iterable[ImageFile], table: LabelTable | None) -> ImageTable:
    """Return images with their rows of a table; raise DataError if rows are ambiguous."""
    images = ImageTable(images)
    rows = table.rows_of(image.file for image in images) if table else {}
    return ImageTable(replace(image, in_table=rows.get(image.file, NO_ROW)) for image in images)


def match_names(names: Iterable[str], files: Iterable[str], where: Path) -> dict[str, str]:
    """Return the name of each file that one of the names means; see the head of this file.

    A name that is the path of a file means only this file. Of files that differ only in their
    suffix, a name means the file with the same suffix. Umlauts of one and of two code points are
    equal. Raises DataError if a name means several files, or several names mean one.
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
        meant = by_path.get(end) or by_end.get(end, [])
        while not meant and "/" in end:
            end = end.partition("/")[2]
            meant = by_path.get(end, [])
        if len(meant) > 1:
            bare = normalise_text(re.split(r"[/\\]", name)[-1])
            meant = [file for file in meant if normalise_text(file).endswith(bare)] or meant
        if len(meant) > 1:
            ambiguous.append(f"{name} means {join_names(meant, 3)}")
        for file in meant:
            if file in matched:
                ambiguous.append(f"{matched[file]} and {name} mean {file}")
            matched[file] = name
    if ambiguous:
        raise DataError(
            f"names of images are ambiguous: {join_names(ambiguous)}",
            where,
            "write the path of each image below the data folder, in one row",
        )
    return matched


def _plain_path(name: str) -> str:
    path = normalise_text(without_suffix(name)).replace("\\", "/")
    return str(PurePosixPath(path)).lstrip("/")


def table_path(file: str, data: DataSettings) -> Path:
    """Return the path of a table or a list of one, which may start with `~`."""
    return data.path / os.path.expanduser(file)  # noqa: PTH111 (it keeps ~ of an unknown user)


def find_table(data: DataSettings) -> LabelTable | None:
    """Read the table that `data` describes, or else the folder's `patients.csv` if there is one.

    Raises ConfigError if there are both, and DataError if the table is missing or malformed.
    """
    file = data.path / PATIENTS_CSV
    has_patients = os.path.lexists(file)
    if data.table is None:
        folder = DataSettings(path=data.path)
        return _read_table(_PATIENTS_TABLE, folder) if has_patients else None
    if has_patients and PATIENTS_CSV not in data.table.file:
        raise ConfigError(
            f"data.table is given, so {PATIENTS_CSV} would be ignored", file, "move it away"
        )
    return _read_table(data.table, data)


def _read_rows(path: Path, image: str) -> tuple[list[str], _Rows]:
    """Return the names of the columns, and the rows that are not empty.

    `image` is the column that names the images.

    Raises DataError if the file is no such table, two columns have the same name, or some rows do
    not fit the header.
    """
    text = _read_text(path)
    lines = [*io.StringIO(text, newline="")]
    first, second, *_ = [*text.lstrip().split("\n", 2), ""]
    counts = {mark: (first.count(mark), second.count(mark)) for mark in ",;\t"}
    delimiter = max(counts, key=lambda mark: (min(counts[mark]), counts[mark]))
    reader = csv.reader(lines, delimiter=delimiter, strict=True)
    columns: list[str] = []
    cells = []
    rows = []
    above = 0
    try:
        for cells in reader:
            cells = [cell.strip() for cell in cells]
            width = len(cells)
            while len(cells) > len(columns) > 0 and not cells[-1]:
                cells.pop()
            if not any(cells) or cells[0].startswith("sep="):  # a blank line, or Excel's first one
                pass
            elif not columns:
                columns = cells
            elif len(cells) != len(columns):
                raise csv.Error(f"it has {len(cells)} cells, and the header {len(columns)}")
            else:
                row = dict(zip(columns, cells, strict=True))
                row.pop("", None)  # such as pandas' index
                if image in row:
                    rows_below = [
                        line.split(delimiter) for line in lines[above + 1 : reader.line_num]
                    ]
                    _refuse_enclosed(row[image], rows_below, columns.index(image), width)
                rows.append((FileLine(path, above + 1, lines[above]), row))
            above = reader.line_num
    except csv.Error as error:
        _require_header_on_top(image, columns, lines, path)
        where = FileLine(path, above + 1, lines[above])
        fix = 'put a cell that contains a separator into quotation marks, "a, b", and close them'
        if len(cells) < len(columns):
            fix = f"write {delimiter!r} for each empty cell, also at the end of the row"
        raise DataError(f"not a row of a table: {error}", where, fix) from error
    _require_header_on_top(image, columns, lines, path)
    names = [column for column in columns if column]
    for name, count in Counter(names).items():
        if count > 1:
            raise DataError(
                f"{count} columns have the same name, {name!r}",
                path,
                "rename or remove all but one of them",
            )
    return names, rows


def _read_text(path: Path) -> str:
    """Return the text of a table; raise DataError if it cannot be read, or is no table."""
    try:
        text = normalise_text(read_bytes(path, DataError).decode("utf-8-sig"))
    except OSError as error:
        raise DataError(
            f"cannot be read ({error.strerror})", path, "data.table.file is relative to data.path"
        ) from error
    except UnicodeDecodeError as error:
        raise DataError(
            f"not a table in UTF-8: {error}", path, "unpack it (gunzip), or save it as CSV in UTF-8"
        ) from error
    if re.match(r"\s*(\[\s*)?\{", text):
        raise DataError(
            "this is JSON, and tables are CSV",
            path,
            "save it as CSV: pandas.read_json(FILE).to_csv(OTHER, index=False); of JSON lines, "
            "read_json(FILE, lines=True)",
        )
    return text


def _refuse_enclosed(
    name: str, rows_below: Iterable[Sequence[str]], column: int, width: int
) -> None:
    """Raise csv.Error if lines that belong to a row look like rows, with a name like its name."""
    for cells in rows_below:
        if len(cells) == width and _punctuation(cells[column]) == _punctuation(name):
            raise csv.Error("a quotation mark encloses the rows below")


def _require_header_on_top(
    image: str, columns: Sequence[str], lines: Sequence[str], path: Path
) -> None:
    """Refuse (DataError) a table whose header is below other lines, such as a title."""
    if image in columns:
        return
    for number, line in enumerate(lines, 1):
        if image in [cell.strip(' \r\n"') for cell in re.split("[,;\t]", line)]:
            raise DataError(
                f"the header is here, below {counted(number - 1, 'other line')}",
                FileLine(path, number, line),
                "delete the lines above it",
            )


def _punctuation(name: str) -> set[str]:
    """Return the punctuation of a name, with "0" for digits, such as `{".", "0"}` for `a1.png`."""
    return {*re.sub(r"\d", "0", re.sub(r"[^\W\d]", "", name.strip()))}


def _read_table(settings: TableSettings, data: DataSettings) -> LabelTable:
    """Unite the rows of each image over all tables; raise DataError with the first problems."""
    path = table_path(settings.file[0], data)
    columns: dict[str, None] = {}
    by_image = defaultdict(list)
    for file in settings.file:
        place = table_path(file, data)
        names, rows = _read_rows(place, settings.image)
        _require_columns({"table.image": settings.image}, names, place)
        columns |= dict.fromkeys(names)
        for where, cells in rows:
            by_image[cells[settings.image]].append((where, cells))
    if "" in by_image:
        where, _ = by_image[""][0]
        raise DataError("a cell is empty", where, "name the image")

    _refuse_merged_cells(settings, by_image)

    needed = {"table.patient": settings.patient, "table.side": settings.side_column}
    needed |= {f"table.rows.{column}": column for column in settings.rows}
    if settings is not _PATIENTS_TABLE:
        needed["table.label"] = settings.label
    if settings.label is None and not data.findings:
        needed |= {f"table.labels.{column}": column for column in settings.labels}
    _require_columns(needed, [*columns], path)
    if data.findings and not isinstance(data.uncertain, str):
        _require_columns({f"uncertain.{name}": name for name in data.uncertain}, [*columns], path)

    every_row = [cells for rows in by_image.values() for _, cells in rows]
    other_columns = [
        column for column in columns if column not in {settings.image, *needed.values()}
    ]
    reader = CellReader(settings, data, every_row, other_columns, path)
    problems = reader.problems(every_row, path)
    united = {}
    for name, rows in by_image.items():
        try:
            united[name] = _unite(name, rows, reader)
        except DataError as error:
            problems += error.problems
    if problems:
        raise DataError(*problems[:10])
    yes_no = set() if settings.label else {*(reader.findings or settings.labels)}
    unread = Counter(cells[column] for cells in every_row for column in yes_no & cells.keys())
    if settings.label and data.findings:
        other_columns = reader.other_labels()
        unread = Counter({word: reader.words[word] for word in other_columns})
    return LabelTable(
        path=path,
        settings=settings,
        rows=united,
        findings=reader.findings,
        separator=reader.separator,
        unread={cell: unread[cell] for cell in unread if word_in(cell) not in READ_CELLS},
        other_names=tuple(column for column in other_columns if column not in yes_no),
    )


def _refuse_merged_cells(settings: TableSettings, by_image: Mapping[str, _Rows]) -> None:
    """Refuse (DataError) a table with rows that have neither patient nor label, unlike others."""
    patient = settings.patient
    label = settings.label
    if patient is None or label is None:
        return
    every_row = [*chain(*by_image.values())]
    empty = [where for where, cells in every_row if not (cells.get(patient) or cells.get(label))]
    if 0 < len(empty) < len(every_row):
        raise DataError(
            f"{len(empty)} of {len(every_row)} rows have neither patient nor label, as this one",
            empty[0],
            "fill them: of merged cells, only the first is filled; or delete these rows",
        )


def _require_columns(needed: Mapping[str, str | None], columns: Sequence[str], path: Path) -> None:
    fix = ""
    if path.name == PATIENTS_CSV:
        fix = "make the first line: file,patient"
    elif len(columns) == 1:
        fix = "separate the columns by commas, and name them in the first line"
    elif "table.image" in needed:
        fix = f"a table of patients or studies needs a row for each image ({JOINING})"
    problems = [
        Problem(
            f"there is no column {column!r} (data.{key}); found {join_names(columns, 20)}",
            path,
            nearest(column, columns, fix),
        )
        for key, column in needed.items()
        if column is not None and column not in columns
    ]
    if problems:
        raise DataError(*problems)


def _unite(name: str, rows: _Rows, reader: CellReader) -> TableRow:
    """Unite the rows of an image; raise DataError if they contradict each other."""
    settings = reader.settings
    patient = _patient_of(name, rows, settings.patient)
    part = _part_of(name, rows, settings.side_column)
    left_out_as = ""
    labels: dict[str, None] = {}
    votes: set[str | None] = set()  # for a class or, with None, against all
    states = []
    for _, cells in rows:
        for column, accepted in settings.rows.items():
            content = cells.get(column)
            if content is not None and casefold_text(content) not in map(casefold_text, accepted):
                left_out_as = f"{column} {content or '(nothing)'}"
        row_labels = reader.labels_of(cells)
        labels |= dict.fromkeys(row_labels)
        if row_labels or reader.denies_labels(cells):
            votes.add(reader.class_of(row_labels))
        states.append(reader.findings_of(cells))

    class_name = None
    by_finding = [*zip(*states, strict=True)]  # present if a row says so
    united = "".join(min(finding_states, key="10?".index) for finding_states in by_finding)
    is_disputed = any({PRESENT, ABSENT} <= {*finding_states} for finding_states in by_finding)
    if not reader.data.findings:
        class_name = reader.class_of(labels)
        is_disputed = len(votes) > 1
        where, _ = rows[0]
        if len(labels) > 1 and not settings.labels:
            raise DataError(
                f"{name} has several classes: {', '.join(sorted(labels))}",
                where,
                "give data.table.labels, of which the first entry that applies is used",
            )
        if class_name is not None and not re.fullmatch(FOLDER_NAME, class_name):
            raise DataError(
                f"the class {class_name!r} cannot be the name of a folder",
                where,
                "use up to 64 characters, no slash, and no leading dot",
            )
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


def _patient_of(name: str, rows: _Rows, column: str | None) -> str:
    """Return the patient of an image, "" without one; raise DataError if there are several."""
    patient = ""
    for where, cells in rows:
        row_patient = _patient(cells.get(column or "", ""), where)
        if row_patient and patient_key(patient or row_patient) != patient_key(row_patient):
            raise DataError(
                f"{name} belongs to patient {row_patient} here, but to {patient} in another row",
                where,
                "keep one patient for each image",
            )
        patient = patient or row_patient
    return patient


def _part_of(name: str, rows: _Rows, column: str | None) -> PartName | None:
    """Return the part of an image, None without one; raise DataError if rows do not agree on it."""
    part = None
    for where, cells in rows:
        side = cells.get(column or "")
        if side is not None:
            row_part = part_named(side)
            if row_part is None or row_part != (part or row_part):
                raise DataError(
                    f"the side of {name} is {side!r}; it must be train, val or test in all rows",
                    where,
                    "write one side for each image",
                )
            part = row_part
    return part


def _patient(cell: str, where: FileLine) -> str:
    """Return a patient's ID as it was before a spreadsheet or pandas wrote it."""
    if re.fullmatch(r"\d([.,]\d+)?[eE]\+\d+", cell):
        raise DataError(
            f"patient {cell} is a number that lost its digits, as in a spreadsheet",
            where,
            "write the IDs again from their source, as text",
        )
    return "" if cell.casefold() in EMPTY else re.sub(r"^(\d+)[.,]0$", r"\1", cell)
