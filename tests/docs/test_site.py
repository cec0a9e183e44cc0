"""The documentation site builds without a warning."""

import subprocess
import sys
from pathlib import Path

import pytest

from tests.docs.commands import ROOT

pytestmark = [pytest.mark.slow, pytest.mark.nightly]


def test_the_site_builds_with_its_references(tmp_path: Path) -> None:
    """As `make docs` builds it."""
    command = [sys.executable, "-m", "mkdocs", "build", "--strict", "--site-dir", str(tmp_path)]

    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)

    assert done.returncode == 0, done.stderr
    space, cli = (
        (tmp_path / "reference" / page / "index.html").read_text("utf-8")
        for page in ("space", "cli")
    )
    assert "Epochs before the first rung." in space
    assert "--max-size" in cli
