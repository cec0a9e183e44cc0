"""The record of a confirm: `verdict.json`, and the words to paste into a paper. docs/confirm.md is its schema."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from xraytune.confirm.answer import RATIO_CAVEAT, ControlResult, FinalistResult, RatioPoint, finalist_json
from xraytune.confirm.plan import EARLIER_TOP_UP, VERDICT_FILE
from xraytune.files import write_json, write_text

METHODS_FILE = "methods.md"


@dataclass(frozen=True, slots=True, kw_only=True)
class Confirmation:
    """What a confirm ended with.

    Attributes:
        study: The study's folder.
        finalists: In the order of val-B, each with its comparisons and its verdict.
        ratios: The first finalist at every ratio, on val-B.
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
            "version": 1,
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
    name, controls, rope = first.arm.name, " and ".join(first.verdict.controls), confirmation.rope
    said = {
        "helps": f"The synthetic images helped: {name} beats every control ({controls}).",
        "hurts": f"The synthetic images hurt: {name} is worse than {controls}, which has all of its settings and no "
        "synthetic image.",
        "no_better": f"The synthetic images brought nothing: {name} is no better than {controls} (equal within {rope:g} "
        "AUROC, or worse).",
        "undecided": f"Undecided: with these seeds and test patients {name} can be told neither better than nor equal to "
        f"{controls}.",
    }[first.verdict.word]
    hedge = "Exploratory, not a confirmation: " if confirmation.exploratory else ""
    why = f" It is exploratory because {' and '.join(confirmation.exploratory)}." if confirmation.exploratory else ""
    figures = " ".join(_figures(result) for result in first.results)
    decide = _what_would_decide(first) if first.verdict.word == "undecided" else ""
    return (
        f"{hedge}{said} On {confirmation.test_images} test images of {confirmation.test_patients} patients its AUROC is "
        f"{first.auroc:.3f}, the mean over {confirmation.gan_seeds} GAN seeds and {confirmation.classifier_seeds} "
        f"classifier seeds each. {figures}{decide}{why} All of this is about classifiers trained on these "
        f"{confirmation.train_images} images, in this split, and about patients like those of the test folder."
    )


def _figures(result: ControlResult) -> str:
    interval, words = result.comparison.interval, " and ".join(result.verdict.words)
    return (
        f"Against {result.control.name} ({result.comparison.aurocs[1]:.3f}) the difference is "
        f"{interval.difference:+.4f} (95 % interval {interval.low:+.4f} to {interval.high:+.4f}): {words}."
    )


def _what_would_decide(finalist: FinalistResult) -> str:
    open_ones = [result for result in finalist.results if result.more_patients or result.more_gan_seeds]
    if not open_ones:
        return ""
    widest = max(open_ones, key=lambda result: result.comparison.interval.standard_error)
    said = [needed.why for needed in (widest.more_patients, widest.more_gan_seeds) if needed]
    return f" To decide against {widest.control.name}: {'; '.join(said)}."


def methods_paragraph(confirmation: Confirmation) -> str:
    """How it was done, to paste into a paper."""
    replicates = confirmation.gan_seeds * confirmation.classifier_seeds
    notes = f" Notes: {'; '.join(confirmation.notes)}." if confirmation.notes else ""
    return (
        "Methods. Configurations were searched on one validation part (val-A) and finalists chosen on another (val-B), both "
        f"split from the training images by patient. Each finalist was compared with {_controls_in_words(confirmation)}. "
        f"Every arm was trained {replicates} times, with {confirmation.gan_seeds} GAN seeds and "
        f"{confirmation.classifier_seeds} classifier seeds nested in them, none of which the search had used, for the same "
        "number of optimiser steps, on the same stream of real images in each replicate; the epoch with the best val-A "
        f"AUROC was kept. {_opening_in_words(confirmation)} Differences in AUROC have 95 % intervals for "
        "random seeds and random patients (Obuchowski-Rockette model, Hillis' degrees of freedom, GAN seeds as readers; "
        "DeLong covariances clustered by patient). A finalist helps if it is better than every control "
        "(intersection-union test); a difference counts as none if its 90 % interval lies within "
        f"{confirmation.rope:g} AUROC; finalists were tested in the order of val-B until the first that did not help."
        f"{notes}"
    )


def _controls_in_words(confirmation: Confirmation) -> str:
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


def _opening_in_words(confirmation: Confirmation) -> str:
    if confirmation.exploratory:
        return f"The analysis is exploratory: {' and '.join(confirmation.exploratory)}."
    return "The test images were opened once, after all training."
