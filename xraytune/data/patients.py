"""Who is on an image: the unit by which images are split, so that no patient stands on two sides.

Told by the data folder's `patients.csv`, else by `data.split.group_regex`, else by a DICOM header, else by the file names
of the Kermany set (`person12_virus_4.jpeg`); a file that none of them explains is a patient of its own. Files with the
same bytes join their patients into one.
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

from xraytune.config.messages import group_regex_refusal
from xraytune.errors import ConfigError, DataError, Problem, SourceLine, listed
from xraytune.files import cell_path, cell_text, require_file

PATIENTS_CSV = "patients.csv"
_FOLDER_NAME = re.compile(r"(?!\.)[^/\\\x00-\x1f\x7f]{1,64}")
"""What a class may be called: images are written into folders of that name."""
_KERMANY_NAME = re.compile(
    r"person(?P<person>\d+)_(?P<germ>bacteria|virus)_\d+(_\d+)?|(?P<series>IM|NORMAL2-IM)-(?P<number>\d+)-\d{4}(-\d{4})?"
)


@dataclass(frozen=True, slots=True, kw_only=True)
class PatientNames:
    """The patient of every file, and what is doubtful about it."""

    by_file: Mapping[str, str]
    warnings: tuple[str, ...]


def patient_of(file: str) -> str | None:
    """The patient that a Kermany file name tells, as `series:number`; None for other names.

    Numbers are counted anew in each of the four series (bacteria, virus, IM, NORMAL2-IM): `person12_bacteria` and
    `person12_virus` are two people.
    """
    match = _KERMANY_NAME.fullmatch(PurePosixPath(file).stem)
    if match is None:
        return None
    if match["person"]:
        return f"{match['germ']}:{match['person']}"
    return f"{match['series']}:{match['number']}"


@dataclass(frozen=True, slots=True, kw_only=True)
class PatientTable:
    """What `patients.csv` says, by its `file` column: paths below the data folder, or bare file names.

    Attributes:
        path: The table.
        patients: The patient of each file.
        classes: The class of each file that has one.
    """

    path: Path
    patients: Mapping[str, str]
    classes: Mapping[str, str]

    def names(self, file: str) -> bool:
        """Whether it has a line of a file, by its path below the data folder or its name."""
        return file in self.patients or PurePosixPath(file).name in self.patients

    def class_of(self, file: str) -> str | None:
        """The class of a file, by its path below the data folder or its name; None where the table does not say."""
        return self.classes.get(file) or self.classes.get(PurePosixPath(file).name)


def find_table(root: Path) -> PatientTable | None:
    """The table of a data folder; None where there is none.

    Raises:
        DataError: It is malformed.
    """
    table = root / PATIENTS_CSV
    return read_patients_csv(table) if os.path.lexists(table) else None


def require_group(group_regex: str | None) -> None:
    """Refuse an expression that cannot tell a patient, before any file is looked at.

    Raises:
        ConfigError: It is no regular expression, or has no group.
    """
    if group_regex is not None and (refusal := group_regex_refusal(group_regex)):
        what, fix = refusal
        raise ConfigError(Problem(what, "data.split.group_regex", fix))


def name_patients(
    root: Path,
    files: Sequence[str],
    group_regex: str | None = None,
    headers: Mapping[str, str] = MappingProxyType({}),
) -> PatientNames:
    """The patient of every file, before identical files are joined.

    Args:
        root: The data folder, in which a `patients.csv` may lie.
        files: Paths below it, with forward slashes.
        group_regex: Searched in each path; its first group is the patient.
        headers: The patients that DICOM headers name, by file.

    Raises:
        ConfigError: `group_regex` is not a regular expression with a group, or there is a table as well.
        DataError: The table is malformed, or some files have no patient in it or by the expression.
    """
    told = told_patients(files, find_table(root), group_regex)
    return _from_files(files, headers) if told is None else PatientNames(by_file=told, warnings=())


def told_patients(files: Sequence[str], table: PatientTable | None, group_regex: str | None) -> dict[str, str] | None:
    """The patient of every file as the person says, in a table or an expression; None where neither is given.

    Raises:
        ConfigError: `group_regex` is not a regular expression with a group, or there is a table as well.
        DataError: Some files have no patient in the table or by the expression, or a name that several files share
            would give one.
    """
    if table is not None and group_regex is not None:
        fix = f"remove one of them; without data.split.group_regex, {PATIENTS_CSV} is used"
        what = f"both {PATIENTS_CSV} and data.split.group_regex say who the patients are"
        raise ConfigError(Problem(what, table.path, fix))
    if table is not None:
        return _from_table(table, files)
    if group_regex is not None:
        return _from_expression(group_regex, files)
    return None


def ambiguity_problems(table: PatientTable, files: Collection[str]) -> list[Problem]:
    """Lines of a table that give a bare name which several files have, or a file that has a line by its path too.

    Args:
        table: The data folder's table.
        files: Paths below the data folder. A line that is one of them is about that file alone.
    """
    by_name: dict[str, list[str]] = defaultdict(list)
    paths = set(files)
    for file in files:
        if (name := PurePosixPath(file).name) in table.patients and name not in paths:
            by_name[name].append(file)
    twice = [f"{file} (also as {name})" for name, own in by_name.items() for file in own if file in table.patients]
    if twice:
        what = f"{len(twice)} images have two lines, one by their path and one by their name: {listed(twice)}"
        return [Problem(what, table.path, "keep one of the two lines")]
    several = [f"{name} ({listed(own, 3)})" for name, own in by_name.items() if len(own) > 1]
    if several:
        fix = "write their paths below the data folder into the table"
        return [Problem(f"names that stand for several files: {listed(several)}", table.path, fix)]
    return []


def found_by(group_regex: str, files: Collection[str]) -> dict[str, str]:
    """The patients that an expression finds in the paths of files; a file in which it finds none is left out.

    Raises:
        ConfigError: It is not a regular expression with a group, or takes too long.
    """
    return {file: match[1] for file, match in _matches(group_regex, files).items() if match[1]}


def read_patients_csv(path: Path) -> PatientTable:
    """The table `file,patient` or `file,patient,class`, one row for each image; other columns are ignored.

    Raises:
        DataError: A column is missing, a cell is empty, a class cannot be a folder's name, or a file has two rows; every
            such line is told.
    """
    try:
        require_file(path, "table", DataError)
        with path.open(encoding="utf-8-sig", newline="") as stream:
            reader = csv.DictReader(stream)
            if not {"file", "patient"} <= set(reader.fieldnames or ()):
                found = ", ".join(reader.fieldnames or ()) or "nothing"
                fix = "let the first line be: file,patient"
                raise DataError(Problem(f"the columns file and patient are needed; found {found}", path, fix))
            return _read_rows(reader, path)
    except (UnicodeDecodeError, csv.Error) as error:
        raise DataError(Problem(f"not a table in UTF-8: {error}", path, "save it as CSV in UTF-8")) from error
    except OSError as error:
        raise DataError(Problem(f"cannot be read ({error.strerror})", path, "allow reading it")) from error


def _read_rows(reader: csv.DictReader[str], path: Path) -> PatientTable:
    problems: list[Problem] = []
    patients: dict[str, str] = {}
    classes: dict[str, str] = {}
    first_line: dict[str, int] = {}
    for row in reader:
        line = SourceLine(path, reader.line_num)
        file, patient, class_name = (cell_text((row.get(name) or "").strip()) for name in ("file", "patient", "class"))
        file = cell_path(file)
        if not file or not patient:
            problems.append(Problem("a cell is empty", line, "give both the file and the patient"))
        elif file in patients:
            what = f"{file} has a second line; the first is line {first_line[file]}"
            if patients[file] != patient:
                what = f"{file} is of patient {patient} here and of {patients[file]} in line {first_line[file]}"
            problems.append(Problem(what, line, "keep one of the two lines"))
        elif class_name and not _FOLDER_NAME.fullmatch(class_name):
            what = f"the class {class_name!r} cannot be the name of a folder"
            problems.append(Problem(what, line, "use up to 64 characters, no slash, and no dot first"))
        else:
            patients[file] = patient
            first_line[file] = reader.line_num
            if class_name:
                classes[file] = class_name
    if problems:
        raise DataError(*problems[:10], *([f"... and {len(problems) - 10} more"] if len(problems) > 10 else []))
    return PatientTable(path=path, patients=patients, classes=classes)


def join_identical(patients: Mapping[str, str], contents: Iterable[tuple[str, str]]) -> dict[str, str]:
    """Make one patient of those who share an image, bit for bit, and of all who are joined so (union-find).

    Args:
        patients: The patient of every file.
        contents: File and SHA-256 of the files to compare.

    Returns:
        The patient of every file; joined ones go by the first of their names in sorted order.
    """
    parent = {patient: patient for patient in patients.values()}

    def root_of(patient: str) -> str:
        while parent[patient] != patient:
            parent[patient] = parent[parent[patient]]
            patient = parent[patient]
        return patient

    patients_of_content: dict[str, list[str]] = defaultdict(list)
    for file, sha256 in contents:
        patients_of_content[sha256].append(patients[file])
    for same in patients_of_content.values():
        for other in same[1:]:
            first, second = sorted((root_of(same[0]), root_of(other)))
            parent[second] = first
    return {file: root_of(patient) for file, patient in patients.items()}


def _from_table(table: PatientTable, files: Sequence[str]) -> dict[str, str]:
    if problems := ambiguity_problems(table, files):
        raise DataError(*problems)
    bare = {file: PurePosixPath(file).name for file in files}
    keys = {file: name if name not in bare and file not in table.patients else file for file, name in bare.items()}
    patients = {file: table.patients[key] for file, key in keys.items() if key in table.patients}
    missing = [file for file in files if file not in patients]
    if missing:
        what = f"{len(missing)} of {len(files)} images have no line: {listed(missing)}"
        raise DataError(Problem(what, table.path, "add a line file,patient for each of them"))
    return patients


def _matches(group_regex: str, files: Collection[str]) -> dict[str, regex.Match[str]]:
    """Search an expression in the paths of files; leave out files without a match.

    Backtracking can take exponential time, so the search of all files has a limit of CPU time, hundreds of times what an
    ordinary expression needs.

    Raises:
        ConfigError: It is not a regular expression with a group, or reached the limit.
    """
    require_group(group_regex)
    expression, matches = regex.compile(group_regex), {}
    end = time.process_time() + 1 + len(files) / 1000
    for file in files:
        try:
            match = expression.search(file, timeout=max(0.0, end - time.process_time()))
        except TimeoutError:
            what = f"the expression {group_regex} takes too long, on the path {file} for example"
            fix = f"write one without nested repetition such as (a+)+, or list the patients in {PATIENTS_CSV}"
            raise ConfigError(Problem(what, "data.split.group_regex", fix)) from None
        if match:
            matches[file] = match
    return matches


def _from_expression(group_regex: str, files: Sequence[str]) -> dict[str, str]:
    patients = found_by(group_regex, files)
    missing = [file for file in files if file not in patients]
    if missing:
        what = f"it finds no patient in {len(missing)} of {len(files)} paths: {listed(missing)}"
        fix = "mend the expression, or list the patients in patients.csv"
        raise DataError(Problem(what, "data.split.group_regex", fix))
    if ambiguous := _ambiguous_groups(group_regex, files):
        what = f"it takes one patient from files of one name in several folders: {listed(ambiguous)}"
        fix = (
            "if these are different patients, include the folders in its group, such as (.+/[0-9]+); "
            f"if not, list the patients in {PATIENTS_CSV} instead"
        )
        raise DataError(Problem(what, "data.split.group_regex", fix))
    return patients


def _ambiguous_groups(group_regex: str, files: Sequence[str]) -> list[str]:
    """Groups found in the bare names of files that have one name in several folders, each with these files."""
    same: dict[tuple[str, str], list[PurePosixPath]] = defaultdict(list)
    for file, match in _matches(group_regex, files).items():
        path = PurePosixPath(file)
        if match.start(1) >= len(file) - len(path.name):
            same[match[1], path.stem.casefold()].append(path)
    return [
        f"{patient} ({listed([str(path) for path in paths], 3)})"
        for (patient, _), paths in same.items()
        if len({path.parent for path in paths}) > 1
    ]


def _from_files(files: Sequence[str], headers: Mapping[str, str]) -> PatientNames:
    told = {file: headers.get(file) or patient_of(file) for file in files}
    unknown = [file for file, patient in told.items() if patient is None]
    warnings: tuple[str, ...] = ()
    if unknown:
        warnings = (
            f"{len(unknown)} of {len(files)} file names do not tell the patient ({listed(unknown, 3)}): each such file "
            "counts as a patient of its own. If a patient has several images, the same person may stand in training and "
            f"in validation, and the scores flatter; give {PATIENTS_CSV} (file,patient) or data.split.group_regex",
        )
    return PatientNames(by_file={file: patient or file for file, patient in told.items()}, warnings=warnings)
