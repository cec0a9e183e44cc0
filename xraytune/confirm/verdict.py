"""What the comparisons amount to: four words for a pair of arms, four for a finalist, and when to stop looking.

Takes comparisons, gives words and the controls that they rest on. Pure rules, each of which keeps its error rate without
correcting for several tests: a finalist has to beat every control (an intersection-union test), and a further finalist is
looked at only after the one before it has.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Literal, TypeAlias

from xraytune.confirm.comparison import Comparison

Overall: TypeAlias = Literal["hurts", "helps", "no_better", "undecided"]
PairWord: TypeAlias = Literal["better", "worse", "equivalent", "undecided"]


@dataclass(frozen=True, slots=True, kw_only=True)
class PairVerdict:
    """One arm against another.

    Attributes:
        is_better: The 95 % interval lies above 0.
        is_worse: The 95 % interval lies below 0.
        is_equivalent: The 90 % interval lies inside the region of practical equivalence.
    """

    is_better: bool
    is_worse: bool
    is_equivalent: bool

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
        control: The control's name, as it is told.
        is_matched_without_synthetic: Whether it keeps all of the finalist's settings and has no synthetic image: the one
            that tells whether the images hurt.
        verdict: Finalist less control.
    """

    control: str
    is_matched_without_synthetic: bool
    verdict: PairVerdict


@dataclass(frozen=True, slots=True, kw_only=True)
class OverallVerdict:
    """What is said of a finalist.

    Attributes:
        word: The first that holds of `hurts`, `helps`, `no_better`, `undecided`.
        controls: The controls that it rests on: those that beat it (`hurts`), all (`helps`), those that it equals or that
            beat it (`no_better`), those that it neither beats nor equals (`undecided`).
    """

    word: Overall
    controls: tuple[str, ...]


def judge(comparison: Comparison, *, rope: float) -> PairVerdict:
    """Judge one comparison.

    Two arms that both rank every image right are neither different nor equivalent: on more patients they may differ.

    Args:
        comparison: Of the arm that is judged with another.
        rope: Half the width of the region of practical equivalence, in AUROC, > 0.

    Source: equivalence as two one-sided tests of 5 %: Schuirmann 1987, "A comparison of the two one-sided tests procedure
    and the power approach".
    """
    interval = comparison.interval
    if comparison.is_saturated:
        return PairVerdict(is_better=False, is_worse=False, is_equivalent=False)
    return PairVerdict(
        is_better=interval.low > 0,
        is_worse=interval.high < 0,
        is_equivalent=-rope < interval.low_90 and interval.high_90 < rope,
    )


def overall(comparisons: Sequence[AgainstControl]) -> OverallVerdict:
    """Judge a finalist by all of its controls; at least one.

    Source: intersection-union test: Berger 1982, "Multiparameter hypothesis testing and acceptance sampling".
    """
    beaten_by = _names(one for one in comparisons if one.is_matched_without_synthetic and one.verdict.is_worse)
    if beaten_by:
        return OverallVerdict(word="hurts", controls=beaten_by)
    if comparisons and all(one.verdict.is_better for one in comparisons):
        return OverallVerdict(word="helps", controls=_names(comparisons))
    as_good = _names(one for one in comparisons if one.verdict.is_equivalent or one.verdict.is_worse)
    if as_good:
        return OverallVerdict(word="no_better", controls=as_good)
    return OverallVerdict(word="undecided", controls=_names(one for one in comparisons if not one.verdict.is_better))


def fixed_sequence(verdicts: Sequence[OverallVerdict]) -> tuple[OverallVerdict | None, ...]:
    """What may be told of finalists in an order that was fixed before: up to and with the first that does not help.

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
