"""The `status` command."""

import csv
import json
import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import TypeAlias

import pytest
from typer.testing import Result

from tests.search.studies import CPU, direct, ended, epoch, two_images, write_space
from xraytune.search.study import StudyFolder, create_study

Run: TypeAlias = Callable[..., Result]

pytestmark = pytest.mark.slow


@pytest.fixture
def study(tmp_path: Path) -> Path:
    """Three trials: real_only .9, gan .8 (running) and classical+gan .95."""
    folder = StudyFolder(tmp_path / "studies" / "small")
    points = (
        "points_to_evaluate=[{source: none, classical: 0, lr: 3e-3},"
        "{source: gan, classical: 0, gan.steps: 100, lr: 1e-4}, {source: gan, classical: 1, gan.steps: 200, lr: 1e-3}]"
    )
    overrides = ("classical={min: 0, max: 1}", "weight_decay={values: [0.0, 1e-4]}", points, "scheduler.name=none")
    create_study(folder, write_space(tmp_path, *overrides), two_images(), CPU)
    controller = direct(folder, *overrides)
    for number, value in enumerate((0.9, 0.8, 0.95)):
        controller.next_trial()
        controller.on_result(number, epoch(1, value))
        if number != 1:
            controller.on_result(number, ended(value, epochs=1))
    return folder.path


def rows(run: Run, *arguments: object) -> list[dict[str, str]]:
    return list(csv.DictReader(run("status", *arguments, "--csv").stdout.splitlines()))


def numbers(run: Run, *arguments: object) -> list[str]:
    return [row["number"] for row in rows(run, *arguments)]


def test_csv_has_every_trial_with_its_searched_parameters(run: Run, study: Path) -> None:
    found = rows(run, study)

    assert [row["gan.steps"] for row in found] == ["", "100", "200"]
    assert [row["val_b_score"] for row in found] == ["0.89", "", "0.94"]
    assert {name: found[0][name] for name in ("status", "arm", "val_a_score", "lr")} == {
        "status": "complete",
        "arm": "real_only",
        "val_a_score": "0.9",
        "lr": "0.003",
    }


@pytest.mark.parametrize(
    ("sort", "expected"),
    [
        ("val-A", ["2", "0", "1"]),
        ("val-B", ["2", "0", "1"]),  # the running one has no value yet
        ("lr", ["1", "2", "0"]),
        ("gan.steps", ["1", "2", "0"]),  # without a GAN there is none
        ("arm", ["2", "1", "0"]),
    ],
)
def test_trials_are_sorted_best_first_and_those_without_a_value_last(
    run: Run, study: Path, sort: str, expected: list[str]
) -> None:
    assert numbers(run, study, "--sort", sort) == expected


def test_one_arm_alone(run: Run, study: Path) -> None:
    assert numbers(run, study, "--arm", "gan") == ["1"]
    shown = json.loads(run("status", study, "--arm", "gan", "--json").stdout)
    assert ([trial["number"] for trial in shown["trials"]], shown["best"]) == ([1], 2)


@pytest.mark.parametrize(
    ("option", "value", "message"),
    [
        ("--sort", "lrr", "no column 'lrr' to sort by\n  fix: did you mean 'lr'? The columns are number, status,"),
        ("--arm", "gann", "no trial of the arm 'gann'\n  fix: one of: classical+gan, gan, real_only"),
    ],
)
def test_unknown_columns_and_arms_are_named(run: Run, study: Path, option: str, value: str, message: str) -> None:
    result = run("status", study, option, value)

    assert result.exit_code == 2
    assert message in result.stderr


def printed(study: Path, width: int) -> str:
    command = [sys.executable, "-c", "from xraytune.cli.main import main; main()", "status", str(study)]
    done = subprocess.run(
        command, env={**os.environ, "COLUMNS": f"{width}"}, capture_output=True, text=True, check=True
    )
    lines = done.stdout.splitlines()
    assert max(map(len, lines)) <= width
    return "\n".join(lines)


def test_a_narrow_screen_shows_the_learning_rate_and_names_what_is_left_out(study: Path) -> None:
    wide, narrow = printed(study, 120), printed(study, 80)

    assert "decay" in wide
    assert "left out" not in wide
    assert "0.003" in narrow
    assert "left out on this narrow screen: weight decay, curve .80-.95" in narrow
