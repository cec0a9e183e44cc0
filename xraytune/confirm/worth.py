"""How many more real patients the extra images of the first finalist are worth.

The real-only curve shows the score on the test folder with the settings of the finalist but on real images alone, of an
increasing number of patients: nested sets, one of which is the finalist's own. All arms take the same number of steps, with
as many images each. The worth is how many more patients than the finalist's the curve needs to reach the finalist's score.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from scipy.optimize import isotonic_regression  # type: ignore[import-untyped]

from xraytune.confirm.analysis import ArmResults, EvaluationSet, measure
from xraytune.confirm.plan import Arm, Plan
from xraytune.metrics.classification import Floats
from xraytune.metrics.intervals import patient_resamples
from xraytune.seeding import numpy_generator

_REPLICATES = 2000
_ENDS = (0.025, 0.975)


@dataclass(frozen=True, slots=True, kw_only=True)
class CurvePoint:
    """The score of training on real images of this many patients, with its 95 % interval."""

    patients: int
    score: float
    low: float
    high: float


@dataclass(frozen=True, slots=True, kw_only=True)
class Worth:
    """The place of a finalist on the real-only curve.

    Attributes:
        patients: The number of patients that it was trained on.
        curve: In the order of the number of patients; as measured, before the monotone fit.
        rises: Whether the 95 % interval of the gain over the whole curve is above 0; if not, there is no estimate.
        worth: Additional real patients; negative if the finalist is below the curve. None: beyond an end of the curve.
        low: Lower end of its 95 % interval; None: below the curve.
        high: Upper end; None: above the curve.
    """

    arm: str
    patients: int
    score: float
    curve: tuple[CurvePoint, ...]
    rises: bool
    worth: int | None
    low: int | None
    high: int | None
    sentence: str


def worth_of_images(plan: Plan, images: EvaluationSet, results: ArmResults, *, patients: int) -> Worth | None:
    """Place the first finalist, trained on `patients` patients, on the curve of a plan; None if the plan has no curve.

    The interval is a percentile bootstrap over patients and GAN seeds, which all arms share, so both are drawn jointly. A
    resampled score is the sum of the patients' structural components (`metrics.placements`), weighted by how often they
    were drawn. The curve is made monotone and interpolated over the logarithm of patients in each resample.

    Source: Efron & Tibshirani 1993, "An Introduction to the Bootstrap", chapter 13; whole clusters of replicates: Davison &
    Hinkley 1997, "Bootstrap Methods and their Application", section 3.8.
    """
    first, arms = plan.finalists[0], _curve(plan, patients)
    if len(arms) < 2:
        return None
    measured = [measure(images, results(arm.name)) for arm in (first, *arms.values())]
    scores = np.stack([one.scores.mean(axis=1) for one in measured])
    components = np.stack([one.components.mean(axis=1) for one in measured])
    mean, counts = scores.mean(axis=1), [*arms]
    drawn = _resampled(images, scores, components)
    ends = np.quantile(drawn, _ENDS, axis=0).T.tolist()
    more = _more_patients(mean[None], counts, patients)[0]
    low, high = np.quantile(_more_patients(drawn, counts, patients), _ENDS, method="inverted_cdf")
    gain = (mean[-1] - mean[1], *np.quantile(drawn[:, -1] - drawn[:, 1], _ENDS).tolist())
    rises = gain[1] > 0
    noun = first.parameters.generator.noun if first.parameters.generator else "extra"
    what = f"{noun} images at r = {first.parameters.synthetic_ratio:g} with {patients} patients"
    if rises:
        shown = [_text(one, counts[0] - patients, counts[-1] - patients) for one in (more, low, high)]
        shown[0] = shown[0].replace("+", "")
        sentence = f"{what} were worth {shown[0]} more real patients (95 % CI {shown[1]} to {shown[2]})."
    else:
        sentence = (
            f"Cannot estimate how many real patients {what} were worth: real images of {counts[-1]} instead of {counts[0]} "
            f"patients did not measurably raise {images.task.metric} "
            f"({gain[0]:+.4f}, 95 % CI {gain[1]:+.4f} to {gain[2]:+.4f})."
        )
    worth, low, high = (round(float(one)) if rises and np.isfinite(one) else None for one in (more, low, high))
    return Worth(
        arm=first.name,
        patients=patients,
        score=float(mean[0]),
        curve=tuple(
            CurvePoint(patients=count, score=float(score), low=low, high=high)
            for count, score, (low, high) in zip(counts, mean[1:], ends[1:], strict=True)
        ),
        rises=rises,
        worth=worth,
        low=low,
        high=high,
        sentence=f"{sentence[0].upper()}{sentence[1:]}",
    )


def _curve(plan: Plan, patients: int) -> dict[int, Arm]:
    """Return the arms of the curve by their number of patients, ascending; empty if the plan has none."""
    own = [arm for arm in plan.arms if arm.role == "worth"]
    if not own:
        return {}
    same = (arm for arm in plan.arms if arm.role in ("worth", "matched") and arm.trial == own[0].trial)
    start = next(arm for arm in same if arm.train_patients is None and arm.parameters == own[0].parameters)
    found = {patients: start} | {arm.train_patients: arm for arm in own if arm.train_patients is not None}
    return dict(sorted(found.items()))


def _resampled(images: EvaluationSet, scores: Floats, components: Floats) -> Floats:
    """Return the resampled scores of arms, [R, A], from those of each GAN seed, [A, G], and their components, [A, G, P]."""
    _, first_image = np.unique(np.asarray(images.patients), return_index=True)
    weights = patient_resamples(images.labels, images.patients, _REPLICATES, seed=0)
    by_seed = np.concatenate(
        [scores + (components @ (one[:, first_image].T - 1)).transpose(2, 0, 1) for one in weights]
    )
    seeds = scores.shape[1]
    drawn = numpy_generator(0, "seed-bootstrap").multinomial(seeds, np.full(seeds, 1 / seeds), size=_REPLICATES)
    wider = np.sqrt(seeds / (seeds - 1))  # as for patients: a resample of n varies by (n - 1) / n of the variance
    return np.asarray(by_seed.mean(axis=2) + wider * (by_seed * (drawn / seeds - 1 / seeds)[:, None]).sum(axis=2))


def _more_patients(scores: Floats, counts: Sequence[int], patients: int) -> Floats:
    """Return where a finalist, scores[:, 0], meets the curve, scores[:, 1:], minus its own patients; infinite beyond it."""
    logs, found = np.log(counts), []
    for score, *curve in scores:
        rising = isotonic_regression(curve).x
        found.append(np.interp(score, rising, logs, left=-np.inf, right=np.inf))
    return np.where(np.isneginf(found), -np.inf, np.exp(found) - patients)


def _text(more: float, least: int, most: int) -> str:
    beyond = "under " if more < least else "over " if more > most else ""
    patients = round(min(max(more, least), most))
    return f"{beyond}{patients:+}" if patients else f"{beyond}0"
