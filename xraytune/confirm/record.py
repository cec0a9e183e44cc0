"""The result of a confirmation, as `verdict.json` and as two paragraphs for a paper."""

from __future__ import annotations

from dataclasses import asdict, dataclass, fields
from pathlib import Path
from typing import TYPE_CHECKING, Any

from xraytune.base.files import markdown, write_json, write_text
from xraytune.base.records import to_json
from xraytune.confirm.analysis import RATIO_CAVEAT, ControlResult, FinalistResult
from xraytune.confirm.verdict_file import (
    VERDICT_FILE,
    ConfirmationFacts,
    ControlVerdict,
    FinalistVerdict,
    VerdictRecord,
)
from xraytune.stats.verdict import Overall, can_show_harm

if TYPE_CHECKING:
    import pandas as pd

METHODS_FILE = "methods.md"
_COVARIANCES = {"AUROC": "DeLong covariances", "Dice": "covariances of means over images,"}


@dataclass(frozen=True, slots=True, kw_only=True)
class Confirmation(ConfirmationFacts):
    """The result of a confirmation, with finalists in the order of val-B; `record` is what is stored of it."""

    study: Path
    finalists: tuple[FinalistResult, ...]

    @property
    def verdict(self) -> Overall:
        """The verdict: that of the first finalist."""
        first = self.finalists[0].verdict
        assert first is not None, "the first finalist is always tested"
        return first.word

    def to_dataframe(self) -> pd.DataFrame:
        """Return the differences in score as a table, a row for each finalist and control."""
        import pandas as pd  # takes most of a second

        rows = [
            {
                "finalist": finalist.arm.name,
                "control": one.control,
                **asdict(one.comparison.interval),
                "verdict": ", ".join(one.verdict.words),
            }
            for finalist in self.finalists
            for one in finalist.comparisons
        ]
        return pd.DataFrame(rows).set_index(["finalist", "control"])

    @property
    def record(self) -> VerdictRecord:
        """The content of `verdict.json`."""
        return VerdictRecord(
            **{field.name: getattr(self, field.name) for field in fields(ConfirmationFacts)},
            study=self.study.name,
            verdict=self.verdict,
            answer=answer_paragraph(self),
            methods=methods_paragraph(self),
            finalists=tuple(map(_finalist_verdict, self.finalists)),
            ratio_caveat=RATIO_CAVEAT if self.ratio_response else "",
        )

    def to_json(self) -> dict[str, Any]:
        """Return the content of `verdict.json` as plain JSON."""
        return to_json(self.record)


def _finalist_verdict(finalist: FinalistResult) -> FinalistVerdict:
    verdict = finalist.verdict
    return FinalistVerdict(
        arm=finalist.arm.name,
        trial=finalist.arm.trial,
        score=finalist.score,
        gan_scores=finalist.gan_scores,
        worst_gan_score=min(finalist.gan_scores),
        verdict=verdict.word if verdict else "not_tested",
        because_of=verdict.controls if verdict else (),
        comparisons=tuple(map(_control_verdict, finalist.comparisons)),
    )


def _control_verdict(result: ControlResult) -> ControlVerdict:
    return ControlVerdict(
        control=result.control,
        role=result.arm.role,
        control_score=result.comparison.scores[1],
        **asdict(result.comparison.interval),
        verdict=result.verdict.words,
        variance_components=result.comparison.components,
        p_better_by_rope=result.verdict.p_better_by_rope,
        smallest_detectable_difference=result.smallest_detectable_difference,
        chance_of_equivalent=result.chance_of_equivalent,
    )


def write_verdict(folder: Path, confirmation: Confirmation) -> None:
    """Write `verdict.json`, then `methods.md`: GAN seeds added after `verdict.json` exists make a verdict exploratory."""
    record = confirmation.record
    write_json(folder / VERDICT_FILE, to_json(record), is_recorded=True)
    write_text(folder / METHODS_FILE, f"{markdown(record.answer)}\n\n{markdown(record.methods)}\n")


def answer_paragraph(confirmation: Confirmation) -> str:
    """Return the results paragraph, with its limitations."""
    first, test, rope = confirmation.finalists[0], confirmation.test, confirmation.rope
    assert first.verdict is not None, "the first finalist is always tested"
    name, controls, metric = first.arm.name, "; ".join(first.verdict.controls), confirmation.metric
    verdict = {
        "helps": f"Synthetic images improved {metric}: {name} was better than every control ({controls}).",
        "hurts": f"Synthetic images reduced {metric}: {name} was worse than its matched controls ({controls}).",
        "no_better": f"Synthetic images did not improve {metric}: for {name}, an improvement of {rope:g} or more was "
        f"ruled out over {controls}.",
        "undecided": f"Inconclusive: with these seeds and test patients, {name} was not shown to be better than every "
        f"control, nor was an improvement of {rope:g} or more ruled out ({controls}).",
    }[first.verdict.word]
    prefix, why = "", ""
    if confirmation.exploratory:
        prefix = "Exploratory, not a confirmation: "
        why = f" It is exploratory because {' and '.join(confirmation.exploratory)}."
    comparisons = " ".join(_comparison_text(result, metric) for result in first.comparisons)
    quality = "".join(f" {one.sentence}" for one in confirmation.generators[:1])
    return (
        f"{prefix}{verdict} On {test.images} test images of {test.patients} patients, its mean {metric} over "
        f"{confirmation.gan_seeds} GAN seeds with {_network_seeds(confirmation)} each was "
        f"{first.score:.3f}{_gan_text(first)}. {comparisons}{_images_per_step_text(first, metric)}"
        f"{quality}{why} These results hold for "
        f"{confirmation.network}s trained on these {confirmation.train_images} images in this split, and for patients like "
        "those of the test folder."
    )


def _network_seeds(confirmation: Confirmation) -> str:
    count = confirmation.classifier_seeds
    return f"{count} {confirmation.network} seed{'s' * (count > 1)}"


def _comparison_text(result: ControlResult, metric: str) -> str:
    interval, words = result.comparison.interval, " and ".join(result.verdict.words)
    return (
        f"The difference from {result.control} ({metric} {result.comparison.scores[1]:.3f}) was "
        f"{interval.difference:+.4f} (95 % CI {interval.low:+.4f} to {interval.high:+.4f}): {words}."
    )


def _gan_text(finalist: FinalistResult) -> str:
    """Return each GAN seed's score as text, with a warning if they are clearly not normal."""
    generator = finalist.arm.parameters.generator
    if generator is None:
        return ""
    scores = ", ".join(f"{score:.3f}" for score in finalist.gan_scores)
    found = f"by generator seed: {scores}; worst {min(finalist.gan_scores):.3f}"
    if finalist.has_outlying_gan:
        found += "; clearly not normally distributed, so the intervals may be too narrow and an occasional collapse "
        found += "may be missed"
    return f", an estimate for {generator.noun}s trained this way ({found})"


def _images_per_step_text(finalist: FinalistResult, metric: str) -> str:
    """Report whether a deficit against the control without extra images may come from how the extra images are mixed in."""
    matched = [result for result in finalist.comparisons if result.kind != "tuned"]
    worse = [one.control for one in matched if one.kind != "duplicate" and one.verdict.is_worse]
    others = [one.control for one in matched if not one.verdict.is_worse]
    if not worse or (can_show_harm([one.kind for one in matched]) and not others):
        return ""
    pretrains = finalist.arm.parameters.mixing == "pretrain"
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
    replicates = confirmation.gan_seeds * confirmation.classifier_seeds
    metric, objective = confirmation.metric, confirmation.objective
    access = "The test images were scored once, after all training."
    if confirmation.exploratory:
        access = f"The analysis is exploratory: {' and '.join(confirmation.exploratory)}."
    notes = f" Notes: {'; '.join(confirmation.notes)}." if confirmation.notes else ""
    return (
        "Methods. Configurations were searched on one validation set (val-A) and finalists selected on another (val-B)"
        f"{f' by {objective}' * (objective != metric)}, "
        "both split from the training images by patient. Each finalist was compared with "
        f"{_controls_text(confirmation)}. Every arm was trained {replicates} times ({confirmation.gan_seeds} GAN seeds with "
        f"{_network_seeds(confirmation)} each, none of them used in the search) for the same "
        "number of optimiser steps, on the same sequence of real images in each replicate; the epoch with the best "
        f"val-A {objective} was kept.{_pretraining_text(confirmation)} {access} Differences in {metric} are "
        "reported with 95 % confidence intervals over patients and seeds (Obuchowski-Rockette model with GAN seeds as "
        f"readers; {_COVARIANCES[metric]} clustered by patient; score intervals with the patient variance at the tested "
        "difference and Satterthwaite's degrees of freedom). A finalist helps if it is better than every control, and hurts "
        "if it is worse than its matched controls (intersection-union tests); it is no better if a one-sided test rules out "
        f"an improvement of {confirmation.rope:g} {metric} over a control (5 % overall, Holm's correction). Finalists were "
        f"tested in the order of val-B until the first that did not help.{_secondary_text(confirmation)}{notes}"
    )


def _pretraining_text(confirmation: Confirmation) -> str:
    if all(finalist.arm.parameters.mixing != "pretrain" for finalist in confirmation.finalists):
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
    found = {one.outcome for one in confirmation.secondary}
    outcomes = ", ".join(text for name, text in names.items() if name in found)
    return (
        f" Secondary outcomes, not part of the verdict, were differences in {outcomes}, with 95 % confidence intervals from "
        "the same model, with covariances over patients estimated by a bootstrap."
    )


def _controls_text(confirmation: Confirmation) -> str:
    controls = [result.arm for finalist in confirmation.finalists for result in finalist.comparisons]
    matched = {arm.parameters.source for arm in controls if arm.role == "matched"}
    tuned = sorted({arm.parameters.arm for arm in controls if arm.role == "tuned"})
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
