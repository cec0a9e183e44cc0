"""Commands, run as a person would run them but in this process."""

from collections.abc import Callable
from pathlib import Path
from typing import TypeAlias

import pytest
from typer.testing import CliRunner, Result

from xraytune.cli.main import build_app

Run: TypeAlias = Callable[..., Result]

SPACE = """
name: small
data: {path: xrays, image_size: 32}
parameters:
  source: {values: [none, gan]}
  gan:
    when: {source: gan}
    parameters: {image_size: {value: 32}, width: {value: 4}, batch_size: {value: 4}, steps: {values: [2, 3]}}
  backbone: {value: small_cnn}
  weights: {value: none}
  lr: {min: 1e-4, max: 1e-2, distribution: log_uniform_values}
resources: {gpus_per_trial: 0}
"""


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
