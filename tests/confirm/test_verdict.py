"""Words: of a pair of arms, of a finalist, of a sequence of finalists."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from xraytune.confirm.comparison import Comparison, HillisInterval, VarianceComponents
from xraytune.confirm.verdict import (
    AgainstControl,
    OverallVerdict,
    PairVerdict,
    PairWord,
    fixed_sequence,
    judge,
    overall,
)


def comparison(difference: float, width: float, width_90: float | None = None) -> Comparison:
    """One with the 95 % interval difference +- width."""
    narrower = 0.8 * width if width_90 is None else width_90
    return Comparison(
        interval=HillisInterval(
            difference=difference, standard_error=width / 2, degrees_of_freedom=10, p_value=0.5,
            low=difference - width, high=difference + width,
            low_90=difference - narrower, high_90=difference + narrower,
        ),
        aurocs=(0.9 + difference, 0.9), patients=100, gan_seeds=5, classifier_seeds=2, is_saturated=False,
        components=VarianceComponents(
            gan_seed=0, classifier_seed=0, patient=0, patient_by_gan_seed=0, patient_by_classifier_seed=0
        ),
    )  # fmt: skip


def against(control: str, *words: PairWord, matched_without: bool = False) -> AgainstControl:
    verdict = PairVerdict(is_better="better" in words, is_worse="worse" in words, is_equivalent="equivalent" in words)
    return AgainstControl(control=control, is_matched_without_synthetic=matched_without, verdict=verdict)


@pytest.mark.parametrize(
    ("difference", "width", "words"),
    [
        (0.03, 0.02, ("better",)),
        (-0.03, 0.02, ("worse",)),
        (0.001, 0.005, ("equivalent",)),
        (0.005, 0.004, ("better", "equivalent")),
        (-0.005, 0.004, ("worse", "equivalent")),
        (0.005, 0.02, ("undecided",)),
        (0.02, 0.02, ("undecided",)),
        (0.0, 0.0, ("equivalent",)),
    ],
)
def test_a_pair_is_told_all_that_holds(difference: float, width: float, words: tuple[str, ...]) -> None:
    assert judge(comparison(difference, width), rope=0.01).words == words


def test_equivalence_asks_the_90_percent_interval_and_the_rope_that_was_set() -> None:
    found = comparison(0.0, 0.012, width_90=0.009)

    assert judge(found, rope=0.01).is_equivalent
    assert not judge(found, rope=0.009).is_equivalent
    assert not judge(comparison(0.0015, 0.012, width_90=0.009), rope=0.01).is_equivalent
    assert not judge(comparison(-0.0015, 0.012, width_90=0.009), rope=0.01).is_equivalent


@pytest.mark.parametrize(("low_90", "high_90"), [(-0.01, 0.005), (-0.005, 0.01)])
def test_an_interval_that_reaches_the_ropes_end_is_not_inside(low_90: float, high_90: float) -> None:
    whole = comparison(0.0, 0.012)
    found = replace(whole, interval=replace(whole.interval, low_90=low_90, high_90=high_90))

    assert not judge(found, rope=0.01).is_equivalent
    assert judge(found, rope=0.0101).is_equivalent


def test_two_arms_without_a_single_error_are_undecided() -> None:
    assert judge(replace(comparison(0.0, 0.0), is_saturated=True), rope=0.01).words == ("undecided",)


@pytest.mark.slow
@given(st.floats(-0.05, 0.05), st.floats(1e-6, 0.05))
def test_swapping_the_arms_swaps_better_and_worse(difference: float, width: float) -> None:
    one, other = (judge(comparison(sign * difference, width), rope=0.01) for sign in (1, -1))

    assert (one.is_better, one.is_worse, one.is_equivalent) == (other.is_worse, other.is_better, other.is_equivalent)


def test_worse_than_its_matched_control_without_synthetic_images_hurts_whatever_else_holds() -> None:
    found = overall([against("none", "worse", "equivalent", matched_without=True), against("tuned", "better")])

    assert found == OverallVerdict(word="hurts", controls=("none",))


def test_better_than_every_control_helps_even_if_by_too_little_to_matter() -> None:
    found = overall([against("none", "better", "equivalent", matched_without=True), against("tuned", "better")])

    assert found == OverallVerdict(word="helps", controls=("none", "tuned"))


def test_one_control_that_it_does_not_beat_is_enough_not_to_help() -> None:
    found = overall([
        against("none", "better", matched_without=True), against("duplicate", "undecided"), against("tuned", "better"),
    ])  # fmt: skip

    assert found == OverallVerdict(word="undecided", controls=("duplicate",))


@pytest.mark.parametrize("word", ["worse", "equivalent"])
def test_equal_to_or_worse_than_any_control_is_no_better_and_names_it(word: PairWord) -> None:
    found = overall([
        against("none", "better", matched_without=True), against("duplicate", "undecided"), against("tuned", word),
    ])  # fmt: skip

    assert found == OverallVerdict(word="no_better", controls=("tuned",))


def test_without_controls_nothing_is_decided() -> None:
    assert overall([]).word == "undecided"


def test_finalists_are_told_up_to_and_with_the_first_that_does_not_help() -> None:
    helps, undecided = OverallVerdict(word="helps", controls=()), OverallVerdict(word="undecided", controls=())

    assert fixed_sequence([helps, undecided, helps]) == (helps, undecided, None)
    assert fixed_sequence([undecided, helps]) == (undecided, None)
    assert fixed_sequence([helps, helps]) == (helps, helps)
    assert fixed_sequence([]) == ()


@pytest.mark.slow
def test_a_sequence_of_many_looks_keeps_its_error_rate() -> None:
    """Three finalists that do not help, each called `helps` by chance in 2.5 %: some call in 2.5 %, not in 7.3 %."""
    by_chance = np.random.default_rng(1).random((20_000, 3)) < 0.025
    helps, undecided = OverallVerdict(word="helps", controls=()), OverallVerdict(word="undecided", controls=())

    told = [fixed_sequence([helps if one else undecided for one in study]) for study in by_chance]

    assert np.mean([helps in verdicts for verdicts in told]) == pytest.approx(0.025, abs=0.004)
