"""The page in a real browser: without errors, without a network, and for keyboard, screen reader and printer."""

import shutil
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path

import pytest
from axe_playwright_python.sync_playwright import Axe
from playwright.sync_api import Browser, Page, sync_playwright

from xraytune.base.files import read_json, write_json
from xraytune.present.page import write_report

CHROMIUM = shutil.which("chromium")
pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(CHROMIUM is None, reason="needs the browser `chromium` (apt-get install chromium)"),
]
HOSTILE = ["<script>window.attacked = 1</script>", '"><img src=x onerror="window.attacked = 1">', "שלום 'עולם'"]


@pytest.fixture(scope="module")
def browser() -> Iterator[Browser]:
    """One browser for all tests, without a profile."""
    arguments = ["--no-sandbox", "--disable-background-networking"]
    with (
        sync_playwright() as playwright,
        playwright.chromium.launch(executable_path=CHROMIUM, args=arguments) as launched,
    ):
        yield launched


@dataclass
class Opened:
    """A page, and what it complained about and asked for."""

    page: Page
    errors: list[str] = field(default_factory=list)
    requests: list[str] = field(default_factory=list)


def _open(browser: Browser, address: str, width: int = 1280) -> Opened:
    opened = Opened(browser.new_page(viewport={"width": width, "height": 900}))
    opened.page.on("console", lambda said: opened.errors.append(said.text) if said.type == "error" else None)
    opened.page.on("pageerror", lambda error: opened.errors.append(str(error)))
    opened.page.on("request", lambda asked: opened.requests.append(asked.url))
    opened.page.goto(address)
    opened.page.wait_for_function("window.Plotly")
    return opened


def _draw_all(page: Page) -> None:
    for chart in page.locator(".chart:visible").all():
        chart.scroll_into_view_if_needed()
        chart.locator(".main-svg").first.wait_for(state="attached")


@pytest.fixture(scope="module")
def hostile(confirmed: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The page of a study whose verdict has hostile names."""
    study = tmp_path_factory.mktemp("hostile") / "study"
    shutil.copytree(confirmed, study)
    path = study / "confirm" / "verdict.json"
    verdict = read_json(path)
    for one, name in zip(verdict["finalists"][0]["comparisons"], HOSTILE, strict=True):
        one["control"] = name
    path.unlink()
    write_json(path, verdict, is_recorded=True)
    return write_report(study)


@pytest.mark.parametrize("width", [400, 1600])
def test_every_chart_is_drawn_without_errors_and_without_a_network(browser: Browser, hostile: Path, width: int) -> None:
    opened = _open(browser, hostile.as_uri(), width)
    _draw_all(opened.page)

    assert opened.errors == []
    assert [one for one in opened.requests if not one.startswith(("file:", "data:", "blob:"))] == []
    assert opened.page.evaluate("document.documentElement.scrollWidth") <= width
    assert opened.page.evaluate("window.attacked") is None
    for name in HOSTILE:
        assert name in opened.page.inner_text("#verdict table"), "hostile names are text"


@pytest.mark.parametrize("theme", ["light", "dark"])
def test_no_serious_barrier(browser: Browser, hostile: Path, theme: str) -> None:
    page = _open(browser, hostile.as_uri()).page
    page.emulate_media(color_scheme="dark" if theme == "dark" else "light")
    _draw_all(page)

    found = Axe().run(page).response["violations"]

    assert page.get_attribute("html", "data-theme") == theme
    serious = [f"{one['id']}: {one['nodes'][0]['html']}" for one in found if one["impact"] in ("serious", "critical")]
    assert serious == []


def test_trials_are_sorted_and_filtered_by_mouse_and_keyboard(browser: Browser, hostile: Path) -> None:
    page = _open(browser, hostile.as_uri()).page
    table = page.locator("#parameters table")
    head = table.get_by_role("button", name="val_a_score")

    def column(number: int) -> list[str]:
        return [one.inner_text() for one in table.locator(f"tbody tr:visible td:nth-child({number + 1})").all()]

    head.click()
    scores = [float(one) for one in column(5) if one]
    assert scores == sorted(scores)
    head.focus()
    page.keyboard.press("Enter")
    assert [float(one) for one in column(5) if one] == scores[::-1]
    assert table.locator("th[aria-sort=descending]").inner_text().startswith("val_a_score")
    page.locator("#parameters input[type=search]").press_sequentially("gan complete")
    assert set(column(1)) == {"complete"}
    assert set(column(2)) == {"gan"}
