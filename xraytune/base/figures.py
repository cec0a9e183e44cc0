"""Figures as PNG and SVG; only this file imports matplotlib.

The same records give the same bytes, without dates, random ids or user settings. Text stays text in
the SVG.
"""

from __future__ import annotations

import re
import warnings
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from io import BytesIO
from pathlib import Path
from typing import TYPE_CHECKING, Any

from xraytune.base.files import write_bytes

if TYPE_CHECKING:
    from matplotlib.axes import Axes as Axes
    from matplotlib.figure import Figure

COLOURS = ("#0072b2", "#d55e00", "#009e73", "#cc79a7", "#e69f00", "#56b4e9", "#000000")
"""These colours are distinct for colour-blind readers.

From: Okabe and Ito 2008, "Color Universal Design".
"""
WIDTH_INCHES = 9.0
_DOTS_PER_INCH = 200
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
}
_METADATA: dict[str, dict[str, Any]] = {
    ".png": {"Software": None},
    ".svg": {"Date": None, "Creator": "xraytune"},
}


def figure_text(name: str) -> str:
    """Return a name from the data for a figure, shortened and without control characters."""
    name = re.sub(r"[\0-\x1f\x7f-\x9f]", "\ufffd", name)  # not allowed in SVG
    return name if len(name) <= _LONGEST_NAME else f"{name[: _LONGEST_NAME - 1]}…"


@contextmanager
def new_figure(files: Sequence[Path], height: float) -> Iterator[Figure]:
    """Plot a figure, `height` inches high, and write it as these PNG and SVG files.

    The user's settings of matplotlib have no effect.
    """
    import matplotlib
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    with matplotlib.rc_context(), warnings.catch_warnings():
        # If the font lacks a script, a name is shown as boxes in the PNG, but correctly in the SVG.
        warnings.filterwarnings("ignore", message="Glyph .* missing from")
        matplotlib.rcdefaults()
        matplotlib.rcParams.update(_STYLE)
        figure = Figure(figsize=(WIDTH_INCHES, height), facecolor="white", layout="constrained")
        FigureCanvasAgg(figure)
        yield figure
        for file in files:
            content = BytesIO()
            figure.savefig(
                content, format=file.suffix[1:], dpi=_DOTS_PER_INCH, metadata=_METADATA[file.suffix]
            )
            write_bytes(file, content.getvalue())
