"""Secondary outcomes, which also distinguish a finalist from its controls, and the predictions.

Nothing is trained or predicted again: the results of all runs on the sealed images are kept.
Secondary outcomes have no verdict: of several outcomes, one may differ by chance.
"""

from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np

from xraytune.base.files import csv_table, write_text
from xraytune.confirm.judge import ArmScores
from xraytune.confirm.record import FinalistVerdict, SecondaryOutcome
from xraytune.data.images import Images
from xraytune.stats.classification import Labels, ScoredImages
from xraytune.stats.placements import StructuralComponents, sample_of_sites
from xraytune.stats.secondary import SECONDARY, secondary_components, weighted_outcomes
from xraytune.stats.verdict import compare

PREDICTIONS_FILE = "predictions.csv"


def add_secondary(
    finalists: Sequence[FinalistVerdict],
    test: ArmScores,
    thresholds: Mapping[int, float],
    *,
    seed: int,
) -> tuple[FinalistVerdict, ...]:
    """Return the finalists with the secondary outcomes of each comparison.

    `thresholds` has the threshold of the positive class for each run, chosen on validation images;
    it is empty unless there are two classes.
    """
    if test.plan.sites:
        measured = _measure_at_sites(test, thresholds)
    else:
        measured = secondary_components(
            test.labels,
            test.results,
            test.patients,
            positive=test.positive,
            thresholds=thresholds,
            seed=seed,
        )
    runs = {arm.name: test.plan.numbers(arm) for arm in test.plan.arms}
    judged = []
    for finalist in finalists:
        comparisons = []
        for comparison in finalist.comparisons:
            pair = np.array([runs[finalist.arm], runs[comparison.control]])
            outcomes = (_compare(name, parts, pair) for name, parts in measured.items())
            comparisons.append(replace(comparison, secondary=tuple(outcomes)))
        judged.append(replace(finalist, comparisons=tuple(comparisons)))
    return tuple(judged)


def _measure_at_sites(
    test: ArmScores, thresholds: Mapping[int, float]
) -> dict[str, StructuralComponents]:
    """Return each outcome as a sample of sites: of each run, on the site that the run left out."""
    replicate_of_run = np.arange(len(test.results)) // len(test.plan.trainings)
    values: dict[str, list[float]] = {}
    for run, replicate in enumerate(replicate_of_run.tolist()):
        has_site = np.asarray(test.sites) == test.plan.sites[replicate]
        images = ScoredImages(
            test.labels[has_site],
            test.results[run, has_site],
            positive=test.positive,
            threshold=thresholds.get(run, 0.5),
        )
        for name, value in weighted_outcomes(images, np.ones((1, has_site.sum()))).items():
            values.setdefault(name, []).append(float(value[0]))
    names = [metric.name for metric in SECONDARY if metric.name in values]
    return {name: sample_of_sites(np.array(values[name])) for name in names}


def _compare(name: str, measured: StructuralComponents, runs: Labels) -> SecondaryOutcome:
    """Compare two arms with these runs, [2, K], by one outcome of all runs."""
    pair = replace(measured, scores=measured.scores[runs], components=measured.components[runs])
    interval = compare(pair)
    score, control_score = pair.scores.mean(axis=1).tolist()
    return SecondaryOutcome(
        metric=name,
        score=score,
        control_score=control_score,
        difference=interval.difference,
        low=interval.low,
        high=interval.high,
    )


def write_predictions(
    folder: Path, test: ArmScores, images: Images, outputs: Sequence[str], findings: Sequence[str]
) -> None:
    """Write `predictions.csv`: a row for each test image, and a column for each replicate.

    A column has the probability of the positive class. With more than two classes or with findings,
    each of them has its own column; for masks, a column has the Dice. `outputs` are the names of
    the classes or `findings`.
    """
    table: dict[str, Sequence[str | float]] = {
        "file": [image.file for image in images],
        "patient": test.patients,
    }
    count = test.results.shape[2]
    for number, name in enumerate(findings):
        table[f"label_{name}"] = [image.findings[number] for image in images]
    if count > 1 and not findings:
        table["label"] = [outputs[label] for label in test.labels]
    columns = {number: f": {name}" for number, name in enumerate(outputs)}
    if count <= 2 and not findings:
        columns = {test.positive if count == 2 else 0: ""}
    for arm in test.plan.arms:
        for replicate, run in enumerate(test.plan.numbers(arm), start=1):
            for number, suffix in columns.items():
                results = test.results[run, :, number]
                table[f"{arm.name}, replicate {replicate}{suffix}"] = results.tolist()
    rows = zip(*table.values(), strict=True)
    write_text(folder / PREDICTIONS_FILE, csv_table([*table], rows))
