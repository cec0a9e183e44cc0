"""What the results show besides the verdict: secondary outcomes, subgroups, and the predictions.

Nothing is trained or predicted again: the results of all runs on the sealed images are kept.

Secondary outcomes are other metrics that distinguish a finalist from its controls. Subgroups show
whether a verdict holds for women and men, or for each view; the interval of a group's difference is
computed as for the verdict (`stats/verdict.py`), on the group's images. Neither has a verdict: of
several outcomes or groups, one may differ by chance.
"""

from collections import defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np

from xraytune.base.arrays import BoolArray
from xraytune.base.files import csv_table, write_text
from xraytune.confirm.arms import Arm
from xraytune.confirm.compare import ArmScores
from xraytune.confirm.record import FinalistVerdict, SecondaryOutcome, Subgroup
from xraytune.data.images import ImageTable
from xraytune.stats.classification import Floats, Labels, ScoredImages, scored_findings
from xraytune.stats.intervals import scored_rows, subgroups
from xraytune.stats.placements import StructuralComponents, sample_of_sites
from xraytune.stats.secondary import SECONDARY, secondary_components, weighted_outcomes
from xraytune.stats.verdict import compare, patient_interval
from xraytune.study.folder import StudyFolder
from xraytune.study.row import ended_runs

PREDICTIONS_FILE = "predictions.csv"
FEWEST_PATIENTS = 30
"""Fewest patients of each class in a group, so that its interval has the nominal coverage."""


def read_thresholds(runs_folder: StudyFolder) -> dict[int, float]:
    """Return the threshold of each run by number; it means something with two classes only."""
    rows = ended_runs(runs_folder).values()
    return {row.number: row.threshold for row in rows if row.threshold is not None}


def add_secondary(
    finalists: Sequence[FinalistVerdict],
    test: ArmScores,
    *,
    seed: int,
) -> tuple[FinalistVerdict, ...]:
    """Return the finalists with the secondary outcomes of each comparison.

    Balanced accuracy of two classes needs thresholds that were chosen on validation images.
    """
    if test.plan.sites:
        outcomes = _measure_at_sites(test)
    else:
        outcomes = secondary_components(
            test.labels,
            test.results,
            test.patients,
            positive=test.positive,
            thresholds=test.thresholds,
            overlap=test.overlap,
            seed=seed,
        )
    if test.is_binary and not test.thresholds:
        del outcomes["balanced_accuracy"]
    runs = {arm.name: test.plan.run_numbers(arm) for arm in test.plan.arms}
    judged_finalists = []
    for finalist in finalists:
        comparisons = []
        for comparison in finalist.comparisons:
            pair = np.array([runs[finalist.arm], runs[comparison.control]])
            secondary = (_compare(name, components, pair) for name, components in outcomes.items())
            comparisons.append(replace(comparison, secondary=tuple(secondary)))
        judged_finalists.append(replace(finalist, comparisons=tuple(comparisons)))
    return tuple(judged_finalists)


def _measure_at_sites(test: ArmScores) -> dict[str, StructuralComponents]:
    """Return each outcome as a sample of sites: of each run, on the site that the run left out."""
    runs_of_site = len(test.plan.trainings)
    values: dict[str, list[Floats]] = defaultdict(list)
    for run in range(len(test.results)):
        site_scores = test.at_site(test.plan.sites[run // runs_of_site])
        images = ScoredImages(
            site_scores.labels,
            site_scores.results[run],
            positive=test.positive,
            threshold=test.thresholds.get(run, 0.5),
        )
        for name, value in weighted_outcomes(images, np.ones((1, len(site_scores.labels)))).items():
            values[name].append(value)
    names = [metric.name for metric in SECONDARY if metric.name in values]
    return {name: sample_of_sites(np.concatenate(values[name])) for name in names}


def _compare(name: str, components: StructuralComponents, runs: Labels) -> SecondaryOutcome:
    """Compare two arms with these runs, [2, K], by one outcome of all runs."""
    pair = replace(
        components, scores=components.scores[runs], components=components.components[runs]
    )
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
    folder: Path,
    test: ArmScores,
    images: ImageTable,
    outputs: Sequence[str],
    findings: Sequence[str],
) -> None:
    """Write `predictions.csv`: a row for each test image, and a column for each replicate.

    A column has the probability of the positive class; it is empty for patients that the replicate
    was trained on. With more than two classes or with findings,
    each of them has its own column; for masks, a column has the Dice. `outputs` are the names of
    the classes or `findings`.
    """
    table: dict[str, Sequence[str | float | None]] = {
        "file": [image.file for image in images],
        "patient": test.patients,
    }
    if test.sites:
        table["site"] = test.sites
    count = test.results.shape[2]
    for index, name in enumerate(findings):
        table[f"label_{name}"] = [image.findings[index] for image in images]
    if count > 1 and not findings:
        table["label"] = [outputs[label] for label in test.labels]
    columns = {index: f": {name}" for index, name in enumerate(outputs)}
    if count <= 2 and not findings:
        columns = {test.positive if count == 2 else 0: ""}
    for arm in test.plan.arms:
        for replicate, run in enumerate(test.plan.run_numbers(arm), start=1):
            for index, suffix in columns.items():
                results = test.results[run, :, index].tolist()
                table[f"{arm.name}, replicate {replicate}{suffix}"] = [
                    None if np.isnan(result) else result for result in results
                ]
    rows = zip(*table.values(), strict=True)
    write_text(folder / PREDICTIONS_FILE, csv_table([*table], rows))


def compare_in_groups(
    test: ArmScores, finalist: FinalistVerdict, columns: Mapping[str, Mapping[str, str]]
) -> tuple[Subgroup, ...]:
    """Return a finalist minus its strongest control on the images with each value of some columns.

    The images that a group is scored on are its `scored_rows`.

    `columns` has the value of each file, by column; files without a value are in no group.
    """
    pair = _strongest_pair(test, finalist)
    groups = []
    for column, value, has_value in subgroups(columns, test.files):
        rows, other_class = scored_rows(test.labels, has_value, test.results.shape[2])
        group = Subgroup(
            column=column,
            value=value,
            images=int(has_value.sum()),
            patients=len({*test.on_images(has_value).patients}),
            is_of_one_class=other_class is not None,
        )
        group_scores = test.on_images(rows)
        if _is_large(group_scores):
            components = group_scores.measure(*pair.values())
            scores = components.scores.mean(axis=1).tolist()
            group = replace(
                group,
                difference=compare(components),
                scores=dict(zip(pair, scores, strict=True)),
            )
            if test.is_binary and test.thresholds and not group.is_of_one_class:
                rates = {name: _rates(group_scores, arm) for name, arm in pair.items()}
                group = replace(group, rates=rates)
        groups.append(group)
    return tuple(groups)


def compare_sites(test: ArmScores, finalist: FinalistVerdict) -> tuple[Subgroup, ...]:
    """Return a finalist minus its strongest control at each site that a replicate left out.

    The interval of a site is over its patients alone; the interval of the verdict is over sites.
    """
    pair = _strongest_pair(test, finalist)
    groups = []
    for site in test.plan.sites:
        components = test.measure_at(site, *pair.values())
        site_scores = test.at_site(site)
        groups.append(
            Subgroup(
                column="site",
                value=site,
                images=len(site_scores.labels),
                patients=len({*site_scores.patients}),
                difference=patient_interval(components),
                scores=dict(zip(pair, components.scores.tolist(), strict=True)),
            )
        )
    return tuple(groups)


def _strongest_pair(test: ArmScores, finalist: FinalistVerdict) -> dict[str, Arm]:
    """Return a finalist's arm and that of its strongest control, by name."""
    arms = {arm.name: arm for arm in test.plan.arms}
    return {name: arms[name] for name in (finalist.arm, finalist.strongest)}


def _is_large(group: ArmScores) -> bool:
    """Return whether a group has enough patients.

    Each class needs enough patients, or each scored finding and its absence; for masks, the group
    needs enough as a whole.
    """
    patients = np.asarray(group.patients)

    def has_enough(rows: BoolArray) -> bool:
        return len(np.unique(patients[rows])) >= FEWEST_PATIENTS

    count = group.results.shape[2]
    if group.labels.ndim == 2:
        indices = scored_findings(group.labels)
        sides = (group.labels[:, index] == state for index in indices for state in (0, 1))
        return len(indices) > 0 and all(map(has_enough, sides))
    if count == 1:  # masks
        return has_enough(np.ones(len(patients), dtype=bool))
    return all(has_enough(group.labels == label) for label in range(count))


def _rates(group: ArmScores, arm: Arm) -> tuple[float, float]:
    """Return the mean sensitivity and the mean specificity of an arm over its replicates."""
    rates = []
    for number in group.plan.run_numbers(arm):
        scores = group.results[number, :, group.positive]
        is_positive = group.labels[~np.isnan(scores)] == group.positive
        positive_calls = scores[~np.isnan(scores)] >= group.thresholds[number]
        rates.append((positive_calls[is_positive].mean(), (~positive_calls[~is_positive]).mean()))
    sensitivity, specificity = np.mean(rates, axis=0).tolist()
    return sensitivity, specificity
