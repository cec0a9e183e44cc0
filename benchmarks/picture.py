"""Draw README's pictures of a study: `python -m benchmarks.picture STUDY docs`.

Writes `search.svg`, the study as the terminal shows it, and the verdict in its report,
`report-light.png` and `report-dark.png`. Needs a study with a verdict, and Chromium.
"""

from __future__ import annotations

import io
import shutil
import sys
from pathlib import Path
from tempfile import TemporaryDirectory

from playwright.sync_api import sync_playwright
from rich.console import Console
from rich.terminal_theme import MONOKAI

from xraytune.cli.console import draw
from xraytune.present.page import write_report
from xraytune.present.trials import live_frame
from xraytune.study.folder import StudyFolder
from xraytune.study.status import StudyWatcher


def draw_terminal(study: Path, out: Path) -> None:
    """Write the live view of a study, as it stands, as an SVG."""
    view = StudyWatcher(StudyFolder(study)).look()
    console = Console(
        record=True, width=96, file=io.StringIO(), force_terminal=True, color_system="truecolor"
    )
    console.print(draw(live_frame(view)))
    out.write_text(console.export_svg(title="xraytune search", theme=MONOKAI), encoding="utf-8")


def draw_report(study: Path, folder: Path) -> None:
    """Write a screenshot of the verdict and its chart in the report, light and dark."""
    with TemporaryDirectory() as name, sync_playwright() as playwright:
        page_file = write_report(study, out=Path(name) / "report.html")
        browser = playwright.chromium.launch(
            executable_path=shutil.which("chromium"), args=["--no-sandbox"]
        )
        for theme in ("light", "dark"):
            page = browser.new_page(
                viewport={"width": 900, "height": 800}, color_scheme=theme, device_scale_factor=2
            )
            page.goto(page_file.as_uri())
            page.wait_for_selector("#verdict .main-svg")
            hidden = "header, .state, #verdict :is(.table, details, .commands), #verdict ~ *"
            page.add_style_tag(content=f"{hidden} {{ display: none }}")
            page.locator("main").screenshot(path=folder / f"report-{theme}.png")
        browser.close()


if __name__ == "__main__":
    given, target = map(Path, sys.argv[1:])
    draw_terminal(given, target / "search.svg")
    draw_report(given, target)
