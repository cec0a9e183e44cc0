"""Draw figures, each as PNG and SVG: the only file that knows matplotlib.

Takes plain records, gives files that are the same bytes for the same records: no date, no random ids, nothing of the
person's own matplotlib settings. A figure is laid out in inches on one empty sheet, so that texts and margins keep their
size whatever is drawn. Text stays text in the SVG. The colours are Okabe and Ito's, told apart by colour-blind readers.
"""

from __future__ import annotations

import re
import warnings
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from io import BytesIO
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from xraytune.files import write_bytes

if TYPE_CHECKING:
    from matplotlib.axes import Axes

_SERIES_COLOURS = ("#0072b2", "#e69f00", "#009e73", "#cc79a7")
"""Blue, orange, green, purple. Source: Okabe and Ito 2008, "Color Universal Design"."""
_INK, _PALE_INK = "#1f2328", "#6e7781"
_WIDTH_INCHES = 9.0
"""Half as wide again as a column of text, so that 11 points are read as 8 there."""
_MARGIN_INCHES = 0.35
_NAME_POINTS, _NOTE_POINTS = 12.0, 10.0
_DOTS_PER_INCH = 200
_MOST_DOTS = 12_000
"""Of a side: a figure of very many classes is drawn coarser, for the rasteriser has an end (65,536) and so has memory."""
_LONGEST_NAME = 24


@dataclass(frozen=True, slots=True, kw_only=True)
class SampleRow:
    """A row of a sample grid.

    Attributes:
        name: The class.
        note: What stands below its name.
        images: uint8 [n, S, S]; rows may differ in n.
    """

    name: str
    note: str
    images: NDArray[np.uint8]


@dataclass(frozen=True, slots=True, kw_only=True)
class BarPanel:
    """Bars with one scale: how many of something there are of each class, in each series.

    Attributes:
        title: What is counted.
        counts: Series (such as training and test) -> one count for each class.
    """

    title: str
    counts: dict[str, tuple[int, ...]]


def figure_files(folder: Path, name: str) -> tuple[Path, Path]:
    """The files that the figure of this name consists of: PNG and SVG."""
    return folder / f"{name}.png", folder / f"{name}.svg"


def draw_sample_grid(rows: Sequence[SampleRow], folder: Path, name: str = "samples") -> tuple[Path, Path]:
    """A row of images for each class, its name at the left.

    Args:
        rows: At least one.
        folder: Where the files are written.
        name: Of the files, without their ending.

    Raises:
        MachineError: The disk is full.
    """
    columns = max(len(row.images) for row in rows)
    gap, note_height = 0.07, 0.25
    with _style():
        names = [_shortened(row.name) for row in rows]
        label = max(_text_width(row.note, _NOTE_POINTS) for row in rows)
        label = max(label, *(_text_width(each, _NAME_POINTS, bold=True) for each in names)) + note_height
        left = _MARGIN_INCHES + label
        side = (_WIDTH_INCHES - _MARGIN_INCHES - left - (columns - 1) * gap) / columns if columns else 1.0
        side = min(side, 1.6)
        height = 2 * _MARGIN_INCHES + len(rows) * side + (len(rows) - 1) * 2 * gap

        def draw(sheet: Axes) -> None:
            for position, (row, shown) in enumerate(zip(rows, names, strict=True)):
                top = _MARGIN_INCHES + position * (side + 2 * gap)
                _text(sheet, _MARGIN_INCHES, top + side / 2 - 0.02, shown, bold=True, vertical="bottom")
                _text(sheet, _MARGIN_INCHES, top + side / 2 + 0.05, row.note, vertical="top")
                for column, image in enumerate(row.images):
                    x = left + column * (side + gap)
                    sheet.imshow(image, cmap="gray", vmin=0, vmax=255, extent=(x, x + side, top + side, top))

        return _write(draw, (_WIDTH_INCHES, height), figure_files(folder, name))


def draw_class_bars(
    classes: Sequence[str], panels: Sequence[BarPanel], folder: Path, name: str = "class_frequency"
) -> tuple[Path, Path]:
    """Horizontal bars side by side: a panel for each thing that is counted, a group for each class, a bar for each series.

    Args:
        classes: Their names, from top to bottom.
        panels: At least one; all have the same series, four at most.
        folder: Where the files are written.
        name: Of the files, without their ending.

    Raises:
        MachineError: The disk is full.
    """
    series = list(panels[0].counts)
    bar, bar_gap, group_gap = 0.24, 0.05, 0.28
    head = 0.75 if len(series) > 1 else 0.38  # a single series needs no key
    group = len(series) * bar + (len(series) - 1) * bar_gap
    height = 2 * _MARGIN_INCHES + head + len(classes) * (group + group_gap) - group_gap
    with _style():
        names = [_shortened(each) for each in classes]
        left = _MARGIN_INCHES + max(_text_width(each, _NAME_POINTS, bold=True) for each in names) + 0.3
        panel_gap = 0.45
        panel_width = (_WIDTH_INCHES - _MARGIN_INCHES - left - (len(panels) - 1) * panel_gap) / len(panels)

        def draw(sheet: Axes) -> None:
            if len(series) > 1:
                _draw_key(sheet, left, series)
            for position, shown in enumerate(names):
                middle = _MARGIN_INCHES + head + position * (group + group_gap) + group / 2
                _text(sheet, _MARGIN_INCHES, middle, shown, bold=True)
            for number, panel in enumerate(panels):
                x = left + number * (panel_width + panel_gap)
                _text(sheet, x, _MARGIN_INCHES + head - 0.2, panel.title, bold=True, vertical="baseline")
                _draw_panel(
                    sheet, panel, (x, _MARGIN_INCHES + head), panel_width, (bar, bar + bar_gap, group + group_gap)
                )

        return _write(draw, (_WIDTH_INCHES, height), figure_files(folder, name))


def _draw_key(sheet: Axes, x: float, series: Sequence[str]) -> None:
    """Which colour is which series."""
    for name, colour in zip(series, _SERIES_COLOURS, strict=False):
        _rectangle(sheet, (x, _MARGIN_INCHES - 0.02), 0.16, 0.16, colour)
        _text(sheet, x + 0.24, _MARGIN_INCHES + 0.06, name)
        x += 0.24 + _text_width(name, _NOTE_POINTS) + 0.35


def _draw_panel(
    sheet: Axes, panel: BarPanel, corner: tuple[float, float], width: float, heights: tuple[float, float, float]
) -> None:
    """Bars with their numbers and their shares of the series; `heights`: of a bar, from bar to bar, from class to class."""
    bar, bar_step, class_step = heights
    totals = [sum(counts) for counts in panel.counts.values()]
    texts = [
        [(f"{count:,}", f"{count / total:.0%}" if total else "") for count in counts]
        for counts, total in zip(panel.counts.values(), totals, strict=True)
    ]
    number_width = max(_text_width(number, _NOTE_POINTS, bold=True) for row in texts for number, _ in row)
    room = width - number_width - _text_width("100%", _NOTE_POINTS) - 0.25
    longest = max(max(counts) for counts in panel.counts.values()) or 1
    for series, (counts, colour) in enumerate(zip(panel.counts.values(), _SERIES_COLOURS, strict=False)):
        for position, count in enumerate(counts):
            x, y = corner[0], corner[1] + position * class_step + series * bar_step
            _rectangle(sheet, (x, y), room * count / longest, bar, colour)
            number, share = texts[series][position]
            x += room * count / longest + 0.09
            _text(sheet, x, y + bar / 2, number, bold=True, points=_NOTE_POINTS)
            _text(sheet, x + _text_width(number, _NOTE_POINTS, bold=True) + 0.09, y + bar / 2, share)


def _rectangle(sheet: Axes, corner: tuple[float, float], width: float, height: float, colour: str) -> None:
    from matplotlib.patches import Rectangle

    sheet.add_patch(Rectangle(corner, width, height, facecolor=colour, linewidth=0))


def _text(
    sheet: Axes,
    x: float,
    y: float,
    text: str,
    *,
    bold: bool = False,
    points: float | None = None,
    vertical: str = "center_baseline",
) -> None:
    """A name, dark and bold, or a note, pale."""
    sheet.text(
        x,
        y,
        text,
        fontsize=points or (_NAME_POINTS if bold else _NOTE_POINTS),
        fontweight="bold" if bold else "normal",
        color=_INK if bold else _PALE_INK,
        verticalalignment=vertical,
        parse_math=False,  # a class may be called $x$
    )


def _text_width(text: str, points: float, *, bold: bool = False) -> float:
    """In inches."""
    from matplotlib.font_manager import FontProperties
    from matplotlib.textpath import TextPath

    if not text.strip():
        return 0.0
    with _without_glyph_warnings():
        font = FontProperties(weight="bold" if bold else "normal")
        outline = TextPath((0, 0), text.replace("$", r"\$"), size=points, prop=font, usetex=False)
    return float(outline.get_extents().x1) / 72


def _shortened(name: str) -> str:
    name = re.sub(r"[\0-\x1f\x7f-\x9f]", "\ufffd", name)  # which no SVG may hold
    return name if len(name) <= _LONGEST_NAME else f"{name[: _LONGEST_NAME - 1]}…"


@contextmanager
def _style() -> Iterator[None]:
    """Our settings alone, whatever the person's file says; theirs are back afterwards."""
    import matplotlib

    with matplotlib.rc_context():
        matplotlib.rcdefaults()
        matplotlib.rcParams["font.family"] = ["DejaVu Sans", "sans-serif"]  # comes with matplotlib: the same everywhere
        matplotlib.rcParams["image.composite_image"] = False
        matplotlib.rcParams["svg.fonttype"] = "none"
        matplotlib.rcParams["svg.hashsalt"] = "xraytune"
        yield


@contextmanager
def _without_glyph_warnings() -> Iterator[None]:
    """A class in a script that the font lacks is boxes in the PNG and right in the SVG: no reason to alarm anybody."""
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", message="Glyph .* missing from")
        yield


def _write(draw: Callable[[Axes], None], size: tuple[float, float], files: tuple[Path, Path]) -> tuple[Path, Path]:
    """Draw on an empty sheet whose unit is an inch, from the top left corner, and write it as PNG and SVG."""
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    width, height = size
    figure = Figure(figsize=size, facecolor="white")
    FigureCanvasAgg(figure)
    sheet = figure.add_axes((0, 0, 1, 1))
    sheet.set_axis_off()
    draw(sheet)
    sheet.set(xlim=(0, width), ylim=(height, 0), aspect="auto")
    dots = min(_DOTS_PER_INCH, int(_MOST_DOTS / height))
    with _without_glyph_warnings():
        for file in files:
            content = BytesIO()
            what = file.suffix.removeprefix(".")
            metadata = {"Software": None} if what == "png" else {"Date": None, "Creator": "xraytune"}
            figure.savefig(content, format=what, dpi=dots, metadata=metadata)
            write_bytes(file, content.getvalue())
    return files
