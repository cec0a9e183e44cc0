"""Find the patient of each image, the unit by which images are split.

The patient is read, in this order, from a table (`data/table.py`), by `data.split.group_regex`,
from a DICOM header, or from a file name of a public set (`data/file_names.py`). A file that matches
none of these is a patient of its own. Patients who share identical files are joined into one.
"""

import hashlib
import re
from collections import Counter
from collections.abc import Collection, Mapping, Sequence

from xraytune.base.errors import ConfigError, DataError, counted, join_names
from xraytune.data.file_names import Unit, known_name, propose_patients
from xraytune.data.guesses import casefold_text, normalise_text

PATIENTS_CSV = "patients.csv"
_GROUP_REGEX = "data.split.group_regex"
EQUAL_IDS = (
    "if IDs are equal by chance, as where two hospitals count from 1, write the hospital before "
    f"each ID, in the table there or in a new {PATIENTS_CSV} (file,patient)"
)


def patients_by_name(
    files: Sequence[str], patient_ids: Mapping[str, str], sets: Collection[str]
) -> tuple[dict[str, str], list[str]]:
    """Return the patient of every file, by its header, its name or its path, and notes.

    `sets` are the public sets whose names are read.
    """
    patients = {}
    unknown = []
    units: dict[Unit, None] = {}
    for file in files:
        known = known_name(file, sets)
        patients[file] = known.patient if known else file
        if file in patient_ids:
            digest = hashlib.sha256(patient_ids[file].encode()).hexdigest()
            patients[file] = f"dicom:{digest[:12]}"
        elif known is None or known.pattern.unit != "patient":
            unknown.append(file)
            units[known.pattern.unit if known else "image"] = None
    notes = []
    if unknown:
        note = f"{len(unknown)} of {len(files)} file names do not name the patient "
        note += f"({unknown[0]}): each {' or '.join(units)} counts as one"
        proposal = propose_patients(unknown)
        if proposal:
            note += f"; --group-regex '{proposal.group_regex}' would make "
            note += counted(proposal.patient_count, "patient")
        notes.append(note)
    most = max(Counter(patient_ids.values()).values(), default=0)
    if most >= 10 and most > len(patient_ids) / 3:
        notes.append(
            f"{most} of {len(patient_ids)} DICOM headers have the same PatientID; if the ID is a "
            f"placeholder, name the patients in {PATIENTS_CSV} (file,patient) or "
            f"data.table.patient, or give {_GROUP_REGEX} (--group-regex); '(.+)' makes each file a "
            "patient of its own"
        )
    return patients, notes


def patients_by_regex(group_regex: str, files: Sequence[str]) -> dict[str, str]:
    """Return the patient of every file, as `match_patients` does.

    Raises DataError if the expression has no match in a path.
    """
    patients = match_patients(group_regex, files)
    missing = [file for file in files if file not in patients]
    if missing:
        raise DataError(
            f"{len(missing)} of {len(files)} paths have no match: {join_names(missing)}",
            _GROUP_REGEX,
            f"correct the expression, or list the patients in {PATIENTS_CSV}"
            "; for images of another hospital, give a data file with an expression of its own",
        )
    return patients


def match_patients(
    group_regex: str, files: Collection[str], where: str = _GROUP_REGEX
) -> dict[str, str]:
    """Return the patient of each file that an expression matches: its first group in the path.

    `where` is the setting of the expression, which may also be about sites. Raises ConfigError if
    it is not a regular expression with a group.
    """
    try:
        expression = re.compile(normalise_text(group_regex))
    except re.error as error:
        raise ConfigError(
            f"not a regular expression: {error}",
            where,
            "write a regular expression as Python's re understands it",
        ) from error
    if not expression.groups:
        raise ConfigError(
            "there is no group in it",
            where,
            "put the part that is the name into parentheses: (p[0-9]+)_",
        )
    matches = {file: expression.search(normalise_text(file)) for file in files}
    return {file: match[1] for file, match in matches.items() if match and match[1]}


def patient_key(name: str) -> str:
    """Return the name by which patients are compared, without case, and as a spreadsheet writes it.

    A spreadsheet writes the number 0012 as 12 or 12.0.
    """
    number = re.fullmatch(r"0*([0-9]+)([.,]0)?", name.strip())
    return number[1] if number else casefold_text(name.strip())


def join_patients(
    patients: Mapping[str, str], contents: Mapping[str, str]
) -> tuple[dict[str, str], list[str]]:
    """Join patients whose names have the same `patient_key`, or who share a file.

    Joined patients get the first of their sorted names. Returns the patient of every file, and a
    note if names were joined.

    `patients` has the patient of every file, `contents` the SHA-256 of the files to compare.
    """
    # This import takes a third of a second.
    from scipy.cluster.hierarchy import DisjointSet  # type: ignore[import-untyped]

    joined = DisjointSet(patients.values())
    first_with: dict[str, str] = {}
    spellings = []
    for name in sorted({*patients.values()}):
        first = first_with.setdefault(f"name {patient_key(name)}", name)
        joined.merge(first, name)
        if first != name:
            spellings.append(f"{first} and {name}")
    for file, sha256 in contents.items():
        joined.merge(first_with.setdefault(sha256, patients[file]), patients[file])
    first_name = {patient: min(same) for same in joined.subsets() for patient in same}
    notes = []
    if spellings:
        notes.append(
            f"{len(spellings)} patient IDs differ from another one only in upper and lower case or "
            f"in leading zeros, and count as the same patient: {join_names(spellings, 3)}"
        )
    return {file: first_name[patient] for file, patient in patients.items()}, notes
