"""The decision rules: four words for a pair of arms, four verdicts for a finalist, and when to stop testing finalists.

Each rule controls its error rate. A finalist helps if it is better than every control, and hurts if it is worse than every
matched control (intersection-union tests). It is no better if an improvement over some control is ruled out (Holm's
correction over the controls). The next finalist is tested only if the previous one helps.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable, Sequence
from dataclasses import dataclass, fields
from typing import Literal, TypeAlias

import numpy as np
from numpy.typing import NDArray

from xraytune.confirm.comparison import Evidence, p_value_above, p_value_below
from xraytune.metrics.classification import Floats

Overall: TypeAlias = Literal["hurts", "helps", "no_better", "undecided"]
PairWord: TypeAlias = Literal["better", "worse", "equivalent", "undecided"]
ControlKind: TypeAlias = Literal["none", "none_same_count", "duplicate", "tuned"]
"""Matched without extra images; the same with as many images per step as the finalist (`mixing: replace`); matched with
repeated real images, also as many per step; tuned."""

_TEXTS: dict[Overall, str] = {
    "helps": "synthetic images help",
    "hurts": "synthetic images hurt",
    "no_better": "synthetic images do not improve {metric}",
    "undecided": "inconclusive: neither an improvement nor its absence was shown",
}

LEVEL = 0.05
"""Significance level of each claim: two-sided for `better` and `worse`, of each of two one-sided tests for `equivalent`,
one-sided for `no_better`."""


@dataclass(frozen=True, slots=True, kw_only=True)
class PairVerdict:
    """The tests of one arm against another.

    Attributes:
        is_better: The 95 % interval is above 0.
        is_worse: The 95 % interval is below 0.
        is_equivalent: The 90 % interval is inside the region of practical equivalence.
        p_better_by_rope: One-sided p-value of "the true difference is one ROPE or more".
    """

    is_better: bool
    is_worse: bool
    is_equivalent: bool
    p_better_by_rope: float

    @property
    def words(self) -> tuple[PairWord, ...]:
        """`better` or `worse`, and `equivalent`; both if a significant difference is too small to matter."""
        held: dict[PairWord, bool] = {
            "better": self.is_better,
            "worse": self.is_worse,
            "equivalent": self.is_equivalent,
        }
        return tuple(word for word, holds in held.items() if holds) or ("undecided",)


@dataclass(frozen=True, slots=True, kw_only=True)
class PairTests:
    """`PairVerdict`s of many comparisons: each attribute is an array of the shape of the evidence."""

    is_better: NDArray[np.bool_]
    is_worse: NDArray[np.bool_]
    is_equivalent: NDArray[np.bool_]
    p_better_by_rope: Floats

    def at(self, *index: int) -> PairVerdict:
        """Return the verdict of one comparison."""
        return PairVerdict(**{one.name: getattr(self, one.name)[index].item() for one in fields(PairVerdict)})


@dataclass(frozen=True, slots=True, kw_only=True)
class AgainstControl:
    """The verdict on a finalist against one of its controls, by the control's name."""

    control: str
    kind: ControlKind
    verdict: PairVerdict


@dataclass(frozen=True, slots=True, kw_only=True)
class OverallVerdict:
    """The verdict on a finalist.

    Attributes:
        word: The first that holds of `hurts`, `helps`, `no_better`, `undecided`.
        controls: The controls it rests on: the matched ones (`hurts`), all (`helps`), those over which an improvement is
            ruled out (`no_better`), those that the finalist is not better than (`undecided`).
    """

    word: Overall
    controls: tuple[str, ...]


def verdict_text(word: Overall, metric: str) -> str:
    """Return the verdict on a finalist in a few words: `synthetic images do not improve AUROC`."""
    return _TEXTS[word].format(metric=metric)


def pair_tests(evidence: Evidence, *, rope: float) -> PairTests:
    """Test differences, finalist minus control, for all four words; `rope` is the equivalence margin in AUROC, > 0.

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
    return pair_tests(evidence, rope=rope).at()


def verdicts_of(tests: PairTests, study: int, kinds: Sequence[ControlKind]) -> list[AgainstControl]:
    """Extract one study from tests [studies, controls]."""
    return [
        AgainstControl(control=f"{place}", kind=one, verdict=tests.at(study, place)) for place, one in enumerate(kinds)
    ]


def overall_verdict(comparisons: Sequence[AgainstControl]) -> OverallVerdict:
    """Judge a finalist by its comparisons with all controls.

    Source: intersection-union test: Berger 1982, "Multiparameter hypothesis testing and acceptance sampling"; Holm 1979, "A
    simple sequentially rejective multiple test procedure".
    """
    matched = [one for one in comparisons if one.kind != "tuned"]
    if can_show_harm([one.kind for one in matched]) and all(one.verdict.is_worse for one in matched):
        return OverallVerdict(word="hurts", controls=_names(matched))
    if comparisons and all(one.verdict.is_better for one in comparisons):
        return OverallVerdict(word="helps", controls=_names(comparisons))
    if no_better := _improvement_ruled_out(comparisons):
        return OverallVerdict(word="no_better", controls=_names(no_better))
    return OverallVerdict(word="undecided", controls=_names(one for one in comparisons if not one.verdict.is_better))


def can_show_harm(kinds: Collection[ControlKind]) -> bool:
    """Return whether the controls separate the effect of synthetic images from that of more images per step."""
    return "none_same_count" in kinds or ("none" in kinds and "duplicate" in kinds)


def _improvement_ruled_out(comparisons: Sequence[AgainstControl]) -> list[AgainstControl]:
    """Return the controls over which an improvement of one ROPE is ruled out, in the given order."""
    ranked = sorted(comparisons, key=lambda one: one.verdict.p_better_by_rope)
    passed = [one.verdict.p_better_by_rope < LEVEL / (len(ranked) - place) for place, one in enumerate(ranked)]
    ruled_out = ranked[: passed.index(False) if False in passed else len(ranked)]
    return [one for one in comparisons if one in ruled_out]


def fixed_sequence(verdicts: Sequence[OverallVerdict]) -> tuple[OverallVerdict | None, ...]:
    """Keep the verdicts, in the order of val-B, up to and including the first that is not `helps`; None: not tested.

    Source: Maurer, Hothorn & Lehmacher 1995; Westfall & Krishen 2001, "Optimally weighted, fixed sequence and gatekeeper
    multiple testing procedures".
    """
    helped = [verdict.word == "helps" for verdict in verdicts]
    tested = helped.index(False) + 1 if False in helped else len(helped)
    return tuple(verdict if place < tested else None for place, verdict in enumerate(verdicts))


def _names(comparisons: Iterable[AgainstControl]) -> tuple[str, ...]:
    return tuple(one.control for one in comparisons)
