"""From scores to the result of a confirmation.

Verdicts by the rules of `stats/verdict.py`, and what is reported beside.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, replace

import numpy as np

from xraytune.base.errors import join_names
from xraytune.confirm.arms import Arm
from xraytune.confirm.record import (
    Confirmation,
    ControlVerdict,
    FinalistVerdict,
    HeadroomReached,
    HeldOutSet,
)
from xraytune.confirm.run_list import OpenStudy
from xraytune.confirm.score import ArmScores
from xraytune.confirm.sealed import SealedTest
from xraytune.stats.classification import FEWEST_LABELS, scored_findings
from xraytune.stats.verdict import (
    compare,
    gather,
    judge_pair,
    overall_verdict,
    score_interval,
    variance_components,
)
from xraytune.study.trial_files import read_pool_report
from xraytune.synth.generator_quality import PoolReport


def judge(study: OpenStudy, test: ArmScores, sealed: SealedTest) -> Confirmation:
    """Judge the finalists by their scores on the `sealed` images."""
    plan = test.plan
    prepared = study.prepared
    rope = study.settings.confirm.rope
    notes = [*plan.notes]
    scored = scored_findings(test.labels) if prepared.findings else []
    left_out = [name for number, name in enumerate(prepared.findings) if number not in scored]
    if left_out:
        few = f"fewer than {FEWEST_LABELS} positive or negative test images"
        notes.append(f"findings with {few} are not in the mean: {join_names(left_out, 20)}")
    finalists = []
    for arm, verdict in zip(plan.finalists, judge_finalists(test, rope=rope), strict=True):
        folders = [study.runs_folder.trial_path(number) for number in plan.numbers(arm)]
        reports = [report for folder in folders if (report := read_pool_report(folder))]
        if copying := sum(bool(report.copies) for report in reports):
            notes.append(
                f"the synthetic images of {copying} of {plan.replicates} replicates of {arm.name} "
                "copy training images"
            )
        finalists.append(replace(verdict, caveat=_quality_caveat(reports, rope)))
    is_binary = len(prepared.class_names) == 2
    return Confirmation(
        study=study.folder.path,
        metric=test.task.metric,
        objective=study.settings.metric,
        network=test.task.network,
        exploratory=plan.why_exploratory,
        rope=rope,
        replicates=plan.replicates,
        train_images=len(prepared.side("train")),
        train_patients=prepared.train_patients,
        test=HeldOutSet(
            kind=plan.test,
            images=len(test.patients),
            patients=len({*test.patients}),
            fingerprint=sealed.fingerprint,
            positive=prepared.class_names[prepared.positive] if is_binary else "",
        ),
        finalists=tuple(finalists),
        notes=tuple(notes),
    )


def _quality_caveat(reports: Sequence[PoolReport], rope: float) -> str:
    """Return a sentence if a classifier of synthetic images falls short of one of real images."""
    qualities = [report.quality for report in reports if report.quality]
    pairs = [
        (quality.gan_train, quality.real_train)
        for quality in qualities
        if quality.gan_train and quality.real_train
    ]
    if not pairs:
        return ""
    synthetic, real = np.mean(pairs, axis=0)
    if synthetic > real - rope:
        return ""
    return (
        f"The synthetic images do not show all that separates the classes: a classifier of them "
        f"alone reached an AUROC of {synthetic:.3f} on val-A, and one of the real images "
        f"{real:.3f}."
    )


def judge_finalists(test: ArmScores, *, rope: float) -> list[FinalistVerdict]:
    """Compare all finalists with all of their controls.

    In the order of val-B, up to the first that does not help.

    Source of this fixed sequence: Maurer, Hothorn & Lehmacher 1995; Westfall & Krishen 2001,
    "Optimally weighted, fixed sequence and gatekeeper multiple testing procedures".
    """
    verdicts: list[FinalistVerdict] = []
    for finalist in test.plan.finalists:
        comparisons = [
            _compare(test, finalist, control, rope) for control in test.plan.controls(finalist)
        ]
        word, controls = overall_verdict(comparisons)
        is_tested = all(earlier.verdict == "helps" for earlier in verdicts)
        scores = test.measure(finalist).scores[0]
        verdicts.append(
            FinalistVerdict(
                arm=finalist.name,
                trial=finalist.trial,
                generator="GAN" if finalist.parameters.gan else "",
                mixing=finalist.parameters.mixing,
                score=float(scores.mean()),
                replicate_scores=tuple(scores.tolist()),
                headroom=headroom_reached(test, finalist),
                verdict=word if is_tested else "not_tested",
                because_of=controls if is_tested else (),
                comparisons=tuple(comparisons),
            )
        )
    return verdicts


def _compare(test: ArmScores, finalist: Arm, control: Arm, rope: float) -> ControlVerdict:
    pair = test.measure(finalist, control)
    evidence = gather(pair)
    words = judge_pair(evidence, rope=rope, control=control.name, kind=control.kind)
    return ControlVerdict(
        **asdict(score_interval(evidence)),
        **asdict(words),
        arm=control.parameters.arm,
        control_score=float(pair.scores[1].mean()),
        variance_components=variance_components(pair),
    )


def headroom_reached(test: ArmScores, finalist: Arm) -> HeadroomReached | None:
    """Compare a finalist's gain over no extra images with that of real images in their place.

    The real images are of other patients.
    """
    same = [arm for arm in test.plan.arms if arm.trial == finalist.trial]
    perfect = [arm for arm in same if arm.role == "perfect"]
    none = [arm for arm in same if arm.role == "matched" and arm.kind == "none"]
    if not (perfect and none):
        return None
    best = compare(test.measure(perfect[0], none[0]))
    own = compare(test.measure(finalist, none[0]))
    share = own.difference / best.difference if best.low > 0 else None
    return HeadroomReached(gain=best.difference, low=best.low, high=best.high, share=share)
