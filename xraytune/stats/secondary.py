"""Secondary outcomes: other metrics of the results that `confirm` compares.

Each outcome is computed over weighted images, as in `stats/classification.py`. A bootstrap over
patients gives the covariance of networks, in place of structural components. So the interval of a
difference is computed as in `stats/verdict.py`: it is over patients and replicates, and corrects
for small numbers of both, with the variance assumed for AUROC, a proportion, or Dice.

An outcome is an entry of `SECONDARY` with a formula in `weighted_outcomes`.
"""

from collections.abc import Mapping, Sequence
from functools import partial

import numpy as np

from xraytune.stats.classification import (
    METRICS,
    Floats,
    Labels,
    Metric,
    ScoredImages,
    are_averaged,
    weighted_metrics,
    weighted_sensitivity_at,
)
from xraytune.stats.intervals import resample_patients
from xraytune.stats.placements import (
    DifferenceVariance,
    StructuralComponents,
    effective_patients,
    error_variance,
    placement_variance,
    proportion_variance,
)
from xraytune.stats.segmentation import MASK_METRICS

SPECIFICITY = 0.9
_WORST_SHARE = 0.1
_RESAMPLES = 200
"""More resamples are seldom needed for a standard error: Efron & Tibshirani 1993, section 6.4."""
_SHARES = {"balanced_accuracy": 1.0, "brier": 0.25, "sensitivity_at_90": 3.0}
"""Outcomes that vary over patients like a proportion, and how many times as much, in the binormal
model: squared errors are small, and the threshold of a specificity also varies."""
SECONDARY = (
    *(metric for metric in (*METRICS, *MASK_METRICS) if metric.is_secondary),
    Metric("sensitivity_at_90", "sensitivity at a specificity of .9"),
    Metric("worst_dice", "mean Dice of the worst tenth"),
)


def weighted_outcomes(images: ScoredImages, weights: Floats) -> dict[str, Floats]:
    """Return the outcomes that are defined, and other metrics, by name, each [R] for R weightings.

    With more than two classes, outcomes are macro averages, or are computed from the most probable
    class. With findings, they are means over the `scored_findings`, and there is no balanced
    accuracy. With masks, the results are the Dice, D, and IoU is D / (2 - D).
    """
    if are_averaged(images.labels, images.probabilities):
        dice = images.probabilities[:, 0]
        total = weights.sum(axis=1)
        iou = weights @ (dice / (2 - dice)) / total
        return {"iou": iou, "worst_dice": _worst_mean(dice, weights)}
    values = weighted_metrics(images, weights)
    classes = images.classes()
    sensitivities = [weighted_sensitivity_at(scored, weights, SPECIFICITY) for scored in classes]
    values["sensitivity_at_90"] = np.mean(sensitivities, axis=0)
    if images.labels.ndim == 2:
        errors = []
        for scored in classes:
            known_weights = weights * (scored.is_class | scored.is_other)
            errors.append(
                known_weights @ (scored.scores - scored.is_class) ** 2 / known_weights.sum(axis=1)
            )
        values["brier"] = np.mean(errors, axis=0)
    return values


def _worst_mean(results: Floats, weights: Floats) -> Floats:
    """Return the mean of the lowest tenth of results [N], for each weighting.

    The last image of the tenth counts in part.
    """
    order = np.argsort(results)
    weights = weights[:, order]
    worst_weight = _WORST_SHARE * weights.sum(axis=1, keepdims=True)
    before = np.cumsum(weights, axis=1) - weights
    worst_weights = np.clip(worst_weight - before, 0, weights)
    return np.asarray(worst_weights @ results[order] / worst_weight[:, 0])


def secondary_components(
    labels: Labels,
    results: Floats,
    patients: Sequence[str],
    *,
    positive: int,
    thresholds: Mapping[int, float],
    seed: int,
    overlap: float = 0.0,
) -> dict[str, StructuralComponents]:
    """Return each outcome of R networks, and its bootstrap covariance over patients.

    `components` has a column for each resample instead of each patient. Arguments are as for
    `outside_components`; with two classes, `thresholds` has the threshold of each network.
    """
    resamples = resample_patients(labels, patients, resample_count=_RESAMPLES, seed=seed)
    weightings = [np.ones((1, len(labels))), *resamples]
    by_network = []
    for index, network_results in enumerate(results):
        is_scored = ~np.isnan(network_results).any(axis=1)
        images = ScoredImages(
            labels[is_scored],
            network_results[is_scored],
            positive=positive,
            threshold=thresholds.get(index, 0.5),
        )
        by_network.append([weighted_outcomes(images, each[:, is_scored]) for each in weightings])
    are_masks = are_averaged(labels, results)
    effective = float(len({*patients}))
    patients_of_side = effective
    share = 1.0
    if not are_masks:
        effective, share = effective_patients(labels, patients, positive)
        patients_of_side = effective / 2
    # Resampling n patients gives (n - 1) / n of their variance.
    scale = np.sqrt(patients_of_side / max(patients_of_side - 1, 1))
    components = {}
    for name in (metric.name for metric in SECONDARY if metric.name in by_network[0][0]):
        values = np.stack(
            [np.concatenate([chunk[name] for chunk in chunks]) for chunks in by_network]
        )
        resampled = values[:, 1:]
        resampled = resampled[:, np.isfinite(resampled).all(axis=0)]  # a finding may be missing
        deviations = scale * (resampled - resampled.mean(axis=1, keepdims=True))
        variance: DifferenceVariance = partial(placement_variance, share=share)
        if are_masks:
            variance = error_variance
        elif name in _SHARES:
            variance = partial(proportion_variance, share=share * _SHARES[name])
        components[name] = StructuralComponents(
            scores=values[:, 0],
            components=deviations / np.sqrt(resampled.shape[1] - 1),
            effective_patients=effective,
            variance=variance,
            overlap=overlap,
        )
    return components
