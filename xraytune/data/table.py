"""Read tables that give images patient, class and side: `data.table` or `patients.csv`.

A row names its image by the path below the data folder, by a longer path that ends with it, by the
end of it, or by the bare file name; the suffix may be missing or another one, and Windows'
separators are read too. Rows of one image are united, also those of several tables.
"""

from __future__ import annotations

import csv
import os
import re
from collections import Counter, defaultdict
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path, PurePosixPath
from typing import NamedTuple, TypeAlias
from urllib.parse import unquote

from xraytune.base.errors import ConfigError, DataError, Problem, SourceLine, join_names
from xraytune.base.files import require_file
from xraytune.data.findings import FindingReader, found_columns
from xraytune.data.formats import without_suffix
from xraytune.data.guesses import (
    EMPTY,
    NO,
    UNCERTAIN,
    YES,
    PartName,
    composed,
    folded,
    is_view_column,
    means_no_disease,
    part_named,
    pneumonia_type,
    says_other_view,
)
from xraytune.data.patients import PATIENTS_CSV, patient_key
from xraytune.space.messages import nearest
from xraytune.space.settings import FOLDER_NAME, DataSettings, TableSettings

_MOST_SUBGROUPS = 20
JOIN = "a table of patients or studies needs a row for each image (docs/data.md, Joining tables)"
PATIENTS_TABLE = TableSettings(file=(PATIENTS_CSV,), image="file", patient="patient", label="class")
KNOWN_CELLS = YES | NO | UNCERTAIN | EMPTY
_DELIMITERS = ",;\t"
_PROBLEMS_SHOWN = 10


@dataclass(slots=True)
class TableRow:
    """What a table says about one image; its rows vote for its class or, with None, against all.

    `findings` are those of each row; `left_out_as` is a cell that `data.table.rows` does not
    accept.
    """

    where: SourceLine
    patient: str = ""
    part: PartName | None = None
    labels: set[str] = field(default_factory=set)
    votes: Counter[str | None] = field(default_factory=Counter)
    is_other_view: bool = False
    class_name: str | None = None
    findings: list[str] = field(default_factory=list)
    left_out_as: str | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class LabelTable:
    """The rows of a table, each under the name that it gives its image, in order.

    Of several tables, `path` is the first.

    `cells` counts the words in columns that are labels or findings. `findings` are the names of
    those that the rows have; `known` are all columns or labels that can be findings, `columns` all
    columns of the tables.
    """

    path: Path
    settings: TableSettings
    rows: Mapping[str, TableRow]
    cells: Mapping[str, int]
    findings: tuple[str, ...] = ()
    known: tuple[str, ...] = ()
    columns: tuple[str, ...] = ()

    def rows_of(self, files: Collection[str]) -> dict[str, str]:
        """Return the row of each file (a path below the data folder) that has one.

        Raises DataError if that is ambiguous.
        """
        matches = match_names(self.rows, files)
        if problems := matches.problems(self.path):
            raise DataError(*problems)
        return dict(matches.by_file)

    def patients_of(self, files: Collection[str]) -> dict[str, str] | None:
        """Return the patient of each file, None if the table has no column of them.

        Raises DataError if one is not unique.
        """
        if self.settings.patient is None:
            return None
        rows = self.rows_of(files)
        what, fix = "images have no row", "add a row for each of them"
        if not rows:
            fix = f"write their paths into column {self.settings.image}, "
            fix += f"which names {join_names([*self.rows], 2)}"
        missing = [file for file in files if file not in rows]
        if not missing:
            what, fix = (
                f"images have no patient in column {self.settings.patient}",
                "fill in the cells",
            )
            missing = [file for file, row in rows.items() if not self.rows[row].patient]
        if missing:
            raise DataError(
                Problem(
                    f"{len(missing)} of {len(files)} {what}: {join_names(missing)}", self.path, fix
                )
            )
        return {file: self.rows[row].patient for file, row in rows.items()}


class Matches(NamedTuple):
    """The name of each file that has one.

    Names that mean several files, and files that several names mean.
    """

    by_file: Mapping[str, str]
    several_files: Mapping[str, Sequence[str]]
    several_names: Mapping[str, Sequence[str]]

    def problems(self, table: Path) -> list[Problem]:
        """Return problems of names that mean several files, and files with several names."""
        problems = []
        if self.several_files:
            shown = join_names(
                [f"{name} ({join_names(files, 3)})" for name, files in self.several_files.items()]
            )
            fix = "write their paths below the data folder into the table"
            problems.append(Problem(f"names that belong to several files: {shown}", table, fix))
        if self.several_names:
            shown = join_names(
                [f"{file} (as {' and '.join(names)})" for file, names in self.several_names.items()]
            )
            problems.append(
                Problem(f"images have several rows: {shown}", table, "keep one row for each image")
            )
        return problems


def match_names(names: Collection[str], files: Iterable[str]) -> Matches:
    """Find the file that each name means; see the head of this file.

    A name that is the path of a file means only that one. Of files that differ only in their
    suffix, it means the one with its own suffix. An umlaut of one or of two code points is the
    same.
    """
    by_path: dict[str, list[str]] = defaultdict(list)
    for file in files:
        by_path[_path(file)].append(file)
    by_end: dict[str, list[str]] = defaultdict(list)
    depths = {_path(name).count("/") + 1 for name in names}
    for path, same_path in by_path.items():
        for depth in depths:
            if path.count("/") >= depth:
                by_end["/".join(path.rsplit("/", depth)[1:])] += same_path

    by_file: dict[str, str] = {}
    several_files: dict[str, list[str]] = {}
    several_names: dict[str, list[str]] = {}
    for name in names:
        end = _path(name)
        matching = by_path.get(end) or by_end.get(end) or []
        while not matching and "/" in end:
            end = end.partition("/")[2]
            matching = by_path.get(end, [])
        if len(matching) > 1:
            bare = composed(re.split(r"[/\\]", name)[-1])
            matching = [file for file in matching if composed(file).endswith(bare)] or matching
        if len(matching) > 1:
            several_files[name] = matching
        for file in matching:
            if file in by_file:
                several_names.setdefault(file, [by_file[file]]).append(name)
            by_file[file] = name
    return Matches(by_file, several_files, several_names)


_SPELLINGS: Mapping[str, Callable[[str], str]] = {
    "if capitals are ignored": str.casefold,
    "with %20 and the like decoded": unquote,
    "without .dcm": lambda name: re.sub(r"\.dcm(?=\.|$)", "", name, flags=re.IGNORECASE),
    "from their last = on": lambda name: name.rpartition("=")[2],
    "from their last - on": lambda name: name.rpartition("-")[2],
}
"""What programs change in the names of files."""


def near_matches(names: Collection[str], files: Collection[str]) -> str:
    """Return how most names would match files if both were spelled in another way.

    "" if none would.
    """
    counts: dict[str, int] = {}
    for how, spell in _SPELLINGS.items():
        spelled = [spell(name) for name in names]
        alike = [match_names(spelled, files), match_names(spelled, [*map(spell, files)])]
        counts[how] = max(len(matches.by_file) for matches in alike)
    how = max(counts, key=lambda how: counts[how])
    return f"{counts[how]:,} of them match {how}" if counts[how] else ""


def _path(name: str) -> str:
    return PurePosixPath(composed(without_suffix(name)).replace("\\", "/")).as_posix()


def find_table(root: Path, data: DataSettings | None = None) -> LabelTable | None:
    """Read the table that `data` describes, else the folder's `patients.csv` if there is one.

    Raises ConfigError if there are both, and DataError if the table is missing or malformed.
    """
    has_patients_csv = os.path.lexists(root / PATIENTS_CSV)
    settings = data.table if data else None
    if settings is None:
        return _read_table(root, PATIENTS_TABLE) if has_patients_csv else None
    if has_patients_csv and PATIENTS_CSV not in settings.file:
        fix = f"move it away; or describe it by data.table: {{file: {PATIENTS_CSV}, image: file, patient: patient}}"
        raise ConfigError(
            Problem(
                f"data.table is given, so {PATIENTS_CSV} would be ignored", root / PATIENTS_CSV, fix
            )
        )
    return _read_table(root, settings, data)


def table_columns(data: DataSettings, files: Collection[str]) -> dict[str, dict[str, str]]:
    """Return the further columns of a table, such as age: column -> file -> cell.

    Columns that name the image, its patient, labels or side are left out. Several different cells
    of one image are joined by `|`; files without a row and empty cells are missing. Raises like
    `find_table`.
    """
    table = find_table(data.path, data)
    if table is None:
        return {}
    settings = table.settings
    used = {
        settings.image,
        settings.patient,
        settings.label,
        settings.side_column,
    }
    used |= set() if settings.label else {*settings.labels, *table.findings}
    by_row: dict[str, dict[str, dict[str, None]]] = defaultdict(lambda: defaultdict(dict))
    for file in settings.file:
        _, lines = _read_rows(data.path / file, settings.image)
        for _, cells in lines:
            for column, cell in cells.items():
                if cell and column not in used:
                    by_row[column][cells[settings.image]][cell] = None
    rows = table.rows_of(files).items()
    return {
        column: {file: "|".join(cells[row]) for file, row in rows if row in cells}
        for column, cells in by_row.items()
    }


def subgroup_columns(
    data: DataSettings, files: Collection[str], names: Sequence[str]
) -> dict[str, Mapping[str, str]]:
    """Return the values of files in some columns of a table: column -> file -> value.

    `pneumonia` is bacterial or viral, as Kermany file names state, unless the table has a column of
    that name.

    Raises ConfigError if a column is missing, empty for these files, or has too many values; else
    like `find_table`.
    """
    if not names:
        return {}
    types = {file: kind for file in files if (kind := pneumonia_type(file))}
    columns = {"pneumonia": types} | table_columns(data, files)
    known = {name: values for name, values in columns.items() if values}
    problems = []
    for name in names:
        count = len(set(known.get(name, {}).values()))
        if name not in known:
            what = "no patient table of these images has this column, or it is empty for them"
            add = f"add a {PATIENTS_CSV} with the columns file, patient, {name}"
            fix = f"use one of: {join_names([*known])}" if known else add
            problems.append(Problem(what, f"--by {name}", nearest(name, known, fix)))
        elif count > _MOST_SUBGROUPS:
            what = f"this column has {count} different values; "
            what += f"at most {_MOST_SUBGROUPS} make subgroups"
            problems.append(
                Problem(
                    what, f"--by {name}", "add a column with fewer values, such as an age group"
                )
            )
    if problems:
        raise ConfigError(*problems)
    return {name: known[name] for name in names}


_Rows: TypeAlias = list[tuple[SourceLine, dict[str, str]]]
"""The rows of a table, each with its line and its cells by column."""


def _read_rows(path: Path, image: str) -> tuple[list[str], _Rows]:
    """Return the named columns and the rows of a table.

    `image` is the column that names the images.

    Raises DataError if two columns have the same name, or some rows do not fit the header.
    """
    lines = _read_lines(path)
    given = re.fullmatch(r'"?sep=(.)"?\s*', lines[0]) if lines else None  # Excel's
    if given:
        lines[0] = ""
    header = next((line for line in lines if line.strip()), "")
    delimiter = given[1] if given else max(_DELIMITERS, key=header.count)
    records = _parse(path, lines, delimiter)
    _, columns, _ = next(records, (0, [], []))
    names = [column for column in columns if column]
    if len(names) == 1 and len(names[0].split()) > 1:
        what = f"its first line, {names[0]!r}, has no comma, semicolon or tab"
        fix = f"begin with the names of the columns, such as {image}"
        raise DataError(Problem(what, path, f"separate its cells by one of these, and {fix}"))
    for name in names:
        places = [str(place) for place, column in enumerate(columns, start=1) if column == name]
        if len(places) > 1:
            what = f"columns {' and '.join(places)} have the same name, {name!r}"
            raise DataError(Problem(what, path, "rename or remove all but one of them"))

    rows: _Rows = []
    ragged: dict[int, str] = {}
    for number, cells, below in records:
        where = SourceLine(path, number)
        if len(cells) != len(columns):
            ragged[number] = f"line {number} has {len(cells)}"
        elif image in columns and _encloses_rows(cells, below, delimiter, columns.index(image)):
            what = "a quotation mark in this row encloses the rows below"
            fix = "remove the quotation mark, or double it if it is text"
            raise DataError(Problem(what, where, fix))
        else:
            row = {name: cell for name, cell in zip(columns, cells, strict=True) if name}
            rows.append((where, row))
    if ragged:
        what = f"the header has {len(columns)} cells, but {join_names([*ragged.values()])}"
        fix = "add missing cells, and put a cell that contains a separator into quotation marks: "
        where = SourceLine(path, min(ragged), lines[min(ragged) - 1])
        raise DataError(Problem(what, where, f'{fix}"a, b"'))
    return names, rows


def _read_lines(path: Path) -> list[str]:
    try:
        require_file(path, DataError)
        with path.open(encoding="utf-8-sig", newline="") as stream:
            return [composed(line) for line in stream]
    except UnicodeDecodeError as error:
        fix = (
            "unpack it (gunzip), and correct data.table.file"
            if path.suffix == ".gz"
            else "save it as CSV in UTF-8"
        )
        raise DataError(Problem(f"not a table in UTF-8: {error}", path, fix)) from error
    except FileNotFoundError as error:
        raise DataError(
            Problem("there is no such table", path, "data.table.file is relative to data.path")
        ) from error
    except OSError as error:
        raise DataError(
            Problem(f"cannot be read ({error.strerror})", path, "check its permissions")
        ) from error


def _parse(
    path: Path, lines: Sequence[str], delimiter: str
) -> Iterator[tuple[int, list[str], Sequence[str]]]:
    """Yield the first line, the cells and the further lines of each record that is not empty."""
    reader = csv.reader(lines, delimiter=delimiter, strict=True)
    start = 0
    try:
        for cells in reader:
            cells = [cell.strip() for cell in cells]
            if any(cells):
                yield start + 1, cells, lines[start + 1 : reader.line_num]
            start = reader.line_num
    except csv.Error as error:
        where = SourceLine(path, start + 1, lines[start])
        fix = "close the quotation mark, or double one that is text"
        raise DataError(Problem(f"not a row of a table: {error}", where, fix)) from error


def _encloses_rows(cells: Sequence[str], below: Sequence[str], delimiter: str, image: int) -> bool:
    """Return whether a further line of a record is itself a row that names an image."""
    rows = [row for line in below for row in csv.reader([line], delimiter=delimiter)]
    names = [row[image].strip() for row in rows if len(row) == len(cells)]

    def outline(name: str) -> tuple[str, bool]:
        punctuation = re.sub(r"\w", "", name)
        return punctuation, re.search(r"\d", name) is not None

    return outline(cells[image]) in map(outline, names)


def _read_table(
    root: Path, settings: TableSettings, data: DataSettings | None = None
) -> LabelTable:
    """Unite the rows of each image over all tables.

    Raise DataError with the first of all problems.
    """
    paths = [root / file for file in settings.file]
    tables = [_read_rows(path, settings.image) for path in paths]
    columns = tuple(dict.fromkeys(column for header, _ in tables for column in header))
    rows: dict[str, TableRow] = {}
    reader: FindingReader | None = None
    known: tuple[str, ...] = ()
    if data and data.findings:
        known = _possible_findings(settings, tables)
        names = known if data.findings == "auto" else tuple(map(composed, data.findings))
        reader = FindingReader(names=names, data=data)
    yes_no_columns: Collection[str] = ()
    if settings.label is None:
        yes_no_columns = reader.names if reader else settings.labels
    accepted = {column: {folded(cell) for cell in cells} for column, cells in settings.rows.items()}
    seen: dict[str, set[str]] = {column: set() for column in accepted}
    words: Counter[str] = Counter()
    problems: list[Problem | str] = []
    for path, (header, lines) in zip(paths, tables, strict=True):
        if settings.image not in header:
            problems += _missing_columns(settings, [("image", settings.image)], header, path)
            continue
        views = [column for column in header if is_view_column(column)]
        for where, cells in lines:
            said = [cells[column] for column in yes_no_columns if column in cells]
            words.update(said)
            problems += _unite(rows, settings, where, cells, said, views, reader)
            for column in accepted.keys() & cells:
                cell = cells[column]
                seen[column].add(cell)
                row = rows.get(cells[settings.image])
                if row and folded(cell) not in accepted[column]:
                    row.left_out_as = f"{column} {cell or '(nothing)'}"
    needed = [
        ("patient", settings.patient),
        ("side", settings.side_column),
        *(("rows", column) for column in settings.rows),
    ]
    if not reader:
        needed += [("labels", column) for column in yes_no_columns]
    if settings is not PATIENTS_TABLE:
        needed.append(("label", settings.label))
    problems += _missing_columns(settings, needed, sorted(columns), paths[0])
    if not reader:
        for name, row in rows.items():
            problems += _classify(settings, name, row)
        if settings.label is not None and not problems:
            problems += _unknown_labels(settings, rows, paths[0])
    for column, there in seen.items():
        if column in columns and accepted[column].isdisjoint(map(folded, there)):
            what = f"data.table.rows: no cell of column {column}"
            what += f" is {join_names(settings.rows[column])}"
            problems.append(Problem(what, paths[0], f"it contains {join_names(sorted(there))}"))
    if len(problems) > _PROBLEMS_SHOWN:
        problems[_PROBLEMS_SHOWN:] = [f"... and {len(problems) - _PROBLEMS_SHOWN} more"]
    if problems:
        raise DataError(*problems)
    return LabelTable(
        path=paths[0],
        settings=settings,
        rows=rows,
        cells=words,
        findings=reader.names if reader else (),
        known=known,
        columns=columns,
    )


def _unknown_labels(
    settings: TableSettings, rows: Mapping[str, TableRow], path: Path
) -> Iterator[Problem]:
    """Report labels of `data.table.labels` that no row has."""
    known = {label for row in rows.values() for label in row.labels}
    for label in settings.labels:
        if label not in {*known, "*"}:
            what = f"data.table.labels: no cell of column {settings.label} has the label {label!r}"
            yield Problem(what, path, nearest(label, sorted(known), "check its spelling"))


def _possible_findings(
    settings: TableSettings, tables: Iterable[tuple[list[str], _Rows]]
) -> tuple[str, ...]:
    """Return all columns or labels of tables that can be findings."""
    known: dict[str, None] = {}
    for header, lines in tables:
        rows = [cells for _, cells in lines]
        if settings.label is None:
            known |= dict.fromkeys(found_columns(settings, header, rows))
        elif settings.label in header:
            labels = {
                label for cells in rows for label in _labels(settings, cells, are_several=True)
            }
            known |= dict.fromkeys(sorted(label for label in labels if not means_no_disease(label)))
    return tuple(known)


def _missing_columns(
    settings: TableSettings,
    needed: Iterable[tuple[str, str | None]],
    header: Sequence[str],
    path: Path,
) -> Iterator[Problem]:
    """Report columns that are missing; each has a key in `data.table`."""
    for key, column in needed:
        if column is not None and column not in header:
            what = f"there is no column {column!r}; found {join_names(header, 20) or 'nothing'}"
            name, fix = (
                f"data.table.{key}: ",
                nearest(column, header, JOIN if key == "image" else ""),
            )
            if settings is PATIENTS_TABLE:
                name, fix = "", "make the first line: file,patient"
            yield Problem(name + what, path, fix)


def _unite(
    rows: dict[str, TableRow],
    settings: TableSettings,
    where: SourceLine,
    cells: Mapping[str, str],
    said: Sequence[str],
    views: Sequence[str],
    reader: FindingReader | None,
) -> Iterator[Problem]:
    """Add a row to those of its image, or report contradictions."""
    name, patient = cells[settings.image], cells.get(settings.patient or "", "")
    if not name:
        yield Problem("a cell is empty", where, "name the image")
        return
    if re.fullmatch(r"\d(\.\d+)?[eE]\+\d+", patient):
        what = f"patient {patient} is a number that lost its digits, as in a spreadsheet"
        yield Problem(what, where, "write the IDs again from their source, as text")
        return
    # pandas writes floats if some cells of the column are empty, and the word nan for these.
    patient = re.sub(r"^(\d+)\.0$", r"\1", patient)
    patient = "" if patient.casefold() in EMPTY else patient
    row = rows.setdefault(name, TableRow(where))
    if row.patient and patient and patient_key(row.patient) != patient_key(patient):
        what = f"{name} belongs to patient {patient} here, but to {row.patient} in {row.where}"
        yield Problem(what, where, "keep one of the two rows")
        return
    row.patient = row.patient or patient
    labels = _labels(settings, cells, are_several=reader is not None)
    if reader and (findings := reader.read(cells, None if settings.label is None else labels)):
        row.findings.append(findings)
    row.labels.update(labels)
    if labels or any(cell.casefold() in NO for cell in said):
        row.votes[_class_of(settings, labels)] += 1
    row.is_other_view |= any(says_other_view(cells[column]) for column in views)
    side = settings.side_column
    if side and side in cells:
        part = part_named(cells[side])
        if part is None:
            yield Problem(
                f"the side {cells[side]!r} is not train, val or test", where, "correct the cell"
            )
        elif row.part not in (None, part):
            what = f"{name} is {part} here, but {row.part} in another row"
            yield Problem(what, where, "keep one side for each image")
        row.part = row.part or part


def _labels(
    settings: TableSettings, cells: Mapping[str, str], *, are_several: bool = False
) -> list[str]:
    if settings.label is None:  # a column for each label; -1 (uncertain) is no yes
        return [label for label in settings.labels if cells.get(label, "").casefold() in YES]
    cell = cells.get(settings.label, "")
    labels = cell.split("|") if settings.labels or are_several else [cell]
    if (
        cell.startswith("[") and cell.endswith("]") and cell not in settings.labels
    ):  # a list, as Python writes it
        labels = [label.strip().strip("'\"") for label in cell[1:-1].split(",")]
    return [label.strip() for label in labels if label.strip()]


def _class_of(settings: TableSettings, labels: Collection[str]) -> str | None:
    """Return the class of an image with these labels."""
    if not settings.labels or not labels:
        return min(labels, default=None)
    return next(
        (known for label, known in settings.labels.items() if label in labels or label == "*"), None
    )


def _classify(settings: TableSettings, name: str, row: TableRow) -> Iterator[Problem]:
    """Set the class of an image by its rows, or report what is wrong with them."""
    row.class_name = _class_of(settings, row.labels)
    if len(row.labels) > 1 and not settings.labels:
        what = f"{name} has several classes: {', '.join(sorted(row.labels))}"
        fix = "give data.table.labels, of which the first entry that applies is used"
        yield Problem(what, row.where, fix)
    if row.class_name is not None and not re.fullmatch(FOLDER_NAME, row.class_name):
        what = f"the class {row.class_name!r} cannot be the name of a folder"
        yield Problem(what, row.where, "use up to 64 characters, no slash, and no leading dot")
