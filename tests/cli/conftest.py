"""A small space file."""

from pathlib import Path

import pytest

from tests.cli.spaces import SPACE


@pytest.fixture
def space(tmp_path: Path) -> Path:
    """Return a small space file."""
    file = tmp_path / "space.yaml"
    file.write_text(SPACE)
    return file
