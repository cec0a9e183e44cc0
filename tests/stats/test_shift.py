"""A shift of the scores within a class causes a warning; another prevalence alone is reported differently."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy.special import expit  # type: ignore[import-untyped]
from scipy.stats import mannwhitneyu  # type: ignore[import-untyped]

from xraytune.base.seeding import numpy_generator
from xraytune.stats.shift import ClassSample, Shift, class_samples, shift_from_validation, summarise

NAMES = ("NORMAL", "PNEUMONIA")


def samples(seed: int, *, normal: int = 100, ill: int = 300, normal_mean: float = -3.0) -> dict[str, ClassSample]:
    """One image of each patient."""
    generator = numpy_generator(seed, "samples")
    scores = expit(np.concatenate([generator.normal(normal_mean, 2, normal), generator.normal(3, 2, ill)]))
    patients = [str(number) for number in range(normal + ill)]
    return class_samples(NAMES, np.repeat([0, 1], [normal, ill]), scores, patients)


def shift(validation: dict[str, ClassSample], folder: dict[str, ClassSample]) -> Shift:
    return shift_from_validation(validation, folder, positive="PNEUMONIA", threshold=0.5)


def test_a_class_that_scores_higher_is_named_with_its_specificity() -> None:
    found = shift(samples(1), samples(2, normal_mean=-0.5))

    (warning,) = found.warnings
    normal, ill = found.classes
    assert (normal.is_notable, ill.is_notable) == (True, False)
    assert normal.recall < 0.7 < 0.9 < normal.recall_in_validation
    assert warning.startswith("scores of NORMAL images are higher here than in validation")
    assert (
        f"specificity (PNEUMONIA) is {normal.recall:.3f} here, {normal.recall_in_validation:.3f} in validation"
        in warning
    )


def test_a_shift_of_the_positive_class_is_about_sensitivity() -> None:
    validation, folder = samples(1), samples(2)
    low = folder["PNEUMONIA"]
    lower = low.model_copy(update={"scores": tuple(score / 4 for score in low.scores)})

    (warning,) = shift(validation, folder | {"PNEUMONIA": lower}).warnings

    assert warning.startswith("scores of PNEUMONIA images are lower here")
    assert "sensitivity (PNEUMONIA) is" in warning


def test_equal_folders_rarely_cause_a_warning() -> None:
    folders = [samples(1000 + seed, normal=25, ill=75) for seed in range(100)]

    warned = [bool(shift(samples(seed), folder).warnings) for seed, folder in enumerate(folders)]

    assert np.mean(warned) <= 0.03
    assert not shift(samples(1), samples(1)).warnings


def test_a_large_difference_of_few_patients_causes_no_warning() -> None:
    assert not shift(samples(1), samples(2, normal=3, ill=9, normal_mean=-1)).warnings


def test_many_images_of_few_patients_count_as_few() -> None:
    folder = samples(2, normal_mean=-1.5)
    of_three = {name: one.model_copy(update={"patients": 3}) for name, one in folder.items()}

    assert shift(samples(1), folder).warnings
    assert not shift(samples(1), of_three).warnings


def test_another_prevalence_alone_leaves_the_threshold_valid() -> None:
    found = shift(samples(1), samples(2, normal=300, ill=100))

    (warning,) = found.warnings
    assert warning.startswith("PNEUMONIA is 25% of the images here, 75% in validation")
    assert not any(one.is_notable for one in found.classes)


def test_the_p_value_is_mann_whitneys() -> None:
    validation, folder = samples(1), samples(2, normal=50)

    normal, _ = shift(validation, folder).classes

    expected = mannwhitneyu(
        folder["NORMAL"].scores, validation["NORMAL"].scores, method="asymptotic", use_continuity=False
    )
    assert normal.p_value == pytest.approx(expected.pvalue)
    assert normal.higher == pytest.approx(expected.statistic / (50 * 100))


@given(st.lists(st.floats(0, 1), min_size=1, max_size=50), st.integers(1, 60))
def test_a_summary_is_sorted_and_has_at_most_the_given_number_of_scores(scores: list[float], at_most: int) -> None:
    summary = summarise(np.array(scores), at_most).tolist()

    assert summary == sorted(summary)
    assert len(summary) == min(len(scores), at_most)
    assert {*summary} <= {*scores}
