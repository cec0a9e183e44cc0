"""The Python API: every command has a documented function, and paths may be text."""

import inspect
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import typer

import xraytune
from tests.in_process import InProcess, one_thread
from tests.study.studies import CPU, two_images, write_space
from xraytune.cli.main import build_app
from xraytune.confirm import run as confirm_run
from xraytune.search import run as search_run
from xraytune.study.folder import StudyFolder
from xraytune.study.start import create_study

pytestmark = pytest.mark.slow

ROOT = Path(__file__).parents[1]
SHOWN = {"as_json", "schema", "yes", "quick"}
"""Options that change what a command prints, which a Python caller decides with the result."""
OTHER_NAMES = {
    "xraytune data inspect": dict.fromkeys(
        ("source", "classes", "positive", "group_regex"), "folder"
    ),  # `DataSettings`
    "xraytune data phantom": {"size": "image_size_px", "masks": "pairs"},
    "xraytune space check": {"file": "path"},
    "xraytune train": {"study": "config"},
}
"""Options whose value is in another argument of the function."""


def commands(command: Any = None, name: str = "xraytune") -> Iterator[tuple[str, Any]]:
    command = command or typer.main.get_command(build_app())
    for child, inner in getattr(command, "commands", {}).items():
        yield from commands(inner, f"{name} {child}")
    if not hasattr(command, "commands"):
        yield name, command


def functions_by_command() -> dict[str, list[str]]:
    """The table in the package's docstring."""
    lines = re.findall(r"^    (xraytune \S.*?)  +(\S.*)$", xraytune.__doc__ or "", re.MULTILINE)
    return {command: names.split(", ") for command, names in lines}


def public_functions() -> list[str]:
    return sorted({name for names in functions_by_command().values() for name in names})


def test_every_command_has_a_function() -> None:
    assert functions_by_command().keys() == {name for name, _ in commands()}
    assert set(public_functions()) <= set(xraytune.__all__)


@pytest.mark.parametrize("name", [name for name, _ in commands()])
def test_every_option_is_an_argument(name: str) -> None:
    command = dict(commands())[name]
    options = {param.name for param in command.params} - SHOWN - {"help"}
    arguments = set[str]()
    for function in functions_by_command()[name]:
        arguments |= inspect.signature(getattr(xraytune, function)).parameters.keys()

    assert {OTHER_NAMES.get(name, {}).get(option, option) for option in options} <= arguments


def test_a_path_may_be_text(tmp_path: Path) -> None:
    folder = StudyFolder(tmp_path / "studies" / "small")
    create_study(folder, write_space(tmp_path), two_images(), CPU)

    assert xraytune.status(str(folder.path)) == xraytune.status(study=folder.path)
    space = xraytune.load_space(str(tmp_path / "small.yaml"), data="elsewhere")
    assert space.settings.data.path.name == "elsewhere"
    assert xraytune.DataSettings(path="xrays").path == Path("xrays")


@pytest.mark.nightly
def test_the_page_runs_from_top_to_bottom(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """With its trials in this process instead of Ray's."""
    page = (ROOT / "docs" / "python.md").read_text(encoding="utf-8")
    blocks = re.findall(r"^```python\n(.*?)^```", page, re.DOTALL | re.MULTILINE)
    monkeypatch.chdir(tmp_path)
    for module in (search_run, confirm_run):
        monkeypatch.setattr(module, "Runner", InProcess)

    names: dict[str, Any] = {}
    with one_thread():
        for block in blocks:
            exec(compile(block, "docs/python.md", "exec"), names)

    assert len(names["trials"]) == 6
    assert names["confirmation"].verdict in {"helps", "hurts", "no_better", "undecided"}
    assert (tmp_path / "predictions.csv").exists()
