"""The record of a confirm: `verdict.json`, and the words to paste into a paper. docs/confirm.md is its schema."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from xraytune.confirm.answer import (
    RATIO_CAVEAT,
    ControlResult,
    FinalistResult,
    RatioPoint,
    as_verdicts,
    finalist_json,
)
from xraytune.confirm.forecast import Forecast, VerdictChances
from xraytune.confirm.plan import EARLIER_TOP_UP, VERDICT_FILE
from xraytune.confirm.verdict import shows_harm
from xraytune.files import write_json, write_text

METHODS_FILE = "methods.md"
_DECIDES = 0.8


@dataclass(frozen=True, slots=True, kw_only=True)
class Confirmation:
    """What a confirm ended with.

    Attributes:
        study: The study's folder.
        finalists: In the order of val-B, each with its comparisons and its verdict.
        ratios: The first finalist at every ratio, on val-B.
        forecast: The forecast from before the test folder was opened.
        exploratory: Why the verdict confirms nothing; empty where it does.
        notes: What a person should know.
        gan_seeds: GAN seeds of each arm.
        classifier_seeds: Classifier seeds of each GAN seed.
        test_images: Images of the test folder.
        test_patients: Patients on them.
        test_fingerprint: Of its content.
        train_images: Real images that every arm trained on.
        rope: Differences up to this count as none.
    """

    study: Path
    finalists: tuple[FinalistResult, ...]
    ratios: tuple[RatioPoint, ...]
    forecast: Forecast
    exploratory: tuple[str, ...]
    notes: tuple[str, ...]
    gan_seeds: int
    classifier_seeds: int
    test_images: int
    test_patients: int
    test_fingerprint: str
    train_images: int
    rope: float

    @property
    def word(self) -> str:
        """The verdict: that of the first finalist."""
        first = self.finalists[0].verdict
        assert first is not None, "the first finalist is always tested"
        return first.word

    def to_json(self) -> dict[str, Any]:
        """As `verdict.json` has it."""
        return {
            "version": 2,
            "study": self.study.name,
            "verdict": self.word,
            "exploratory": list(self.exploratory),
            "answer": answer_paragraph(self),
            "methods": methods_paragraph(self),
            "rope": self.rope,
            "gan_seeds": self.gan_seeds,
            "classifier_seeds": self.classifier_seeds,
            "train_images": self.train_images,
            "test": {
                "images": self.test_images,
                "patients": self.test_patients,
                "fingerprint": self.test_fingerprint,
            },
            "finalists": [finalist_json(finalist) for finalist in self.finalists],
            "forecast": self.forecast.to_json(),
            "ratio_response": [asdict(point) for point in self.ratios],
            "ratio_caveat": RATIO_CAVEAT if self.ratios else "",
            "notes": list(self.notes),
        }


def write_verdict(folder: Path, confirmation: Confirmation) -> None:
    """Write `verdict.json` and `methods.md` into the confirm's folder; who reads an answer there has a verdict, too.

    Raises:
        MachineError: The disk is full.
    """
    paragraphs = [answer_paragraph(confirmation), methods_paragraph(confirmation)]
    write_json(folder / VERDICT_FILE, confirmation.to_json())
    write_text(folder / METHODS_FILE, "\n\n".join(paragraphs) + "\n")


def answer_paragraph(confirmation: Confirmation) -> str:
    """The answer in plain words, with its limits."""
    first = confirmation.finalists[0]
    assert first.verdict is not None, "the first finalist is always tested"
    name, controls, rope = first.arm.name, "; ".join(first.verdict.controls), confirmation.rope
    said = {
        "helps": f"Synthetic images helped: {name} is better than every control ({controls}).",
        "hurts": f"Synthetic images hurt: {name} is worse than its matched controls ({controls}).",
        "no_better": f"Synthetic images did not improve AUROC: an improvement of {rope:g} or more is ruled out over "
        f"{controls}.",
        "undecided": f"Inconclusive: with these seeds and test patients, {name} is not better than every control, and an "
        f"improvement of {rope:g} or more is not ruled out ({controls}).",
    }[first.verdict.word]
    hedge = "Exploratory, not a confirmation: " if confirmation.exploratory else ""
    why = f" It is exploratory because {' and '.join(confirmation.exploratory)}." if confirmation.exploratory else ""
    figures = " ".join(_figures(result) for result in first.results)
    return (
        f"{hedge}{said} On {confirmation.test_images} test images of {confirmation.test_patients} patients its AUROC is "
        f"{first.auroc:.3f}, the mean over {confirmation.gan_seeds} GAN seeds and {confirmation.classifier_seeds} "
        f"classifier seeds each{_of_gans(first)}. {figures}{_more_draws(first)}{_what_would_decide(first)}{why} All of this "
        f"is about classifiers trained on these {confirmation.train_images} images, in this split, and about patients like "
        "those of the test folder."
    )


def _figures(result: ControlResult) -> str:
    interval, words = result.comparison.interval, " and ".join(result.verdict.words)
    return (
        f"Against {result.control.name} ({result.comparison.aurocs[1]:.3f}) the difference is "
        f"{interval.difference:+.4f} (95 % interval {interval.low:+.4f} to {interval.high:+.4f}): {words}."
    )


def _of_gans(finalist: FinalistResult) -> str:
    """Each GAN's AUROC, and a warning if they are clearly not normal."""
    if finalist.arm.parameters.gan is None:
        return ""
    aurocs = ", ".join(f"{auroc:.3f}" for auroc in finalist.gan_aurocs)
    outlying = (
        "; they are clearly not normal, so the intervals may be too narrow, and a GAN that collapses occasionally may be "
        "missed"
        if finalist.has_outlying_gan
        else ""
    )
    worst = min(finalist.gan_aurocs)
    return f" (it estimates the mean over GANs trained this way; here {aurocs}, worst {worst:.3f}{outlying})"


def _more_draws(finalist: FinalistResult) -> str:
    """The finalist is worse than the control without images, but not than the one with as many images per step."""
    against = as_verdicts(finalist.arm, finalist.results)
    worse = [one for one in against if "no synthetic images" in one.likeness and one.verdict.is_worse]
    others = [one for one in against if one.likeness and not one.verdict.is_worse]
    if not worse or (shows_harm(against) and not others):
        return ""
    if others:
        return (
            f" It is worse than {worse[0].control} but not than {others[0].control}: drawing more images per step hurt; "
            "that the synthetic ones did is not shown."
        )
    return (
        f" It is worse than {worse[0].control}; without a matched `duplicate`, the cause may be the synthetic images "
        "or the larger number of images per step."
    )


def _what_would_decide(finalist: FinalistResult) -> str:
    """The smallest design that answers in four of five studies, both if the images do nothing and if they add two ROPE."""
    chances = finalist.larger_designs
    if not chances:
        return ""
    own = chances[0].design
    for none, gain in zip(chances[::2], chances[1::2], strict=True):
        if none.no_better >= _DECIDES and gain.helps >= _DECIDES:
            return (
                f" A study with {none.design.effective_patients / own.effective_patients:g} times the test patients and "
                f"{none.design.gan_seeds} GAN seeds would be conclusive: {_as_text(none, gain)}."
            )
    return (
        " Even the largest design considered would often be inconclusive "
        f"({chances[-1].design.effective_patients / own.effective_patients:g} times the test patients, "
        f"{chances[-1].design.gan_seeds} GAN seeds: {_as_text(*chances[-2:])})."
    )


def _as_text(none: VerdictChances, gain: VerdictChances) -> str:
    return (
        f"no_better with a probability of {none.no_better:.0%} if the images make no difference, helps "
        f"with {gain.helps:.0%} if they add {gain.true_difference:g}"
    )


def methods_paragraph(confirmation: Confirmation) -> str:
    """How it was done, to paste into a paper."""
    replicates = confirmation.gan_seeds * confirmation.classifier_seeds
    notes = f" Notes: {'; '.join(confirmation.notes)}." if confirmation.notes else ""
    return (
        "Methods. Configurations were searched on one validation part (val-A) and finalists chosen on another (val-B), both "
        f"split from the training images by patient. Each finalist was compared with {_controls_as_text(confirmation)}. "
        f"Every arm was trained {replicates} times, with {confirmation.gan_seeds} GAN seeds and "
        f"{confirmation.classifier_seeds} classifier seeds nested in them, none of which the search had used, for the same "
        "number of optimiser steps, on the same stream of real images in each replicate; the epoch with the best val-A "
        f"AUROC was kept. {_access_as_text(confirmation)} Differences in AUROC have 95 % intervals for "
        "random seeds and random patients (Obuchowski-Rockette model, GAN seeds as readers; DeLong covariances clustered "
        "by patient; score intervals with the patient variance at the difference tested, Satterthwaite's degrees of "
        "freedom). A finalist helps if it is better than every control, and hurts if it is worse than its matched controls "
        "(intersection-union tests); it is no better if a one-sided test rules out an improvement of "
        f"{confirmation.rope:g} AUROC over a control (5 % in all, Holm's correction); finalists were tested in the "
        f"order of val-B until the first that did not help.{notes}"
    )


def _controls_as_text(confirmation: Confirmation) -> str:
    controls = [result.control for finalist in confirmation.finalists for result in finalist.results]
    matched = {arm.parameters.source for arm in controls if arm.role == "matched"}
    tuned = sorted({arm.parameters.arm for arm in controls if arm.role == "tuned"})
    instead = {"none": "no extra images", "duplicate": "real images drawn again in place of the synthetic ones"}
    said = []
    if matched:
        had = " or ".join(words for source, words in instead.items() if source in matched)
        said.append(f"controls that keep all of its settings and have {had}")
    if tuned:
        best = f"the best configurations without synthetic images ({', '.join(tuned)})"
        equal = (
            ", whose arms were given as many sampled trials as a finalist's source of images had (as far as the space has "
            "them), pruned by the same ASHA where the search used it"
        )
        said.append(best if EARLIER_TOP_UP in confirmation.notes else best + equal)
    return " and with ".join(said)


def _access_as_text(confirmation: Confirmation) -> str:
    if confirmation.exploratory:
        return f"The analysis is exploratory: {' and '.join(confirmation.exploratory)}."
    return "The test images were opened once, after all training."
