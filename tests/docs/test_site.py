"""The documentation site: it builds without a warning, and its pages need no other host."""

from __future__ import annotations

import re
import subprocess
import sys
from pathlib import Path

import pytest

from tests.docs.commands import ROOT

pytestmark = [pytest.mark.slow, pytest.mark.nightly]


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


def test_no_page_refers_to_another_host_or_to_this_machine(site: Path) -> None:
    for page in [*site.rglob("*.html"), *site.glob("*.css")]:
        text = page.read_text(encoding="utf-8")
        assert (
            re.findall(
                r"""<(?:script|link|img|iframe)[^>]*(?:src|href)=["']?(?:https?:)?//[^"' >]*""",
                text,
            )
            == []
        ), page
        assert str(ROOT) not in text, page
