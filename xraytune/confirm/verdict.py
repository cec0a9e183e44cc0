"""What the comparisons amount to: four words for a pair of arms, four for a finalist, and when to stop looking.

Takes comparisons, gives words and the controls that they rest on. Pure rules, each of which controls its error rate: a
finalist helps if it beats every control and hurts if it is worse than every matched one (intersection-union tests); it is no
better if an improvement over some control is ruled out (Holm's correction over the controls); the next finalist is tested
only if the one before it helps.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Literal, TypeAlias

import numpy as np
from numpy.typing import NDArray

from xraytune.confirm.comparison import Evidence, p_value_above, p_value_below
from xraytune.metrics.classification import Floats

Overall: TypeAlias = Literal["hurts", "helps", "no_better", "undecided"]
PairWord: TypeAlias = Literal["better", "worse", "equivalent", "undecided"]
Likeness: TypeAlias = Literal["no synthetic images", "as many images a step"]

LEVEL = 0.05
"""Significance level of each claim: two-sided for `better` and `worse`, of each of two one-sided tests for `equivalent`,
one-sided for `no_better`."""


@dataclass(frozen=True, slots=True, kw_only=True)
class PairTests:
    """The tests of one arm against another, elementwise over the arrays of the evidence.

    Attributes:
        is_better: The 95 % interval lies above 0.
        is_worse: The 95 % interval lies below 0.
        is_equivalent: The 90 % interval lies inside the region of practical equivalence.
        p_better_by_rope: One-sided p-value of "the true difference is one ROPE or more".
    """

    is_better: NDArray[np.bool_]
    is_worse: NDArray[np.bool_]
    is_equivalent: NDArray[np.bool_]
    p_better_by_rope: Floats


@dataclass(frozen=True, slots=True, kw_only=True)
class PairVerdict:
    """One arm against another; the attributes are those of `PairTests`."""

    is_better: bool
    is_worse: bool
    is_equivalent: bool
    p_better_by_rope: float

    @property
    def words(self) -> tuple[PairWord, ...]:
        """What holds: `better` or `worse`, and `equivalent`; both, where a difference is sure and too small to matter."""
        held: list[PairWord] = []
        if self.is_better:
            held.append("better")
        if self.is_worse:
            held.append("worse")
        if self.is_equivalent:
            held.append("equivalent")
        return tuple(held) or ("undecided",)


@dataclass(frozen=True, slots=True, kw_only=True)
class AgainstControl:
    """A finalist against one of its controls.

    Attributes:
        control: The control's name.
        likeness: How a matched control compares with the finalist; empty for a tuned one. If a finalist is worse than a
            control with as many images per step, the cause is the images, not their number.
        verdict: Finalist less control.
    """

    control: str
    likeness: frozenset[Likeness]
    verdict: PairVerdict


@dataclass(frozen=True, slots=True, kw_only=True)
class OverallVerdict:
    """The verdict on a finalist.

    Attributes:
        word: The first that holds of `hurts`, `helps`, `no_better`, `undecided`.
        controls: The controls that it rests on: the matched ones (`hurts`), all (`helps`), those over which an improvement
            is ruled out (`no_better`), those that it is not shown to beat (`undecided`).
    """

    word: Overall
    controls: tuple[str, ...]


def pair_tests(evidence: Evidence, *, rope: float) -> PairTests:
    """Test a difference for all four words.

    Args:
        evidence: Of the difference between the judged arm and the other.
        rope: Half the width of the region of practical equivalence, in AUROC, > 0.

    Source: equivalence as two one-sided tests of 5 %: Schuirmann 1987, "A comparison of the two one-sided tests procedure
    and the power approach".
    """
    by_rope = p_value_below(evidence, rope)
    return PairTests(
        is_better=p_value_above(evidence, 0.0) < LEVEL / 2,
        is_worse=p_value_below(evidence, 0.0) < LEVEL / 2,
        is_equivalent=(by_rope < LEVEL) & (p_value_above(evidence, -rope) < LEVEL),
        p_better_by_rope=by_rope,
    )


def judge(evidence: Evidence, *, rope: float) -> PairVerdict:
    """Judge one comparison; see `pair_tests`."""
    tests = pair_tests(evidence, rope=rope)
    return PairVerdict(
        is_better=bool(tests.is_better),
        is_worse=bool(tests.is_worse),
        is_equivalent=bool(tests.is_equivalent),
        p_better_by_rope=float(tests.p_better_by_rope),
    )


def verdicts_of(tests: PairTests, study: int, likenesses: Sequence[frozenset[Likeness]]) -> list[AgainstControl]:
    """Extract one study from tests [studies, controls], with a likeness for each control."""
    return [
        AgainstControl(
            control=str(place),
            likeness=likeness,
            verdict=PairVerdict(
                is_better=bool(tests.is_better[study, place]),
                is_worse=bool(tests.is_worse[study, place]),
                is_equivalent=bool(tests.is_equivalent[study, place]),
                p_better_by_rope=float(tests.p_better_by_rope[study, place]),
            ),
        )
        for place, likeness in enumerate(likenesses)
    ]


def overall(comparisons: Sequence[AgainstControl]) -> OverallVerdict:
    """Judge a finalist by all of its controls; at least one.

    Source: intersection-union test: Berger 1982, "Multiparameter hypothesis testing and acceptance sampling"; Holm 1979, "A
    simple sequentially rejective multiple test procedure".
    """
    matched = [one for one in comparisons if one.likeness]
    if shows_harm(comparisons) and all(one.verdict.is_worse for one in matched):
        return OverallVerdict(word="hurts", controls=_names(matched))
    if comparisons and all(one.verdict.is_better for one in comparisons):
        return OverallVerdict(word="helps", controls=_names(comparisons))
    if no_better := _improvement_ruled_out(comparisons):
        return OverallVerdict(word="no_better", controls=_names(no_better))
    return OverallVerdict(word="undecided", controls=_names(one for one in comparisons if not one.verdict.is_better))


def shows_harm(comparisons: Iterable[AgainstControl]) -> bool:
    """Whether the matched controls can show that the images hurt: one has none, and one has as many images per step."""
    likenesses = {likeness for one in comparisons for likeness in one.likeness}
    return likenesses == {"no synthetic images", "as many images a step"}


def _improvement_ruled_out(comparisons: Sequence[AgainstControl]) -> list[AgainstControl]:
    """Return the controls over which an improvement of one ROPE is ruled out, in the given order."""
    ranked = sorted(comparisons, key=lambda one: one.verdict.p_better_by_rope)
    passed = [one.verdict.p_better_by_rope < LEVEL / (len(ranked) - place) for place, one in enumerate(ranked)]
    ruled_out = ranked[: passed.index(False) if False in passed else len(ranked)]
    return [one for one in comparisons if one in ruled_out]


def fixed_sequence(verdicts: Sequence[OverallVerdict]) -> tuple[OverallVerdict | None, ...]:
    """Return the verdicts of finalists tested in a fixed order: up to and including the first that does not help.

    Args:
        verdicts: In the order of the finalists' val-B.

    Returns:
        One for each finalist; None: not tested, because one before it does not help.

    Source: Maurer, Hothorn & Lehmacher 1995; Westfall & Krishen 2001, "Optimally weighted, fixed sequence and gatekeeper
    multiple testing procedures".
    """
    helped = [verdict.word == "helps" for verdict in verdicts]
    tested = helped.index(False) + 1 if False in helped else len(helped)
    return tuple(verdict if place < tested else None for place, verdict in enumerate(verdicts))


def _names(comparisons: Iterable[AgainstControl]) -> tuple[str, ...]:
    return tuple(one.control for one in comparisons)
