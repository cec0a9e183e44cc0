"""Check that the intervals of secondary outcomes cover the truth as often as they claim.

Classifiers are those of `simulated_studies.py`. A segmenter's error, 1 - Dice, is lognormal with a
coefficient of variation of .5 over images; of its logarithm's variance, .8 is common to all
replicates of both arms, .05 to all of an arm, and .15 is the replicate's own.

The truth is that of one image with each of many quantiles of the scores, averaged over replicates.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterator, Mapping, Sequence
from itertools import product

import numpy as np
from scipy.special import expit, ndtri  # type: ignore[import-untyped]

from benchmarks.figures import Figure, figure
from benchmarks.simulated_studies import (
    IMAGES_OF_NORMAL_PATIENTS,
    IMAGES_OF_PNEUMONIA_PATIENTS,
    Arm,
    draw_scores,
    separation,
)
from xraytune.base.seeding import derive_seed, numpy_generator
from xraytune.stats.classification import Floats, Labels, ScoredImages
from xraytune.stats.secondary import secondary_components, weighted_outcomes
from xraytune.stats.verdict import LEVEL, estimate_evidence, p_values

_STUDIES = {70: 400, 300: 150}
"""In each cell, by test patients; the standard error of a coverage is .011 and .018."""
_REPLICATES = 5
_NORMAL_SHARE = 0.45
_LEVELS = np.sqrt([0.8, 0.05, 0.15])
_LOG_SD = float(np.sqrt(np.log(1.25)))
"""Of an error with a coefficient of variation of .5."""


def measure() -> Iterator[Figure]:
    """Yield the lowest, the highest and the mean coverage of each outcome, by test patients."""
    for patients in _STUDIES:
        coverages: dict[str, list[float]] = defaultdict(list)
        for auroc, sd in product((0.985, 0.955, 0.9), (0.002, 0.01)):
            arms = [Arm(auroc=value, replicates_sd=sd) for value in (auroc, auroc - 0.01)]
            for name, coverage in _cover_classifiers(arms, patients).items():
                coverages[name].append(coverage)
        for dice, sd in product((0.95, 0.9, 0.8), (0.002, 0.01)):
            for name, coverage in _cover_segmenters([dice, dice - 0.01], sd, patients).items():
                coverages[name].append(coverage)
        for name, shares in coverages.items():
            for what, share in (
                ("lowest", min(shares)),
                ("highest", max(shares)),
                ("mean", float(np.mean(shares))),
            ):
                title = f"secondary: {name}, {what} coverage of {len(shares)} cells"
                yield figure(f"{title}, {patients} patients", share, "share", "0.93 to 0.97")


def _cover_classifiers(arms: Sequence[Arm], patients: int) -> dict[str, float]:
    """Return the share of studies whose interval covers the true difference of the two arms."""
    centres = [separation(arm)[0] for arm in arms]
    truths = [_true_outcomes(arm) for arm in arms]
    rows = []
    drawn = draw_scores(
        arms, patients=patients, replicates=_REPLICATES, studies=_STUDIES[patients], seed=31
    )
    for labels, names, scores in drawn:
        for of_study in scores:
            pairs = zip(of_study, centres, strict=True)
            results = np.stack([_probabilities(of_arm, centre) for of_arm, centre in pairs])
            rows.append(_cover(labels, results, names, truths))
    return _mean_of(rows)


def _true_outcomes(arm: Arm) -> Mapping[str, float]:
    """Return an arm's outcomes on all patients, the mean over its replicates."""
    grid = _quantiles(4000)
    sizes = [
        float(np.average([*counts], weights=[*counts.values()]))
        for counts in (IMAGES_OF_NORMAL_PATIENTS, IMAGES_OF_PNEUMONIA_PATIENTS)
    ]
    shares = np.array([_NORMAL_SHARE * sizes[0], (1 - _NORMAL_SHARE) * sizes[1]])
    labels = np.repeat([0, 1], len(grid))
    weights = np.repeat(shares, len(grid))[None]
    mean, deviation = separation(arm)
    outcomes = []
    for of_replicate in mean + deviation * _quantiles(40):
        scores = np.concatenate([grid, of_replicate + grid])
        images = ScoredImages(labels, _probabilities(scores, mean), positive=1)
        values = weighted_outcomes(images, weights)
        outcomes.append({name: value.item() for name, value in values.items()})
    return _mean_of(outcomes)


def _probabilities(scores: Floats, centre: float) -> Floats:
    """Return calibrated probabilities of two classes of equal size, [..., 2]."""
    chance = expit(centre * (scores - centre / 2))
    return np.stack([1 - chance, chance], axis=-1)


def _cover_segmenters(means: Sequence[float], sd: float, patients: int) -> dict[str, float]:
    """Return the coverage for two arms of these mean Dice, with this SD over replicates."""
    labels = np.zeros(patients, dtype=np.int64)
    names = [f"{number:06d}" for number in range(patients)]
    truths = []
    for mean in means:
        outcomes = []
        for of_replicate in 1 - mean + sd * _quantiles(40):
            dice = _dice(_quantiles(4000), of_replicate)
            images = ScoredImages(np.zeros(len(dice), dtype=np.int64), dice[:, None], positive=0)
            values = weighted_outcomes(images, np.ones((1, len(dice))))
            outcomes.append({name: value.item() for name, value in values.items()})
        truths.append(_mean_of(outcomes))
    rows = []
    shape = (len(means), _REPLICATES, patients)
    for study in range(_STUDIES[patients]):
        generator = numpy_generator(37, "masks", study)
        of_arms = np.array(means)[:, None, None]
        errors = 1 - of_arms + sd * generator.standard_normal((*shape[:2], 1))
        levels = ((1, 1, patients), (len(means), 1, patients), shape)
        parts = zip(levels, _LEVELS, strict=True)
        normal = sum(size * generator.standard_normal(level) for level, size in parts)
        rows.append(_cover(labels, _dice(normal, errors)[..., None], names, truths))
    return _mean_of(rows)


def _dice(normal: Floats, error: Floats | float) -> Floats:
    """Return the Dice of images with these standard normal difficulties."""
    errors = np.maximum(error, 1e-3) * np.exp(_LOG_SD * normal - _LOG_SD**2 / 2)
    return np.asarray(np.clip(1 - errors, 0, 1))


def _cover(
    labels: Labels,
    results: Floats,
    patients: Sequence[str],
    truths: Sequence[Mapping[str, float]],
) -> dict[str, float]:
    """Return whether each outcome's interval covers the truth; results are [2, K, N, C]."""
    networks = results.reshape(-1, *results.shape[2:])
    seed = derive_seed(41, results.tobytes().hex()[:64])
    measured = secondary_components(
        labels, networks, patients, positive=1, thresholds={}, seed=seed
    )
    covers = {}
    for name, components in measured.items():
        truth = truths[0][name] - truths[1][name]
        p_value = min(map(float, p_values(estimate_evidence(components.by_arm(2)), truth)))
        covers[name] = float(p_value >= LEVEL / 2)
    return covers


def _quantiles(count: int) -> Floats:
    """Return the standard normal quantiles in the middle of so many equal shares."""
    return np.asarray(ndtri((np.arange(count) + 0.5) / count))


def _mean_of(rows: Sequence[Mapping[str, float]]) -> dict[str, float]:
    return {name: float(np.mean([row[name] for row in rows])) for name in rows[0]}
