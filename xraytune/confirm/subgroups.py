"""Whether a verdict holds for women and men, or for each view: a finalist in groups of test images.

Nothing is trained or predicted again: the results of all runs on the sealed images are kept. The
interval of a group's difference is computed as for the verdict (`stats/verdict.py`), on the group's
images. The difference is no verdict of its own: with several groups, one may differ by chance.
"""

from collections.abc import Mapping, Sequence
from dataclasses import replace

import numpy as np
from numpy.typing import NDArray

from xraytune.confirm.arms import Arm
from xraytune.confirm.judge import ArmScores
from xraytune.confirm.record import FinalistVerdict, Subgroup
from xraytune.stats.classification import scored_findings
from xraytune.stats.verdict import compare, patient_interval

FEWEST_PATIENTS = 30
"""Fewest patients of each class in a group, so that its interval has the nominal coverage."""


def compare_in_groups(
    test: ArmScores,
    finalist: FinalistVerdict,
    columns: Mapping[str, Mapping[str, str]],
    files: Sequence[str],
    thresholds: Mapping[int, float],
) -> tuple[Subgroup, ...]:
    """Return a finalist minus its strongest control on the images with each value of some columns.

    If there are two classes and all images with a value are of one of them, they are scored
    together with all images of the other class.

    Args:
        test: The results of all runs.
        finalist: The verdict on one of the plan's finalists.
        columns: The value of each file, by column; files without a value are in no group.
        files: The test images, [N].
        thresholds: The positive class's threshold of each run, from validation; empty unless there
            are two classes.
    """
    arms = {arm.name: arm for arm in test.plan.arms}
    pair = (arms[finalist.arm], arms[finalist.strongest])
    patients = np.asarray(test.patients)
    is_binary = test.labels.ndim == 1 and test.results.shape[2] == 2
    groups = []
    for column, values in columns.items():
        value_of_image = np.array([values.get(file, "") for file in files])
        for value in np.unique(value_of_image[value_of_image != ""]).tolist():
            has_value = value_of_image == value
            rows = has_value
            classes = np.unique(test.labels[has_value])
            is_of_one_class = is_binary and len(classes) == 1  # as types of pneumonia are
            if is_of_one_class:
                rows = has_value | (test.labels != classes[0])
            of_group = replace(
                test,
                results=test.results[:, rows],
                labels=test.labels[rows],
                patients=tuple(patients[rows].tolist()),
            )
            group = Subgroup(
                column=column,
                value=value,
                images=int(has_value.sum()),
                patients=len({*patients[has_value].tolist()}),
                is_of_one_class=is_of_one_class,
            )
            if _is_large(of_group):
                measured = of_group.measure(*pair)
                scores = measured.scores.mean(axis=1).tolist()
                group = replace(
                    group,
                    difference=compare(measured),
                    scores=dict(zip([arm.name for arm in pair], scores, strict=True)),
                    rates={arm.name: _rates(of_group, arm, thresholds) for arm in pair}
                    if thresholds and not is_of_one_class
                    else {},
                )
            groups.append(group)
    return tuple(groups)


def compare_sites(test: ArmScores, finalist: FinalistVerdict) -> tuple[Subgroup, ...]:
    """Return a finalist minus its strongest control at each site that a replicate left out.

    The interval of a site is over its patients alone; the interval of the verdict is over sites.
    """
    arms = {arm.name: arm for arm in test.plan.arms}
    names = (finalist.arm, finalist.strongest)
    patients = np.asarray(test.patients)
    groups = []
    for site in test.plan.sites:
        pair = test.measure_at(site, *(arms[name] for name in names))
        has_site = np.asarray(test.sites) == site
        groups.append(
            Subgroup(
                column="site",
                value=site,
                images=int(has_site.sum()),
                patients=len(np.unique(patients[has_site])),
                difference=patient_interval(pair),
                scores=dict(zip(names, pair.scores.tolist(), strict=True)),
            )
        )
    return tuple(groups)


def _is_large(group: ArmScores) -> bool:
    """Return whether a group has enough patients.

    Each class needs enough patients, or each scored finding and its absence; for masks, the group
    needs enough as a whole.
    """
    patients = np.asarray(group.patients)

    def has_enough(rows: NDArray[np.bool_]) -> bool:
        return len(np.unique(patients[rows])) >= FEWEST_PATIENTS

    count = group.results.shape[2]
    if group.labels.ndim == 2:
        numbers = scored_findings(group.labels)
        sides = (group.labels[:, number] == state for number in numbers for state in (0, 1))
        return len(numbers) > 0 and all(map(has_enough, sides))
    if count == 1:  # masks
        return has_enough(np.ones(len(patients), dtype=bool))
    return all(has_enough(group.labels == label) for label in range(count))


def _rates(group: ArmScores, arm: Arm, thresholds: Mapping[int, float]) -> tuple[float, float]:
    """Return the mean sensitivity and the mean specificity of an arm over its replicates."""
    is_positive = group.labels == group.positive
    rates = []
    for number in group.plan.numbers(arm):
        called = group.results[number, :, group.positive] >= thresholds[number]
        rates.append((called[is_positive].mean(), (~called[~is_positive]).mean()))
    sensitivity, specificity = np.mean(rates, axis=0).tolist()
    return sensitivity, specificity
