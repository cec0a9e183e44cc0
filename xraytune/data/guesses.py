"""What is guessed from names: parts, classes, patients, which class is ill, what is no X-ray.

A wrong guess would train on test images, or swap sensitivity and specificity without a trace, so
only words that leave no doubt decide. Otherwise the user is asked.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from pathlib import PurePath, PurePosixPath
from typing import Literal, NamedTuple, get_args
from unicodedata import normalize

from xraytune.base.errors import Problem, join_names
from xraytune.space.messages import nearest

PartName = Literal["train", "val", "test"]
PARTS: tuple[PartName, ...] = get_args(PartName)
_PART_WORDS: Mapping[str, PartName] = {
    **dict.fromkeys(("train", "training"), "train"),
    **dict.fromkeys(("val", "valid", "validate", "validation", "dev"), "val"),
    **dict.fromkeys(("test", "testing", "held-out", "holdout"), "test"),
}
_DRAWINGS = re.compile(
    r"(.*[ _-])?masks?|masks?[ _-].*|(heat|saliency)[ _-]?maps?|overlays?|segmentations?"
    r"|annotations?|labels( ?(tr|ts))?",
    re.IGNORECASE,
)
_GENERATED = re.compile(
    r"(.*[ _-])?(generated|synthetic|synthesi[sz]ed|fakes?|gan)([ _-].*)?", re.IGNORECASE
)
OTHER_WORDS = {"bacteria": "bacterial", "virus": "viral"}
"""Of `classes: three`."""
_KERMANY_NAME = re.compile(
    r"(person(?P<person>\d+)_(?P<germ>bacteria|virus)_\d+(_\d+)?"
    r"|(?P<series>IM|NORMAL2-IM|NORMAL|BACTERIA|VIRUS)-(?P<number>\d+)-\d{4}(-\d{4})?)"
    r"(_jpe?g\.rf\.\w+)?"  # added by Roboflow
)
POSITIVE = "data.positive"
YES = frozenset("1 1.0 pos positive present true y yes".split())
NO = frozenset("0 0.0 absent false n neg negative no".split())
"""Cells of a table, in lower case.

The words among them also mean disease, or its absence, in the name of a class.
"""
UNCERTAIN = frozenset("-1 -1.0 equivocal possible u uncertain unclear".split())
EMPTY = frozenset(["", "n/a", "na", "nan", "none", "null", "unknown"])
"""Cells that say neither."""
_NO_DISEASE = NO.difference("n").union(
    "benign clear control controls healthy nofinding nofindings none normal normals unremarkable".split()
)
_DISEASE = YES.difference("1y").union(
    ["abnormal", "disease", "ill", "malignant", "pneumonia", "sick"]
)
_NEGATIONS = frozenset({"no", "non", "not", "without"})
_WORD = re.compile(r"[^\W_]+")
_VIEW_COLUMN = re.compile(
    r"(view|projection)(position|type|code|s)?|frontallateral|(is)?lateral|(image)?modality"
)
"""Names of columns, without capitals, blanks and the like."""
_LATERAL = re.compile(r"(?<![a-z])lateral(?![a-z])", re.IGNORECASE)
_OTHER_VIEW = re.compile(
    r"(?<![a-z])(lateral|lat|[lr]?l[do]?|rl|axial|coronal|sagittal|ct|mr|mri)(?![a-z])",
    re.IGNORECASE,
)
_CAMEL_CASE = re.compile(r"(?<=[a-z])(?=[A-Z])")


def composed(name: str) -> str:
    """Return a name with composed umlauts and accents, as in tables.

    macOS decomposes those of files.
    """
    return normalize("NFC", name)


def folded(name: str) -> str:
    """Return a name to compare with others: composed, and in lower case."""
    return composed(name).casefold()


def part_named(name: str) -> PartName | None:
    """Return the part that a folder or a cell means, in any case: `Testing`, `test_set`."""
    return _PART_WORDS.get(re.sub(r"[ _-]?(set|data|dataset|images|split)$", "", name.casefold()))


def inner_folders(file: PurePath) -> tuple[str, ...]:
    """Return the folders of a file that may name its class: all but images/ and parts."""
    return tuple(
        name for name in file.parts[:-1] if name.casefold() != "images" and part_named(name) is None
    )


def shows_drawings(folder_name: str) -> bool:
    """Return whether a folder holds masks, overlays or heat maps of X-rays, which are no X-rays."""
    return _DRAWINGS.fullmatch(_CAMEL_CASE.sub(" ", folder_name)) is not None


def shows_generated(folder_name: str) -> bool:
    """Return whether the name of a folder says that its X-rays were generated."""
    return _GENERATED.fullmatch(_CAMEL_CASE.sub(" ", folder_name)) is not None


def shows_other_view(file: str) -> bool:
    """Return whether the name of a file says that it shows a chest from the side."""
    return _LATERAL.search(PurePosixPath(file).stem) is not None


def is_view_column(name: str) -> bool:
    """Return whether a column says what an image shows: `view`, `ViewPosition`, `modality`."""
    return _VIEW_COLUMN.fullmatch(re.sub(r"[\W_]", "", name.casefold())) is not None


def says_other_view(cell: str) -> bool:
    """Return whether a cell of such a column, or a DICOM header, means a lateral view, CT or MR."""
    return _OTHER_VIEW.search(cell) is not None


def patient_of(file: str) -> str | None:
    """Return the patient in a Kermany file name, as `series:number`; None for other names.

    Each of the series is numbered separately: `person12_bacteria` and `person12_virus` are two
    people.
    """
    match = _KERMANY_NAME.fullmatch(PurePosixPath(file).stem)
    return (
        f"{match['germ'] or match['series']}:{match['person'] or match['number']}"
        if match
        else None
    )


def pneumonia_type(file: str) -> str | None:
    """Return `bacterial` or `viral` if a Kermany file name states it."""
    match = _KERMANY_NAME.fullmatch(PurePosixPath(file).stem)
    return OTHER_WORDS.get((match["germ"] or match["series"]).lower()) if match else None


class PositiveClass(NamedTuple):
    """The label of the positive class, and why.

    Of three or more classes it is the last one, and no metric uses it.
    """

    label: int
    reason: str


def positive_class(given: str | None, class_names: Sequence[str]) -> PositiveClass | Problem:
    """Return the positive class, as `given` or by the names of two classes, or what is wrong."""
    given = given and composed(given)
    if given is not None and given not in class_names:
        fix = nearest(given, class_names, f"name one of {join_names(class_names)}")
        return Problem(f"no class is called {given!r}", POSITIVE, fix)
    if len(class_names) != 2:
        if given is None:
            return PositiveClass(len(class_names) - 1, "")
        what = (
            f"there are {len(class_names)} classes; only one of two classes can be the positive one"
        )
        return Problem(
            what, POSITIVE, "remove it: sensitivity and specificity are means over the classes"
        )
    if given is not None:
        return PositiveClass(class_names.index(given), "as given")
    meanings = [_says_disease(name) for name in class_names]
    for label, (meaning, other_meaning) in enumerate(
        zip(meanings, reversed(meanings), strict=True)
    ):
        if meaning is True and other_meaning is not True:
            return PositiveClass(label, "its name means disease")
        if other_meaning is False and meaning is not False:
            return PositiveClass(label, f"{class_names[1 - label]} means no disease")
    first, second = (join_names([name]) for name in class_names)
    what = f"the names do not tell which class is the disease, {first} or {second}"
    return Problem(what, POSITIVE, f"use {POSITIVE}: {first}, or {POSITIVE}: {second}")


def means_no_disease(name: str) -> bool:
    """Return whether a class or a finding is the absence of all others: `No Finding`."""
    return _says_disease(name) is False


def _says_disease(name: str) -> bool | None:
    """Return whether a class name means disease (`TB_positive`) or its absence (`No Finding`).

    None if it does not say.
    """
    words = [word.casefold() for word in _WORD.findall(_CAMEL_CASE.sub(" ", name))]
    if words and words[0] in _NEGATIONS:
        return _says_disease(" ".join(words[1:])) is False
    meanings = {word in _DISEASE for word in words if word in _DISEASE | _NO_DISEASE}
    return meanings.pop() if len(meanings) == 1 else None
