"""Find the patient of each image, the unit by which images are split.

In this order: the data folder's `patients.csv`, `data.split.group_regex`, a DICOM header, a file name of the Kermany set
(`person12_virus_4.jpeg`). A file that matches none of these is a patient of its own. Patients who share identical files are
joined into one.
"""

from __future__ import annotations

import csv
import os
import re
import time
from collections import defaultdict
from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from types import MappingProxyType

import regex

from xraytune.config.messages import group_regex_problem
from xraytune.errors import ConfigError, DataError, Problem, SourceLine, join_names
from xraytune.files import cell_path, cell_text, require_file

PATIENTS_CSV = "patients.csv"
_GROUP_REGEX = "data.split.group_regex"
_FOLDER_NAME = re.compile(r"(?!\.)[^/\\\x00-\x1f\x7f]{1,64}")
"""Allowed names of classes: images are written into folders of that name."""
_KERMANY_NAME = re.compile(
    r"person(?P<person>\d+)_(?P<germ>bacteria|virus)_\d+(_\d+)?|(?P<series>IM|NORMAL2-IM)-(?P<number>\d+)-\d{4}(-\d{4})?"
)


@dataclass(frozen=True, slots=True, kw_only=True)
class PatientNames:
    """The patient of every file, and warnings."""

    by_file: Mapping[str, str]
    warnings: tuple[str, ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class PatientTable:
    """The rows of `patients.csv`, by its `file` column: a path below the data folder, or a bare file name.

    Attributes:
        path: The table.
        patients: The patient of each file.
        classes: The class of each file that has one.
    """

    path: Path
    patients: Mapping[str, str]
    classes: Mapping[str, str]

    def names(self, file: str) -> bool:
        """Return whether a file has a row, by its path below the data folder or by its name."""
        return file in self.patients or PurePosixPath(file).name in self.patients

    def class_of(self, file: str) -> str | None:
        """Return the class of a file, by its path below the data folder or by its name."""
        return self.classes.get(file) or self.classes.get(PurePosixPath(file).name)


def patient_of(file: str) -> str | None:
    """Return the patient in a Kermany file name, as `series:number`; None for other names.

    Each of the four series (bacteria, virus, IM, NORMAL2-IM) is numbered separately: `person12_bacteria` and
    `person12_virus` are two people.
    """
    match = _KERMANY_NAME.fullmatch(PurePosixPath(file).stem)
    if match is None:
        return None
    return f"{match['germ'] or match['series']}:{match['person'] or match['number']}"


def pneumonia_type(file: str) -> str | None:
    """Return `bacterial` or `viral` if a Kermany file name states it."""
    match = _KERMANY_NAME.fullmatch(PurePosixPath(file).stem)
    return {"bacteria": "bacterial", "virus": "viral"}.get(match["germ"] or "") if match else None


def find_table(root: Path) -> PatientTable | None:
    """Read the `patients.csv` of a data folder, if there is one; DataError if it is malformed."""
    table = root / PATIENTS_CSV
    return read_patients_csv(table) if os.path.lexists(table) else None


def require_group(group_regex: str | None) -> None:
    """Raise ConfigError if an expression is not a regular expression with a group."""
    if group_regex is not None and (refusal := group_regex_problem(group_regex)):
        what, fix = refusal
        raise ConfigError(Problem(what, _GROUP_REGEX, fix))


def name_patients(
    root: Path,
    files: Sequence[str],
    group_regex: str | None = None,
    headers: Mapping[str, str] = MappingProxyType({}),
) -> PatientNames:
    """Find the patient of every file, before identical files are joined.

    Args:
        root: The data folder, which may hold a `patients.csv`.
        files: Paths below it, with forward slashes.
        group_regex: Searched in each path; its first group is the patient.
        headers: Patients from DICOM headers, by file.

    Raises:
        ConfigError: `group_regex` is not a regular expression with a group, or there is a table as well.
        DataError: The table is malformed, or table or expression give some files no patient.
    """
    if (given := given_patients(files, find_table(root), group_regex)) is not None:
        return PatientNames(by_file=given, warnings=())
    found = {file: headers.get(file) or patient_of(file) for file in files}
    unknown = [file for file, patient in found.items() if patient is None]
    warning = (
        f"{len(unknown)} of {len(files)} file names do not identify the patient ({join_names(unknown, 3)}): each of them "
        "counts as a patient of its own. If a patient has several images, they may be in both training and validation, "
        f"and scores are optimistically biased; give {PATIENTS_CSV} (file,patient) or {_GROUP_REGEX}"
    )
    by_file = {file: patient or file for file, patient in found.items()}
    return PatientNames(by_file=by_file, warnings=(warning,) if unknown else ())


def given_patients(files: Sequence[str], table: PatientTable | None, group_regex: str | None) -> dict[str, str] | None:
    """Return the patient of every file by the table or the expression; None if neither is given.

    Raises:
        ConfigError: `group_regex` is not a regular expression with a group, or there is a table as well.
        DataError: Some files have no patient, or several files share a name that gives one.
    """
    if table is not None and group_regex is not None:
        fix = f"remove one of them; without {_GROUP_REGEX}, {PATIENTS_CSV} is used"
        raise ConfigError(Problem(f"both {PATIENTS_CSV} and {_GROUP_REGEX} name the patients", table.path, fix))
    if table is not None:
        if problems := ambiguity_problems(table, files):
            raise DataError(*problems)
        paths = set(files)
        names = {file: PurePosixPath(file).name for file in files}
        keys = {file: file if file in table.patients or name in paths else name for file, name in names.items()}
        patients = {file: table.patients[key] for file, key in keys.items() if key in table.patients}
        where: Path | str = table.path
        what, fix = "images have no row", "add a row file,patient for each of them"
    elif group_regex is not None:
        patients = match_patients(group_regex, files)
        what, where = "paths have no match", _GROUP_REGEX
        fix = f"correct the expression, or list the patients in {PATIENTS_CSV}"
    else:
        return None
    if missing := [file for file in files if file not in patients]:
        raise DataError(Problem(f"{len(missing)} of {len(files)} {what}: {join_names(missing)}", where, fix))
    if group_regex is not None and (ambiguous := _ambiguous_groups(group_regex, files)):
        fix = (
            "if these are different patients, include the folders in its group, such as (.+/[0-9]+); "
            f"if not, list the patients in {PATIENTS_CSV} instead"
        )
        what = f"it assigns one patient to files of the same name in several folders: {join_names(ambiguous)}"
        raise DataError(Problem(what, _GROUP_REGEX, fix))
    return patients


def ambiguity_problems(table: PatientTable, files: Collection[str]) -> list[Problem]:
    """Return rows whose bare name belongs to several files, or to a file that also has a row by its path.

    Args:
        table: The data folder's table.
        files: Paths below the data folder. A row that equals one of them is about that file only.
    """
    by_name: dict[str, list[str]] = defaultdict(list)
    paths = set(files)
    for file in files:
        if (name := PurePosixPath(file).name) in table.patients and name not in paths:
            by_name[name].append(file)
    if twice := [f"{file} (also as {name})" for name, own in by_name.items() for file in own if file in table.patients]:
        what = f"{len(twice)} images have two rows, one by path and one by name: {join_names(twice)}"
        return [Problem(what, table.path, "keep one of the two rows")]
    if several := [f"{name} ({join_names(own, 3)})" for name, own in by_name.items() if len(own) > 1]:
        fix = "write their paths below the data folder into the table"
        return [Problem(f"names that belong to several files: {join_names(several)}", table.path, fix)]
    return []


def match_patients(group_regex: str, files: Collection[str]) -> dict[str, str]:
    """Return the patients that an expression finds in the paths of files; files without a match are left out.

    Raises:
        ConfigError: It is not a regular expression with a group, or takes too long.
    """
    return {file: match[1] for file, match in _matches(group_regex, files).items() if match[1]}


def _matches(group_regex: str, files: Collection[str]) -> dict[str, regex.Match[str]]:
    """Search paths, with a limit of CPU time (backtracking can be exponential) far above what usual expressions need."""
    require_group(group_regex)
    expression, matches = regex.compile(group_regex), {}
    end = time.process_time() + 1 + len(files) / 1000
    for file in files:
        try:
            match = expression.search(file, timeout=max(0.0, end - time.process_time()))
        except TimeoutError:
            what = f"the expression {group_regex} takes too long, for example on the path {file}"
            fix = f"write one without nested repetition such as (a+)+, or list the patients in {PATIENTS_CSV}"
            raise ConfigError(Problem(what, _GROUP_REGEX, fix)) from None
        if match:
            matches[file] = match
    return matches


def _ambiguous_groups(group_regex: str, files: Sequence[str]) -> list[str]:
    """Return patients taken from the bare name of files that have the same name in several folders, with these files."""
    same: dict[tuple[str, str], list[PurePosixPath]] = defaultdict(list)
    for file, match in _matches(group_regex, files).items():
        path = PurePosixPath(file)
        if match.start(1) >= len(file) - len(path.name):
            same[match[1], path.stem.casefold()].append(path)
    return [
        f"{patient} ({join_names([str(path) for path in paths], 3)})"
        for (patient, _), paths in same.items()
        if len({path.parent for path in paths}) > 1
    ]


def read_patients_csv(path: Path) -> PatientTable:
    """Read a table `file,patient` or `file,patient,class` with one row per image; other columns are ignored.

    Raises:
        DataError: A column is missing, or rows are wrong: an empty cell, a repeated file, a class that cannot name a folder.
    """
    try:
        require_file(path, "table", DataError)
        with path.open(encoding="utf-8-sig", newline="") as stream:
            reader = csv.DictReader(stream)
            if not {"file", "patient"} <= set(reader.fieldnames or ()):
                found = ", ".join(reader.fieldnames or ()) or "nothing"
                what = f"the columns file and patient are needed; found {found}"
                raise DataError(Problem(what, path, "make the first line: file,patient"))
            return _read_rows(reader, path)
    except (UnicodeDecodeError, csv.Error) as error:
        raise DataError(Problem(f"not a table in UTF-8: {error}", path, "save it as CSV in UTF-8")) from error
    except OSError as error:
        raise DataError(Problem(f"cannot be read ({error.strerror})", path, "allow reading it")) from error


def _read_rows(reader: csv.DictReader[str], path: Path) -> PatientTable:
    problems: list[Problem | str] = []
    patients: dict[str, str] = {}
    classes: dict[str, str] = {}
    lines: dict[str, int] = {}
    for row in reader:
        file, patient, class_name = (cell_text((row.get(name) or "").strip()) for name in ("file", "patient", "class"))
        file, what = cell_path(file), ""
        if not file or not patient:
            what, fix = "a cell is empty", "give both the file and the patient"
        elif file in patients:
            what, fix = f"{file} has a second row; the first is line {lines[file]}", "keep one of the two rows"
            if patients[file] != patient:
                what = f"{file} belongs to patient {patient} here, but to {patients[file]} in line {lines[file]}"
        elif class_name and not _FOLDER_NAME.fullmatch(class_name):
            what = f"the class {class_name!r} cannot be the name of a folder"
            fix = "use up to 64 characters, no slash, and no leading dot"
        if what:
            problems.append(Problem(what, SourceLine(path, reader.line_num), fix))
            continue
        patients[file], lines[file] = patient, reader.line_num
        if class_name:
            classes[file] = class_name
    if len(problems) > 10:
        problems[10:] = [f"... and {len(problems) - 10} more"]
    if problems:
        raise DataError(*problems)
    return PatientTable(path=path, patients=patients, classes=classes)


def join_identical(patients: Mapping[str, str], contents: Iterable[tuple[str, str]]) -> dict[str, str]:
    """Join patients who share an identical file, directly or through others (union-find).

    Args:
        patients: The patient of every file.
        contents: File and SHA-256 of the files to compare.

    Returns:
        The patient of every file; joined patients get the first of their names in sorted order.
    """
    parent = {patient: patient for patient in patients.values()}

    def root_of(patient: str) -> str:
        while parent[patient] != patient:
            parent[patient] = parent[parent[patient]]
            patient = parent[patient]
        return patient

    first_with: dict[str, str] = {}
    for file, sha256 in contents:
        other = first_with.setdefault(sha256, patients[file])
        first, second = sorted((root_of(other), root_of(patients[file])))
        parent[second] = first
    return {file: root_of(patient) for file, patient in patients.items()}
