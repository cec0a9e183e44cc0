"""The Python API: every command has a documented function, and paths may be text."""

import inspect
import re
from collections.abc import Iterator
from dataclasses import fields, is_dataclass
from pathlib import Path
from typing import Any

import mypy.api
import pytest
import typer

from tests.docs.commands import ROOT, python_of, run_python_of
from tests.in_process import confirm_in_process
from tests.study.studies import new_study
from xraytune import api
from xraytune.cli.main import build_app

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


def test_a_path_and_one_override_may_be_text(tmp_path: Path) -> None:
    study = new_study(tmp_path).path

    assert api.status(str(study)) == api.status(study=study)
    space = api.space_check(
        str(tmp_path / "small.yaml"), data="elsewhere", overrides="budget.trials=3"
    )
    assert space.settings.data.path.name == "elsewhere"
    assert space.settings.budget.trials == 3


def test_every_field_of_a_result_is_documented() -> None:
    records = [record for name in api.__all__ if is_dataclass(record := getattr(api, name))]

    assert len(records) > 15
    for record in records:
        described = (inspect.getdoc(record) or "").partition("Attributes:")[2]
        names = [field.name for field in fields(record)]
        assert [name for name in names if not re.search(rf"\b{name}\b", described)] == [], record


def test_callbacks_are_combined(capsys: pytest.CaptureFixture[str]) -> None:
    notes: list[str] = []

    with api.show_search() as shown:
        both = shown.combine(api.Callbacks(note=notes.append))
        both.note("one patient has no images")

    assert notes == ["one patient has no images"]
    assert notes[0] in capsys.readouterr().err


def test_the_page_passes_a_strict_type_checker_which_knows_what_each_function_takes(
    tmp_path: Path,
) -> None:
    """As an editor does, from the stub of the API."""
    page = tmp_path / "page.py"
    page.write_text(python_of("docs/python.md"))
    wrong = tmp_path / "wrong.py"
    lines = [
        "from xraytune import api",
        "api.search(spase='a.yaml')",
        "api.train('study', out=3)",
        "api.status('study').value",
        *(f"reveal_type(api.{name})" for name in api.__all__),
    ]
    wrong.write_text("\n".join(lines))

    output, errors, _ = mypy.api.run(
        [f"--config-file={ROOT}/pyproject.toml", str(page), str(wrong)]
    )

    assert errors == ""
    found = [line for line in output.splitlines() if ": error: " in line]
    assert [re.split(r":|\[", line)[1] for line in found] == ["2", "3", "4"], output
    assert [Path(line.split(":")[0]).name for line in found] == ["wrong.py"] * 3, output
    revealed = [line for line in output.splitlines() if "Revealed type" in line]
    assert len(revealed) == len(api.__all__)
    untyped = [line for line in revealed if line.endswith('-> Any"')]
    assert len(untyped) == 2, "neither pandas nor Plotly has types"


@pytest.mark.nightly
def test_the_page_runs_from_top_to_bottom(here: Path) -> None:
    """With its trials in this process instead of Ray's."""
    with confirm_in_process():
        names = run_python_of("docs/python.md")

    assert len(names["trials"]) == 6
    assert names["confirmation"].verdict in {"helps", "hurts", "no_better", "undecided"}
    assert (here / "predictions.csv").exists()
