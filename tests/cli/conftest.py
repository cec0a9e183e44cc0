"""Commands, run in this process."""

from collections.abc import Callable
from pathlib import Path
from typing import TypeAlias

import pytest
from typer.testing import Result

from tests.cli.spaces import SPACE
from tests.in_process import command

Run: TypeAlias = Callable[..., Result]


@pytest.fixture
def run() -> Run:
    """`run("space", "check", file)`."""
    return command


@pytest.fixture
def space(tmp_path: Path) -> Path:
    """A small space file."""
    file = tmp_path / "space.yaml"
    file.write_text(SPACE, encoding="utf-8")
    return file
