"""Differences between the arms of a confirmation, with the interval of `confirm`."""

from __future__ import annotations

from benchmarks.figures import Figure, figure
from xraytune.confirm.arms import Arm, Role, read_plan
from xraytune.confirm.compare import ArmScores
from xraytune.confirm.score import read_scores
from xraytune.confirm.sealed import choose_test
from xraytune.stats.verdict import Interval, compare
from xraytune.study.folder import StudyFolder

Comparisons = dict[str, Interval]


class Contrasts:
    """The arms of a confirmation, by what they are, and differences between them."""

    def __init__(self, scores: ArmScores) -> None:
        self._scores = scores
        self.plan = scores.plan

    def beside(self, finalist: Arm, role: Role, source: str) -> Arm | None:
        """Return the arm that differs from a finalist only in its source, if there is one."""
        arms = (
            arm
            for arm in self.plan.arms
            if (arm.trial_label, arm.role) == (finalist.trial_label, role)
        )
        return next((arm for arm in arms if arm.parameters.source == source), None)

    def none(self, finalist: Arm) -> Arm:
        """Return the matched control without extra images."""
        arm = self.beside(finalist, "matched", "none")
        assert arm is not None, "every finalist has one"
        return arm

    def minus(self, first: Arm, second: Arm) -> Interval:
        """Compare two arms."""
        return compare(self._scores.measure(first, second))


def read(study: StudyFolder) -> Contrasts:
    """Return the test scores of the study's confirmation."""
    runs, settings = StudyFolder(study.confirm_path), study.space().settings
    plan = read_plan(runs.path)
    assert plan is not None, "the study is confirmed"
    sealed = choose_test(
        settings,
        study.prepared(),
        replicates=plan.replicates,
        mixes=[arm.parameters for arm in plan.finalists],
        planned_kind=plan.test,
        test=None,
    )
    return Contrasts(read_scores(runs, plan, sealed))


def errors(interval: Interval) -> tuple[float, float]:
    """Return how far the interval reaches below and above the difference."""
    return interval.difference - interval.low, interval.high - interval.difference


def half_width(name: str, interval: Interval) -> Figure:
    """Return half of the width of an interval, as a figure with its bar."""
    return figure(f"half-width, {name}", (interval.high - interval.low) / 2, "AUROC", "<= 0.005")
