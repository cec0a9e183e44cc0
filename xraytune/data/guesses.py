"""Guess from names: parts, which class is healthy, and which images are no X-rays.

A wrong guess would train on test images, or swap sensitivity and specificity without a trace, so
only words that leave no doubt decide. Otherwise, the user is asked.
"""

import re
from collections.abc import Mapping, Sequence
from difflib import SequenceMatcher
from itertools import combinations
from pathlib import PurePosixPath
from typing import Literal, get_args
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
_OVERLAYS = re.compile(
    r"(.*[ _-])?masks?|masks?[ _-].*|(heat|saliency)[ _-]?maps?|overlays?|segmentations?"
    r"|annotations?|labels",
    re.IGNORECASE,
)
_GENERATED = re.compile(
    r"(.*[ _-])?(generated|synth(etic|esi[sz]ed)?|fakes?|(ac|c|cycle|dc|pro|star|style|w)?gans?"
    r"|ddpm|stable[ _-]?diffusion)\d*([ _-].*)?",
    re.IGNORECASE,
)
YES = frozenset("1 pos positive present true wahr vrai verdadero y yes".split())
NO = frozenset("0 absent false falsch faux falso n neg negative no".split())
"""Cells of a table, as `word_in` returns them."""
UNCERTAIN = frozenset("-1 equivocal possible u uncertain unclear".split())
EMPTY = frozenset(["", "n/a", "na", "nan", "none", "null", "unknown"])
"""Cells that say neither yes nor no."""
READ_CELLS = YES | NO | UNCERTAIN | EMPTY
_HEALTHY = NO | frozenset(
    (
        "clear control controls healthy nodisease nofinding nofindings non none normal normals not "
        "unaffected uninfected unremarkable well without"
    ).split()
)
"""Names of a class without disease, without blanks and the like."""
_SIMILAR = 0.9
"""The least share of common letters of names that are one by mistake, such as `Tuberclosis`."""
_VIEW_COLUMNS = frozenset(
    "view views viewposition viewcode projection frontallateral lateral modality".split()
)
_LATERAL = re.compile(r"(?<![a-z])lateral(?![a-z])", re.IGNORECASE)
_OTHER_VIEW = re.compile(
    r"(?<![a-z])(lateral|lat|[lr]?l[do]?|rl|axial|coronal|sagittal|ct|mr|mri)(?![a-z])",
    re.IGNORECASE,
)
_NO_CLASS = re.compile(r"images|(fold|split|cv)[-_ ]?\d+", re.IGNORECASE)
"""Folders of images that name neither a class nor a hospital."""
_CAMEL_CASE = re.compile(r"(?<=[a-z])(?=[A-Z])")
_PLAIN = str.maketrans("\u00a0\u2007\u202f\u2011", "   -", "\u00ad\u200b\u2060\ufeff")
"""Blanks and hyphens that do not break lines, as on web pages, and characters without width."""


def normalise_text(name: str) -> str:
    """Return a name with composed umlauts and accents, plain blanks and plain hyphens.

    macOS decomposes the umlauts in names of files.
    """
    return normalize("NFC", name.translate(_PLAIN))


def casefold_text(name: str) -> str:
    """Return a name to compare with others: normalised, and in lower case."""
    return normalise_text(name).casefold()


def word_in(cell: str) -> str:
    """Return the word of a cell, to look up in `YES` and the like, such as `1` for `1.0`."""
    return re.sub(r"^(-?\d+)[.,]0+$", r"\1", cell.casefold())


def mentions(label: str, name: str) -> bool:
    """Return whether a label contains another one as whole words; both are in lower case."""
    return name in label and re.search(rf"(?<!\w){re.escape(name)}(?!\w)", label) is not None


def part_named(name: str) -> PartName | None:
    """Return the part that a folder or a cell means, such as `test` for `Testing` or `test_set`."""
    return _PART_WORDS.get(re.sub(r"[ _-]?(set|data|dataset|images|split)$", "", name.casefold()))


def inner_folders(file: str) -> tuple[str, ...]:
    """Return the folders of a file that may name its class: all but images/, parts and folds."""
    names = PurePosixPath(file).parts[:-1]
    return tuple(name for name in names if not (_NO_CLASS.fullmatch(name) or part_named(name)))


def shows_overlays(name: str) -> bool:
    """Return whether a folder holds masks, overlays or heat maps of X-rays, which are no X-rays."""
    return _OVERLAYS.fullmatch(_CAMEL_CASE.sub(" ", name)) is not None


def shows_generated(name: str) -> bool:
    """Return whether the name of a folder says that its X-rays were generated."""
    return _GENERATED.fullmatch(_CAMEL_CASE.sub(" ", name)) is not None


def shows_other_view(file: str) -> bool:
    """Return whether the name of a file says that it shows a chest from the side."""
    return _LATERAL.search(PurePosixPath(file).stem) is not None


def is_view_column(name: str) -> bool:
    """Return whether a column says what an image shows, such as `ViewPosition` or `modality`."""
    return re.sub(r"[\W_]", "", name.casefold()) in _VIEW_COLUMNS


def says_other_view(cell: str) -> bool:
    """Return whether a cell of a view column, or a DICOM header, means a lateral view, CT or MR."""
    return _OTHER_VIEW.search(cell) is not None


def positive_class(class_name: str | None, class_names: Sequence[str]) -> int | Problem:
    """Return the label of the positive class, or a problem.

    This is `class_name` or, of two classes, the one that is not healthy. Of three or more
    classes, it is the last one, which no metric uses.
    """
    if len(class_names) != 2:
        if not class_name:
            return len(class_names) - 1
        what = f"only one of two classes can be positive, and there are {len(class_names)}"
        return Problem(what, "data.positive", "remove it")
    if class_name is not None and normalise_text(class_name) in class_names:
        return class_names.index(normalise_text(class_name))
    if class_name is not None:
        return Problem(
            f"{class_name!r} is no class; the classes are {join_names(class_names)}",
            "data.positive",
            nearest(class_name, class_names),
        )
    first, second = class_names
    for names in (class_names, [_own_words(first, second), _own_words(second, first)]):
        healthy = [means_no_disease(name) for name in names]
        if healthy[0] != healthy[1]:
            return healthy.index(False)
    return Problem(
        f"the names do not tell which class is the disease, {first} or {second}",
        "data.positive",
        f"use data.positive: {first}, or data.positive: {second}",
    )


def _own_words(name: str, other: str) -> str:
    """Return what a name has besides the words of another one: `Non` for `NonCOVID` and `covid`."""
    words, other_words = (
        re.split(r"[\W_]+", casefold_text(_CAMEL_CASE.sub(" ", text))) for text in (name, other)
    )
    return " ".join(word for word in words if word not in other_words)


def find_similar(names: Sequence[str]) -> list[str]:
    """Return the pairs of names that differ in blanks, hyphens or a few letters, `A = B`."""
    letters = {name: re.sub(r"[\W_]", "", casefold_text(name)) for name in names}
    digits = {name: re.sub(r"\D", "", name) for name in names}
    return [
        f"{first} = {second}"
        for first, second in combinations(names, 2)
        if digits[first] == digits[second]
        and SequenceMatcher(None, letters[first], letters[second]).ratio() >= _SIMILAR
    ]


def means_no_disease(name: str) -> bool:
    """Return whether a class or a finding is the absence of all others, such as `No Finding`."""
    return re.sub(r"[\W_]", "", casefold_text(name)) in _HEALTHY
