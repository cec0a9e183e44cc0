"""The scorecard of an audit: one line per failure mode of synthetic images, the most fundamental first.

The first bad line is the headline. Pure functions: docs/audit.md lists the thresholds and their reasons.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from xraytune.confirm.verdict import verdict_text
from xraytune.metrics.generator_quality import SCALE_PX, Quality, shortcomings
from xraytune.metrics.memorisation import Memorisation
from xraytune.pipeline.memorisation import FALSE_ALARMS, copies_found
from xraytune.report.sections import Score, Status

_HEADLINES = {
    "patients": "These images show held-out patients",
    "memorisation": "These images are copies of training images",
    "realism": "These images do not look like real ones",
    "labels": "Many of these images have wrong labels",
    "variety": "These images miss most of the variety of real ones",
    "downstream": "These images make the classifier worse",
}
OF_QUALITY = ("realism", "labels", "variety")
_REALISTIC_BLUR_PX, _LEAST_PRECISION = 0.8, 0.5
_LEAST_BLURRED_COVERAGE = 0.2
_WRONG_LABELS, _MANY_WRONG_LABELS = 0.05, 0.2
"""Drop in AUROC: with classes of equal size, about the share of wrong labels."""
_LEAST_REFERENCE, _SWAPPED = 0.7, 0.3
"""AUROCs: a classifier below the first cannot judge labels; images below the second look like the other class."""
_VERDICTS: Mapping[str, Status] = {"helps": "good", "hurts": "bad"}


def headline(lines: Sequence[Score]) -> str:
    """Return the answer in a few words: the headline of the first bad line."""
    by_status = {status: [one.name for one in lines if one.status == status] for status in ("bad", "warning")}
    if bad := by_status["bad"]:
        return f"{_HEADLINES[bad[0]]}."
    look = f"; warnings: {', '.join(by_status['warning'])}" if by_status["warning"] else ""
    missing = ", ".join(one.name for one in lines if one.status == "not measured")
    return f"No fault found{look}{f' (not measured: {missing})' if missing else ''}."


def not_measured(names: Iterable[str], why: str) -> tuple[Score, ...]:
    """Return lines without a result."""
    why = f"Not measured: {why.removeprefix('not measured: ')}."
    return tuple(Score(name=name, status="not measured", sentence=why) for name in names)


def patients_line(found: int, usable: int, problem: str = "") -> Score:
    """Judge images of held-out patients: those of validation patients are excluded, test patients are a `problem`."""
    if problem:
        sentence = f"{problem[:1].upper()}{problem[1:]}. Nothing else was measured."
        return Score(name="patients", status="bad", sentence=sentence)
    figure, status = f"{found - usable:,} of {found:,}", _grade(found != usable, False)
    text = "No image is known to show a patient of the validation or test images."
    if found != usable:
        text = f"{figure} belong to validation patients (by file name, table or identical file) and are excluded below."
    return Score(name="patients", status=status, figure=figure, sentence=text)


def memorisation_line(found: Mapping[str, Memorisation], identical: int) -> Score:
    """Judge whether images are copies of training images; `identical` is the number with the same bytes."""
    near, images = sum(one.near for one in found.values()), sum(one.images for one in found.values())
    text = f"Not measurably closer to training images than unseen X-rays (test at {FALSE_ALARMS * 100:.0f} %)."
    status: Status = "warning" if identical else "good"
    if copies := copies_found(found):
        status, text = "bad", f"Closer to a training image than 99 % of unseen X-rays are: {copies}."
    if identical:
        text += f" {identical:,} are byte-identical to a training image."
    return Score(name="memorisation", status=status, figure=f"{near} of {images} too close", sentence=text)


def quality_lines(quality: Quality, upscaled: str) -> tuple[Score, ...]:
    """Judge realism, labels and variety; `upscaled` is a sentence about upscaled images, or ""."""
    figures, blur = quality.columns(), quality.blur_px
    precision, coverage, hazy, recall = (
        figures[f"gan_{one}"] or 0.0 for one in ("precision", "coverage", "blurred_coverage", "blurred_recall")
    )
    is_swapped = quality.gan_test is not None and quality.gan_test <= _SWAPPED
    sign = "< " if blur <= SCALE_PX[0] else "> " if blur >= SCALE_PX[-1] else ""
    realism = Score(
        name="realism",
        status=_grade(
            blur > _REALISTIC_BLUR_PX or precision < _LEAST_PRECISION, blur >= SCALE_PX[-1] and not is_swapped
        ),
        figure=f"blur {sign}{blur:.1f} px",
        sentence=f"As far from unseen real images as a blur of {sign}{blur:.1f} px at 64 px; {precision * 100:.0f} % look "
        f"like a real image of their class.{upscaled}",
    )
    (labels,) = not_measured(["labels"], "there is only one class")
    if quality.gan_test is not None and quality.real_train is not None:
        labels = _labels_line(quality.gan_test, quality.real_train)
    few = {"gan_coverage", "gan_blurred_coverage", "gan_blurred_recall"} & {*shortcomings(figures, None)}
    variety = Score(
        name="variety",
        status=_grade(bool(few), hazy < _LEAST_BLURRED_COVERAGE),
        figure=f"coverage {coverage:.2f}",
        sentence=f"They cover {coverage * 100:.0f} % of unseen real images, and {hazy * 100:.0f} % after a blur that "
        f"removes texture (recall {recall:.2f}), in the worst class.",
    )
    return realism, labels, variety


def _labels_line(here: float, on_real: float) -> Score:
    """Judge labels by the AUROC of a classifier trained on real images, here and on unseen real images."""
    if on_real < _LEAST_REFERENCE:
        why = f"a classifier on these features has an AUROC of only {on_real:.2f} on unseen real images"
        return not_measured(["labels"], why)[0]
    return Score(
        name="labels",
        status=_grade(on_real - here >= _WRONG_LABELS, on_real - here >= _MANY_WRONG_LABELS),
        figure=f"AUROC {here:.2f}",
        sentence=f"A classifier trained on real images has an AUROC of {here:.2f} on these images, and of {on_real:.2f} on "
        "unseen real ones.",
    )


def downstream_line(verdict: Mapping[str, Any]) -> Score:
    """Return the verdict of `confirm` (the content of `verdict.json`)."""
    first, word, metric = verdict["finalists"][0], verdict["verdict"], verdict["metric"]
    differences = ", ".join(f"{one['difference']:+.3f} against {one['control']}" for one in first["comparisons"])
    what = f"{'exploratory: ' if verdict['exploratory'] else ''}{verdict_text(word, metric)}"
    return Score(
        name="downstream",
        status=_VERDICTS.get(word, "warning"),
        figure=word.replace("_", " "),
        sentence=f"{first['arm']}: {what}; {metric} {differences}.",
    )


def _grade(is_warning: bool, is_bad: bool) -> Status:
    return "bad" if is_bad else "warning" if is_warning else "good"
