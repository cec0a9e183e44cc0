"""Commands, run as a person would run them but in this process."""

from collections.abc import Callable
from pathlib import Path
from typing import TypeAlias

import pytest
from typer.testing import CliRunner, Result

from tests.cli.spaces import SPACE
from xraytune.cli.main import build_app

Run: TypeAlias = Callable[..., Result]


@pytest.fixture
def run() -> Run:
    """`run("space", "check", file)`."""
    runner = CliRunner()

    def run_command(*arguments: object) -> Result:
        return runner.invoke(build_app(), [str(argument) for argument in arguments], env={"COLUMNS": "80"})

    return run_command


@pytest.fixture
def space(tmp_path: Path) -> Path:
    """A small space file."""
    file = tmp_path / "space.yaml"
    file.write_text(SPACE, encoding="utf-8")
    return file
