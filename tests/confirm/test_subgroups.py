"""Differences in subgroups of the test folder, and the columns that name them."""

from __future__ import annotations

from tests.confirm.test_analysis import LABELS, VAL_B, arm_scores, plan, scores
from xraytune.confirm.analysis import ArmScores, EvaluationSet
from xraytune.confirm.secondary import pneumonia_types, subgroup_differences
from xraytune.confirm.verdict import compare
from xraytune.data.index import ImageFile
from xraytune.pipeline.task import CLASSIFICATION


def file_name(number: int, label: int) -> str:
    if not label:
        return f"NORMAL/IM-{number:04d}-0001.jpeg"
    return f"PNEUMONIA/person{number}_{'virus' if number % 4 == 1 else 'bacteria'}_1.jpeg"


FILES = [file_name(number, label) for number, label in enumerate(LABELS.tolist())]


def image(file: str) -> ImageFile:
    return ImageFile(file=file, label=0, patient="p", sha256="", width_px=1, height_px=1)


def test_a_type_of_pneumonia_is_compared_with_all_normal_images() -> None:
    types = pneumonia_types([image(file) for file in FILES])
    scores_of = scores(gan=2.5)
    viral = [number for number, label in enumerate(LABELS) if label == 0 or number % 4 == 1]
    part = EvaluationSet(
        labels=LABELS[viral],
        patients=tuple(VAL_B.patients[number] for number in viral),
        positive=1,
        task=CLASSIFICATION,
    )

    bacterial_group, viral_group = subgroup_differences(
        arm_scores(scores_of), FILES, {"pneumonia": types}, ("NORMAL", "PNEUMONIA")
    )

    assert (bacterial_group.value, viral_group.value, viral_group.versus_all) == ("bacterial", "viral", "NORMAL")
    assert (viral_group.images, viral_group.patients) == (75, 75)
    first = viral_group.differences[0]
    of_part = ArmScores(plan=plan(), images=part, results=lambda name: scores_of(name)[:, :, viral])
    expected = compare(of_part.measure(plan().arm("gan #1"), plan().arm(first.control))).interval
    assert (first.difference, first.low, first.high) == (expected.difference, expected.low, expected.high)


def test_a_subgroup_with_few_patients_of_a_class_has_no_differences() -> None:
    ages = {file: "young" if number < 8 else "old" for number, file in enumerate(FILES)}

    old, young = subgroup_differences(arm_scores(scores()), FILES, {"age": ages}, ("NORMAL", "PNEUMONIA"))

    assert (old.versus_all, len(old.differences), young.images, young.differences) == (None, 3, 8, ())
