"""Three live claims, from the scores of one confirmation (docs/studies/plan.md).

A contrast compares two weighted means of arms, with the interval of `confirm`: the weights of each side add up to one.

    make bench ONLY=claims STUDY=studies/live-claims
"""

from __future__ import annotations

import os
from collections.abc import Iterator, Mapping
from dataclasses import replace
from pathlib import Path

import numpy as np

from benchmarks.figures import Figure, figure
from xraytune.base.records import ignore_progress
from xraytune.confirm.arms import CONFIRM_FOLDER, Arm, read_plan
from xraytune.confirm.draws import TEST
from xraytune.confirm.score import ArmScores, arm_scores
from xraytune.confirm.sealed import choose_test
from xraytune.stats.verdict import Comparison, compare, p_values
from xraytune.study.folder import StudyFolder
from xraytune.trial.task import task_of

NEEDS = ("STUDY",)
_LEVEL = 0.025
"""One-sided, over the members of a family (Holm)."""

Weights = Mapping[str, float]
"""By the name of an arm."""


def measure() -> Iterator[Figure]:
    """Print the tests of each claim, and yield the half-width of each main interval."""
    study = StudyFolder(Path(os.environ["STUDY"]).resolve())
    scores, rope = _read(study), study.space().settings.confirm.rope
    settings = [(arm, {arm.name: 1.0}) for arm in scores.plan.finalists]
    repeated = {
        arm.trial: arm for arm in scores.plan.arms if arm.role == "matched" and arm.parameters.source == "duplicate"
    }
    pairs = {_label(arm): (of, {repeated[arm.trial].name: 1.0}) for arm, of in settings if arm.trial in repeated}
    against = {name: _contrast(scores, *pair) for name, pair in pairs.items()}
    print("Claim 1: minus repeated real images")
    for name, result in against.items():
        print(_line(name, result))
    print(
        "better after Holm's correction:",
        _holm({name: float(p_values(one.evidence, 0.0)[0]) for name, one in against.items()}),
    )
    print(
        f"gain of {rope:g} ruled out after it:",
        _holm({name: float(p_values(one.evidence, rope)[1]) for name, one in against.items()}),
    )

    mixed = {arm.parameters.mixing: arm for arm, _ in settings if arm.parameters.trainable == "last_stage"}
    print("Claim 2: pretraining minus mixing, last stage trained")
    for other in ("additive", "replace"):
        result = _contrast(scores, {mixed["pretrain"].name: 1.0}, {mixed[other].name: 1.0})
        print(_line(f"pretrain - {other}", result))
        yield _half_width(f"pretraining minus {other}", result)

    by_ratio = {arm.parameters.synthetic_ratio: arm for arm, _ in settings if arm.parameters.trainable == "head"}
    none = next(
        arm
        for arm in scores.plan.arms
        if arm.role == "matched" and arm.trial == by_ratio[1.0].trial and arm.parameters.source == "none"
    )
    by_ratio = dict(sorted({0.0: none, **by_ratio}.items()))
    print("Claim 3: ratios, frozen network")
    slope = _slope(scores, by_ratio)
    print(slope)
    ends = by_ratio[0.0], by_ratio[max(by_ratio)]
    best, no_gain = dict[str, float](), dict[str, float]()
    for ratio, arm in [*by_ratio.items()][1:]:
        over = [_contrast(scores, {arm.name: 1.0}, {end.name: 1.0}) for end in ends if end is not arm]
        print(_line(f"ratio {ratio:g} - 0", over[0]), f"AUROC {over[0].scores[0]:.4f}")
        yield _half_width(f"ratio {ratio:g} minus 0", over[0])
        if len(over) == 2:
            print(_line(f"ratio {ratio:g} - {max(by_ratio):g}", over[1]))
            best[f"{ratio:g}"] = max(float(p_values(one.evidence, 0.0)[0]) for one in over)
            no_gain[f"{ratio:g}"] = min(1.0, 2 * min(float(p_values(one.evidence, rope)[1]) for one in over))
    print("better than both ends after Holm's correction:", _holm(best))
    print(f"gain of {rope:g} over one end ruled out:", [name for name, p in no_gain.items() if p < _LEVEL])
    for name in ("gan r=1 head", "gan r=10 head"):
        yield _half_width(f"{name} minus repeated", against[name])


def _read(study: StudyFolder) -> ArmScores:
    """Return the test scores of the study's confirmation."""
    runs, space, prepared = StudyFolder(study.path / CONFIRM_FOLDER), study.space(), study.prepared()
    plan = read_plan(runs.path)
    assert plan is not None, "the study is confirmed"
    choice = choose_test(
        space.settings,
        prepared,
        study.default_cache,
        replicates=plan.replicates,
        compared=[arm.parameters for arm in plan.finalists],
        planned=plan.test,
        test=None,
        external=None,
        on_progress=ignore_progress,
    )
    return arm_scores(runs, plan, TEST, choice.sealed, task_of(space.settings))


def _contrast(scores: ArmScores, first: Weights, second: Weights) -> Comparison:
    """Compare two weighted means of arms."""
    arms = {arm.name: arm for arm in scores.plan.arms}
    names = sorted({*first, *second})
    measured = scores.measure(*(arms[name] for name in names))
    weights = np.array([[side.get(name, 0.0) for name in names] for side in (first, second)])
    components = np.einsum("sa,akp->skp", weights, measured.components)
    return compare(replace(measured, scores=weights @ measured.scores, components=components))


def _slope(scores: ArmScores, by_ratio: Mapping[float, Arm]) -> str:
    """The least-squares slope of the score in log2(1 + ratio), per doubling of the images."""
    doublings = np.log2(1 + np.array([*by_ratio]))
    centred = doublings - doublings.mean()
    rising = centred[centred > 0].sum()
    first, second = (
        {arm.name: float(w) for arm, w in zip(by_ratio.values(), s * centred / rising, strict=True) if w > 0}
        for s in (1, -1)
    )
    interval = _contrast(scores, first, second).interval
    scale = rising / (centred**2).sum()
    ends = (scale * value for value in (interval.difference, interval.low, interval.high))
    return "slope per doubling: {:+.4f} ({:+.4f} to {:+.4f})".format(*ends)


def _holm(by_name: Mapping[str, float]) -> list[str]:
    """Return the rejected members of a family of one-sided hypotheses."""
    rejected: list[str] = []
    for place, name in enumerate(sorted(by_name, key=by_name.__getitem__)):
        if by_name[name] >= _LEVEL / (len(by_name) - place):
            break
        rejected.append(name)
    return rejected


def _label(arm: Arm) -> str:
    parameters = arm.parameters
    mixing = "" if parameters.mixing == "additive" else f" {parameters.mixing}"
    return f"gan r={parameters.synthetic_ratio:g}{mixing} {parameters.trainable}"


def _line(name: str, result: Comparison) -> str:
    interval = result.interval
    return f"  {name:32} {interval.difference:+.4f} ({interval.low:+.4f} to {interval.high:+.4f})"


def _half_width(name: str, result: Comparison) -> Figure:
    interval = result.interval
    return figure(f"claims: half-width, {name}", (interval.high - interval.low) / 2, "AUROC", "<= 0.005")
