"""Which of two classes is the disease."""

from __future__ import annotations

import pytest

from xraytune.base.errors import Problem
from xraytune.data.guesses import Positive, positive_class


@pytest.mark.parametrize(
    ("negative", "positive"),
    [
        ("NORMAL", "PNEUMONIA"),
        ("healthy", "cancer"),
        ("No Finding", "Edema"),
        ("no_finding", "whatever"),
        ("NoFinding", "whatever"),
        ("not pneumonia", "pneumonia"),
        ("non-COVID", "COVID"),
        ("COVID negative", "COVID positive"),
        ("control", "zebra"),
        ("unheard of", "Tuberculosis"),
        ("normal", "not normal"),
        ("Normal", "abnormal"),
        ("0", "1"),
        ("benign", "malignant tumor"),
    ],
)
def test_a_word_that_leaves_no_doubt_decides_in_either_order(negative: str, positive: str) -> None:
    for names in ((negative, positive), (positive, negative)):
        found = positive_class(None, names)

        assert isinstance(found, Positive)
        assert names[found.label] == positive
        assert found.reason in {"its name means disease", f"{negative} means no disease"}


@pytest.mark.parametrize(
    "names",
    [
        ("alpha", "beta"),
        ("covid", "tb"),
        ("normal", "healthy"),
        ("positive control", "sample"),
        ("site 1", "site 2"),
        ("abnormality1", "abnormality2"),
    ],
)
def test_otherwise_it_is_asked_for(names: tuple[str, str]) -> None:
    found = positive_class(None, names)

    assert isinstance(found, Problem)
    assert found.where == "data.positive"
    assert found.fix == f"use data.positive: {names[0]}, or data.positive: {names[1]}"


@pytest.mark.parametrize(
    ("given", "names", "found"),
    [
        ("healthy", ("cancer", "healthy"), (1, "as given")),
        (None, ("normal", "bacterial", "viral"), (2, "")),
    ],
)
def test_a_given_class_comes_before_the_words_and_three_have_none(
    given: str | None, names: tuple[str, ...], found: tuple[int, str]
) -> None:
    assert positive_class(given, names) == found


@pytest.mark.parametrize(
    ("given", "names", "words"),
    [
        ("viral", ("normal", "bacterial", "viral"), "there are 3 classes; only one of two classes can be the positive"),
        ("pnuemonia", ("NORMAL", "PNEUMONIA"), "did you mean 'PNEUMONIA'?"),
    ],
)
def test_a_class_that_cannot_be_the_positive_one_is_refused(given: str, names: tuple[str, ...], words: str) -> None:
    assert words in str(positive_class(given, names))
