"""Whether the 95 % intervals of confirm's secondary outcomes cover the truth: simulated studies, 400 per case.

Two arms of AUROC .955 and .945 whose logits are too steep by half, as networks usually are.
The truth is the mean over studies with many patients. The standard error of a share of 400 studies is .011 at .95.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterator

import numpy as np
from scipy.special import expit  # type: ignore[import-untyped]
from scipy.stats import norm  # type: ignore[import-untyped]

from benchmarks.figures import Figure, figure
from benchmarks.simulated_studies import Arm, simulate_scores
from xraytune.confirm.analysis import EvaluationSet
from xraytune.confirm.secondary import Difference, Outcome, compare_outcomes
from xraytune.metrics.classification import Floats
from xraytune.pipeline.task import CLASSIFICATION

_STUDIES = 400
_AUROC = 0.955
_STEEPNESS = 1.5


def measure() -> Iterator[Figure]:
    """Yield the coverage of each outcome."""
    arms = [Arm(auroc=_AUROC, seeds_sd=0.006, gan_share=0.3), Arm(auroc=_AUROC - 0.01, seeds_sd=0.006)]
    truth = {
        outcome: float(np.mean([one.difference for one in found]))
        for outcome, found in _differences(arms, patients=4000, gan_seeds=5, studies=60, seed=20).items()
    }
    for outcome, difference in truth.items():
        yield figure(f"secondary: true difference in {outcome}", difference, outcome)
    for patients in (144, 428):
        for outcome, found in _differences(arms, patients=patients, gan_seeds=5, studies=_STUDIES, seed=21).items():
            covered = [one.low <= truth[outcome] <= one.high for one in found]
            case = f"{outcome}, {patients} patients, 5 x 2 seeds"
            yield figure(f"secondary: coverage, {case}", float(np.mean(covered)), "share", "0.92 to 0.98")


def _differences(
    arms: list[Arm], *, patients: int, gan_seeds: int, studies: int, seed: int
) -> dict[Outcome, list[Difference]]:
    found = defaultdict[Outcome, list[Difference]](list)
    threshold = np.full((gan_seeds, 2), 0.5)
    for drawn in simulate_scores(
        arms, patients=patients, gan_seeds=gan_seeds, classifier_seeds=2, studies=studies, seed=seed
    ):
        images = EvaluationSet(labels=drawn.labels, patients=drawn.patients, positive=1, task=CLASSIFICATION)
        for finalist, control in map(_probabilities, drawn.scores):
            for outcome, one in compare_outcomes(images, finalist, control, threshold).items():
                found[outcome].append(one)
    return found


def _probabilities(scores: Floats) -> Floats:
    """Return probabilities [arms, G, K, N, 2] of scores that are normal with variance 1 in both classes."""
    separation = float(norm.ppf(_AUROC)) * np.sqrt(2)
    positive = expit(_STEEPNESS * separation * (scores - separation / 2))
    return np.stack([1 - positive, positive], axis=-1)
