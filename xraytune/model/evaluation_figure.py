"""The figures of an evaluation.

Of a classifier: ROC, precision-recall, calibration and the confusion matrix, side by side. Of a segmenter: the distribution
of Dice, and the worst, median and best cases.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import chain, repeat
from pathlib import Path
from typing import TYPE_CHECKING, Literal

import numpy as np
from numpy.typing import NDArray

from xraytune.base.drawing import COLOURS, WIDTH_INCHES, drawable, figure_files, new_figure, with_interval
from xraytune.stats.breakdown import ClassMetrics
from xraytune.stats.curves import ClassCurves, Curve
from xraytune.stats.intervals import Bounds, Measured

if TYPE_CHECKING:
    from xraytune.base.drawing import Axes

_FAINT = "#8c8c8c"
_MOST_NUMBERED_CLASSES = 8
_TEXT = 8.5
_TRUE, _PREDICTED = COLOURS[5], COLOURS[4]
"""Sky blue and orange stand out on grey, also for colour-blind readers."""
_ROW_INCHES = 2.04


@dataclass(frozen=True, slots=True, kw_only=True)
class DrawnClass:
    """The curves of one class, and its metrics; `brier` is a caption such as `0.062 (0.051 to 0.073)`."""

    curves: ClassCurves
    metrics: ClassMetrics
    brier: str
    prevalence: float

    def caption(self, name: Literal["auroc", "auprc"]) -> str:
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

    `drawn` has the curves of the positive one of two classes, or of every class, and `confusion` the images by true and
    predicted class, [C, C]. Without a `threshold` the most probable class is predicted.
    """
    shown = {drawable(name): curves for name, curves in drawn.items()}
    with new_figure(files, WIDTH_INCHES * 1.02) as figure:
        figure.set_layout_engine("constrained", w_pad=0.12, h_pad=0.12, wspace=0.05, hspace=0.04)
        (roc, pr), (calibration, matrix) = figure.subplots(2, 2)
        titles = ("A   ROC", "B   Precision and recall", "C   Calibration", "D   Confusion matrix")
        for axes, title in zip((roc, pr, calibration, matrix), titles, strict=True):
            axes.set_title(title, loc="left", fontweight="bold", fontsize=11, pad=10)
        _draw_roc(roc, shown, threshold)
        _draw_pr(pr, shown)
        _draw_calibration(calibration, shown)
        _draw_matrix(matrix, confusion, [drawable(name) for name in class_names], threshold)
        figure.supxlabel(note, x=0.012, ha="left", fontsize=8, color=_FAINT)


def _of(what: str, shown: Mapping[str, DrawnClass]) -> str:
    """Name the class that a quantity is about."""
    return f"{what} ({next(iter(shown))})" if len(shown) == 1 else f"{what} (each class against the others)"


def _coloured(shown: Mapping[str, DrawnClass]) -> Iterator[tuple[str, DrawnClass]]:
    return zip(chain(COLOURS, repeat(_FAINT)), shown.values(), strict=False)


def _draw_roc(axes: Axes, shown: Mapping[str, DrawnClass], threshold: float | None) -> None:
    axes.plot([0, 1], [0, 1], color=_FAINT, linewidth=0.7, linestyle=(0, (4, 4)))
    for colour, drawn in _coloured(shown):
        _draw_band(axes, drawn.curves.roc, colour)
        axes.plot(drawn.curves.roc.x, drawn.curves.roc.y, color=colour, linewidth=1.5, clip_on=False)
    if threshold is not None:
        (drawn,) = shown.values()
        sensitivity, specificity = (drawn.metrics.value_of(name) for name in ("sensitivity", "specificity"))
        place = (1 - specificity, sensitivity)
        axes.plot(*place, "o", color=COLOURS[0], markersize=6, markeredgecolor="white", clip_on=False, zorder=3)
        text = f"threshold {threshold:.3f}\nsensitivity {sensitivity:.3f}\nspecificity {specificity:.3f}"
        right, below = specificity > 0.35, sensitivity > 0.5
        axes.annotate(
            text,
            place,
            (12 if right else -12, -9 if below else 9),
            textcoords="offset points",
            ha="left" if right else "right",
            va="top" if below else "bottom",
            fontsize=_TEXT,
            color="#222222",
        )
    _add_legend(axes, "AUROC", {name: drawn.caption("auroc") for name, drawn in shown.items()}, "lower right")
    _square(axes, _of("1 - specificity", shown), _of("sensitivity", shown))


def _draw_pr(axes: Axes, shown: Mapping[str, DrawnClass]) -> None:
    for colour, drawn in _coloured(shown):
        axes.axhline(drawn.prevalence, color=colour, alpha=0.6, linewidth=0.7, linestyle=(0, (4, 4)))
        _draw_band(axes, drawn.curves.pr, colour, step="pre")
        axes.plot(
            drawn.curves.pr.x, drawn.curves.pr.y, color=colour, linewidth=1.5, drawstyle="steps-post", clip_on=False
        )
    if len(shown) == 1:
        (drawn,) = shown.values()
        below = drawn.prevalence > 0.3
        axes.text(
            0.98,
            drawn.prevalence + (-0.015 if below else 0.015),
            f"prevalence {drawn.prevalence:.0%}",
            ha="right",
            va="top" if below else "bottom",
            fontsize=_TEXT,
            color=_FAINT,
        )
    _add_legend(axes, "AUPRC", {name: drawn.caption("auprc") for name, drawn in shown.items()}, "lower left")
    _square(axes, _of("recall", shown), _of("precision", shown))


def _draw_calibration(axes: Axes, shown: Mapping[str, DrawnClass]) -> None:
    axes.plot([0, 1], [0, 1], color=_FAINT, linewidth=0.7, linestyle=(0, (4, 4)))
    alpha = 0.6 if len(shown) == 1 else 0.4
    for colour, drawn in _coloured(shown):
        bins = drawn.curves.calibration
        axes.vlines(bins.mean_probability, bins.low, bins.high, color=colour, linewidth=0.9, alpha=alpha)
        axes.plot(
            bins.mean_probability,
            bins.share,
            "o-",
            color=colour,
            linewidth=1,
            markersize=4.5,
            markeredgecolor="white",
            clip_on=False,
        )
    _add_legend(axes, "Brier score", {name: drawn.brier for name, drawn in shown.items()}, "upper left")
    _square(axes, _of("predicted probability", shown), _of("observed share", shown))


def _draw_matrix(axes: Axes, confusion: NDArray[np.int64], names: Sequence[str], threshold: float | None) -> None:
    share = confusion / np.maximum(confusion.sum(axis=1, keepdims=True), 1)
    axes.imshow(share, cmap="Blues", vmin=0, vmax=1.15)
    places = range(len(names))
    if len(names) <= _MOST_NUMBERED_CLASSES:
        size = {2: 12, 3: 10, 4: 9}.get(len(names), 7)
        for y in places:
            for x in places:
                colour = "white" if share[y, x] > 0.6 else "#222222"
                text = f"{confusion[y, x]:,}\n{share[y, x]:.0%}"
                axes.text(x, y, text, ha="center", va="center", color=colour, fontsize=size, linespacing=1.4)
    if len(names) <= 3 * _MOST_NUMBERED_CLASSES:
        axes.set_xticks(places, labels=names, rotation=0 if len(names) < 4 else 90, parse_math=False)
        axes.set_yticks(places, labels=names, parse_math=False)
    rule = "most probable" if threshold is None else f"threshold {threshold:.3f}"
    axes.set_xlabel(f"predicted class ({rule})", fontsize=9.5)
    axes.set_ylabel("true class (100% in each row)", fontsize=9.5)
    axes.tick_params(length=0, labelsize=_TEXT, labelcolor="#222222")
    axes.spines[:].set_visible(False)
    axes.set_xticks(np.arange(1, len(names)) - 0.5, minor=True)
    axes.set_yticks(np.arange(1, len(names)) - 0.5, minor=True)
    axes.grid(which="minor", color="white", linewidth=1.5)
    axes.tick_params(which="minor", length=0)


def _draw_band(axes: Axes, curve: Curve, colour: str, step: Literal["pre"] | None = None) -> None:
    if np.isfinite(curve.low).all():
        axes.fill_between(curve.grid, curve.low, curve.high, color=colour, alpha=0.16, linewidth=0, step=step)


def _add_legend(
    axes: Axes, what: str, values: Mapping[str, str], corner: Literal["lower left", "lower right", "upper left"]
) -> None:
    """Write the value of each curve in its colour; of many classes, only the coloured ones."""
    others = max(0, len(values) - len(COLOURS))
    title = f"{what} (grey: {others} other classes)" if others else what
    for colour, (name, value) in zip(COLOURS, values.items(), strict=False):
        axes.plot([], [], color=colour, label=f"{what if len(values) == 1 else name}  {value}")
    axes.legend(
        title=title if len(values) > 1 else None,
        loc=corner,
        alignment="left",
        labelcolor="linecolor",
        handlelength=0,
        handletextpad=0,
        fontsize=_TEXT,
        title_fontsize=_TEXT,
        borderpad=0.2,
        labelspacing=0.4,
        framealpha=0.7,
        edgecolor="none",
    )


def _square(axes: Axes, x_label: str, y_label: str) -> None:
    ticks = np.linspace(0, 1, 6)
    axes.set(xlim=(0, 1), ylim=(0, 1), aspect="equal", xticks=ticks, yticks=ticks)
    axes.set_xlabel(x_label, fontsize=9.5, parse_math=False)
    axes.set_ylabel(y_label, fontsize=9.5, parse_math=False)
    axes.tick_params(labelsize=_TEXT)


@dataclass(frozen=True, slots=True, kw_only=True)
class DrawnCase:
    """An image, uint8 [H, W], with its true and its predicted mask, bool [H, W], and a title."""

    title: str
    image: NDArray[np.uint8]
    true: NDArray[np.bool_]
    predicted: NDArray[np.bool_]


def draw_mask_evaluation(
    dices: Sequence[float], measured: Measured, cases: Mapping[str, Sequence[DrawnCase]], folder: Path, *, note: str
) -> None:
    """Draw `evaluation.png` and `.svg`: the Dice of each image, and a row of one to three images for each kind of case."""
    with new_figure(figure_files(folder, "evaluation"), max(len(cases), 2) * _ROW_INCHES + 0.75) as figure:
        figure.set_layout_engine("constrained", w_pad=0.06, h_pad=0.06, wspace=0.03, hspace=0.03)
        sides = figure.add_gridspec(1, 2, width_ratios=(3, 7))
        left, right = figure.add_subfigure(sides[0]), figure.add_subfigure(sides[1])
        _draw_dice(left.subplots(), dices, measured.value_of("dice"), measured.intervals.get("dice"))
        right.suptitle("B   Cases", x=0.01, ha="left", fontweight="bold", fontsize=11)
        grid = right.subplots(len(cases), max(map(len, cases.values())), squeeze=False)
        for row, (kind, drawn) in zip(grid, cases.items(), strict=True):
            row[0].set_ylabel(kind, fontsize=10, fontweight="bold", labelpad=6)
            for axes, case in zip(row, drawn, strict=False):
                _draw_case(axes, case)
        for label, colour, width in (("true outline", _TRUE, 2.6), ("predicted outline", _PREDICTED, 1.2)):
            grid[0, 0].plot([], [], color=colour, linewidth=width, label=label)
        right.legend(loc="upper right", ncols=2, frameon=False, fontsize=8.5)
        figure.supxlabel(note, x=0.012, ha="left", fontsize=8, color="#6f6f6f")


def _draw_dice(axes: Axes, dices: Sequence[float], mean: float, interval: Bounds | None) -> None:
    axes.set_title("A   Dice", loc="left", fontweight="bold", fontsize=11, pad=26)
    caption = f"mean {with_interval(mean, interval)}"
    axes.text(0, 1.01, caption, transform=axes.transAxes, fontsize=8.5, color="#222222", va="bottom")
    axes.hist(dices, bins="auto", orientation="horizontal", color=COLOURS[0], alpha=0.75, edgecolor="white")
    axes.axhline(mean, color="#222222", linewidth=1.2)
    if interval:
        axes.axhspan(*interval, color="#222222", alpha=0.16, linewidth=0)
    axes.invert_yaxis()  # the worst on top, as in the cases
    axes.locator_params(axis="x", integer=True)
    axes.set_xlabel("images", fontsize=9.5)
    axes.set_ylabel("Dice of an image", fontsize=9.5)
    axes.tick_params(labelsize=8.5)


def _draw_case(axes: Axes, case: DrawnCase) -> None:
    axes.imshow(case.image, cmap="gray", vmin=0, vmax=255)
    for mask, colour, width in ((case.true, _TRUE, 2.2), (case.predicted, _PREDICTED, 0.9)):
        if mask.any() and not mask.all():
            axes.contour(mask, levels=[0.5], colors=[colour], linewidths=width)
    axes.set_title(case.title, fontsize=7.5, color="#222222", pad=3, parse_math=False)
    axes.set(xticks=[], yticks=[])
    axes.spines[:].set_visible(False)
