"""Scores of findings, some unknown, against scikit-learn and torch; variance of their mean."""

import numpy as np
import pytest
import torch
from sklearn import metrics as reference
from torch.nn import functional as F

from xraytune.base.seeding import numpy_generator
from xraytune.stats.classification import (
    Floats,
    Labels,
    auprc,
    auroc,
    scored_findings,
)
from xraytune.stats.placements import structural_components
from xraytune.tasks import TASKS

TASK = TASKS["findings"]


def images(seed: int = 0) -> tuple[Labels, Floats, list[str]]:
    """120 images of 60 patients: 5 findings, a fifth unknown, ties, one with 4 positives."""
    rng = numpy_generator(seed, "findings")
    labels = (rng.random((120, 5)) < (0.5, 0.3, 0.4, 0.25, 0)).astype(np.int64)
    labels[:4, 4] = 1
    scores = np.round(rng.random((3, 120, 5)) * 0.7 + 0.3 * labels, 2)
    known: Labels = np.where(rng.random((120, 5)) < 0.2, -1, labels)
    return known, scores.astype(np.float64), [f"p{n // 2}" for n in range(120)]


@pytest.mark.parametrize("seed", range(3))
def test_scores_are_means_over_known_labels_of_frequent_findings(seed: int) -> None:
    labels, (scores, *_), _ = images(seed)
    assert scored_findings(labels) == [0, 1, 2, 3]
    known = labels >= 0
    for function, sklearn in (
        (auroc, reference.roc_auc_score),
        (auprc, reference.average_precision_score),
    ):
        each = [sklearn(labels[known[:, c], c], scores[known[:, c], c]) for c in range(4)]
        assert function(labels, scores, positive=0) == pytest.approx(np.mean(each), abs=1e-9)


def test_components_of_a_mean_are_the_means_of_components() -> None:
    """Those of a finding are those of its known images alone, as two classes.

    Other patients contribute nothing.
    """
    labels, scores, patients = images()
    whole = structural_components(labels, scores, patients, 0)
    expected = np.zeros_like(whole.components)
    names = np.unique(patients)
    for c in range(4):
        known = labels[:, c] >= 0
        two = np.stack([1 - scores[:, known, c], scores[:, known, c]], axis=2)
        owners = [patient for patient, is_known in zip(patients, known, strict=True) if is_known]
        part = structural_components(labels[known, c], two, owners, 1)
        expected[:, np.searchsorted(names, np.unique(owners))] += part.components / 4
    assert np.allclose(whole.components, expected, rtol=0, atol=1e-12)
    assert whole.scores[1] == pytest.approx(auroc(labels, scores[1], positive=0))


def test_the_loss_is_the_mean_over_known_labels() -> None:
    labels, (scores, *_), _ = images()
    logits = torch.from_numpy(scores)
    targets = torch.from_numpy(labels)
    known = targets >= 0
    expected = F.binary_cross_entropy_with_logits(logits[known], targets[known].double())
    assert float(TASK.loss(logits, targets)) == pytest.approx(float(expected), abs=1e-6)
    assert float(TASK.loss(logits, torch.full_like(targets, -1))) == 0, (
        "of a step whose labels are all unknown"
    )
