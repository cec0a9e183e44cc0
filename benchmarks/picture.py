"""Draw a study as the terminal shows it: `python -m benchmarks.picture STUDY OUT.svg`."""

from __future__ import annotations

import io
import sys
from pathlib import Path

from rich.console import Console
from rich.terminal_theme import MONOKAI

from xraytune.cli.console import drawn
from xraytune.cli.study_frame import live_frame
from xraytune.search.status import StudyWatcher
from xraytune.search.study import StudyFolder


def draw(study: Path, out: Path) -> None:
    """Write the live view of a study, as it stands, as an SVG."""
    view = StudyWatcher(StudyFolder(study)).look()
    console = Console(record=True, width=96, file=io.StringIO(), force_terminal=True, color_system="truecolor")
    console.print(drawn(live_frame(view)))
    out.write_text(console.export_svg(title="xraytune search", theme=MONOKAI), encoding="utf-8")


if __name__ == "__main__":
    draw(Path(sys.argv[1]), Path(sys.argv[2]))
