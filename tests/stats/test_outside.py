"""Replicates that are scored on all patients outside their own training patients."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

from xraytune.stats.classification import Floats
from xraytune.stats.placements import (
    StructuralComponents,
    mean_overlap,
    outside_components,
    scorable_labels,
    structural_components,
)
from xraytune.stats.secondary import secondary_components
from xraytune.stats.verdict import compare, estimate_evidence, variance_components

PATIENTS = tuple(f"{number:02d}" for number in range(40))
LABELS = np.arange(40) % 2


def probabilities(networks: int) -> Floats:
    positive = np.random.default_rng(3).random((networks, len(PATIENTS)))
    return np.stack([1 - positive, positive], axis=2)


def without(results: Floats, network: int, places: range) -> Floats:
    results = results.copy()
    results[network, places] = np.nan
    return results


def test_each_network_is_scored_on_its_own_images_alone() -> None:
    everyone = probabilities(3)
    results = without(without(everyone, 0, range(6)), 1, range(4, 10))

    found = outside_components(LABELS, results, PATIENTS, positive=1)

    for network, places in ((0, range(6, 40)), (1, [*range(4), *range(10, 40)]), (2, range(40))):
        rows = [*places]
        names = [PATIENTS[row] for row in rows]
        alone = structural_components(LABELS[rows], everyone[[network]][:, rows], names, 1)
        assert found.scores[network] == alone.scores[0]
        assert (found.components[network, rows] == alone.components[0]).all()
        assert (np.delete(found.components[network], rows) == 0).all()


def test_networks_that_are_scored_on_everyone_have_the_same_components_to_the_bit() -> None:
    results = probabilities(4)

    found = outside_components(LABELS, results, PATIENTS, positive=1)

    expected = structural_components(LABELS, results, PATIENTS, positive=1)
    assert (found.scores == expected.scores).all()
    assert (found.components == expected.components).all()
    assert compare(found.by_arm(2)) == compare(expected.by_arm(2))


def test_secondary_outcomes_leave_out_the_same_images() -> None:
    everyone = probabilities(2)
    results = without(everyone, 0, range(10))
    rows = range(10, 40)

    found = secondary_components(LABELS, results, PATIENTS, positive=1, thresholds={}, seed=0)

    names = [PATIENTS[row] for row in rows]
    alone = secondary_components(
        LABELS[rows], everyone[:1, rows], names, positive=1, thresholds={}, seed=0
    )
    for name, outcome in found.items():
        assert outcome.scores[0] == alone[name].scores[0]
        assert outcome.components[0].std() > 0


def test_all_networks_are_scored_on_the_same_findings() -> None:
    """The first network was trained on most patients with the second finding."""
    findings = np.zeros((40, 2), dtype=np.int64)
    findings[:20, 0] = 1
    findings[:12, 1] = 1
    results = without(probabilities(2), 0, range(5))
    elsewhere = without(probabilities(1), 0, range(40))

    labels = scorable_labels(findings, results, PATIENTS)
    of_site = scorable_labels(findings, np.concatenate([results, elsewhere]), PATIENTS)

    assert (of_site == labels).all(), (
        "a network that is scored on none of the images does not count"
    )

    assert (labels[:, 0] == findings[:, 0]).all()
    assert (labels[:, 1] == -1).all()
    found = outside_components(labels, results, PATIENTS, positive=0)
    alone = structural_components(findings[:, :1], results[1:, :, :1], PATIENTS, positive=0)
    assert found.scores[1] == alone.scores[0]


def test_a_finding_of_a_single_patient_is_not_scored() -> None:
    """However many images show it, one patient tells nothing about other patients."""
    findings = np.zeros((40, 2), dtype=np.int64)
    findings[:20, 0] = 1
    findings[:12, 1] = 1
    patients = (*["one"] * 12, *PATIENTS[12:])

    labels = scorable_labels(findings, probabilities(2), patients)

    assert (labels[:, 0] == findings[:, 0]).all()
    assert (labels[:, 1] == -1).all()
    assert structural_components(labels, probabilities(2), patients, positive=0).scores.all()


def test_the_overlap_is_the_mean_share_that_two_draws_have_in_common() -> None:
    assert mean_overlap([("a", "b"), ("c", "d")]) == 0
    assert mean_overlap([("a", "b"), ("b", "c")]) == 0.5
    assert mean_overlap([("a", "b"), ("b", "c"), ("d", "e")]) == pytest.approx(1 / 6)


def trainings_that_share_patients(seed: int) -> StructuralComponents:
    """Six draws of 30 of 60 patients; each image's result depends on the patients of the draw."""
    generator = np.random.default_rng(seed)
    names = [f"{number:02d}" for number in range(60)]
    draws = [
        order[start : start + 30]
        for order in (generator.permutation(60) for _ in range(3))
        for start in (0, 30)
    ]
    worth = generator.standard_normal(60)
    results = 0.1 * generator.standard_normal(60) + 0.03 * generator.standard_normal((6, 60))
    for replicate, draw in enumerate(draws):
        results[replicate] += 0.1 * worth[draw].sum() / np.sqrt(30)
        results[replicate, draw] = np.nan
    pair = np.concatenate([results, np.where(np.isnan(results), np.nan, 0.0)])
    found = outside_components(np.zeros(60, dtype=np.int64), pair[..., None], names, positive=0)
    overlap = mean_overlap([[names[place] for place in draw] for draw in draws])
    return replace(found.by_arm(2), overlap=overlap)


def test_the_variance_has_the_training_patients_that_replicates_share() -> None:
    """In truth, half of their variance stays, however many draws of half of the patients."""
    studies = [trainings_that_share_patients(seed) for seed in range(1000)]

    evidence = [estimate_evidence(study) for study in studies]

    truth = np.var([each.difference for each in evidence])
    expected = [each.replicate_variance / 6 + each.patient_variance for each in evidence]
    assert np.mean(expected) == pytest.approx(truth, rel=0.1)
    without_overlap = [estimate_evidence(replace(study, overlap=0.0)) for study in studies]
    too_small = [each.replicate_variance / 6 + each.patient_variance for each in without_overlap]
    assert np.mean(too_small) < 0.5 * truth
    replicate = np.mean([variance_components(study)["replicate"] for study in studies])
    assert replicate == pytest.approx(0.1**2, rel=0.1)
