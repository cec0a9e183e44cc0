"""The documentation site: it builds without a warning, and its pages need no other host."""

from __future__ import annotations

import functools
import http.server
import re
import shutil
import subprocess
import sys
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest
from playwright.sync_api import sync_playwright

from tests.docs.commands import ROOT

pytestmark = [pytest.mark.slow, pytest.mark.nightly]

CHROMIUM = shutil.which("chromium")


@pytest.fixture(scope="module")
def site(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The site, built as `make docs` builds it."""
    folder = tmp_path_factory.mktemp("site")
    command = [sys.executable, "-m", "mkdocs", "build", "--strict", "--site-dir", str(folder)]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    return folder


def test_the_reference_comes_from_the_code(site: Path) -> None:
    def text(page: str) -> str:
        html = (site / "reference" / page / "index.html").read_text(encoding="utf-8")
        return " ".join(re.sub(r"<[^>]*>", "", html).split())

    assert "Epochs before the first rung." in text("space")
    assert "xraytune cache clean" in text("cli")
    assert "--max-size" in text("cli")
    assert "Raises" in text("python")
    assert "DataSettings" in text("python")


def test_links_to_files_and_folders_of_the_repository_work(site: Path) -> None:
    assert "log_uniform_values" in (site / "files" / "search_spaces" / "gan_ratio_cpu.yaml" / "index.html").read_text(
        "utf-8"
    )
    assert "0004-the-journal-is-the-only-truth" in (site / "decisions" / "index.html").read_text(encoding="utf-8")
    spaces = (site / "spaces" / "index.html").read_text(encoding="utf-8")
    assert 'href="../files/search_spaces/gan_ratio.yaml/"' in spaces
    assert 'href="data/#label-tables"' in (site / "index.html").read_text(encoding="utf-8")
    assert "region of practical equivalence" in (site / "search" / "search_index.json").read_text(encoding="utf-8")


def test_no_page_refers_to_another_host_or_to_this_machine(site: Path) -> None:
    for page in [*site.rglob("*.html"), *site.glob("*.css")]:
        text = page.read_text(encoding="utf-8")
        assert (
            re.findall(r"""<(?:script|link|img|iframe)[^>]*(?:src|href)=["']?(?:https?:)?//[^"' >]*""", text) == []
        ), page
        assert str(ROOT) not in text, page


class _Quiet(http.server.SimpleHTTPRequestHandler):
    def log_message(self, *_: object) -> None: ...


@pytest.fixture
def address(site: Path) -> Iterator[str]:
    """Of a server with the site."""
    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), functools.partial(_Quiet, directory=str(site))) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        yield f"http://127.0.0.1:{server.server_port}/"
        server.shutdown()


@pytest.mark.skipif(CHROMIUM is None, reason="needs the browser `chromium` (apt-get install chromium)")
def test_pages_load_in_a_browser_without_errors(address: str) -> None:
    errors: list[str] = []
    requests: set[str] = set()
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=CHROMIUM, args=["--no-sandbox"])
        page = browser.new_page(viewport={"width": 1280, "height": 900})
        page.on("console", lambda said: errors.append(said.text) if said.type == "error" else None)
        page.on("pageerror", lambda error: errors.append(str(error)))
        page.on("request", lambda asked: requests.add(asked.url))
        for path in ("", "tutorial/", "results/", "reference/space/", "reference/python/"):
            page.goto(address + path)
        browser.close()

    assert errors == []
    assert {one for one in requests if not one.startswith(address)} == set()
