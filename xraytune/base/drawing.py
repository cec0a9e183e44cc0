"""Figures as PNG and SVG; only this file imports matplotlib.

The same records give the same bytes: no date, no random ids, no user settings. Text stays text in the SVG.
"""

from __future__ import annotations

import re
import warnings
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from io import BytesIO
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from xraytune.base.files import write_bytes

if TYPE_CHECKING:
    from matplotlib.axes import Axes as Axes
    from matplotlib.figure import Figure

SAMPLES, CLASS_FREQUENCY = "samples", "class_frequency"
"""Names of the figures of a data folder."""
COLOURS = ("#0072b2", "#d55e00", "#009e73", "#cc79a7", "#e69f00", "#56b4e9", "#000000")
"""Distinct for colour-blind readers. Source: Okabe and Ito 2008, "Color Universal Design"."""
WIDTH_INCHES, _LABEL_INCHES, _IMAGE_INCHES = 9.0, 1.8, 1.6
_DOTS_PER_INCH = 200
_MOST_DOTS = 12_000
"""Longest side of a PNG; figures with very many classes get a lower resolution, since the rasteriser's limit is 65,536."""
_LONGEST_NAME = 24
_GREY = "#444444"
_STYLE: dict[Any, Any] = {
    "font.family": ["DejaVu Sans", "sans-serif"],  # comes with matplotlib
    "image.composite_image": False,
    "svg.fonttype": "none",
    "svg.hashsalt": "xraytune",
    "text.parse_math": False,  # a class may be called $x$
    "axes.edgecolor": _GREY,
    "axes.linewidth": 0.6,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "xtick.color": _GREY,
    "ytick.color": _GREY,
    "xtick.major.width": 0.6,
    "ytick.major.width": 0.6,
    "xtick.major.size": 3,
    "ytick.major.size": 3,
}
_METADATA: dict[str, dict[str, Any]] = {
    ".png": {"Software": None},
    ".svg": {"Date": None, "Creator": "xraytune"},
}


@dataclass(frozen=True, slots=True, kw_only=True)
class SampleRow:
    """A row of a sample grid: a class, a note below its name, and images, uint8 [n, S, S] or, in colour, [n, S, S, 3]."""

    name: str
    note: str
    images: NDArray[np.uint8]


def figure_files(folder: Path, name: str) -> tuple[Path, Path]:
    """Return the paths of a figure: PNG and SVG."""
    return folder / f"{name}.png", folder / f"{name}.svg"


def with_interval(value: float, interval: tuple[float, float] | None) -> str:
    """Return a metric as text, with its interval if it has one: `0.962 (0.951 to 0.973)`."""
    return f"{value:.3f} ({interval[0]:.3f} to {interval[1]:.3f})" if interval else f"{value:.3f}"


def draw_sample_grid(rows: Sequence[SampleRow], folder: Path) -> tuple[Path, Path]:
    """Draw the figure `samples`: a row of images for each class, with its name on the left."""
    columns = max(1, *(len(row.images) for row in rows))
    side = min(_IMAGE_INCHES, (WIDTH_INCHES - _LABEL_INCHES) / columns)
    files = figure_files(folder, SAMPLES)
    with new_figure(files, len(rows) * side + 0.3) as figure:
        axes = figure.add_subplot()
        for y, row in enumerate(rows):
            for x, image in enumerate(row.images):
                extent = (x + 0.04, x + 0.96, y + 0.96, y + 0.04)
                axes.imshow(image, cmap="gray", vmin=0, vmax=255, extent=extent)
        axes.set(xlim=(0, columns), ylim=(len(rows), 0), aspect="equal", anchor="W")
        _label_classes(axes, [y + 0.5 for y in range(len(rows))], [f"{drawable(row.name)}\n{row.note}" for row in rows])
    return files


def draw_class_bars(
    classes: Sequence[str], panels: Mapping[str, Mapping[str, Sequence[int]]], folder: Path
) -> tuple[Path, Path]:
    """Draw `class_frequency`: horizontal bars, a group for each class, a bar for each series.

    The panels, one or two, have the same series, at most four.
    """
    series = [*next(iter(panels.values()))]
    bar = 0.8 / len(series)
    files = figure_files(folder, CLASS_FREQUENCY)
    with new_figure(files, len(classes) * (0.3 + 0.28 * len(series)) + 0.9) as figure:
        first, *_ = charts = figure.subplots(1, len(panels), sharey=True, squeeze=False)[0]
        for axes, (title, panel) in zip(charts, panels.items(), strict=True):
            for number, (label, counts) in enumerate(panel.items()):
                places = np.arange(len(classes)) + (number - (len(series) - 1) / 2) * bar
                bars = axes.barh(places, counts, 0.85 * bar, label=label, color=COLOURS[number])
                axes.bar_label(bars, [f"{count:,} ({count / (sum(counts) or 1):.0%})" for count in counts], padding=4)
            axes.set_title(title, loc="left", fontweight="bold")
            _label_classes(axes, range(len(classes)), [drawable(each) for each in classes])
        first.set_ylim(len(classes) - 0.4, -0.6)
        if len(series) > 1:
            handles, labels = first.get_legend_handles_labels()
            figure.legend(handles, labels, loc="outside upper left", ncols=len(series), frameon=False)
    return files


def _label_classes(axes: Axes, places: Sequence[float], names: Sequence[str]) -> None:
    """Write the names on the left, without ticks or a frame."""
    axes.set_xticks([])
    axes.set_yticks(places, labels=names, parse_math=False)  # a class may be called $x$
    axes.tick_params(length=0)
    axes.spines[:].set_visible(False)


def drawable(name: str) -> str:
    """Return a name from the data for a figure: without control characters, and shortened."""
    name = re.sub(r"[\0-\x1f\x7f-\x9f]", "\ufffd", name)  # not allowed in SVG
    return name if len(name) <= _LONGEST_NAME else f"{name[: _LONGEST_NAME - 1]}…"


@contextmanager
def new_figure(files: Sequence[Path], height: float) -> Iterator[Figure]:
    """Draw a figure, `height` inches high, without the user's settings, and write it as these PNG and SVG files."""
    import matplotlib
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    with matplotlib.rc_context(), warnings.catch_warnings():
        # A name in a script that the font lacks is boxes in the PNG, but correct in the SVG.
        warnings.filterwarnings("ignore", message="Glyph .* missing from")
        matplotlib.rcdefaults()
        matplotlib.rcParams.update(_STYLE)
        figure = Figure(figsize=(WIDTH_INCHES, height), facecolor="white", layout="constrained")
        FigureCanvasAgg(figure)
        yield figure
        dots = min(_DOTS_PER_INCH, int(_MOST_DOTS / height))
        for file in files:
            content = BytesIO()
            figure.savefig(content, format=file.suffix[1:], dpi=dots, metadata=_METADATA[file.suffix])
            write_bytes(file, content.getvalue())
