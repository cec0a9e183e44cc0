"""Origin probe of a confirmation: did a finalist's networks learn to infer an image's class from whether it is synthetic?

Two figures, neither of which affects the verdict. The gap: recognisably synthetic images were more frequent in one class of
the training images (`metrics.origin`). The shift: compared with the matched control without extra images, the finalist's
networks move synthetic images of a class further towards the other classes than real ones. Synthetic images of classes that
the mix does not use are scored, too: "synthetic means pneumonia" moves exactly those.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
from scipy.special import stdtrit  # type: ignore[import-untyped]

from xraytune.confirm.analysis import ArmResults
from xraytune.confirm.plan import Arm, Plan
from xraytune.confirm.scoring import VAL_B, arm_results, is_scored, score
from xraytune.confirm.secondary import pool_reports
from xraytune.confirm.training import Training
from xraytune.metrics.classification import Floats
from xraytune.metrics.origin import OriginGap, origin_gap
from xraytune.mix.plan import extra_shares
from xraytune.pipeline.pools import first_images, pool_reader
from xraytune.pipeline.prepare import ImageSource, Prepared, RunContext
from xraytune.records import Compute
from xraytune.search.study import StudyFolder

MOST_SHIFT = 0.1
"""A larger shift is flagged if its interval excludes 0 (docs/decisions/0036-origin-probe.md)."""
_IMAGES = 64
"""The maximum number of synthetic images of a class to score."""


@dataclass(frozen=True, slots=True, kw_only=True)
class OriginShift:
    """How far synthetic images of one class move towards the other classes, with a 95 % interval over GAN seeds.

    `shift` is the mean change in the probability of the other classes from the matched control `none` to the finalist, on
    synthetic images of the class `name` minus on the real ones in val-B.
    """

    name: str
    shift: float
    low: float
    high: float

    @property
    def is_large(self) -> bool:
        """Whether it is flagged."""
        return self.low > 0 and self.shift > MOST_SHIFT


@dataclass(frozen=True, slots=True, kw_only=True)
class OriginProbe:
    """The origin probe of a finalist.

    Attributes:
        gap: From the median AUROCs over its generators; None if their quality was not measured.
        shifts: For each class with synthetic images; empty without a matched control `none`.
        is_flagged: Whether the gap or a shift is large.
    """

    arm: str
    gap: OriginGap | None
    shifts: tuple[OriginShift, ...]
    is_flagged: bool
    sentence: str


def synthetic_side(label: int) -> str:
    """Return the name of the scores on the synthetic images of a class."""
    return f"synthetic_{label}"


def probed_runs(plan: Plan) -> list[int]:
    """Return the numbers of the runs that score synthetic images: finalists, and their matched controls `none`."""
    return [
        number for arm, control in _pairs(plan) for one in (arm, control) for number in plan.numbers(one.name).values()
    ]


def _pairs(plan: Plan) -> Iterator[tuple[Arm, Arm]]:
    return ((arm, one) for arm, one in plan.pairs() if one.role == "matched" and one.parameters.source == "none")


def score_synthetic(training: Training, plan: Plan, compute: Compute) -> None:
    """Score the finalists' synthetic images, of all classes, with their runs and those of their matched controls `none`.

    Does nothing if the replicates were trained on another kind of device: other images would be drawn here.
    """
    folder, prepared = training.runs_folder, training.prepared
    if folder.compute().device != compute.device:
        return
    context = RunContext(prepared=prepared, cache=training.cache, compute=folder.compute())
    for arm, control in _pairs(plan):
        own, others = plan.numbers(arm.name), plan.numbers(control.name)
        for label in range(len(prepared.class_names)):
            side = synthetic_side(label)
            for gan_seed in range(plan.gan_seeds):
                pairs = [each[gan_seed, seed] for each in (own, others) for seed in range(plan.classifier_seeds)]
                missing = [number for number in pairs if not is_scored(folder, [number], side)]
                if not missing:
                    continue
                read = pool_reader(folder.experiment(own[gan_seed, 0]), context)
                pixels, inputs = first_images(read, label, _IMAGES)
                group = ImageSource(
                    name="synthetic",
                    pixels=pixels,
                    rows=np.arange(len(pixels)),
                    labels=np.full(len(pixels), label),
                    inputs={"blocks": inputs, "images": len(pixels)},
                    title="synthetic images",
                )
                for number in missing if len(pixels) else ():
                    score(folder, number, side, group, compute=compute, cache=training.cache)


def origin_probes(folder: StudyFolder, plan: Plan, prepared: Prepared) -> tuple[OriginProbe, ...]:
    """Return the origin probe of each finalist, in the order of the finalists; segmentation has none."""
    if prepared.has_masks:
        return ()
    controls = {arm.name: control for arm, control in _pairs(plan)}
    return tuple(_probe(folder, plan, prepared, arm, controls.get(arm.name)) for arm in plan.finalists)


def _probe(folder: StudyFolder, plan: Plan, prepared: Prepared, arm: Arm, control: Arm | None) -> OriginProbe:
    gap = _gap(folder, plan, prepared, arm)
    shifts = []
    for label, name in enumerate(prepared.class_names):
        side = synthetic_side(label)
        runs = [number for one in (arm, control) if one for number in plan.numbers(one.name).values()]
        if control and is_scored(folder, runs, side):
            of_class = prepared.side(VAL_B).labels == label
            real, synthetic = (arm_results(folder, plan, which) for which in (VAL_B, side))
            moved = _gain(synthetic, arm, control, label).mean(axis=-1)
            moved -= _gain(real, arm, control, label)[..., of_class].mean(axis=-1)
            shifts.append(_shift(name, -moved.mean(axis=1)))
    large = [one for one in shifts if one.is_large]
    text = gap.sentence if gap else "Origin probe: the quality of the images was not measured."
    if large:
        moves = ", ".join(f"{one.name} by {one.shift:.2f} ({one.low:.2f} to {one.high:.2f})" for one in large)
        text += (
            " Relative to real images, training shifted the scores of synthetic images towards the other classes: "
            f"{moves}. The networks learnt to infer the class from whether an image is synthetic: "
            "use balance: natural or a better generator."
        )
    elif shifts:
        most = max(shifts, key=lambda one: one.shift)
        text += (
            f" Scores of synthetic images did not clearly shift towards another class (largest shift {most.shift:+.2f}, "
            f"95 % CI {most.low:+.2f} to {most.high:+.2f}, {most.name}; flagged above {MOST_SHIFT:g} if the CI excludes 0)."
        )
    is_flagged = bool(large) or (gap is not None and gap.is_large)
    return OriginProbe(arm=arm.name, gap=gap, shifts=tuple(shifts), is_flagged=is_flagged, sentence=text)


def _gap(folder: StudyFolder, plan: Plan, prepared: Prepared, arm: Arm) -> OriginGap | None:
    names = prepared.class_names
    found = [one.quality.origin for one in pool_reports(folder, plan, arm) if one.quality]
    if not found:
        return None
    aurocs = {a: {b: float(np.median([one[a][b] for one in found])) for b in names} for a in names}
    return origin_gap(aurocs, dict(zip(names, extra_shares(prepared.train_counts, arm.parameters), strict=True)))


def _gain(results: ArmResults, arm: Arm, control: Arm, label: int) -> Floats:
    """Return how much the finalist raises the probability of a class, [G, K, N]."""
    return np.asarray((results(arm.name) - results(control.name))[..., label])


def _shift(name: str, by_seed: Floats) -> OriginShift:
    """Return the mean of the shifts by GAN seed, [G], with its t-interval."""
    mean, count = float(by_seed.mean()), len(by_seed)
    half = float(stdtrit(count - 1, 0.975) * by_seed.std(ddof=1) / np.sqrt(count))
    return OriginShift(name=name, shift=mean, low=mean - half, high=mean + half)
