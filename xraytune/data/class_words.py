"""Understand class names as people write them: which of two classes is the disease, and other words for bacterial and viral.

A wrong guess would swap sensitivity and specificity without a trace, so only words that leave no doubt decide. Otherwise the
user is asked.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from typing import NamedTuple

from xraytune.base.errors import Problem, join_names
from xraytune.space.messages import nearest

POSITIVE = "data.positive"
OTHER_WORDS = {"bacteria": "bacterial", "virus": "viral"}
"""Of `classes: three`."""
_NO_DISEASE = frozenset(
    "0 absent benign clear control controls false healthy neg negative nofinding nofindings none normal normals "
    "unremarkable".split()
)
_DISEASE = frozenset(
    "abnormal abnormality abnormalities atelectasis bacteria bacterial cancer carcinoma cardiomegaly consolidation covid "
    "covid19 disease diseased edema effusion emphysema fibrosis finding findings fracture hernia ill infected infection "
    "infiltration lesion lesions malignant mass nodule nodules oedema opacity opacities pathological pathology pneumonia "
    "pneumothorax pos positive sars sick silicosis tb true tuberculosis tumor tumors tumour tumours viral virus yes".split()
)
_NEGATIONS = frozenset({"no", "non", "not", "without"})
_WORD = re.compile(r"[^\W_]+")
_CAMEL_CASE = re.compile(r"(?<=[a-z])(?=[A-Z])")


class Positive(NamedTuple):
    """The label of the positive class, and why; of three or more classes it is the last one, and no metric uses it."""

    label: int
    reason: str


def positive_class(given: str | None, class_names: Sequence[str]) -> Positive | Problem:
    """Return the positive class, as `given` or by what the names of two classes mean, or the problem of finding it."""
    if given is not None and given not in class_names:
        fix = nearest(given, class_names, f"name one of {join_names(class_names)}")
        return Problem(f"no class is called {given!r}", POSITIVE, fix)
    if len(class_names) != 2:
        if given is None:
            return Positive(len(class_names) - 1, "")
        what = f"there are {len(class_names)} classes; only one of two classes can be the positive one"
        return Problem(what, POSITIVE, "remove it: sensitivity and specificity are means over the classes")
    if given is not None:
        return Positive(class_names.index(given), "as given")
    meanings = [_says_disease(name) for name in class_names]
    for label, (meaning, other_meaning) in enumerate(zip(meanings, reversed(meanings), strict=True)):
        if meaning is True and other_meaning is not True:
            return Positive(label, "its name means disease")
        if other_meaning is False and meaning is not False:
            return Positive(label, f"{class_names[1 - label]} means no disease")
    first, second = (join_names([name]) for name in class_names)
    what = f"the names do not tell which class is the disease, {first} or {second}"
    return Problem(what, POSITIVE, f"use {POSITIVE}: {first}, or {POSITIVE}: {second}")


def _says_disease(name: str) -> bool | None:
    """Return whether a class name means disease (`TB_positive`) or its absence (`No Finding`); None if it does not say."""
    words = [word.casefold() for word in _WORD.findall(_CAMEL_CASE.sub(" ", name))]
    if words and words[0] in _NEGATIONS:
        return _says_disease(" ".join(words[1:])) is False
    meanings = {word in _DISEASE for word in words if word in _DISEASE | _NO_DISEASE}
    return meanings.pop() if len(meanings) == 1 else None
