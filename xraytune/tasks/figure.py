"""The figure of an evaluation: ROC, precision-recall, calibration and the confusion matrix."""

from __future__ import annotations

from itertools import cycle
from pathlib import Path
from typing import TYPE_CHECKING, Any

from sklearn.calibration import CalibrationDisplay
from sklearn.metrics import ConfusionMatrixDisplay, PrecisionRecallDisplay, RocCurveDisplay

from xraytune.base.figures import COLOURS, WIDTH_INCHES, figure_text, new_figure
from xraytune.stats.classification import ScoredClass
from xraytune.tasks.evaluation import Sample

if TYPE_CHECKING:
    from xraytune.base.figures import Axes

_FAINT = "#8c8c8c"
_MOST_NUMBERED_CLASSES = 8
_MOST_BINS = 10
_IMAGES_PER_BIN = 20


def plot_evaluation(folder: Path, sample: Sample) -> None:
    """Plot the four panels, for the positive one of two classes or for every class."""
    names = [figure_text(name) for name in sample.model.record.class_names]
    scored = sample.scored
    is_binary = len(names) == 2
    class_names = [names[scored.positive]] if is_binary else names
    of = f"({class_names[0]})" if is_binary else "(each class against the others)"
    rule = f"threshold {scored.threshold:.3f}" if is_binary else "most probable"
    files = [folder / "evaluation.png", folder / "evaluation.svg"]
    with new_figure(files, WIDTH_INCHES * 1.02) as figure:
        figure.set_layout_engine("constrained", w_pad=0.12, h_pad=0.12, wspace=0.05, hspace=0.04)
        (roc, pr), (calibration, matrix) = figure.subplots(2, 2)
        for axes in (roc, calibration):
            axes.plot([0, 1], [0, 1], color=_FAINT, linewidth=0.7, linestyle="--")
        for name, curve, colour in zip(class_names, scored.classes(), cycle(COLOURS), strict=False):
            style = {"color": colour, "clip_on": False}
            _plot_curves((roc, pr, calibration), curve, name, style)
            if is_binary:
                false_rate = curve.is_predicted[~curve.is_class].mean()
                true_rate = curve.is_predicted[curve.is_class].mean()
                roc.plot(false_rate, true_rate, "o", label=rule, **style)
        ConfusionMatrixDisplay.from_predictions(
            scored.labels,
            scored.predicted,
            labels=range(len(names)),
            display_labels=names,
            ax=matrix,
            cmap="Blues",
            colorbar=False,
            include_values=len(names) <= _MOST_NUMBERED_CLASSES,
            xticks_rotation=0 if len(names) < 4 else 90,
        )
        matrix.set(xlabel=f"predicted class ({rule})", ylabel="true class")
        matrix.set_title("D   Confusion matrix", loc="left", fontweight="bold")
        for axes, title, x_label, y_label in (
            (roc, "A   ROC", "1 - specificity", "sensitivity"),
            (pr, "B   Precision and recall", "recall", "precision"),
            (calibration, "C   Calibration", "predicted probability", "observed share"),
        ):
            axes.set(xlim=(0, 1), ylim=(0, 1), aspect="equal")
            axes.set(xlabel=f"{x_label} {of}", ylabel=f"{y_label} {of}")
            axes.set_title(title, loc="left", fontweight="bold")
            axes.legend(edgecolor="none").set_in_layout(False)
        patients = len({*sample.patients})
        note = f"{len(sample.files):,} images of {patients:,} patients"
        figure.supxlabel(note, x=0.012, ha="left", fontsize=8, color=_FAINT)


def _plot_curves(
    panels: tuple[Axes, Axes, Axes], curve: ScoredClass, name: str, style: dict[str, Any]
) -> None:
    """Plot the ROC, precision-recall and calibration curves of a class."""
    roc, pr, calibration = panels
    truth = curve.is_class
    scores = curve.scores
    RocCurveDisplay.from_predictions(truth, scores, name=name, ax=roc, curve_kwargs=style)
    PrecisionRecallDisplay.from_predictions(truth, scores, name=name, ax=pr, curve_kwargs=style)
    pr.axhline(truth.mean(), color=style["color"], alpha=0.6, linewidth=0.7, linestyle="--")
    bins = min(_MOST_BINS, max(1, len(truth) // _IMAGES_PER_BIN))
    CalibrationDisplay.from_predictions(
        truth,
        scores,
        n_bins=bins,
        strategy="quantile",
        name=name,
        ax=calibration,
        ref_line=False,
        **style,
    )
