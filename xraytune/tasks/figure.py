"""The figure of an evaluation: ROC, precision-recall, calibration and the confusion matrix."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from itertools import chain, repeat
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
from sklearn.calibration import calibration_curve
from sklearn.metrics import ConfusionMatrixDisplay, precision_recall_curve, roc_curve

from xraytune.base.drawing import COLOURS, WIDTH_INCHES, drawable, new_figure, with_interval
from xraytune.stats.classification import ScoredClass
from xraytune.stats.intervals import Bounds, Measured

if TYPE_CHECKING:
    from xraytune.base.drawing import Axes

_FAINT = "#8c8c8c"
_MOST_NUMBERED_CLASSES = 8
_MOST_BINS = 10
_IMAGES_PER_BIN = 20
_TEXT = 8.5


def draw_evaluation(
    files: Sequence[Path],
    classes: Mapping[str, ScoredClass],
    metrics: Mapping[str, Measured],
    confusion: Sequence[Sequence[int]],
    class_names: Sequence[str],
    *,
    brier_interval: Bounds | None,
    threshold: float | None,
    note: str,
) -> None:
    """Draw the four panels, with a note below them.

    `classes` has the positive one of two classes, or every class, and `confusion` the images by
    true and predicted class, [C, C]. Without a `threshold` the most probable class is predicted.
    """
    of = f"({drawable(next(iter(classes)))})"
    if len(classes) > 1:
        of = "(each class against the others)"
    with new_figure(files, WIDTH_INCHES * 1.02) as figure:
        figure.set_layout_engine("constrained", w_pad=0.12, h_pad=0.12, wspace=0.05, hspace=0.04)
        (roc, pr), (calibration, matrix) = figure.subplots(2, 2)
        for axes in (roc, calibration):
            axes.plot([0, 1], [0, 1], color=_FAINT, linewidth=0.7, linestyle="--")
        colours = chain(COLOURS, repeat(_FAINT))
        for colour, (name, scored) in zip(colours, classes.items(), strict=False):
            measured = metrics[name]
            brier = float(((scored.scores - scored.is_class) ** 2).mean())
            captions = [
                with_interval(measured.value_of("auroc"), measured.intervals.get("auroc")),
                with_interval(measured.value_of("auprc"), measured.intervals.get("auprc")),
                with_interval(brier, brier_interval),
            ]
            labels = [f"{drawable(name)}  {caption}" for caption in captions]
            _draw_curves(roc, pr, calibration, scored, labels, colour)
        if threshold is not None:
            (positive,) = classes
            sensitivity = metrics[positive].value_of("sensitivity")
            specificity = metrics[positive].value_of("specificity")
            lines = [
                f"threshold {threshold:.3f}:",
                f"sensitivity {sensitivity:.3f}",
                f"specificity {specificity:.3f}",
            ]
            point = {"color": COLOURS[0], "clip_on": False, "label": "\n".join(lines)}
            roc.plot(1 - specificity, sensitivity, "o", **point)
        _finish(roc, "A   ROC", "AUROC", f"1 - specificity {of}", f"sensitivity {of}")
        _finish(pr, "B   Precision and recall", "AUPRC", f"recall {of}", f"precision {of}")
        _finish(
            calibration,
            "C   Calibration",
            "Brier score",
            f"predicted probability {of}",
            f"observed share {of}",
        )
        rule = "most probable" if threshold is None else f"threshold {threshold:.3f}"
        _draw_matrix(matrix, confusion, [drawable(name) for name in class_names], rule)
        figure.supxlabel(note, x=0.012, ha="left", fontsize=8, color=_FAINT)


def _draw_curves(
    roc: Axes,
    pr: Axes,
    calibration: Axes,
    scored: ScoredClass,
    labels: Sequence[str],
    colour: str,
) -> None:
    """Draw the curves of one class; of many classes, only the coloured ones are in the legends."""
    is_class = scored.is_class
    scores = scored.scores
    shown = labels if colour != _FAINT else [None, None, None]
    false_rate, sensitivity, _ = roc_curve(is_class, scores)
    roc.plot(false_rate, sensitivity, color=colour, label=shown[0], clip_on=False)
    precision, recall, _ = precision_recall_curve(is_class, scores)
    pr.plot(recall, precision, color=colour, label=shown[1], drawstyle="steps-post", clip_on=False)
    prevalence = is_class.mean()
    pr.axhline(prevalence, color=colour, alpha=0.6, linewidth=0.7, linestyle="--")
    bins = min(_MOST_BINS, max(1, len(scores) // _IMAGES_PER_BIN))
    share, probability = calibration_curve(is_class, scores, n_bins=bins, strategy="quantile")
    calibration.plot(
        probability, share, "o-", color=colour, label=shown[2], markersize=4.5, clip_on=False
    )


def _finish(axes: Axes, title: str, metric: str, x_label: str, y_label: str) -> None:
    axes.set_title(title, loc="left", fontweight="bold", fontsize=11, pad=10)
    axes.set(xlim=(0, 1), ylim=(0, 1), aspect="equal")
    axes.set_xlabel(x_label, fontsize=9.5)
    axes.set_ylabel(y_label, fontsize=9.5)
    axes.legend(title=metric, alignment="left", fontsize=_TEXT, edgecolor="none").set_in_layout(
        False
    )


def _draw_matrix(
    axes: Axes, confusion: Sequence[Sequence[int]], names: Sequence[str], rule: str
) -> None:
    has_numbers = len(names) <= _MOST_NUMBERED_CLASSES
    display = ConfusionMatrixDisplay(np.array(confusion), display_labels=names)
    display.plot(
        ax=axes,
        cmap="Blues",
        colorbar=False,
        include_values=has_numbers,
        xticks_rotation=0 if len(names) < 4 else 90,
    )
    axes.set_title("D   Confusion matrix", loc="left", fontweight="bold", fontsize=11, pad=10)
    axes.set_xlabel(f"predicted class ({rule})", fontsize=9.5)
    axes.set_ylabel("true class", fontsize=9.5)
    axes.tick_params(length=0, labelsize=_TEXT)
