"""Draw README's picture of a verdict: `python -m benchmarks.picture STUDY docs`.

Writes `report-light.png` and `report-dark.png`, the verdict in the report of a study. Needs a study
with a verdict, and Chromium.
"""

from __future__ import annotations

import shutil
import sys
from pathlib import Path
from tempfile import TemporaryDirectory

from playwright.sync_api import sync_playwright

from xraytune.present.page import write_report


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
    draw_report(given, target)
