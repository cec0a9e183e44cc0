"""The figure of a classifier's evaluation: ROC, precision-recall, calibration and the confusion matrix."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import chain, repeat
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray
from sklearn.calibration import calibration_curve
from sklearn.metrics import ConfusionMatrixDisplay, precision_recall_curve, roc_curve

from xraytune.base.drawing import COLOURS, WIDTH_INCHES, drawable, new_figure, with_interval
from xraytune.stats.classification import ScoredClass
from xraytune.stats.intervals import Measured

if TYPE_CHECKING:
    from xraytune.base.drawing import Axes

_FAINT = "#8c8c8c"
_MOST_NUMBERED_CLASSES = 8
_MOST_BINS, _IMAGES_PER_BIN = 10, 20
_TEXT = 8.5


@dataclass(frozen=True, slots=True, kw_only=True)
class DrawnClass:
    """The scores of one class against the others, and its metrics; `brier` is a caption: `0.062 (0.051 to 0.073)`."""

    scored: ScoredClass
    metrics: Measured
    brier: str

    def caption(self, name: str) -> str:
        """Return a metric as text, with its interval."""
        return with_interval(self.metrics.value_of(name), self.metrics.intervals.get(name))


def draw_evaluation(
    drawn: Mapping[str, DrawnClass],
    confusion: NDArray[np.int64],
    class_names: Sequence[str],
    files: Sequence[Path],
    *,
    threshold: float | None,
    note: str,
) -> None:
    """Draw the four panels, with a note below them.

    `drawn` has the positive one of two classes, or every class, and `confusion` the images by true
    and predicted class, [C, C]. Without a `threshold` the most probable class is predicted.
    """
    shown = {drawable(name): one_class for name, one_class in drawn.items()}
    of = f"({next(iter(shown))})" if len(shown) == 1 else "(each class against the others)"
    with new_figure(files, WIDTH_INCHES * 1.02) as figure:
        figure.set_layout_engine("constrained", w_pad=0.12, h_pad=0.12, wspace=0.05, hspace=0.04)
        (roc, pr), (calibration, matrix) = figure.subplots(2, 2)
        for axes in (roc, calibration):
            axes.plot([0, 1], [0, 1], color=_FAINT, linewidth=0.7, linestyle="--")
        for colour, (name, one_class) in zip(
            chain(COLOURS, repeat(_FAINT)), shown.items(), strict=False
        ):
            _draw_curves(roc, pr, calibration, one_class, name, colour)
        if threshold is not None:
            (positive,) = shown.values()
            sensitivity, specificity = (
                positive.metrics.value_of(name) for name in ("sensitivity", "specificity")
            )
            label = f"threshold {threshold:.3f}:\nsensitivity {sensitivity:.3f}\nspecificity {specificity:.3f}"
            roc.plot(
                1 - specificity, sensitivity, "o", color=COLOURS[0], clip_on=False, label=label
            )
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
    roc: Axes, pr: Axes, calibration: Axes, drawn: DrawnClass, name: str, colour: str
) -> None:
    """Draw the curves of one class; of many classes, only the coloured ones are in the legends."""
    is_class, scores = drawn.scored.is_class, drawn.scored.scores
    captions = (drawn.caption("auroc"), drawn.caption("auprc"), drawn.brier)
    labels = [f"{name}  {caption}" if colour != _FAINT else None for caption in captions]
    false_rate, sensitivity, _ = roc_curve(is_class, scores)
    roc.plot(false_rate, sensitivity, color=colour, label=labels[0], clip_on=False)
    precision, recall, _ = precision_recall_curve(is_class, scores)
    pr.plot(recall, precision, color=colour, label=labels[1], drawstyle="steps-post", clip_on=False)
    pr.axhline(
        is_class.mean(), color=colour, alpha=0.6, linewidth=0.7, linestyle="--"
    )  # the prevalence
    bins = min(_MOST_BINS, max(1, len(scores) // _IMAGES_PER_BIN))
    share, probability = calibration_curve(is_class, scores, n_bins=bins, strategy="quantile")
    calibration.plot(
        probability, share, "o-", color=colour, label=labels[2], markersize=4.5, clip_on=False
    )


def _finish(axes: Axes, title: str, metric: str, x_label: str, y_label: str) -> None:
    axes.set_title(title, loc="left", fontweight="bold", fontsize=11, pad=10)
    axes.set(xlim=(0, 1), ylim=(0, 1), aspect="equal")
    axes.set_xlabel(x_label, fontsize=9.5)
    axes.set_ylabel(y_label, fontsize=9.5)
    axes.legend(title=metric, alignment="left", fontsize=_TEXT, edgecolor="none").set_in_layout(
        False
    )


def _draw_matrix(axes: Axes, confusion: NDArray[np.int64], names: Sequence[str], rule: str) -> None:
    has_numbers = len(names) <= _MOST_NUMBERED_CLASSES
    display = ConfusionMatrixDisplay(confusion, display_labels=names)
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
