"""Metrics by class, by patient and by subgroup."""

import numpy as np
import pytest
from numpy.typing import NDArray
from sklearn import metrics as reference

from tests.stats.conftest import of_two_classes
from xraytune.base.seeding import numpy_generator
from xraytune.stats.classification import ScoredImages
from xraytune.stats.intervals import measure, patient_means, subgroup_metrics, subgroups

FILES = [f"{number}.png" for number in range(90)]


def scored(
    class_count: int, image_count: int = 90, threshold: float = 0.5
) -> tuple[ScoredImages, NDArray[np.int64], NDArray[np.float64], list[str]]:
    """Images of patients with one to three each, and probabilities that favour the label."""
    generator = numpy_generator(class_count, "scored")
    labels = generator.integers(0, class_count, image_count)
    raw = generator.random((image_count, class_count))
    raw[np.arange(image_count), labels] += 0.5
    probabilities = raw / raw.sum(axis=1, keepdims=True)
    images = ScoredImages(labels, probabilities, positive=1, threshold=threshold)
    return images, labels, probabilities, [f"{label}-{n // 3}" for n, label in enumerate(labels)]


def test_patients_are_scored_by_the_mean_of_their_images() -> None:
    labels = np.array([0, 1, 1, 0, 1])
    scores = np.array([0.1, 0.8, 0.4, 0.3, 0.9])
    patients = ["a", "b", "b", "both", "both"]

    means, names, left_out = patient_means(of_two_classes(labels, scores), patients)

    assert (names, left_out) == (("a", "b"), ("both",))
    assert means.labels.tolist() == [0, 1]
    assert means.probabilities[:, 1].tolist() == pytest.approx([0.1, 0.6])


def test_a_subgroup_has_the_metrics_of_its_images_and_files_without_a_value_are_in_none() -> None:
    images, labels, probabilities, patients = scored(2, threshold=0.4)
    values = {
        file: "north" if number % 3 else "south" for number, file in enumerate(FILES) if number < 80
    }
    values[FILES[80]] = ""

    north, south = (
        subgroup_metrics(images, patients, value, rows, resample_count=50)
        for _, value, rows in subgroups({"site": values}, FILES)
    )

    rows = np.array([values.get(file) == "north" for file in FILES])
    of_north = ScoredImages(labels[rows], probabilities[rows], positive=1, threshold=0.4)
    alone = measure(of_north, np.array(patients)[rows].tolist(), resample_count=0).metrics
    assert (north.value, south.value, north.compared_with) == ("north", "south", None)
    assert (north.images, north.images + south.images) == (rows.sum(), 80)
    assert north.patients == len({*np.array(patients)[rows]})
    assert north.metrics == pytest.approx({name: alone[name] for name in north.metrics})
    low, high = north.intervals["auroc"]
    assert low <= (alone["auroc"] or 0) <= high


def test_a_subgroup_of_positive_images_is_compared_with_all_negative_ones() -> None:
    """Such as bacterial pneumonia: no normal image is bacterial."""
    images, labels, probabilities, patients = scored(2, threshold=0.4)
    values = {
        file: "bacterial" if number % 2 else "viral"
        for number, file in enumerate(FILES)
        if labels[number]
    }

    bacterial, viral = (
        subgroup_metrics(images, patients, value, rows, resample_count=20)
        for _, value, rows in subgroups({"pneumonia": values}, FILES)
    )

    own = np.array([values.get(file) == "bacterial" for file in FILES])
    rows = own | (labels == 0)
    assert (bacterial.compared_with, viral.compared_with) == (0, 0)
    assert bacterial.images == own.sum()
    assert bacterial.metrics["auroc"] == pytest.approx(
        reference.roc_auc_score(labels[rows], probabilities[rows, 1])
    )
    assert bacterial.metrics["sensitivity"] == pytest.approx(np.mean(probabilities[own, 1] >= 0.4))
    assert bacterial.metrics["specificity"] is None
    assert set(bacterial.intervals) == {"auroc", "sensitivity"}
