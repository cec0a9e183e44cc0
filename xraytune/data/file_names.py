"""Patients in file names: those of the public sets, declared, and an expression for others.

Each line of `PATTERNS` is a fact about a public set. Other names are not guessed: if many of them
begin alike, `propose_patients` writes an expression that the user may choose.
"""

import re
from collections import Counter
from collections.abc import Collection, Sequence
from typing import Literal, NamedTuple

from xraytune.base.records import frozen
from xraytune.data.decoding import without_suffix
from xraytune.data.guesses import normalise_text

Unit = Literal["patient", "study", "image"]


class NamePattern(NamedTuple):
    """How a public set names its files.

    Attributes:
        set: The name of the set, which begins the names of its patients.
        expression: A regular expression for the end of a path, without suffix. Its group `id` is
            the patient, and its group `series` replaces `set` if patients are numbered in several
            series.
        example: The path of a file.
        patient: The patient of the example.
        unit: What has the ID; names with the ID of a study or an image do not identify patients.
    """

    set: str
    expression: str
    example: str
    patient: str
    unit: Unit = "patient"


PATTERNS = (
    NamePattern(
        "kermany",
        r"person(?P<id>\d+)_(?P<series>bacteria|virus)_\d+",
        "person12_bacteria_46.jpeg",
        "bacteria:12",
    ),
    NamePattern(
        "kermany",
        r"(?P<series>IM|NORMAL2-IM|NORMAL|BACTERIA|VIRUS)-(?P<id>\d+)-\d{4}",
        "NORMAL2-IM-0115-0001.jpeg",
        "NORMAL2-IM:0115",
    ),
    NamePattern("nih", r"(?P<id>000[0-3]\d{4})_\d{3}", "00001280_004.png", "nih:00001280"),
    NamePattern(
        "chexpert",
        r"patient(?P<id>\d{5})[/_]study\d+[/_]view\d+_(frontal|lateral)",
        "train/patient00001/study1/view1_frontal.jpg",
        "chexpert:00001",
    ),
    NamePattern(
        "mimic",
        r"p(?P<id>1\d{7})[/_]s5\d{7}[/_][0-9a-f-]{44}",
        "p10/p10000032/s50414267/02aa804e-bde0afdd-112c0b34-7bc16630-4e384014.jpg",
        "mimic:10000032",
    ),
    NamePattern(
        "padchest",
        r"(?P<id>\d{36,48})_\d\d-\d{3}-\d{3}",
        "216840111366964012768025509942010152098003_00-097-088.png",
        "padchest:216840111366964012768025509942010152098003",
        unit="study",
    ),
    NamePattern(
        "vinbig",
        r"(?P<id>[0-9a-f]{32})",
        "50a418190bc3fb1ef1633bf9678929b3.dicom",
        "vinbig:50a418190bc3fb1ef1633bf9678929b3",
        unit="image",
    ),
    NamePattern("shenzhen", r"CHNCXR_(?P<id>\d{4})_[01]", "CHNCXR_0001_0.png", "shenzhen:0001"),
    NamePattern("montgomery", r"MCUCXR_(?P<id>\d{4})_[01]", "MCUCXR_0001_0.png", "montgomery:0001"),
    NamePattern("jsrt", r"(?P<id>JPC[LN]N\d{3})", "JPCLN001.png", "jsrt:JPCLN001"),
    NamePattern("openi", r"CXR(?P<id>\d+)_\d+_IM-\d{4}-\d+", "CXR1_1_IM-0001-3001.png", "openi:1"),
    NamePattern(
        "hannover",
        r"(?P<id>[0-9a-f]{8})_[0-9a-f]{8}_(ap|pa)",
        "024e7871_fff13f3a_pa.png",
        "hannover:024e7871",
    ),
    NamePattern(
        "bids",
        r"sub-(?P<id>[A-Za-z0-9]+)(/.*)?",
        "sub-S03044/ses-E06123/sub-S03044_ses-E06123_run-1_bp-chest_vp-ap_dx.png",
        "bids:S03044",
    ),
)
SETS = tuple(dict.fromkeys(pattern.set for pattern in PATTERNS))
"""The sets whose file names are known. A study records them, since a later version knows more."""
OLDEST_SETS = ("kermany",)
"""The sets that were known before studies recorded them."""
OTHER_WORDS = {"bacteria": "bacterial", "virus": "viral"}
"""The germs in Kermany file names, and their classes of `classes: three`."""
# Augmentor writes before a name, and Roboflow, other augmentors and copies write behind it.
_COMPILED = tuple(
    (
        pattern,
        re.compile(rf"(?:.*/)?(?:.*_original_)?(?P<name>{pattern.expression}(?:[ _.(-].*)?)"),
    )
    for pattern in PATTERNS
)
_MOST_WORDS = 4
_FEWEST_SHARING, _MOST_IMAGES = 5, 10
"""At least so many patients with several images, and on average at most so many images of one."""


@frozen
class KnownName:
    """A file name of a public set.

    Attributes:
        name: The part of the path that names the image, without suffix.
        series: The series in which the set numbers the patient, or the set.
    """

    pattern: NamePattern
    name: str
    series: str
    patient: str


def known_name(file: str, sets: Collection[str] = SETS) -> KnownName | None:
    """Return what the name of a file says if it is one of these public sets, or None."""
    for pattern, expression in _COMPILED:
        match = expression.fullmatch(without_suffix(file))
        if match and pattern.set in sets:
            series = match.groupdict().get("series") or pattern.set
            patient = f"{series}:{match['id']}"
            return KnownName(pattern=pattern, name=match["name"], series=series, patient=patient)
    return None


def patient_of(file: str) -> str | None:
    """Return the patient in the file name of a public set, as `series:id`; None for other names.

    Each series is numbered separately: `person12_bacteria` and `person12_virus` are two people.
    """
    known = known_name(file)
    return known.patient if known else None


def class_in_name(file: str) -> str | None:
    """Return `normal`, `bacterial` or `viral` if a Kermany file name states it."""
    known = known_name(file, ("kermany",))
    return OTHER_WORDS.get(known.series.lower(), "normal") if known else None


def pneumonia_type(file: str) -> str | None:
    """Return `bacterial` or `viral` if a Kermany file name states it."""
    name = class_in_name(file)
    return None if name == "normal" else name


@frozen
class Proposal:
    """An expression, for `group_regex`, by which several files have the same patient."""

    group_regex: str
    patient_count: int


def propose_patients(files: Sequence[str]) -> Proposal | None:
    """Return an expression for what the paths of the same patient may have in common, or None.

    This is the innermost folder or the shortest beginning of the file names, up to a separator,
    that many files share. It has a digit, and few files: a class or a series is no patient.
    """
    names = [without_suffix(file).rpartition("/")[2] for file in files]
    separators = "".join(sign for sign in "-_. " if sign in "".join(names))
    expressions = ["([^/]+)/[^/]+$"]
    if separators:
        restarts = len({*names}) < len(names)  # in each folder, from 1
        folder = "(?:.+/)?" if restarts else ""
        separator = f"[{separators}]" if len(separators) > 1 else re.escape(separators)
        for count in range(1, _MOST_WORDS + 1):
            beginning = separator.join([f"[^{separators}/]+"] * count)
            expressions.append(f"({folder}{beginning}){separator}[^/]*$")
    for expression in expressions:
        matches = [re.search(expression, normalise_text(file)) for file in files]
        patients = Counter(match[1] for match in matches if match)
        sharing = [count for count in patients.values() if count > 1]
        if (
            None not in matches
            and all(re.search(r"\d", patient) for patient in patients)
            and len(sharing) >= _FEWEST_SHARING
            and sum(sharing) * _MOST_IMAGES >= len(files)
            and len(patients) * _MOST_IMAGES >= len(files) >= max(sharing) * _FEWEST_SHARING
        ):
            return Proposal(group_regex=expression, patient_count=len(patients))
    return None
