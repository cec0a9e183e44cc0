"""Whether confirm's answers are right as often as they say: simulated studies of known truth, and other people's numbers.

Fixed seeds; the error of a share of 2,000 studies is .005 at .95 and .0035 at .025.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import numpy as np
from sklearn import metrics as reference
from sklearn.calibration import calibration_curve

from benchmarks.figures import Figure, figure
from benchmarks.hillis import hillis_interval
from benchmarks.simulated_studies import Arm, Study, against_controls, pooled, simulate
from xraytune.confirm.forecast import (
    Design,
    Spread,
    measure_spread,
    probability_equivalent,
    smallest_detectable_difference,
)
from xraytune.confirm.verdict import p_values, pair_tests
from xraytune.metrics.classification import Floats, classification_metrics
from xraytune.metrics.placements import structural_components
from xraytune.seeding import numpy_generator

_STUDIES = 2000
_AUROC = 0.955
_SEEDS_SD = 0.006
"""Of a replicate's AUROC; with it seeds have about two fifths of the variance on 624 patients with 5 x 2 seeds."""
_ROPE = 0.01
_PATIENTS = 428
"""In the official test folder."""


def measure() -> Iterator[Figure]:
    """The bars one after the other."""
    yield from _references()
    yield from _wrongly_told_helps()
    yield from _coverage()
    yield from _power()
    yield from _equivalence()


def _wrongly_told_helps() -> Iterator[Figure]:
    """One control equals the finalist, four are worse by .03."""
    for gan_share in (0.0, 0.3, 0.6):
        finalist = Arm(auroc=_AUROC, seeds_sd=_SEEDS_SD, gan_share=gan_share)
        equal, worse = (Arm(auroc=auroc, seeds_sd=_SEEDS_SD) for auroc in (_AUROC, _AUROC - 0.03))
        studies = simulate(
            [finalist, equal, *[worse] * 4],
            patients=_PATIENTS, gan_seeds=5, classifier_seeds=2, studies=_STUDIES, seed=1,
        )  # fmt: skip
        tests = pair_tests(against_controls(list(studies)), rope=_ROPE)
        told = float(tests.is_better.all(axis=1).mean())  # an intersection-union test
        name = f"statistics: told helps though a control equals it, GAN seeds {gan_share:.0%} of the seeds' variance"
        yield figure(name, told, "share", "0.015 to 0.05")


def _coverage() -> Iterator[Figure]:
    """Of a true difference of .01; also where the seeds have next to nothing and most of the variance."""
    for seeds_sd in (0.002, _SEEDS_SD, 0.015):
        for patients in (200, 624):
            for gan_seeds, bar in ((5, "0.92 to 0.98"), (10, "0.935 to 0.965")):
                arms = [
                    Arm(auroc=_AUROC, seeds_sd=seeds_sd, gan_share=0.3),
                    Arm(auroc=_AUROC - 0.01, seeds_sd=seeds_sd),
                ]
                studies = list(
                    simulate(arms, patients=patients, gan_seeds=gan_seeds, classifier_seeds=2, studies=_STUDIES, seed=2)
                )
                found = against_controls(studies)
                covered = np.minimum(*p_values(found, 0.01)) >= 0.025
                case = f"{patients} patients, {gan_seeds} x 2 seeds, a seed's AUROC +-{seeds_sd}"
                name = f"statistics: coverage of the 95 % interval, {case}"
                yield figure(name, float(covered.mean()), "share", bar)


def _power() -> Iterator[Figure]:
    """The spread of 400 studies on 200 patients; the difference is stated for other designs too."""
    for patients, gan_seeds, classifier_seeds in ((200, 5, 2), (_PATIENTS, 5, 2), (624, 10, 1)):
        spread = _spread(_compared(0.0, 200, gan_seeds, classifier_seeds, studies=400, seed=3))
        stated = smallest_detectable_difference(spread, _design(patients, gan_seeds))
        assert stated is not None, "many patients detect something"
        studies = _compared(stated, patients, gan_seeds, classifier_seeds, studies=_STUDIES, seed=4)
        found = pair_tests(against_controls(studies), rope=_ROPE).is_better.mean()
        case = f"{patients} patients, {gan_seeds} x {classifier_seeds} seeds"
        yield figure(f"statistics: smallest detectable difference, {case}", stated, "AUROC")
        yield figure(f"statistics: power at it, {case}", float(found), "share", "0.75 to 0.85")


def _equivalence() -> Iterator[Figure]:
    """Many patients and steady seeds, so that the word is not simply out of reach."""
    patients = 1500
    by_effect = {
        effect: _compared(effect, patients, 5, 2, studies=_STUDIES, seed=5, seeds_sd=0.003)
        for effect in (0.0, _ROPE, 1.5 * _ROPE)
    }
    bars = {1.5 * _ROPE: "<= 0.05"}
    for effect, studies in by_effect.items():
        told = pair_tests(against_controls(studies), rope=_ROPE).is_equivalent.mean()
        case = f"a true difference of {effect / _ROPE:g} x ROPE"
        yield figure(f"statistics: told equivalent at {case}", float(told), "share", bars.get(effect, ""))
        forecast = probability_equivalent(
            _spread(by_effect[0.0]), _design(patients, 5), rope=_ROPE, true_difference=effect
        )
        yield figure(f"statistics: its forecast at {case}", forecast, "share")


def _compared(
    difference: float,
    patients: int,
    gan_seeds: int,
    classifier_seeds: int,
    *,
    studies: int,
    seed: int,
    seeds_sd: float = _SEEDS_SD,
) -> list[Study]:
    """Studies of an arm that is better by `difference` than another; half of it above, half below the usual AUROC."""
    arms = [
        Arm(auroc=_AUROC + difference / 2, seeds_sd=seeds_sd, gan_share=0.3),
        Arm(auroc=_AUROC - difference / 2, seeds_sd=seeds_sd),
    ]
    return list(
        simulate(
            arms, patients=patients, gan_seeds=gan_seeds, classifier_seeds=classifier_seeds, studies=studies, seed=seed
        )
    )


def _design(patients: int, gan_seeds: int) -> Design:
    normal = round(0.45 * patients)
    return Design(effective_patients=4 / (1 / normal + 1 / (patients - normal)), gan_seeds=gan_seeds, score=_AUROC)


def _spread(studies: Sequence[Study]) -> Spread:
    return pooled([measure_spread(one) for one in studies])


def _references() -> Iterator[Figure]:
    """The largest error against scikit-learn, against the definitions and against published examples."""
    generator = numpy_generator(1, "references")
    labels = (generator.random(624) < 0.6).astype(np.int64)
    scores = np.round(1 / (1 + np.exp(-generator.normal(1.5 * labels - 0.75, 1, (4, 624)))), 2)
    probabilities = np.stack([1 - scores, scores], axis=2)
    bar = "<= 1e-06"

    own = classification_metrics(labels, probabilities[0], positive=1)
    is_right, confidence = (scores[0] > 0.5) == labels, probabilities[0].max(axis=1)
    accuracy, mean_confidence = calibration_curve(is_right, confidence, n_bins=15)
    counts = np.bincount(np.searchsorted(np.linspace(0, 1, 16)[1:-1], confidence))
    errors = {
        "AUROC": own.auroc - reference.roc_auc_score(labels, scores[0]),
        "Brier": own.brier - reference.brier_score_loss(labels, scores[0]),
        "ECE": own.ece - (counts[counts > 0] * np.abs(accuracy - mean_confidence)).sum() / 624,
    }
    for name, error in errors.items():
        yield figure(f"statistics: {name} less scikit-learn's", abs(float(error)), "", bar)

    found = structural_components(labels, probabilities, [str(number) for number in range(624)], positive=1)
    error = np.abs(found.components @ found.components.T / _delong(scores[:, labels == 1], scores[:, labels == 0]) - 1)
    yield figure("statistics: covariance of AUROCs relative to DeLong's definition", float(error.max()), "", bar)

    published = -0.04380032, 0.02074862, 15.25967, -0.0879594986, 0.0003588544, 0.05166569
    interval = hillis_interval(
        difference=-0.04380032, mean_square=0.0005510306, excess_covariance=0.0003440748 - 0.0002390284, readers=5
    )
    printed = [getattr(interval, name) for name in interval.__slots__ if name not in ("low_90", "high_90")]
    error = np.abs(np.array(printed) / [*published] - 1)
    yield figure(
        "statistics: Obuchowski-Rockette / Hillis on Van Dyke's study, relative", float(error.max()), "", "<= 1e-05"
    )


def _delong(positive: Floats, other: Floats) -> Floats:
    """The covariance matrix by its definition, of scores [R, m] and [R, n]."""
    wins = (positive[:, :, None] > other[:, None, :]) + (positive[:, :, None] == other[:, None, :]) / 2
    return np.asarray(np.cov(wins.mean(axis=2)) / positive.shape[1] + np.cov(wins.mean(axis=1)) / other.shape[1])
