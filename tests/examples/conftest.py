"""The examples, installed: a folder with their metadata, as pip writes it from their pyproject.toml, on the path."""

import os
import subprocess
import sys
import tomllib
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any, TypeAlias

import pytest

from xraytune.space import extensions

ROOT = Path(__file__).resolve().parents[2]
EXAMPLES = ROOT / "examples"

Run: TypeAlias = Callable[..., subprocess.CompletedProcess[str]]
OnPath: TypeAlias = Callable[[Path], None]


def write_metadata(folder: Path, project: Mapping[str, Any]) -> None:
    """What an installed package leaves on the path, beside its modules."""
    info = folder / f"{project['name'].replace('-', '_')}-{project['version']}.dist-info"
    info.mkdir(parents=True)
    head = f"Metadata-Version: 2.1\nName: {project['name']}\nVersion: {project['version']}\n"
    (info / "METADATA").write_text(head, encoding="utf-8")
    groups = (
        "\n".join([f"[{group}]", *(f"{name} = {value}" for name, value in points.items())])
        for group, points in project["entry-points"].items()
    )
    (info / "entry_points.txt").write_text("\n".join(groups), encoding="utf-8")


@pytest.fixture(scope="session")
def examples_path(tmp_path_factory: pytest.TempPathFactory) -> list[str]:
    """The folders that make the examples installed."""
    site = tmp_path_factory.mktemp("site")
    project = tomllib.loads((EXAMPLES / "pyproject.toml").read_text(encoding="utf-8"))["project"]
    write_metadata(site, project)
    return [str(site), str(EXAMPLES), str(ROOT)]


@pytest.fixture(scope="session")
def run(examples_path: list[str]) -> Run:
    """`run("evaluate", model, "--json")`: the command in a process of its own; `run("-c", code)`: Python there."""

    def run_process(*arguments: object) -> subprocess.CompletedProcess[str]:
        program = Path(sys.executable) if arguments[0] == "-c" else Path(sys.executable).with_name("xraytune")
        return subprocess.run(
            [str(program), *map(str, arguments)],
            capture_output=True,
            text=True,
            check=False,
            env=os.environ | {"PYTHONPATH": os.pathsep.join(examples_path), "COLUMNS": "120"},
        )

    return run_process


@pytest.fixture
def on_path(monkeypatch: pytest.MonkeyPatch) -> Iterator[OnPath]:
    """`on_path(folder)`: what is installed in a folder is, for this process and until the test ends."""

    def prepend(folder: Path) -> None:
        monkeypatch.syspath_prepend(str(folder))
        extensions._installed.cache_clear()

    yield prepend
    monkeypatch.undo()
    extensions._installed.cache_clear()


@pytest.fixture
def installed(examples_path: list[str], on_path: OnPath) -> None:
    """The examples are installed in this process."""
    for folder in examples_path[:2]:
        on_path(Path(folder))
