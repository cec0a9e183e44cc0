"""Who is on an image: the unit by which images are split, so that no patient stands on two sides.

Told by the data folder's `patients.csv`, else by `data.split.group_regex`, else by the file names of the Kermany set
(`person12_virus_4.jpeg`); a file that none of them explains is a patient of its own. Files with the same bytes join
their patients into one.
"""

from __future__ import annotations

import csv
import re
from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path, PurePosixPath

from xraytune.errors import ConfigError, DataError, Problem, SourceLine, listed

PATIENTS_CSV = "patients.csv"
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


def name_patients(root: Path, files: Sequence[str], group_regex: str | None = None) -> PatientNames:
    """The patient of every file, before identical files are joined.

    Args:
        root: The data folder, in which a `patients.csv` may lie.
        files: Paths below it, with forward slashes.
        group_regex: Searched in each path; its first group is the patient.

    Raises:
        ConfigError: `group_regex` is not a regular expression with a group.
        DataError: The table is malformed, or some files have no patient in it or by the expression.
    """
    table = root / PATIENTS_CSV
    if table.is_file() and group_regex is not None:
        fix = f"remove one of them; without data.split.group_regex, {PATIENTS_CSV} is used"
        raise ConfigError(
            Problem(f"both {PATIENTS_CSV} and data.split.group_regex say who the patients are", table, fix)
        )
    if table.is_file():
        return PatientNames(by_file=_from_table(table, files), warnings=())
    if group_regex is not None:
        return PatientNames(by_file=_from_expression(group_regex, files), warnings=())
    return _from_file_names(files)


def read_patients_csv(path: Path) -> dict[str, str]:
    """The table `file,patient`: a path below the data folder, or a bare file name, and the patient on it.

    Raises:
        DataError: A column is missing, a cell is empty, or a file has two patients; every such line is told.
    """
    problems: list[Problem] = []
    patients: dict[str, str] = {}
    try:
        with path.open(encoding="utf-8-sig", newline="") as stream:
            reader = csv.DictReader(stream)
            if not {"file", "patient"} <= set(reader.fieldnames or ()):
                found = ", ".join(reader.fieldnames or ()) or "nothing"
                fix = "let the first line be: file,patient"
                raise DataError(Problem(f"the columns file and patient are needed; found {found}", path, fix))
            for row in reader:
                line = SourceLine(path, reader.line_num)
                file, patient = (row["file"] or "").strip(), (row["patient"] or "").strip()
                if not file or not patient:
                    problems.append(Problem("a cell is empty", line, "give both the file and the patient"))
                elif patients.setdefault(file, patient) != patient:
                    what = f"{file} is of patient {patient} here and of {patients[file]} further up"
                    problems.append(Problem(what, line, "keep one of the two lines"))
    except (UnicodeDecodeError, csv.Error) as error:
        raise DataError(Problem(f"not a table in UTF-8: {error}", path, "save it as CSV in UTF-8")) from error
    if problems:
        raise DataError(*problems[:10], *([f"... and {len(problems) - 10} more"] if len(problems) > 10 else []))
    return patients


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


def _from_table(table: Path, files: Sequence[str]) -> dict[str, str]:
    listed_patients = read_patients_csv(table)
    patients = {
        file: listed_patients.get(file) or listed_patients.get(PurePosixPath(file).name) or "" for file in files
    }
    missing = [file for file, patient in patients.items() if not patient]
    if missing:
        what = f"{len(missing)} of {len(files)} images have no line: {listed(missing)}"
        raise DataError(Problem(what, table, "add a line file,patient for each of them"))
    return patients


def _from_expression(group_regex: str, files: Sequence[str]) -> dict[str, str]:
    where = "data.split.group_regex"
    try:
        expression = re.compile(group_regex)
    except re.error as error:
        fix = "write a regular expression as Python's re understands it"
        raise ConfigError(Problem(f"not a regular expression: {error}", where, fix)) from error
    if expression.groups == 0:
        raise ConfigError(Problem("there is no group in it", where, "put the patient's part in brackets: (p[0-9]+)_"))
    matches = {file: expression.search(file) for file in files}
    patients = {file: match[1] for file, match in matches.items() if match and match[1]}
    missing = [file for file in files if file not in patients]
    if missing:
        what = f"it finds no patient in {len(missing)} of {len(files)} paths: {listed(missing)}"
        raise DataError(Problem(what, where, "mend the expression, or list the patients in patients.csv"))
    return patients


def _from_file_names(files: Sequence[str]) -> PatientNames:
    told = {file: patient_of(file) for file in files}
    unknown = [file for file, patient in told.items() if patient is None]
    warnings: tuple[str, ...] = ()
    if unknown:
        warnings = (
            f"{len(unknown)} of {len(files)} file names do not tell the patient ({listed(unknown, 3)}): each such file "
            "counts as a patient of its own. If a patient has several images, the same person may stand in training and "
            f"in validation, and the scores flatter; give {PATIENTS_CSV} (file,patient) or data.split.group_regex",
        )
    return PatientNames(by_file={file: patient or file for file, patient in told.items()}, warnings=warnings)
