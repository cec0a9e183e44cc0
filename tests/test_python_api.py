"""The Python API: every command has a documented function, and paths may be text."""

import inspect
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import typer

from tests.docs.commands import run_python_of
from tests.in_process import confirm_in_process
from tests.study.studies import new_study
from xraytune import api
from xraytune.cli.command import run
from xraytune.cli.main import build_app

pytestmark = pytest.mark.slow

ONLY_SHOWN = {"as_json", "yes", "help"}
"""Options that change what a command prints or asks, and not what it does."""


def commands(command: Any = None, name: str = "xraytune") -> Iterator[tuple[str, Any]]:
    command = command or typer.main.get_command(build_app())
    for child, inner in getattr(command, "commands", {}).items():
        yield from commands(inner, f"{name} {child}")
    if not hasattr(command, "commands"):
        yield name, command


def test_every_command_is_a_function_of_its_name_that_takes_all_of_its_options() -> None:
    for name, command in commands():
        function = name.removeprefix("xraytune ").replace(" ", "_")
        accepted = inspect.signature(getattr(api, function)).parameters
        options = {param.name: param.default for param in command.params}
        assert options.keys() - ONLY_SHOWN <= accepted.keys(), name
        for option in options.keys() & accepted.keys():
            defaults = (None, accepted[option].default)  # None stands for the function's default
            assert options[option] in defaults or inspect.Parameter.empty in defaults, name

    with pytest.raises(TypeError, match=r"api\.space_list\(\) does not take folder"):
        run("space_list", {"folder": "x", "as_json": True})


def test_a_path_may_be_text(tmp_path: Path) -> None:
    study = new_study(tmp_path).path

    assert api.status(str(study)) == api.status(study=study)
    space = api.space_check(str(tmp_path / "small.yaml"), data="elsewhere")
    assert space.settings.data.path.name == "elsewhere"


def test_one_override_may_be_text(tmp_path: Path) -> None:
    new_study(tmp_path)

    space = api.space_check(tmp_path / "small.yaml", overrides="budget.trials=3")

    assert space.settings.budget.trials == 3


@pytest.mark.nightly
def test_the_page_runs_from_top_to_bottom(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """With its trials in this process instead of Ray's."""
    monkeypatch.chdir(tmp_path)

    with confirm_in_process():
        names = run_python_of("docs/python.md")

    assert len(names["trials"]) == 6
    assert names["confirmation"].verdict in {"helps", "hurts", "no_better", "undecided"}
    assert (tmp_path / "predictions.csv").exists()
