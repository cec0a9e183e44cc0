"""The result of a confirmation, as `verdict.json` and as two paragraphs for a paper; docs/confirm.md lists the keys.

The records load neither torch nor Ray, so that `report` and `export` can read them.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, TypeAlias

from pydantic import TypeAdapter

from xraytune.base.files import markdown, read_json, require_recorded, write_json, write_text
from xraytune.base.records import to_json
from xraytune.confirm.arms import TestKind
from xraytune.stats.verdict import ControlKind, Interval, Overall, PairWord, VarianceComponents, can_show_harm
from xraytune.study.folder import damage_explained

if TYPE_CHECKING:
    import pandas as pd

VERDICT_FILE = "verdict.json"
VERDICT_FIX = "run the same `xraytune confirm` again: it rewrites the file without training"
RATIO_CAVEAT = (
    "val-B selected this finalist, so its score there is optimistic; "
    "read the ratio response as a description, not a test"
)
_TESTED: dict[TestKind, str] = {
    "unused": "patients that the search had not used",
    "folder": "patients of the test folder",
}
_COVARIANCES = {"AUROC": "DeLong covariances", "Dice": "covariances of means over images,"}

Outcome: TypeAlias = Literal["accuracy", "sensitivity", "brier"]


@dataclass(frozen=True, slots=True, kw_only=True)
class RatioGain:
    """The score of an arm on val-B and its gain over another arm, with a 95 % interval."""

    score: float
    gain: float
    low: float
    high: float


@dataclass(frozen=True, slots=True, kw_only=True)
class RatioPoint(RatioGain):
    """The first finalist at one ratio; the gain is over ratio 0, as is that of `duplicate`, as many repeated real images.

    `over_duplicate` is the finalist's gain over them. There are none at 0 and with `mixing: replace`.
    """

    ratio: float
    duplicate: RatioGain | None = None
    over_duplicate: RatioGain | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Difference:
    """A finalist minus a control, with a 95 % interval over patients and replicates."""

    value: float
    control_value: float
    difference: float
    low: float
    high: float


@dataclass(frozen=True, slots=True, kw_only=True)
class ArmDifference(Difference):
    """A difference in the score of the verdict or in another outcome, with the names of the arms.

    `accuracy`: share of images whose most probable class is the right one. `sensitivity`: read from both arms' ROC curves at
    the specificity that the control has at its threshold. `brier`: lower is better.
    """

    finalist: str
    control: str
    outcome: Outcome | Literal["score"] = "score"


@dataclass(frozen=True, slots=True, kw_only=True)
class ExternalResult:
    """The comparisons on a folder beside the verdict, named and identified by the fingerprint of its content.

    `earlier_accesses` is how often it was scored before this confirmation scored it.
    """

    folder: str
    fingerprint: str
    images: int
    patients: int
    earlier_accesses: int
    differences: tuple[ArmDifference, ...]
    secondary: tuple[ArmDifference, ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class FigureSpread:
    """Median and range of a figure over generators."""

    median: float
    low: float
    high: float


@dataclass(frozen=True, slots=True, kw_only=True)
class GeneratorQuality:
    """The quality of a finalist's synthetic images: one pool per replicate, of which `measured` have figures.

    The figures are `Quality.columns`. Pools that copy training images are not excluded.
    """

    arm: str
    generators: int
    measured: int
    figures: Mapping[str, FigureSpread]
    sentence: str


@dataclass(frozen=True, slots=True, kw_only=True)
class HeldOutSet:
    """The number of images and patients that are scored, and the fingerprint of their content.

    `kind` tells whether they are unused patients of the training folder, or a test folder. `positive` is the class that
    sensitivity refers to; empty with more than two classes.
    """

    kind: TestKind
    images: int
    patients: int
    fingerprint: str
    positive: str = ""


@dataclass(frozen=True, slots=True, kw_only=True)
class HeadroomReached:
    """The gain from real images of other patients in the place of a finalist's synthetic images, with a 95 % interval.

    `share` is the share of it that the synthetic images gained; None unless the interval lies above 0.
    """

    gain: float
    low: float
    high: float
    share: float | None


@dataclass(frozen=True, slots=True, kw_only=True)
class ControlVerdict(Interval):
    """A finalist minus one control on the test images.

    Attributes:
        arm: The kind of the control's arm, such as `real_only`.
        kind: How the control differs from the finalist.
        verdict: All words that hold.
    """

    control: str
    arm: str
    kind: ControlKind
    control_score: float
    verdict: tuple[PairWord, ...]
    variance_components: VarianceComponents
    p_better_by_rope: float


@dataclass(frozen=True, slots=True, kw_only=True)
class FinalistVerdict:
    """A finalist and all of its comparisons, on the test images.

    Attributes:
        generator: What its synthetic images come from, such as `GAN`; empty if from no generator.
        score: Mean over its replicates.
        replicate_scores: By replicate, [K].
        headroom: What perfect images would gain; None without draws of unused patients.
        because_of: The controls that its verdict rests on.
    """

    arm: str
    trial: str
    generator: str
    mixing: str
    score: float
    replicate_scores: tuple[float, ...]
    headroom: HeadroomReached | None
    verdict: Overall | Literal["not_tested"]
    because_of: tuple[str, ...]
    comparisons: tuple[ControlVerdict, ...]

    def words(self, comparison: ControlVerdict) -> tuple[str, ...]:
        """Return what to show: all words that hold, or `no better` if at least an improvement is ruled out."""
        is_ruled_out = self.verdict == "no_better" and comparison.control in self.because_of
        return ("no better",) if is_ruled_out and comparison.verdict == ("undecided",) else comparison.verdict


@dataclass(frozen=True, slots=True, kw_only=True)
class Confirmation:
    """The result of a confirmation; the fields are keys of `verdict.json`, with finalists in the order of val-B.

    `metric` is the name of the score that arms are compared by, `objective` of the one that chose finalists and epochs;
    `network` is the kind of network: classifier or segmenter.
    """

    study: Path
    metric: str
    objective: str
    network: str
    exploratory: tuple[str, ...]
    rope: float
    replicates: int
    train_images: int
    train_patients: int
    test: HeldOutSet
    finalists: tuple[FinalistVerdict, ...]
    ratio_response: tuple[RatioPoint, ...]
    secondary: tuple[ArmDifference, ...] = ()
    external: tuple[ExternalResult, ...] = ()
    generators: tuple[GeneratorQuality, ...] = ()
    notes: tuple[str, ...]

    @property
    def verdict(self) -> Overall:
        """The verdict: that of the first finalist."""
        word = self.finalists[0].verdict
        assert word != "not_tested", "the first finalist is always tested"
        return word

    def to_dataframe(self) -> pd.DataFrame:
        """Return the differences in score as a table, a row for each finalist and control."""
        import pandas as pd  # takes most of a second

        rows = [
            {
                "finalist": finalist.arm,
                "control": result.control,
                **{name: getattr(result, name) for name in Interval.__dataclass_fields__},
                "verdict": ", ".join(result.verdict),
            }
            for finalist in self.finalists
            for result in finalist.comparisons
        ]
        return pd.DataFrame(rows).set_index(["finalist", "control"])

    def to_json(self) -> dict[str, Any]:
        """Return the content of `verdict.json`."""
        return to_json(self) | {
            "version": 5,
            "study": self.study.name,
            "verdict": self.verdict,
            "answer": answer_paragraph(self),
            "methods": methods_paragraph(self),
            "ratio_caveat": RATIO_CAVEAT if self.ratio_response else "",
        }


def write_verdict(folder: Path, confirmation: Confirmation) -> None:
    """Write `verdict.json` and `methods.md`."""
    content = confirmation.to_json()
    write_json(folder / VERDICT_FILE, content, is_recorded=True)
    write_text(folder / "methods.md", f"{markdown(content['answer'])}\n\n{markdown(content['methods'])}\n")


def read_verdict(folder: Path) -> Confirmation | None:
    """Return the record in `verdict.json`; None if there is none, StudyError if it is not what `confirm` wrote."""
    with damage_explained(folder / VERDICT_FILE, VERDICT_FIX) as file:
        if not file.exists():
            return None
        require_recorded(file, "JSON file")
        return TypeAdapter(Confirmation).validate_python(read_json(file))


def answer_paragraph(confirmation: Confirmation) -> str:
    """Return the results paragraph, with its limitations."""
    first, test, rope = confirmation.finalists[0], confirmation.test, confirmation.rope
    name, controls, metric = first.arm, "; ".join(first.because_of), confirmation.metric
    verdict = {
        "helps": f"Synthetic images improved {metric}: {name} was better than every control ({controls}).",
        "hurts": f"Synthetic images reduced {metric}: {name} was worse than its matched controls ({controls}).",
        "no_better": f"Synthetic images did not improve {metric}: for {name}, an improvement of {rope:g} or more was "
        f"ruled out over {controls}.",
        "undecided": f"Inconclusive: with these replicates and test patients, {name} was not shown to be better than every "
        f"control, nor was an improvement of {rope:g} or more ruled out ({controls}).",
    }[confirmation.verdict]
    prefix, why = "", ""
    if confirmation.exploratory:
        prefix = "Exploratory, not a confirmation: "
        why = f" It is exploratory because {' and '.join(confirmation.exploratory)}."
    comparisons = " ".join(_comparison_text(result, metric, first.words(result)) for result in first.comparisons)
    quality = "".join(f" {quality.sentence}" for quality in confirmation.generators[:1])
    return (
        f"{prefix}{verdict} On {test.images} images of {test.patients} {_TESTED[test.kind]}, its mean {metric} over "
        f"{confirmation.replicates} replicates was {first.score:.3f}{_replicates_text(first)}. "
        f"{comparisons}{_images_per_step_text(first, metric)}{_headroom_text(first, metric)}{quality}{why} "
        f"{_claim_text(confirmation)}"
    )


def _claim_text(confirmation: Confirmation) -> str:
    if confirmation.test.kind == "unused":
        return (
            f"These results hold for {confirmation.network}s trained on {confirmation.train_patients} patients of this "
            "data set, and for other patients of it."
        )
    return (
        f"These results hold for {confirmation.network}s trained on these {confirmation.train_images} images in this split, "
        "and for patients like those of the test folder."
    )


def _headroom_text(finalist: FinalistVerdict, metric: str) -> str:
    reached = finalist.headroom
    if reached is None:
        return ""
    gain = (
        f" Real images of other patients in their place gained {reached.gain:+.4f} {metric} "
        f"({reached.low:+.4f} to {reached.high:+.4f})"
    )
    return f"{gain}." if reached.share is None else f"{gain}; the synthetic images reached {reached.share:.0%} of that."


def _comparison_text(result: ControlVerdict, metric: str, words: Sequence[str]) -> str:
    return (
        f"The difference from {result.control} ({metric} {result.control_score:.3f}) was "
        f"{result.difference:+.4f} (95 % CI {result.low:+.4f} to {result.high:+.4f}): {' and '.join(words)}."
    )


def _replicates_text(finalist: FinalistVerdict) -> str:
    if not finalist.generator:
        return ""
    scores = ", ".join(f"{score:.3f}" for score in finalist.replicate_scores)
    return f", an estimate for {finalist.generator}s trained this way ({scores})"


def _images_per_step_text(finalist: FinalistVerdict, metric: str) -> str:
    """Report whether a deficit against the control without extra images may come from how the extra images are mixed in."""
    matched = [result for result in finalist.comparisons if result.kind != "tuned"]
    worse = [result.control for result in matched if result.kind != "duplicate" and "worse" in result.verdict]
    others = [result.control for result in matched if "worse" not in result.verdict]
    if not worse or (can_show_harm([result.kind for result in matched]) and not others):
        return ""
    pretrains = finalist.mixing == "pretrain"
    if others:
        cause = "pretraining on extra images" if pretrains else "drawing more images per step"
        return (
            f" It was worse than {worse[0]} but not worse than {others[0]}: {cause} reduced {metric}; an "
            "effect of the synthetic images themselves was not shown."
        )
    cause = "the smaller number of steps with real images" if pretrains else "the larger number of images per step"
    return (
        f" It was worse than {worse[0]}; without a matched duplicate control, the cause may be the synthetic images or "
        f"{cause}."
    )


def methods_paragraph(confirmation: Confirmation) -> str:
    """Return the methods paragraph."""
    metric, objective, count = confirmation.metric, confirmation.objective, confirmation.replicates
    by = f" by {objective}" if objective != metric else ""
    access = "The test images were scored once, after all training."
    if confirmation.exploratory:
        access = f"The analysis is exploratory: {' and '.join(confirmation.exploratory)}."
    notes = f" Notes: {'; '.join(confirmation.notes)}." if confirmation.notes else ""
    sampled, seeds = "", "with seeds that the search had not used"
    if confirmation.test.kind == "unused":
        sampled = (
            f"Patients that the search had not used were divided into {count} disjoint training sets of "
            f"{confirmation.train_patients} patients and a test set of the rest. "
        )
        seeds = "each on its own training set and with its own seeds"
    return (
        "Methods. Configurations were searched on one validation set (val-A) and finalists selected on another (val-B)"
        f"{by}, "
        f"both split from the training images by patient. {sampled}Each finalist was compared with "
        f"{_controls_text(confirmation)}. Every arm was trained {count} times, {seeds}, for the same "
        "number of optimiser steps, on the same sequence of real images in each replicate; the epoch with the best "
        f"val-A {objective} was kept.{_pretraining_text(confirmation)} {access} Differences in {metric} are "
        "reported with 95 % confidence intervals over patients and replicates (Obuchowski-Rockette model with replicates as "
        f"readers; {_COVARIANCES[metric]} clustered by patient; score intervals with the patient variance at the tested "
        "difference and Satterthwaite's degrees of freedom). A finalist helps if it is better than every control, and hurts "
        "if it is worse than its matched controls (intersection-union tests); it is no better if a one-sided test rules out "
        f"an improvement of {confirmation.rope:g} {metric} over a control (2.5 % overall, Holm's correction). Finalists "
        f"were tested in the order of val-B until the first that did not help.{_secondary_text(confirmation)}{notes}"
    )


def _pretraining_text(confirmation: Confirmation) -> str:
    if all(finalist.mixing != "pretrain" for finalist in confirmation.finalists):
        return ""
    return (
        " In arms that pretrain with r extra images per real one, the first r/(1+r) of the steps drew only extra images, "
        "and the remaining steps only real images."
    )


def _secondary_text(confirmation: Confirmation) -> str:
    if not confirmation.secondary:
        return ""
    names = {
        "accuracy": "accuracy",
        "sensitivity": f"sensitivity for {confirmation.test.positive} (at the specificity that the control had at its "
        "threshold from validation)",
        "brier": "Brier score",
    }
    measured = {difference.outcome for difference in confirmation.secondary}
    outcomes = ", ".join(text for name, text in names.items() if name in measured)
    return (
        f" Secondary outcomes, not part of the verdict, were differences in {outcomes}, with 95 % confidence intervals from "
        "the same model, with covariances over patients estimated by a bootstrap."
    )


def _controls_text(confirmation: Confirmation) -> str:
    controls = [result for finalist in confirmation.finalists for result in finalist.comparisons]
    matched = {result.kind.removesuffix("_same_count") for result in controls if result.kind != "tuned"}
    tuned = sorted({result.arm for result in controls if result.kind == "tuned"})
    extra = {"none": "no extra images", "duplicate": "repeated real images in place of the synthetic ones"}
    parts = []
    if matched:
        images = " or ".join(text for source, text in extra.items() if source in matched)
        parts.append(f"matched controls, which had all of its settings but {images}")
    if tuned:
        parts.append(
            f"tuned controls, the best configurations without synthetic images ({', '.join(tuned)}), whose arms had as many "
            "sampled trials as a finalist's source (as far as the search space allowed), pruned by the same ASHA if the "
            "search used it"
        )
    return " and with ".join(parts)
