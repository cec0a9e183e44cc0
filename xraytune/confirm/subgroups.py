"""The differences in score on other images than the whole test folder: its subgroups, and a second hospital's folder.

Both are exploratory: no verdict uses them.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import partial

import numpy as np

from xraytune.confirm.analysis import ArmResults, EvaluationSet, compare_arms
from xraytune.confirm.plan import Plan
from xraytune.confirm.scoring import FEWEST_PATIENTS
from xraytune.confirm.secondary import Difference, OutcomeDifference
from xraytune.data.index import ImageFile
from xraytune.data.patients import pneumonia_type
from xraytune.metrics.breakdown import subgroup_images
from xraytune.metrics.classification import Flags, Floats


@dataclass(frozen=True, slots=True, kw_only=True)
class ScoreDifference(Difference):
    """The score of a finalist minus that of a control."""

    finalist: str
    control: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Subgroup:
    """The images of the test folder with one value in a column.

    Attributes:
        column: Of the patient table, or `pneumonia`.
        value: The images' value in it.
        images: Number of these images.
        patients: Number of their patients.
        versus_all: The class of which the subgroup itself has no image: it is scored against all images of this class.
        differences: Empty with fewer than five patients of a class.
    """

    column: str
    value: str
    images: int
    patients: int
    versus_all: str | None
    differences: tuple[ScoreDifference, ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class ExternalResult:
    """The comparisons on a folder of another hospital.

    Attributes:
        folder: Its name.
        fingerprint: Of its content.
        images: Number of images.
        patients: Number of patients.
        gan_seeds: GAN seeds that were scored.
        earlier_accesses: How often the folder was scored before this confirmation scored it.
        differences: In the score of the verdict.
        secondary: Of the other outcomes.
    """

    folder: str
    fingerprint: str
    images: int
    patients: int
    gan_seeds: int
    earlier_accesses: int
    differences: tuple[ScoreDifference, ...]
    secondary: tuple[OutcomeDifference, ...]


def score_differences(plan: Plan, images: EvaluationSet, results: ArmResults) -> tuple[ScoreDifference, ...]:
    """Compare every finalist with each of its controls, in the order of the plan."""
    found = []
    for finalist in plan.finalists:
        for control in plan.controls(finalist):
            comparison = compare_arms(images, results(finalist.name), results(control.name))
            found.append(
                ScoreDifference(
                    finalist=finalist.name,
                    control=control.name,
                    value=comparison.scores[0],
                    control_value=comparison.scores[1],
                    difference=comparison.interval.difference,
                    low=comparison.interval.low,
                    high=comparison.interval.high,
                )
            )
    return tuple(found)


def subgroup_differences(
    plan: Plan,
    images: EvaluationSet,
    files: Sequence[str],
    results: ArmResults,
    columns: Mapping[str, Mapping[str, str]],
    class_names: Sequence[str],
) -> tuple[Subgroup, ...]:
    """Compare all arms in each subgroup of each column.

    Args:
        plan: The arms.
        images: The test images, N.
        files: Their files, [N].
        results: Of the arms, on all images.
        columns: By name, the value of each file; files without one are in no subgroup.
        class_names: In the order of the labels.
    """
    patients = np.asarray(images.patients)
    found = []
    for column, values in columns.items():
        for value, group in subgroup_images(files, images.labels, values, class_count=len(class_names)).items():
            own, chosen, other = group.own, group.scored, group.compared_with
            part = replace(images, labels=images.labels[chosen], patients=tuple(patients[chosen].tolist()))
            counts = [len(np.unique(patients[chosen & (images.labels == label)])) for label in range(len(class_names))]
            of_part = partial(_results_of_part, results, chosen)
            found.append(
                Subgroup(
                    column=column,
                    value=value,
                    images=int(own.sum()),
                    patients=len(np.unique(patients[own])),
                    versus_all=None if other is None else class_names[other],
                    differences=score_differences(plan, part, of_part) if min(counts) >= FEWEST_PATIENTS else (),
                )
            )
    return tuple(found)


def _results_of_part(results: ArmResults, chosen: Flags, arm: str) -> Floats:
    return results(arm)[:, :, chosen]


def pneumonia_types(images: Iterable[ImageFile]) -> dict[str, str]:
    """Return the type of pneumonia of each file whose Kermany name states it."""
    types = {image.file: pneumonia_type(image.file) for image in images}
    return {file: found for file, found in types.items() if found}
