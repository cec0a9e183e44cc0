"""The records in `verdict.json`: what `confirm` writes and `report` and `export` read. docs/confirm.md lists the keys.

They load neither torch nor Ray.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Literal, TypeAlias

from pydantic import TypeAdapter

from xraytune.base.files import read_json, require_recorded
from xraytune.confirm.arms import Role
from xraytune.confirm.forecast import Forecast
from xraytune.stats.verdict import Interval, Overall, PairWord, VarianceComponents
from xraytune.study.folder import damage_explained

VERDICT_FILE = "verdict.json"
VERDICT_FIX = "run the same `xraytune confirm` again: it rewrites the file without training"

Outcome: TypeAlias = Literal["accuracy", "sensitivity", "brier"]


@dataclass(frozen=True, slots=True, kw_only=True)
class Gain:
    """The gain in score of one arm over another on val-B, with a 95 % interval."""

    gain: float
    low: float
    high: float


@dataclass(frozen=True, slots=True, kw_only=True)
class DuplicatePoint(Gain):
    """The first finalist with `source: duplicate` at one ratio; the gain is over ratio 0."""

    score: float


@dataclass(frozen=True, slots=True, kw_only=True)
class RatioPoint(Gain):
    """The first finalist at one ratio on val-B; the gain is over ratio 0.

    `over_duplicate` is the gain over as many repeated real images; there are none at 0 and with `mixing: replace`.
    """

    ratio: float
    score: float
    duplicate: DuplicatePoint | None = None
    over_duplicate: Gain | None = None


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

    `accuracy`: share of images whose most probable class is the right one. `sensitivity`: read from both arms' ROC curves at
    the specificity that the control has at its threshold. `brier`: lower is better.
    """

    outcome: Outcome


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


@dataclass(frozen=True, slots=True, kw_only=True)
class FigureSpread:
    """Median and range of a figure over generators."""

    median: float
    low: float
    high: float


@dataclass(frozen=True, slots=True, kw_only=True)
class GeneratorQuality:
    """The quality of a finalist's synthetic images: one pool per GAN seed, of which `measured` have figures.

    The figures are `Quality.columns`. Pools that copy training images are not excluded.
    """

    arm: str
    generators: int
    measured: int
    figures: Mapping[str, FigureSpread]
    sentence: str


@dataclass(frozen=True, slots=True, kw_only=True)
class HeldOutSet:
    """The number of images and patients of the test folder, and the fingerprint of its content.

    `positive` is the class that sensitivity refers to; empty with more than two classes.
    """

    images: int
    patients: int
    fingerprint: str
    positive: str = ""


@dataclass(frozen=True, slots=True, kw_only=True)
class ControlVerdict(Interval):
    """A finalist minus one control on the test images, with all words that hold; see `analysis.ControlResult`."""

    control: str
    role: Role
    control_score: float
    verdict: tuple[PairWord, ...]
    variance_components: VarianceComponents
    p_better_by_rope: float
    smallest_detectable_difference: float | None
    chance_of_equivalent: float


@dataclass(frozen=True, slots=True, kw_only=True)
class FinalistVerdict:
    """A finalist on the test images; `because_of` names the controls that its verdict rests on."""

    arm: str
    trial: str
    score: float
    gan_scores: tuple[float, ...]
    worst_gan_score: float
    verdict: Overall | Literal["not_tested"]
    because_of: tuple[str, ...]
    comparisons: tuple[ControlVerdict, ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class ConfirmationFacts:
    """What a `Confirmation` and its record share.

    `metric` is the name of the score that arms are compared by, `objective` of the one that chose finalists and epochs;
    `network` is the kind of network: classifier or segmenter.
    """

    metric: str
    objective: str
    network: str
    exploratory: tuple[str, ...]
    rope: float
    gan_seeds: int
    classifier_seeds: int
    train_images: int
    test: HeldOutSet
    forecast: Forecast
    ratio_response: tuple[RatioPoint, ...]
    secondary: tuple[OutcomeDifference, ...] = ()
    external: tuple[ExternalResult, ...] = ()
    generators: tuple[GeneratorQuality, ...] = ()
    notes: tuple[str, ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class VerdictRecord(ConfirmationFacts):
    """The content of `verdict.json`; `verdict` is that of the first finalist, which is always tested."""

    version: int = 3
    study: str
    verdict: Overall
    answer: str
    methods: str
    finalists: tuple[FinalistVerdict, ...]
    ratio_caveat: str


def read_verdict(folder: Path) -> VerdictRecord | None:
    """Return the content of `verdict.json`; None if there is none, StudyError if it is not what `confirm` wrote."""
    with damage_explained(folder / VERDICT_FILE, VERDICT_FIX) as file:
        if not file.exists():
            return None
        require_recorded(file, "JSON file")
        return TypeAdapter(VerdictRecord).validate_python(read_json(file))
