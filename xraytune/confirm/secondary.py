"""What is reported beside the verdict, which uses none of it: other outcomes, subgroups, a second hospital, generators.

The secondary outcomes are differences in accuracy, balanced accuracy, sensitivity, Brier score and calibration slope. As
for the AUROC, GAN seeds are the readers of a multi-reader multi-case study, but the covariances over patients come from a
bootstrap: the same resampled patients for both arms and all seeds. A bootstrap over seeds as well would be too narrow,
since there are only about five of them. Differences in subgroups and on a second hospital's folder are exploratory. The
quality of a finalist's generators shows whether `no_better` carries over to others.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from functools import partial
from statistics import median
from typing import Any, Literal, TypeAlias

import numpy as np
from numpy.typing import NDArray
from scipy.optimize import minimize  # type: ignore[import-untyped]
from scipy.special import expit, logit, stdtrit  # type: ignore[import-untyped]

from xraytune.confirm.analysis import FEWEST_PATIENTS, ArmResults, EvaluationSet, compare_arms
from xraytune.confirm.comparison import mean_off_diagonal, satterthwaite_degrees
from xraytune.confirm.plan import Arm, Plan
from xraytune.data.index import ImageFile
from xraytune.data.patients import pneumonia_type
from xraytune.metrics.breakdown import subgroup_images
from xraytune.metrics.classification import Flags, Floats, Labels
from xraytune.metrics.generator_quality import quality_text, shortcomings
from xraytune.metrics.intervals import patient_resamples
from xraytune.metrics.placements import effective_patients
from xraytune.search.messages import read_pool_report
from xraytune.search.study import StudyFolder

_Statistic: TypeAlias = Callable[[EvaluationSet, NDArray[Any], Floats], Floats]
"""(images, probabilities [N, C] or predicted classes [N], weights [1 + B, N]) -> [1 + B]."""
Outcome: TypeAlias = Literal["accuracy", "balanced_accuracy", "sensitivity", "brier", "calibration_slope"]
RESAMPLES = 500
_SEED = 0


@dataclass(frozen=True, slots=True, kw_only=True)
class Difference:
    """A finalist minus a control, with a 95 % interval over patients and seeds."""

    value: float
    control_value: float
    difference: float
    low: float
    high: float


@dataclass(frozen=True, slots=True, kw_only=True)
class ArmDifference(Difference):
    """A difference in the score of the verdict, with the names of the arms."""

    finalist: str
    control: str


@dataclass(frozen=True, slots=True, kw_only=True)
class OutcomeDifference(ArmDifference):
    """A difference in another outcome.

    `accuracy`: share of images whose most probable class is the right one. `balanced_accuracy`: mean of sensitivity and
    specificity at each replicate's own threshold; with more than two classes, mean recall of the most probable class.
    `sensitivity`: read from both arms' ROC curves at the specificity that the control has at its threshold. `brier`: lower
    is better. `calibration_slope`: of a logistic regression of the class on the logit of its probability; 1 is calibrated,
    below 1 is overconfident (Cox 1958).
    """

    outcome: Outcome


@dataclass(frozen=True, slots=True, kw_only=True)
class Subgroup:
    """The images of the test folder with one value in a column of the patient table, or in `pneumonia`.

    A subgroup without images of one class is scored against all images of this class, `versus_all`. There are no differences
    with fewer than five patients of a class.
    """

    column: str
    value: str
    images: int
    patients: int
    versus_all: str | None
    differences: tuple[ArmDifference, ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class ExternalResult:
    """The comparisons on a folder of another hospital, named and identified by the fingerprint of its content.

    `earlier_accesses` is how often it was scored before this confirmation scored it.
    """

    folder: str
    fingerprint: str
    images: int
    patients: int
    gan_seeds: int
    earlier_accesses: int
    differences: tuple[ArmDifference, ...]
    secondary: tuple[OutcomeDifference, ...]


def score_differences(plan: Plan, images: EvaluationSet, results: ArmResults) -> tuple[ArmDifference, ...]:
    """Compare every finalist with each of its controls, in the order of the plan."""
    found = []
    for finalist, control in plan.pairs():
        comparison = compare_arms(images, results(finalist.name), results(control.name))
        interval = comparison.interval
        found.append(
            ArmDifference(
                finalist=finalist.name,
                control=control.name,
                value=comparison.scores[0],
                control_value=comparison.scores[1],
                difference=interval.difference,
                low=interval.low,
                high=interval.high,
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
    return {image.file: found for image in images if (found := pneumonia_type(image.file))}


def secondary_outcomes(
    plan: Plan, images: EvaluationSet, results: ArmResults, thresholds: ArmResults
) -> tuple[OutcomeDifference, ...]:
    """Compare every finalist with each of its controls, in the order of the plan; segmenters have no such outcomes.

    `thresholds` gives those of an arm's replicates, [G, K].
    """
    if results(plan.finalists[0].name).shape[-1] == 1:  # Dice, no class probabilities
        return ()
    return tuple(
        OutcomeDifference(finalist=finalist.name, control=control.name, outcome=outcome, **asdict(found))
        for finalist, control in plan.pairs()
        for outcome, found in compare_outcomes(
            images, results(finalist.name), results(control.name), (thresholds(finalist.name), thresholds(control.name))
        ).items()
    )


def compare_outcomes(
    images: EvaluationSet, finalist: Floats, control: Floats, thresholds: tuple[Floats, Floats]
) -> dict[Outcome, Difference]:
    """Compare two arms in all outcomes; with more than two classes, in accuracies and the Brier score.

    The calibration slope is left out if in some replicate a threshold separates the classes: it is infinite then.

    Args:
        images: N images.
        finalist: Probabilities, float64 [G, K, N, C]; G >= 2.
        control: The same, with the same seeds.
        thresholds: Of both arms' replicates, from validation, [G, K]; not used with more than two classes.
    """
    weights = _weights(images)
    patients = effective_patients(images.labels, images.patients, positive=images.positive)
    both = finalist, control
    called = [arm.argmax(axis=-1) for arm in both]
    values: dict[Outcome, list[Floats]] = {"accuracy": [_of_arm(_accuracy, images, one, weights) for one in called]}
    if finalist.shape[-1] == 2:
        is_called = [arm[..., images.positive] >= limit[..., None] for arm, limit in zip(both, thresholds, strict=True)]
        called = [np.where(one, images.positive, 1 - images.positive) for one in is_called]
    values["balanced_accuracy"] = [_of_arm(_balanced_accuracy, images, one, weights) for one in called]
    values["brier"] = [_of_arm(_brier, images, arm, weights) for arm in both]
    if finalist.shape[-1] == 2:
        pairs = [_sensitivities(images, *pair, weights) for pair in _replicates(finalist, control, thresholds[1])]
        values |= {
            "sensitivity": [_by_gan(arm, finalist) for arm in zip(*pairs, strict=True)],
            "calibration_slope": [_of_arm(_slope, images, arm, weights) for arm in both],
        }
    return {
        outcome: interval(*arms, effective_patients=patients)
        for outcome, arms in values.items()
        if np.isfinite(arms).all()
    }


def interval(finalist: Floats, control: Floats, *, effective_patients: float) -> Difference:
    """Return the difference of a statistic with its 95 % interval: Student's t with Satterthwaite's degrees of freedom.

    Args:
        finalist: [1 + B, G]: the statistic by GAN seed, on all patients and on B resamples of them.
        control: The same, on the same resamples.
        effective_patients: 4 / (1/n + 1/m) for n and m patients of the two classes.

    Source: Obuchowski & Rockette 1995, "Hypothesis testing of diagnostic accuracy for multiple readers and multiple tests",
    whose covariances may be estimated by resampling patients.
    """
    by_seed, resampled = finalist[0] - control[0], finalist[1:] - control[1:]
    of_seeds = float(by_seed.var(ddof=1)) / len(by_seed)
    of_patients = max(mean_off_diagonal(np.cov(resampled.T)), 0.0)
    degrees = satterthwaite_degrees(of_seeds, of_patients, len(by_seed), effective_patients)
    difference = float(by_seed.mean())
    half = float(stdtrit(degrees, 0.975) * np.sqrt(of_seeds + of_patients))
    return Difference(
        value=float(finalist[0].mean()),
        control_value=float(control[0].mean()),
        difference=difference,
        low=difference - half,
        high=difference + half,
    )


def _weights(images: EvaluationSet) -> Floats:
    """Return how often each image counts, [1 + B, N]: once, then in each resample of the patients."""
    drawn = patient_resamples(images.labels, images.patients, RESAMPLES, _SEED)
    return np.concatenate([np.ones((1, len(images.labels))), *drawn])


def _replicates(finalist: Floats, control: Floats, thresholds: Floats) -> Iterator[tuple[Floats, Floats, float]]:
    flat = (arm.reshape(-1, *arm.shape[2:]) for arm in (finalist, control))
    return zip(*flat, thresholds.ravel().tolist(), strict=True)


def _by_gan(values: Iterable[Floats], like: NDArray[Any]) -> Floats:
    """Average values [1 + B] of all replicates over the classifier seeds: [1 + B, G]."""
    return np.asarray(np.stack([*values]).reshape(*like.shape[:2], -1).mean(axis=1).T)


def _of_arm(statistic: _Statistic, images: EvaluationSet, results: NDArray[Any], weights: Floats) -> Floats:
    flat = results.reshape(-1, *results.shape[2:])
    return _by_gan((statistic(images, one, weights) for one in flat), results)


def _sensitivities(
    images: EvaluationSet, finalist: Floats, control: Floats, threshold: float, weights: Floats
) -> tuple[Floats, Floats]:
    """Return the sensitivity of both replicates at the control's specificity, [1 + B] each."""
    is_positive = images.labels == images.positive
    called = control[:, images.positive] >= threshold
    false_share = (weights @ (called & ~is_positive)) / (weights @ ~is_positive)
    first, second = (_roc_at(false_share, is_positive, arm[:, images.positive], weights) for arm in (finalist, control))
    return first, second


def _roc_at(false_share: Floats, is_positive: Flags, scores: Floats, weights: Floats) -> Floats:
    """Return the sensitivity on the empirical ROC curve at these false positive rates, both [1 + B]."""
    order = np.argsort(-scores, kind="stable")
    ends = np.flatnonzero(np.append(np.diff(scores[order]) != 0, True))
    rates = []
    for side in (~is_positive, is_positive):
        counts = np.cumsum(weights[:, order] * side[order], axis=1)[:, ends]
        rates.append(np.pad(counts / counts[:, -1:], ((0, 0), (1, 0))))
    return np.array([np.interp(*one) for one in zip(false_share, *rates, strict=True)])


def _accuracy(images: EvaluationSet, called: Labels, weights: Floats) -> Floats:
    return np.asarray(weights @ (called == images.labels) / weights.sum(axis=1))


def _balanced_accuracy(images: EvaluationSet, called: Labels, weights: Floats) -> Floats:
    of_class = (images.labels == label for label in np.unique(images.labels))
    recalls = [weights @ (is_own & (called == images.labels)) / (weights @ is_own) for is_own in of_class]
    return np.asarray(np.mean(recalls, axis=0))


def _brier(images: EvaluationSet, probabilities: Floats, weights: Floats) -> Floats:
    if probabilities.shape[1] == 2:
        errors = (probabilities[:, images.positive] - (images.labels == images.positive)) ** 2
    else:
        errors = ((probabilities - np.eye(probabilities.shape[1])[images.labels]) ** 2).sum(axis=1)
    return np.asarray(weights @ errors / weights.sum(axis=1))


def _slope(images: EvaluationSet, probabilities: Floats, weights: Floats) -> Floats:
    """Return the calibration slope, [1 + B]: the maximum likelihood fit, and one Newton step from it in each resample.

    Source: Moulton & Zeger 1991, "Bootstrapping generalized linear models" (one-step bootstrap).
    """
    is_positive = images.labels == images.positive
    smallest = np.finfo(np.float64).eps
    logits = np.asarray(logit(np.clip(probabilities[:, images.positive], smallest, 1 - smallest)))
    positive, other = logits[is_positive], logits[~is_positive]
    if positive.min() >= other.max() or positive.max() <= other.min():
        return np.full(len(weights), np.inf)
    centre, spread = logits.mean(), logits.std()
    design = np.stack([np.ones_like(logits), (logits - centre) / spread], axis=1)

    def loss(line: Floats) -> tuple[float, Floats]:
        fitted = design @ line
        return float((np.logaddexp(0, fitted) - is_positive * fitted).sum()), design.T @ (expit(fitted) - is_positive)

    line = minimize(loss, np.array([0.0, 1.0]), jac=True, method="BFGS").x
    fitted = expit(design @ line)
    gradients = weights @ (design * (is_positive - fitted)[:, None])
    curvature = np.einsum("bn,n,ni,nj->bij", weights, fitted * (1 - fitted), design, design, optimize=True)
    steps = np.linalg.solve(curvature, gradients[..., None])[..., 0]
    steps[0] = 0
    return np.asarray((line[1] + steps[:, 1]) / spread)


@dataclass(frozen=True, slots=True, kw_only=True)
class FigureSpread:
    """Median and range of a figure over generators."""

    median: float
    low: float
    high: float


@dataclass(frozen=True, slots=True, kw_only=True)
class GeneratorQuality:
    """The quality of a finalist's synthetic images: one pool per GAN seed.

    Attributes:
        generators: Number of pools, of which `measured` have figures.
        features: The backbone of the figures; "" without figures.
        figures: See `Quality.columns`.
        shortcomings: Figures whose median is below the threshold of a good generator.
        copying: Number of pools that copy training images; they are not excluded.
    """

    arm: str
    generators: int
    measured: int
    features: str
    figures: Mapping[str, FigureSpread]
    shortcomings: tuple[str, ...]
    copying: int
    sentence: str


def generator_qualities(folder: StudyFolder, plan: Plan) -> tuple[GeneratorQuality, ...]:
    """Return the quality of each finalist's generators, in the order of the finalists."""
    return tuple(_quality_of(folder, plan, arm) for arm in plan.finalists)


def _quality_of(folder: StudyFolder, plan: Plan, arm: Arm) -> GeneratorQuality:
    numbers = plan.numbers(arm.name)
    found = [read_pool_report(folder.trial_path(numbers[seed, 0])) for seed in range(plan.gan_seeds)]
    reports = [report for report in found if report is not None]
    measured = [report.quality for report in reports if report.quality is not None]
    columns = [quality.columns() for quality in measured]
    names = columns[0] if columns else ()
    known = {name: [value for one in columns if (value := one[name]) is not None] for name in names}
    figures = {
        name: FigureSpread(median=median(own), low=min(own), high=max(own)) for name, own in known.items() if own
    }
    medians = {name: figures[name].median if name in figures else None for name in names}
    real_train = measured[0].real_train if measured else None
    missed = shortcomings(medians, real_train) if measured else ()
    copying = sum(bool(report.copies) for report in reports)
    if measured:
        end = (
            "too poor for the verdict to say much about better generators"
            if missed
            else "good enough for the verdict not to be blamed on a poor generator"
        )
        sentence = f"Generator quality: {quality_text(medians, real_train)}; {end}."
    else:
        why = next((report.note for report in reports if report.note), "no record of it")
        sentence = f"Generator quality is unknown, so the verdict may not hold for better generators: {why}."
    if copying:
        sentence += f" The images of {copying} of {len(reports)} GAN seeds copy training images."
    return GeneratorQuality(
        arm=arm.name,
        generators=len(reports),
        measured=len(measured),
        features=measured[0].features if measured else "",
        figures=figures,
        shortcomings=missed,
        copying=copying,
        sentence=sentence,
    )
