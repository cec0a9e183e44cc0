"""The documentation site builds without a warning."""

import sys
from pathlib import Path

import pytest

from tests.docs.commands import ROOT
from tests.in_process import other_process

pytestmark = pytest.mark.nightly


def test_the_site_builds_with_its_references(tmp_path: Path) -> None:
    """It is built as by `make docs`."""
    build = f"{sys.executable} -m mkdocs build --strict --site-dir {tmp_path}"

    done = other_process(build, cwd=ROOT)

    assert done.returncode == 0, done.stderr
    pages = {"space": "Epochs before the first rung.", "cli": "--max-size"}
    for page, words in pages.items():
        assert words in (tmp_path / "reference" / page / "index.html").read_text("utf-8")
