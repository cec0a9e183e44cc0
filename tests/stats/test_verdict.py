"""The rules for a pair of arms, a finalist, and a sequence of finalists."""

import pytest

from xraytune.stats.placements import placement_variance
from xraytune.stats.verdict import (
    ControlKind,
    Evidence,
    Overall,
    PairVerdict,
    PairWord,
    judge_pair,
    overall_verdict,
)


def evidence(difference: float, width: float) -> Evidence:
    """A comparison whose 95 % interval is +- width, and whose 90 % interval is +- .84 width."""
    return Evidence(
        difference=difference,
        mean_score=0.8,
        replicate_variance=1e-12,
        patient_variance=(width / 1.959964) ** 2,
        replicates=5,
        effective_patients=1e9,
        variance=placement_variance,
    )


def against(
    control: str, *words: PairWord, kind: ControlKind = "tuned", p_better_by_rope: float = 0.5
) -> PairVerdict:
    return PairVerdict(
        control=control,
        kind=kind,
        verdict=words,
        p_better_by_rope=p_better_by_rope,
    )


def of_p_values(*p_values: float) -> tuple[Overall, tuple[str, ...]]:
    """The verdict on a finalist with these p-values at the ROPE against controls a, b, c ..."""
    return overall_verdict(
        [against(name, p_better_by_rope=p) for name, p in zip("abcdef", p_values, strict=False)]
    )


@pytest.mark.parametrize(
    ("difference", "width", "words"),
    [
        (0.03, 0.02, ("better",)),
        (-0.03, 0.02, ("worse",)),
        (0.001, 0.005, ("equivalent",)),
        (0.005, 0.004, ("better", "equivalent")),
        (-0.005, 0.004, ("worse", "equivalent")),
        (0.0105, 0.01, ("better",)),  # a one-sided p-value of .02
        (-0.0105, 0.01, ("worse",)),
        (0.005, 0.02, ("undecided",)),
        (0.02, 0.0201, ("undecided",)),
        (0.0, 1e-5, ("equivalent",)),
        (0.0, 0.0115, ("equivalent",)),  # its 90 % interval is +- .00965
        (0.0015, 0.0115, ("undecided",)),
        (-0.0015, 0.0115, ("undecided",)),
    ],
)
def test_a_pair_gets_all_words_that_hold(
    difference: float, width: float, words: tuple[str, ...]
) -> None:
    assert judge_pair(evidence(difference, width), rope=0.01).verdict == words


NONE_BETTER = against("none", "better", kind="none")
NONE_WORSE = against("none", "worse", kind="none")


@pytest.mark.parametrize(
    ("comparisons", "word", "controls"),
    [
        (  # worse than every matched control
            [
                against("none", "worse", "equivalent", kind="none", p_better_by_rope=1e-9),
                against("duplicate", "worse", kind="duplicate", p_better_by_rope=1e-9),
                against("tuned", "better"),
            ],
            "hurts",
            ("none", "duplicate"),
        ),
        # Worse than `none` alone may come from more images per step, which the duplicates have too.
        (
            [NONE_WORSE, against("duplicate", "undecided", kind="duplicate")],
            "undecided",
            ("none", "duplicate"),
        ),
        ([NONE_WORSE, against("duplicate", "better", kind="duplicate")], "undecided", ("none",)),
        (  # better than every control, even if by too little to matter
            [
                against("none", "better", "equivalent", kind="none", p_better_by_rope=1e-9),
                against("tuned", "better"),
            ],
            "helps",
            ("none", "tuned"),
        ),
        (
            [NONE_BETTER, against("duplicate", "undecided"), against("tuned", "better")],
            "undecided",
            ("duplicate",),
        ),
        ([NONE_BETTER, against("sent", "undecided", kind="donor")], "undecided", ("sent",)),
        ([NONE_BETTER, against("tuned", "worse", p_better_by_rope=0.005)], "no_better", ("tuned",)),
        # The verdict on a single pair is never `no_better`.
        ([NONE_BETTER, against("tuned", "worse")], "undecided", ("tuned",)),
        ([], "undecided", ()),
    ],
)
def test_the_first_verdict_that_holds_names_its_controls(
    comparisons: list[PairVerdict], word: Overall, controls: tuple[str, ...]
) -> None:
    assert overall_verdict(comparisons) == (word, controls)


def test_images_that_do_as_well_alone_help_nonetheless() -> None:
    controls = [against("none", "better"), against("alone", "equivalent", kind="synthetic_only")]

    assert overall_verdict(controls) == ("helps", ("none",))


@pytest.mark.parametrize("kind", ["none", "duplicate", "tuned"])
def test_without_both_matched_controls_nothing_hurts(kind: ControlKind) -> None:
    controls = [against("one", "worse", kind=kind), against("tuned", "worse")]

    assert overall_verdict(controls)[0] == "undecided"


def test_controls_are_tested_in_the_order_of_their_p_values_as_holm_does() -> None:
    """The first of five at a fifth of the level, after a rejection the next at a quarter, ..."""
    assert of_p_values(0.005, 0.5, 0.5, 0.5, 0.5)[0] == "undecided"
    assert of_p_values(0.5, 0.5, 0.5, 0.0045, 0.5) == ("no_better", ("d",))
    assert of_p_values(0.5, 0.0065, 0.5, 0.0045, 0.5)[1] == ("d",)
    assert of_p_values(0.0245, 0.012, 0.008, 0.006, 0.0045)[1] == ("a", "b", "c", "d", "e")
    assert of_p_values(0.008, 0.007, 0.0045, 0.5, 0.5)[1] == ("c",), (
        "the second fails, so .008 is not tested"
    )
