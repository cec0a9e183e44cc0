"""The figure of a segmenter's evaluation: the distribution of Dice, and the worst, median and best cases."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from xraytune.figures.drawing import COLOURS, figure_files, new_figure, with_interval
from xraytune.metrics.intervals import Interval
from xraytune.metrics.segmentation import MaskMetrics

if TYPE_CHECKING:
    from xraytune.figures.drawing import Axes

_TRUE, _PREDICTED = COLOURS[5], COLOURS[4]
"""Sky blue and orange stand out on grey, also for colour-blind readers."""
_ROW_INCHES = 2.04


@dataclass(frozen=True, slots=True, kw_only=True)
class DrawnCase:
    """An image, uint8 [H, W], with its true and its predicted mask, bool [H, W], and a title."""

    title: str
    image: NDArray[np.uint8]
    true: NDArray[np.bool_]
    predicted: NDArray[np.bool_]


def draw_mask_evaluation(
    dices: Sequence[float], found: MaskMetrics, cases: Mapping[str, Sequence[DrawnCase]], folder: Path
) -> tuple[Path, Path]:
    """Draw `evaluation.png` and `.svg`: the distribution of Dice, and a row of images for each kind of case.

    Args:
        dices: Dice of each image.
        found: Their mean, with its interval.
        cases: One to three images for each kind, such as `worst`.
        folder: Where the files go.
    """
    note = (
        f"{found.images:,} images of {found.patients:,} patients, {found.empty_predictions:,} with an empty "
        "prediction. Line and band: mean and its 95% interval over patients."
    )
    files = figure_files(folder, "evaluation")
    with new_figure(files, max(len(cases), 2) * _ROW_INCHES + 0.75) as figure:
        figure.set_layout_engine("constrained", w_pad=0.06, h_pad=0.06, wspace=0.03, hspace=0.03)
        sides = figure.add_gridspec(1, 2, width_ratios=(3, 7))
        left, right = figure.add_subfigure(sides[0]), figure.add_subfigure(sides[1])
        _draw_dice(left.subplots(), dices, found.dice, found.intervals.get("dice"))
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
    return files


def _draw_dice(axes: Axes, dices: Sequence[float], mean: float, interval: Interval | None) -> None:
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
