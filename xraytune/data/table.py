"""Read tables that give images their patient, class and side: `data.table`, or the `patients.csv` of a data folder.

A row names its image by the path below the data folder, by a longer path that ends with it, by the end of it, or by the
bare file name; the suffix may be missing or another one. Several rows of one image are united, and several tables are read
as one.
"""

from __future__ import annotations

import csv
import os
import re
from collections import defaultdict
from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal, get_args

from xraytune.base.errors import ConfigError, DataError, Problem, SourceLine, join_names
from xraytune.base.files import cell_path, cell_text, require_file
from xraytune.data.formats import DICOM_SUFFIXES, NAMING_SUFFIXES
from xraytune.data.patients import PATIENTS_CSV, pneumonia_type
from xraytune.space.messages import nearest
from xraytune.space.settings import DataSettings, TableSettings

PartName = Literal["train", "val", "test"]
PARTS: tuple[PartName, ...] = get_args(PartName)
"""The column of the types that Kermany file names state."""
_MOST_SUBGROUPS = 20
PART_NAMES: Mapping[str, PartName] = {
    **dict.fromkeys(("train", "training"), "train"),
    **dict.fromkeys(("val", "valid", "validate", "validation", "dev"), "val"),
    **dict.fromkeys(("test", "testing", "held-out", "holdout"), "test"),
}
"""The part that a folder or a cell means, by its lower-case name."""
PATIENTS_TABLE = TableSettings(file=(PATIENTS_CSV,), image="file", patient="patient", label="class")
_FOLDER_NAME = re.compile(r"(?!\.)[^/\\\x00-\x1f\x7f]{1,64}")
"""Allowed names of classes: images are written into folders of that name."""
_IMAGE_SUFFIXES = frozenset(suffix[1:] for suffix in NAMING_SUFFIXES | DICOM_SUFFIXES)
_YES = frozenset(("1", "1.0", "true", "yes"))
_DELIMITERS = ",;\t"
_PROBLEMS_SHOWN = 10
_MOST_ROWS, _MOST_CELLS = 1_000_000, 20_000_000
_LONGEST_PATH, _MOST_FOLDERS = 4096, 64


@dataclass(slots=True)
class TableRow:
    """What a table says about one image, united over its rows; `class_name` follows from the labels."""

    where: SourceLine
    patient: str = ""
    part: PartName | None = None
    labels: set[str] = field(default_factory=set)
    class_name: str | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class LabelTable:
    """The rows of a table, each under the name that it gives its image, in order; of several tables, `path` is the first."""

    path: Path
    settings: TableSettings
    rows: Mapping[str, TableRow]

    def rows_of(self, files: Collection[str]) -> dict[str, str]:
        """Return the row of each file (a path below the data folder) that has one; DataError if that is ambiguous."""
        matches = match_names(self.rows, files)
        if problems := matches.problems(self.path):
            raise DataError(*problems)
        return dict(matches.by_file)

    def patients_of(self, files: Collection[str]) -> dict[str, str] | None:
        """Return the patient of each file; None if the table has no column of patients.

        Raises:
            DataError: A file has no row or no patient, several rows, or shares its row with other files.
        """
        if self.settings.patient is None:
            return None
        rows = self.rows_of(files)
        what, fix = "images have no row", "add a row for each of them"
        missing = [file for file in files if file not in rows]
        if not missing:
            what, fix = f"images have no patient in column {self.settings.patient}", "fill in the cells"
            missing = [file for file, row in rows.items() if not self.rows[row].patient]
        if missing:
            raise DataError(Problem(f"{len(missing)} of {len(files)} {what}: {join_names(missing)}", self.path, fix))
        return {file: self.rows[row].patient for file, row in rows.items()}

    def classes_of(self, files: Collection[str]) -> dict[str, str]:
        """Return the class of each file that has one; raises like `rows_of`."""
        classes = ((file, self.rows[row].class_name) for file, row in self.rows_of(files).items())
        return {file: name for file, name in classes if name is not None}


@dataclass(frozen=True, slots=True, kw_only=True)
class Matches:
    """The name of each file that has one; names that mean several files, and files that several names mean."""

    by_file: Mapping[str, str]
    several_files: Mapping[str, Sequence[str]]
    several_names: Mapping[str, Sequence[str]]

    def problems(self, table: Path) -> list[Problem]:
        """Return one problem for names that mean several files, and one for files with several names."""
        problems = []
        if self.several_files:
            shown = join_names([f"{name} ({join_names(files, 3)})" for name, files in self.several_files.items()])
            fix = "write their paths below the data folder into the table"
            problems.append(Problem(f"names that belong to several files: {shown}", table, fix))
        if self.several_names:
            shown = join_names([f"{file} (as {' and '.join(names)})" for file, names in self.several_names.items()])
            problems.append(Problem(f"images have several rows: {shown}", table, "keep one row for each image"))
        return problems


def match_names(names: Iterable[str], files: Iterable[str]) -> Matches:
    """Find the file that each name means; see the head of this file.

    A name that is the path of a file means only that one. Of files that differ only in their suffix, it means the one with
    its own suffix. Names that are too long for a path are left out.
    """
    names = [name for name in names if len(name) <= _LONGEST_PATH and name.count("/") <= _MOST_FOLDERS]
    by_path: dict[str, list[str]] = defaultdict(list)
    for file in files:
        by_path[_without_suffix(file)].append(file)
    by_end: dict[str, list[str]] = defaultdict(list)
    depths = {name.count("/") + 1 for name in names}
    for path, same_path in by_path.items():
        for depth in depths:
            if path.count("/") >= depth:
                by_end["/".join(path.rsplit("/", depth)[1:])] += same_path

    by_file: dict[str, str] = {}
    several_files: dict[str, list[str]] = {}
    several_names: dict[str, list[str]] = {}
    for name in names:
        end = _without_suffix(name)
        matching = by_path.get(end) or by_end.get(end) or []
        while not matching and "/" in end:
            end = end.partition("/")[2]
            matching = by_path.get(end, [])
        if len(matching) > 1:
            matching = [file for file in matching if file.endswith(name.rpartition("/")[2])] or matching
        if len(matching) > 1:
            several_files[name] = matching
        for file in matching:
            if file in by_file:
                several_names.setdefault(file, [by_file[file]]).append(name)
            by_file[file] = name
    return Matches(by_file=by_file, several_files=several_files, several_names=several_names)


def _without_suffix(path: str) -> str:
    stem, _, suffix = path.rpartition(".")
    return stem if suffix.lower() in _IMAGE_SUFFIXES else path


def find_table(root: Path, settings: TableSettings | None = None) -> LabelTable | None:
    """Read the table of a data folder: the one that `settings` describe, else its `patients.csv`, if there is one.

    Raises:
        ConfigError: There are both.
        DataError: The table is missing or malformed.
    """
    has_patients_csv = os.path.lexists(root / PATIENTS_CSV)
    if settings is None:
        return _TableReader(root, PATIENTS_TABLE).read() if has_patients_csv else None
    if has_patients_csv and PATIENTS_CSV not in settings.file:
        fix = f"move it away; or describe it by data.table: {{file: {PATIENTS_CSV}, image: file, patient: patient}}"
        raise ConfigError(Problem(f"data.table is given, so {PATIENTS_CSV} would be ignored", root / PATIENTS_CSV, fix))
    return _TableReader(root, settings).read()


def require_one_rule(table: LabelTable | None, group_regex: str | None) -> None:
    """Refuse (ConfigError) a table of patients together with an expression for them."""
    if table is not None and table.settings.patient is not None and group_regex is not None:
        named = PATIENTS_CSV if table.settings is PATIENTS_TABLE else "data.table.patient"
        fix = f"remove one of them; without data.split.group_regex, {named} is used"
        raise ConfigError(Problem(f"both {named} and data.split.group_regex name the patients", table.path, fix))


def table_columns(data: DataSettings, files: Collection[str]) -> dict[str, dict[str, str]]:
    """Return the further columns of a data folder's table, such as age or view: column -> file -> cell.

    Columns that name the image, its patient, labels or side are left out. Several different cells of one image are joined
    by `|`; files without a row and empty cells are missing. Raises like `find_table`.
    """
    table = find_table(data.path, data.table)
    if table is None:
        return {}
    settings = table.settings
    used = {settings.image, settings.patient, settings.label, settings.side and settings.side.column}
    used |= set() if settings.label else {*settings.labels}
    by_row: dict[str, dict[str, dict[str, None]]] = defaultdict(lambda: defaultdict(dict))
    for file in settings.file:
        with _opened(data.path / file) as (_, rows):
            for _, cells in rows:
                for column, cell in cells.items():
                    if cell and column not in used:
                        by_row[column][cell_path(cells[settings.image])][cell] = None
    matched = table.rows_of(files)
    return {
        column: {file: "|".join(cells[row]) for file, row in matched.items() if row in cells}
        for column, cells in by_row.items()
    }


def subgroup_columns(data: DataSettings, files: Collection[str], names: Sequence[str]) -> dict[str, Mapping[str, str]]:
    """Return the value of each file in some columns of a data folder's table: column -> file -> value.

    `pneumonia` is bacterial or viral, as Kermany file names state, unless the table has a column of that name.

    Raises:
        ConfigError: A column is missing, empty for these files, or has too many values.
        DataError: The table is malformed.
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
            what = f"this column has {count} different values; at most {_MOST_SUBGROUPS} make subgroups"
            problems.append(Problem(what, f"--by {name}", "add a column with fewer values, such as an age group"))
    if problems:
        raise ConfigError(*problems)
    return {name: known[name] for name in names}


@contextmanager
def _opened(path: Path) -> Iterator[tuple[Sequence[str], Iterator[tuple[SourceLine, dict[str, str]]]]]:
    """Open a table; gives its columns, and an iterator over its rows, each with its line and cells by column."""
    try:
        require_file(path, "table", DataError)
        with path.open(encoding="utf-8-sig", newline="") as stream:
            first = stream.readline()
            stream.seek(0)
            reader = csv.DictReader(stream, restval="", delimiter=max(_DELIMITERS, key=first.count))
            columns = [column.strip() for column in reader.fieldnames or ()]
            reader.fieldnames = columns
            _require_plausible_size(path, len(columns))
            rows = (
                (SourceLine(path, reader.line_num), {name: cell_text(row[name].strip()) for name in columns if name})
                for row in reader
            )
            yield [column for column in columns if column], rows
    except (UnicodeDecodeError, csv.Error) as error:
        raise DataError(Problem(f"not a table in UTF-8: {error}", path, "save it as CSV in UTF-8")) from error
    except FileNotFoundError as error:
        raise DataError(Problem("there is no such table", path, "data.table.file is relative to data.path")) from error
    except OSError as error:
        raise DataError(Problem(f"cannot be read ({error.strerror})", path, "check its permissions")) from error


def _require_plausible_size(path: Path, column_count: int) -> None:
    with path.open("rb") as stream:
        row_count = sum(chunk.count(b"\n") for chunk in iter(lambda: stream.read(2**20), b""))
    if row_count > _MOST_ROWS or row_count * column_count > _MOST_CELLS:
        what = f"too large a table: {row_count:,} rows and {column_count:,} columns"
        fix = f"keep the columns that you need; at most {_MOST_ROWS:,} rows and {_MOST_CELLS:,} cells are read"
        raise DataError(Problem(what, path, fix))


class _TableReader:
    """Unite the rows of each image over all tables, and collect the problems."""

    def __init__(self, root: Path, settings: TableSettings) -> None:
        self._settings = settings
        self._is_patients_csv = settings is PATIENTS_TABLE
        self._paths = [root / file for file in settings.file]
        self._rows: dict[str, TableRow] = {}
        self._problems: list[Problem | str] = []

    def read(self) -> LabelTable:
        columns: set[str] = set()
        for path in self._paths:
            with _opened(path) as (header, rows):
                columns |= {*header}
                if self._settings.image not in header:
                    self._require_columns([("image", self._settings.image)], header, path)
                    continue
                for where, cells in rows:
                    self._read_row(where, cells)
        settings = self._settings
        needed = [("patient", settings.patient), ("side", settings.side.column if settings.side else None)]
        if settings.label is None:
            needed += [("labels", column) for column in settings.labels]
        elif not self._is_patients_csv:
            needed += [("label", settings.label)]
        self._require_columns(needed, sorted(columns), self._paths[0])
        for name, row in self._rows.items():
            row.class_name = self._class_of(name, row)
        if self._settings.label is not None and not self._problems:
            self._require_labels()
        if len(self._problems) > _PROBLEMS_SHOWN:
            self._problems[_PROBLEMS_SHOWN:] = [f"... and {len(self._problems) - _PROBLEMS_SHOWN} more"]
        if self._problems:
            raise DataError(*self._problems)
        return LabelTable(path=self._paths[0], settings=self._settings, rows=self._rows)

    def _require_columns(self, needed: Iterable[tuple[str, str | None]], header: Sequence[str], path: Path) -> None:
        """Report columns that are missing; each has a key in `data.table`."""
        for key, column in needed:
            if column is not None and column not in header:
                of = "" if self._is_patients_csv else f"data.table.{key}: "
                what = f"{of}there is no column {column!r}; found {join_names(header, 20) or 'nothing'}"
                fix = "make the first line: file,patient" if self._is_patients_csv else nearest(column, header)
                self._add(what, path, fix)

    def _read_row(self, where: SourceLine, cells: Mapping[str, str]) -> None:
        settings = self._settings
        side = settings.side and settings.side.column
        name, patient = cell_path(cells[settings.image]), cells.get(settings.patient or "", "")
        if not name or (self._is_patients_csv and not patient):
            fix = "give both the file and the patient" if self._is_patients_csv else "name the image"
            self._add("a cell is empty", where, fix)
            return
        row = self._rows.setdefault(name, TableRow(where))
        if row.where == where or self._may_join(name, row, patient, where):
            row.patient = row.patient or patient
            row.labels.update(self._labels(cells))
            if side and side in cells:
                self._read_part(name, row, cells[side], where)

    def _may_join(self, name: str, row: TableRow, patient: str, where: SourceLine) -> bool:
        """Report a second row of an image that contradicts the first, or any in `patients.csv`."""
        first = f"line {row.where.line}" if row.where.path == where.path else str(row.where)
        if row.patient and patient and row.patient != patient:
            what = f"{name} belongs to patient {patient} here, but to {row.patient} in {first}"
        elif self._is_patients_csv:
            what = f"{name} has a second row; the first is {first}"
        else:
            return True
        self._add(what, where, "keep one of the two rows")
        return False

    def _read_part(self, name: str, row: TableRow, cell: str, where: SourceLine) -> None:
        part = PART_NAMES.get(cell.casefold())
        if part is None:
            self._add(f"the side {cell!r} is not train, val or test", where, "correct the cell")
        elif row.part not in (None, part):
            self._add(f"{name} is {part} here, but {row.part} in another row", where, "keep one side for each image")
        else:
            row.part = part

    def _labels(self, cells: Mapping[str, str]) -> list[str]:
        settings = self._settings
        if settings.label is None:  # a column for each label; -1 (uncertain) is no yes
            return [label for label in settings.labels if cells.get(label, "").casefold() in _YES]
        cell = cells.get(settings.label, "")
        labels = [label.strip() for label in cell.split(settings.separator)] if settings.labels else [cell]
        return [label for label in labels if label]

    def _class_of(self, name: str, row: TableRow) -> str | None:
        if self._settings.labels:
            return next((found for label, found in self._settings.labels.items() if label in row.labels), None)
        if len(row.labels) > 1:
            what = f"{name} has several classes: {', '.join(sorted(row.labels))}"
            self._add(what, row.where, "give data.table.labels: the first entry that applies is used")
        label = min(row.labels, default=None)
        if label is not None and not _FOLDER_NAME.fullmatch(label):
            what = f"the class {label!r} cannot be the name of a folder"
            self._add(what, row.where, "use up to 64 characters, no slash, and no leading dot")
        return label

    def _require_labels(self) -> None:
        """Report labels of `data.table.labels` that no row has."""
        known = {label for row in self._rows.values() for label in row.labels}
        for label in self._settings.labels:
            if label not in known:
                what = f"data.table.labels: no cell of column {self._settings.label} has the label {label!r}"
                self._add(what, self._paths[0], nearest(label, sorted(known), "check its spelling"))

    def _add(self, what: str, where: SourceLine | Path, fix: str) -> None:
        self._problems.append(Problem(what, where, fix))
