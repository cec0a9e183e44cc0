"""What is reported beside the verdict, which uses none of it: single findings, and the quality of generators."""

from __future__ import annotations

from statistics import median

from xraytune.confirm.arms import Arm, Plan
from xraytune.confirm.record import FigureSpread, FindingDifference, GeneratorQuality
from xraytune.confirm.score import ArmScores
from xraytune.stats.classification import scored_findings
from xraytune.stats.verdict import compare, holm
from xraytune.study.folder import StudyFolder
from xraytune.study.trial_files import read_pool_report
from xraytune.synth.generator_quality import quality_text


def finding_differences(scores: ArmScores) -> tuple[FindingDifference, ...]:
    """Compare every finalist with each of its controls in the AUROC of every scored finding; none without findings.

    The model is that of the verdict. The p-values of a pair are adjusted for the number of findings.
    """
    images = scores.images
    if not images.findings:
        return ()
    scored = {images.findings[number]: scores.of_finding(number) for number in scored_findings(images.labels)}
    differences = []
    for finalist, control in scores.plan.pairs():
        compared = {name: compare(of_finding.measure(finalist, control)) for name, of_finding in scored.items()}
        adjusted = holm([comparison.interval.p_value for comparison in compared.values()])
        for (name, comparison), p_value in zip(compared.items(), adjusted, strict=True):
            differences.append(
                FindingDifference(
                    finding=name,
                    finalist=finalist.name,
                    control=control.name,
                    value=comparison.scores[0],
                    control_value=comparison.scores[1],
                    difference=comparison.interval.difference,
                    low=comparison.interval.low,
                    high=comparison.interval.high,
                    p_value=p_value,
                )
            )
    return tuple(differences)


def generator_quality(folder: StudyFolder, plan: Plan, arm: Arm) -> GeneratorQuality:
    """Return the quality of the generators of a finalist's arm: `no_better` with a poor one says little about others."""
    pools = (read_pool_report(folder.trial_path(number)) for number in plan.numbers(arm))
    reports = [report for report in pools if report is not None]
    measured = [report.quality for report in reports if report.quality is not None]
    figures = {}
    for name in measured[0].columns() if measured else ():
        if values := [value for quality in measured if (value := quality.columns()[name]) is not None]:
            figures[name] = FigureSpread(median=median(values), low=min(values), high=max(values))
    if measured:
        medians = {name: figures[name].median if name in figures else None for name in measured[0].columns()}
        of_real = [quality.real_train for quality in measured if quality.real_train is not None]
        sentence = f"Generator quality: {quality_text(medians, median(of_real) if of_real else None)}."
    else:
        why = next((report.note for report in reports if report.note), "no record of it")
        sentence = f"Generator quality is unknown ({why}), so the verdict may not hold for better generators."
    if copying := sum(bool(report.copies) for report in reports):
        sentence += f" {copying} of {len(reports)} generators {'copies' if copying == 1 else 'copy'} training images."
    return GeneratorQuality(
        arm=arm.name, generators=len(reports), measured=len(measured), figures=figures, sentence=sentence
    )
