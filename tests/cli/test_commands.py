"""The commands: their output, its streams, and their exit codes."""

import json
import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import TypeAlias

import pytest
import typer
from typer.testing import CliRunner, Result

from xraytune.base.errors import ConfigError, DataError, Problem, StudyError
from xraytune.cli.main import Command

Run: TypeAlias = Callable[..., Result]


@pytest.mark.slow
def test_space_check_prints_what_is_searched_and_every_default(run: Run, space: Path) -> None:
    result = run("space", "check", space)

    assert result.exit_code == 0
    assert "3 parameters are searched" in " ".join(result.stdout.split()), "it is broken between words"
    assert "0.0001 to 0.01, logarithmic" in result.stdout
    assert "batch_size" in result.stdout
    assert max(map(len, result.stdout.splitlines())) <= 80


@pytest.mark.slow
def test_space_check_omits_what_only_the_other_task_has(run: Run, space: Path) -> None:
    of_pairs = run("space", "check", space, "--set", "task=segmentation", "--set", "backbone=resnet18").stdout
    of_classes = run("space", "check", space).stdout

    assert ("dropout" in of_pairs, "dropout" in of_classes) == (False, True)


@pytest.mark.slow
def test_space_check_without_a_file_is_a_usage_error(run: Run) -> None:
    result = run("space", "check")

    assert result.exit_code == 2
    assert "give a space file, or --schema" in result.stderr


@pytest.mark.slow
def test_space_check_prints_the_schema_alone(run: Run) -> None:
    result = run("space", "check", "--schema")

    assert result.exit_code == 0
    assert json.loads(result.stdout)["title"] == "A space file of xraytune"


@pytest.mark.slow
def test_model_summary_prints_the_layers_and_the_counts(run: Run, space: Path) -> None:
    fixed = [part for name in ("lr=1e-3", "source=none", "classical=0") for part in ("--set", name)]

    content = json.loads(run("model", "summary", "--config", space, *fixed, "--json").stdout)
    table = run("model", "summary", "--config", space, *fixed).stdout

    assert content["layers"][-1]["output_shape"][-1] == 2
    assert sum(layer["params"] for layer in content["layers"]) == content["total_params"]
    assert f"{content['total_params']:,}" in table
    assert max(map(len, table.splitlines())) <= 80


def test_space_check_prints_every_problem_to_stderr(run: Run, space: Path) -> None:
    space.write_text(
        space.read_text(encoding="utf-8").replace("backbone", "bakbone").replace("1e-4", "1"), encoding="utf-8"
    )

    result = run("space", "check", space)

    assert result.exit_code == 2
    assert result.stdout == ""
    assert "fix: did you mean 'backbone'?" in result.stderr
    assert "lr: min 1 is above max 0.01" in result.stderr
    assert "Traceback" not in result.stderr


def test_space_check_json_is_one_object(run: Run, space: Path) -> None:
    answer = json.loads(run("space", "check", space, "--json").stdout)

    assert answer["ok"] is True
    assert answer["searched"] == ["source", "gan.steps", "lr"]
    assert answer["problems"] == []


def test_space_check_json_lists_problems(run: Run, space: Path) -> None:
    result = run("space", "check", space, "--set", "lr=-1", "--json")

    answer = json.loads(result.stdout)
    assert result.exit_code == 2
    assert answer["ok"] is False
    assert [problem["where"] for problem in answer["problems"]] == ["--set lr=-1"]


def test_a_wrong_option_is_a_usage_error(run: Run, space: Path) -> None:
    result = run("space", "check", space, "--jsn")

    assert result.exit_code == 2
    assert "--json" in result.stderr


@pytest.mark.parametrize(
    ("arguments", "exit_code", "message"),
    [
        (("status", "nowhere"), 5, "no study here"),
        (("export", "nowhere"), 5, "no study here"),
        (("evaluate", "nowhere", "--data", "x"), 5, "not a model bundle"),
        (("predict", "nowhere", "x", "-o", "y.csv"), 5, "not a model bundle"),
        (("data", "inspect", "nowhere"), 3, "nowhere"),
        (("data", "phantom", "out", "--patients", "1"), 2, "too few patients"),
        (("data", "phantom", "out", "--patients", "1000000000"), 2, "too many patients"),
        (("data", "phantom", "out", "--size", "1000000000"), 2, "image size out of bounds"),
        (("generator", "sample", "gan", "-o", "out", "-n", "0"), 2, "give 1 or more"),
        (("generator", "sample", "nowhere", "-o", "out", "-n", "3"), 5, "no generator here"),
        (("train", "--config", "nowhere.yaml", "-o", "model"), 2, "there is no such file"),
        (("search", "--space", "nowhere.yaml"), 2, "there is no such file"),
    ],
)
def test_an_error_has_its_exit_code_and_one_message(
    run: Run, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, arguments: tuple[str, ...], exit_code: int, message: str
) -> None:
    monkeypatch.chdir(tmp_path)

    result = run(*arguments)

    assert result.exit_code == exit_code
    assert result.stdout == ""
    assert message in result.stderr
    assert "fix:" in result.stderr
    assert "Traceback" not in result.stderr
    assert list(tmp_path.iterdir()) == []


@pytest.mark.slow
def test_phantoms_are_drawn_and_inspected_with_their_parts_sides_and_positive_class(run: Run, tmp_path: Path) -> None:
    drawn = run("data", "phantom", tmp_path / "xrays", "--patients", 20, "--size", 32, "--json")

    text = " ".join(run("data", "inspect", tmp_path / "xrays").stdout.split())
    answer = json.loads(run("data", "inspect", tmp_path / "xrays", "--json").stdout)

    assert json.loads(drawn.stdout)["patient_count"] == 20
    assert "none among images of different patients" in text
    assert answer["near_duplicates"]["pairs"] == 0
    assert "images, split by patient into train, val-A and val-B" in text
    assert "too small to rank trials" in text
    assert "PNEUMONIA (its name means disease)" in text
    assert answer["positive"] == "PNEUMONIA"
    assert [line.partition(":")[0] for line in answer["parts"]] == ["train/", "test/"]
    assert list(answer["sides"]) == ["train", "val-A", "val-B", "test"]
    assert sum(answer["sides"]["val-A"]["images"].values()) > 0


@pytest.mark.slow
def test_hints_of_an_inspection_name_its_own_flags(run: Run, tmp_path: Path) -> None:
    run("data", "phantom", tmp_path / "xrays", "--patients", 20, "--size", 32)
    for part in ("train", "test"):
        for old, new in (("NORMAL", "alpha"), ("PNEUMONIA", "beta")):
            (tmp_path / "xrays" / part / old).rename(tmp_path / "xrays" / part / new)

    words = run("data", "inspect", tmp_path / "xrays")
    asked = run("data", "inspect", tmp_path / "xrays", "--classes", "auto")
    given = run("data", "inspect", tmp_path / "xrays", "--classes", "auto", "--positive", "beta")

    assert "fix: use --classes auto to make each folder a class" in words.stderr
    assert "--positive: the names do not tell which class is the disease" in asked.stderr
    assert "fix: use --positive alpha, or --positive beta" in asked.stderr
    assert "data." not in words.stderr + asked.stderr
    assert (words.exit_code, asked.exit_code, given.exit_code) == (3, 3, 0)
    assert "beta (as given)" in given.stdout


@pytest.mark.slow
def test_a_gan_is_trained_and_drawn_from(run: Run, space: Path, tmp_path: Path) -> None:
    run("data", "phantom", tmp_path / "xrays", "--patients", 20, "--size", 32)
    gan, images = tmp_path / "gan", tmp_path / "images"

    refused = run("generator", "train", "--space", space, "-o", gan, "--cache", tmp_path / "cache")
    train = ("generator", "train", "--space", space, "--set", "gan.steps=2", "-o", gan, "--cache", tmp_path / "cache")
    trained = run(*train, "--json")
    drawn = run("generator", "sample", gan, "-o", images, "-n", 6, "--class", "NORMAL")

    assert refused.exit_code == 2
    assert "--set gan.steps=2" in refused.stderr
    assert json.loads(trained.stdout)["settings"]["steps"] == 2
    assert "sample grids appear in" in trained.stderr
    assert "6 NORMAL" in drawn.stdout
    assert len(list((images / "NORMAL").glob("*.png"))) == 6


def failing_app(error: BaseException) -> typer.Typer:
    app = typer.Typer(pretty_exceptions_enable=False)

    def fail() -> None:
        raise error

    app.command(cls=Command)(fail)
    return app


@pytest.mark.parametrize(
    ("error", "exit_code"),
    [
        (ConfigError(Problem("wrong", "here", "fix it")), 2),
        (DataError(Problem("wrong", "here", "fix it")), 3),
        (StudyError(Problem("wrong", "here", "fix it")), 5),
    ],
)
def test_an_error_is_printed_without_a_traceback(error: Exception, exit_code: int) -> None:
    result = CliRunner().invoke(failing_app(error))

    assert result.exit_code == exit_code
    assert result.stderr == "here: wrong\n  fix: fix it\n"


def test_an_interruption_prints_how_to_resume() -> None:
    result = CliRunner().invoke(failing_app(KeyboardInterrupt()))

    assert result.exit_code == 130
    assert result.stderr == "interrupted: run the same command again to resume\n"


def test_a_bug_keeps_its_traceback() -> None:
    result = CliRunner().invoke(failing_app(ZeroDivisionError("by zero")))

    assert result.exit_code == 1
    assert "Traceback" in result.stderr
    assert "ZeroDivisionError: by zero" in result.stderr
    assert "this is a bug in xraytune" in result.stderr


@pytest.mark.slow
def test_every_command_help_contains_an_example(run: Run) -> None:
    for command in ("demo", "doctor", "search", "status", "export", "train", "evaluate", "predict"):
        text = " ".join(run(command, "--help").stdout.split())

        assert f"Example: xraytune {command}" in text


@pytest.mark.slow
def test_unencodable_characters_are_replaced(tmp_path: Path) -> None:
    code = "from xraytune.cli.main import main; main()"
    arguments = ["data", "phantom", f"r{chr(246)}ntgen", "--patients", "30", "--size", "32"]
    done = subprocess.run(
        [sys.executable, "-c", code, *arguments],
        capture_output=True,
        text=True,
        check=False,
        cwd=tmp_path,
        env={**os.environ, "PYTHONIOENCODING": "ascii", "PYTHONUTF8": "1"},
    )

    assert done.returncode == 0, done.stderr
    assert done.stdout.startswith("r?ntgen: ")


@pytest.mark.slow
def test_json_is_valid_in_any_encoding() -> None:
    code = "from xraytune.cli.console import *; configure(); show_json({'path': chr(246)})"
    env = {**os.environ, "PYTHONIOENCODING": "ascii"}
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True, env=env)

    assert json.loads(done.stdout) == {"path": chr(246)}
