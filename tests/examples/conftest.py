"""The examples, installed: a folder with the metadata that pip would write, on the path."""

import tomllib
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest

from tests.extension_files import undeclared
from xraytune.space import extensions

ROOT = Path(__file__).resolve().parents[2]
EXAMPLES = ROOT / "examples"


def write_metadata(folder: Path, project: Mapping[str, Any]) -> None:
    """Write what an installed package leaves on the path, beside its modules."""
    info = folder / f"{project['name'].replace('-', '_')}-{project['version']}.dist-info"
    info.mkdir(parents=True)
    head = f"Metadata-Version: 2.1\nName: {project['name']}\nVersion: {project['version']}\n"
    (info / "METADATA").write_text(head)
    groups = (
        "\n".join([f"[{group}]", *(f"{name} = {value}" for name, value in points.items())])
        for group, points in project["entry-points"].items()
    )
    (info / "entry_points.txt").write_text("\n".join(groups))


@pytest.fixture(scope="session")
def examples_path(tmp_path_factory: pytest.TempPathFactory) -> list[str]:
    """Return the folders that make the examples installed."""
    site = tmp_path_factory.mktemp("site")
    project = tomllib.loads((EXAMPLES / "pyproject.toml").read_text())["project"]
    write_metadata(site, project)
    return [str(site), str(EXAMPLES), str(ROOT)]


@contextmanager
def on_path(*folders: Path) -> Iterator[None]:
    """Install what is in these folders, for this process and in this block."""
    with undeclared(), pytest.MonkeyPatch.context() as patch:
        for folder in folders:
            patch.syspath_prepend(str(folder))
        extensions._installed.cache_clear()
        yield
    extensions._installed.cache_clear()


@pytest.fixture
def installed(examples_path: list[str]) -> Iterator[None]:
    """Install the examples in this process."""
    with on_path(*map(Path, examples_path[:2])):
        yield
