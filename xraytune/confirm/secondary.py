"""What is reported beside the verdict, which uses none of it: other outcomes, a second hospital, generators.

The secondary outcomes are differences in accuracy, sensitivity and Brier score. As for the AUROC, replicates are the
readers of a multi-reader multi-case study, but the covariances over patients come from a bootstrap: the same resampled
patients for both arms and all replicates. A bootstrap over the few replicates as well would be too narrow.
Of findings, they are differences in the AUROC of each, by the same model as the verdict's. Differences on a second
hospital's folder are exploratory. The quality of a finalist's generators shows whether `no_better` carries over to others.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import asdict
from statistics import median
from typing import Any

import numpy as np
from scipy.special import stdtrit  # type: ignore[import-untyped]

from xraytune.confirm.arms import Arm, Plan
from xraytune.confirm.record import (
    ArmDifference,
    Difference,
    FigureSpread,
    FindingDifference,
    GeneratorQuality,
    Outcome,
)
from xraytune.confirm.score import ArmResults, ArmScores, EvaluationSet
from xraytune.stats.classification import (
    Flags,
    Floats,
    scored_findings,
    weighted_accuracy,
    weighted_brier_score,
    weights_by_score,
)
from xraytune.stats.intervals import patient_resamples
from xraytune.stats.placements import effective_patients
from xraytune.stats.verdict import compare, holm, mean_off_diagonal, satterthwaite_degrees
from xraytune.study.folder import StudyFolder
from xraytune.study.trial_files import read_pool_report
from xraytune.synth.generator_quality import quality_text, shortcomings

RESAMPLES = 500


def score_differences(scores: ArmScores) -> tuple[ArmDifference, ...]:
    """Compare every finalist with each of its controls, in the order of the plan."""
    return tuple(ArmDifference(**_compared(scores, finalist, control)[0]) for finalist, control in scores.plan.pairs())


def finding_differences(scores: ArmScores) -> tuple[FindingDifference, ...]:
    """Compare every finalist with each of its controls in the AUROC of every scored finding; none without findings.

    The p-values of a pair are adjusted for the number of findings.
    """
    images = scores.images
    if not images.findings:
        return ()
    scored = {images.findings[number]: scores.of_finding(number) for number in scored_findings(images.labels)}
    differences = []
    for finalist, control in scores.plan.pairs():
        compared = [_compared(of_finding, finalist, control) for of_finding in scored.values()]
        adjusted = holm([p_value for _, p_value in compared])
        for name, (values, _), p_value in zip(scored, compared, adjusted, strict=True):
            differences.append(FindingDifference(**values, finding=name, p_value=p_value))
    return tuple(differences)


def _compared(scores: ArmScores, finalist: Arm, control: Arm) -> tuple[dict[str, Any], float]:
    """Return the fields of a difference in score, and the p-value of none."""
    comparison = compare(scores.measure(finalist, control))
    interval = comparison.interval
    return {
        "finalist": finalist.name,
        "control": control.name,
        "value": comparison.scores[0],
        "control_value": comparison.scores[1],
        "difference": interval.difference,
        "low": interval.low,
        "high": interval.high,
    }, interval.p_value


def secondary_outcomes(scores: ArmScores, thresholds: ArmResults) -> tuple[ArmDifference, ...]:
    """Compare every finalist with each of its controls, in the order of the plan; masks and findings have no such outcomes.

    `thresholds` gives those of an arm's replicates, [K].
    """
    plan, images, results = scores.plan, scores.images, scores.results
    if images.findings or results(plan.finalists[0]).shape[-1] == 1:  # Dice, no class probabilities
        return ()
    return tuple(
        ArmDifference(finalist=finalist.name, control=control.name, outcome=outcome, **asdict(difference))
        for finalist, control in plan.pairs()
        for outcome, difference in compare_outcomes(
            images, results(finalist), results(control), thresholds(control)
        ).items()
    )


def compare_outcomes(
    images: EvaluationSet, finalist: Floats, control: Floats, thresholds: Floats
) -> dict[Outcome, Difference]:
    """Compare two arms' probabilities, float64 [K, N, C] with K >= 2, in all outcomes.

    `thresholds` are those of the control's replicates, [K]. With more than two classes, there is no sensitivity.
    """
    labels, positive, both = images.labels, images.positive, (finalist, control)
    # How often each image counts, [1 + B, N]: once, then in each resample of the patients.
    drawn = patient_resamples(labels, images.patients, RESAMPLES, seed=0)
    weights = np.concatenate([np.ones((1, len(labels))), *drawn])
    patients = effective_patients(labels, images.patients, positive=positive)

    def of_arm(replicates: Iterable[Floats]) -> Floats:
        """Return an arm's values, [1 + B, K], from those of its replicates, [1 + B]."""
        return np.stack([*replicates], axis=1)

    values: dict[Outcome, list[Floats]] = {
        "accuracy": [of_arm(weighted_accuracy(labels, run.argmax(axis=-1), weights) for run in arm) for arm in both],
        "brier": [of_arm(weighted_brier_score(labels, run, weights, positive=positive) for run in arm) for arm in both],
    }
    if finalist.shape[-1] == 2:
        is_positive, scores = labels == positive, [arm[..., positive] for arm in both]
        false_positives = (scores[1] >= thresholds.reshape(-1, 1)) & ~is_positive
        false_shares = [(weights @ run) / (weights @ ~is_positive) for run in false_positives]
        values["sensitivity"] = [
            of_arm(_roc_at(share, is_positive, run, weights) for share, run in zip(false_shares, arm, strict=True))
            for arm in scores
        ]
    return {outcome: interval(*arms, effective_patients=patients) for outcome, arms in values.items()}


def interval(finalist: Floats, control: Floats, *, effective_patients: float) -> Difference:
    """Return the difference of a statistic with its 95 % interval: Student's t with Satterthwaite's degrees of freedom.

    Both arms have it by replicate, on all patients and on the same B resamples of them, [1 + B, K].

    Source: Obuchowski & Rockette 1995, "Hypothesis testing of diagnostic accuracy for multiple readers and multiple tests",
    whose covariances may be estimated by resampling patients.
    """
    by_replicate, resampled = finalist[0] - control[0], finalist[1:] - control[1:]
    of_replicates = float(by_replicate.var(ddof=1)) / len(by_replicate)
    of_patients = max(mean_off_diagonal(np.cov(resampled.T)), 0.0)
    degrees = satterthwaite_degrees(of_replicates, of_patients, len(by_replicate), effective_patients)
    difference = float(by_replicate.mean())
    half = float(stdtrit(degrees, 0.975) * np.sqrt(of_replicates + of_patients))
    return Difference(
        value=float(finalist[0].mean()),
        control_value=float(control[0].mean()),
        difference=difference,
        low=difference - half,
        high=difference + half,
    )


def _roc_at(false_share: Floats, is_positive: Flags, scores: Floats, weights: Floats) -> Floats:
    """Return the sensitivity on the empirical ROC curve at these false positive rates, both [1 + B]."""
    rates = []
    for by_score in reversed(weights_by_score(is_positive, scores, weights)):
        counts = np.cumsum(by_score[:, ::-1], axis=1)
        rates.append(np.pad(counts / counts[:, -1:], ((0, 0), (1, 0))))
    return np.array([np.interp(*curve) for curve in zip(false_share, *rates, strict=True)])


def generator_quality(folder: StudyFolder, plan: Plan, arm: Arm) -> GeneratorQuality:
    """Return the quality of the generators of a finalist's arm."""
    pools = (read_pool_report(folder.trial_path(number)) for number in plan.numbers(arm))
    reports = [report for report in pools if report is not None]
    measured = [report.quality for report in reports if report.quality is not None]
    columns = [quality.columns() for quality in measured]
    names = columns[0] if columns else ()
    figures = {}
    for name in names:
        if values := [value for column in columns if (value := column[name]) is not None]:
            figures[name] = FigureSpread(median=median(values), low=min(values), high=max(values))
    medians = {name: figures[name].median if name in figures else None for name in names}
    if measured:
        of_real = [quality.real_train for quality in measured if quality.real_train is not None]
        real_train = median(of_real) if of_real else None
        missed = ", ".join(name.removeprefix("gan_").replace("_", " ") for name in shortcomings(medians, real_train))
        missed = missed.replace("train auroc", "GAN-train AUROC")
        end = f"misses thresholds of quality: {missed}" if missed else "reaches all thresholds of quality"
        sentence = f"Generator quality: {quality_text(medians, real_train)}; {end}."
    else:
        why = next((report.note for report in reports if report.note), "no record of it")
        sentence = f"Generator quality is unknown ({why}), so the verdict may not hold for better generators."
    if copying := sum(bool(report.copies) for report in reports):
        sentence += f" {copying} of {len(reports)} generators {'copies' if copying == 1 else 'copy'} training images."
    return GeneratorQuality(
        arm=arm.name, generators=len(reports), measured=len(measured), figures=figures, sentence=sentence
    )
