"""Quality of a finalist's generators over the seeds of its replicates: whether `no_better` carries over to others."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from statistics import median

from xraytune.confirm.plan import Arm, Plan
from xraytune.metrics.generator_quality import quality_text, shortcomings
from xraytune.search.messages import read_pool_report
from xraytune.search.study import StudyFolder


@dataclass(frozen=True, slots=True, kw_only=True)
class Spread:
    """Median and range of a figure over generators."""

    median: float
    low: float
    high: float


@dataclass(frozen=True, slots=True, kw_only=True)
class GeneratorQuality:
    """The quality of a finalist's synthetic images: one pool per GAN seed.

    Attributes:
        arm: The finalist.
        generators: Number of pools.
        measured: Number of pools with figures.
        features: The backbone of the figures; "" without figures.
        figures: See `Quality.columns`.
        shortcomings: Figures whose median is below the threshold of a good generator.
        copying: Number of pools that copy training images; they are not excluded.
        sentence: The summary.
    """

    arm: str
    generators: int
    measured: int
    features: str
    figures: Mapping[str, Spread]
    shortcomings: tuple[str, ...]
    copying: int
    sentence: str


def generator_qualities(folder: StudyFolder, plan: Plan) -> tuple[GeneratorQuality, ...]:
    """Return the quality of each finalist's generators, in the order of the finalists."""
    return tuple(_of_arm(folder, plan, arm) for arm in plan.finalists)


def _of_arm(folder: StudyFolder, plan: Plan, arm: Arm) -> GeneratorQuality:
    numbers = plan.numbers(arm.name)
    found = [read_pool_report(folder.trial_path(numbers[seed, 0])) for seed in range(plan.gan_seeds)]
    reports = [report for report in found if report is not None]
    measured = [report.quality for report in reports if report.quality is not None]
    columns = [quality.columns() for quality in measured]
    known: dict[str, list[float]] = {}
    for name, value in (item for one in columns for item in one.items()):
        if value is not None:
            known.setdefault(name, []).append(value)
    figures = {name: Spread(median=median(own), low=min(own), high=max(own)) for name, own in known.items()}
    medians = {name: figures[name].median if name in figures else None for name in columns[0]} if columns else {}
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
