"""`data inspect --figures`."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import TypeAlias

import pytest
from typer.testing import Result

from xraytune.data.phantom import draw_phantoms

pytestmark = pytest.mark.slow

Run: TypeAlias = Callable[..., Result]


@pytest.fixture
def xrays(tmp_path: Path) -> Path:
    draw_phantoms(tmp_path / "xrays", patients=20, seed=1, image_size_px=32)
    return tmp_path / "xrays"


def test_an_inspection_draws_figures_and_names_them(run: Run, xrays: Path, tmp_path: Path) -> None:
    shown = run("data", "inspect", xrays, "--figures", tmp_path / "figures")
    answer = run("data", "inspect", xrays, "--figures", tmp_path / "more", "--json")

    names = ["samples.png", "samples.svg", "class_frequency.png", "class_frequency.svg"]
    assert [Path(line).name for line in shown.stdout.splitlines()[-4:]] == names
    assert json.loads(answer.stdout)["figures"] == [str(tmp_path / "more" / name) for name in names]
    assert sorted(names) == sorted(file.name for file in (tmp_path / "figures").iterdir())


def test_an_inspection_without_figures_draws_none(run: Run, xrays: Path, tmp_path: Path) -> None:
    answer = run("data", "inspect", xrays, "--json")

    assert "figures" not in json.loads(answer.stdout)
    assert [path.name for path in tmp_path.iterdir()] == ["xrays"]


def test_figures_that_are_there_already_are_refused_before_anything_is_read(run: Run, tmp_path: Path) -> None:
    (tmp_path / "samples.png").write_bytes(b"mine")

    result = run("data", "inspect", tmp_path / "nowhere", "--figures", tmp_path)

    assert result.exit_code == 2
    assert "figures are here already: samples.png" in result.stderr
    assert result.stdout == ""


def test_a_file_in_place_of_the_folder_of_figures_is_refused(run: Run, xrays: Path, tmp_path: Path) -> None:
    (tmp_path / "notes.txt").write_text("", encoding="utf-8")

    result = run("data", "inspect", xrays, "--figures", tmp_path / "notes.txt")

    assert result.exit_code == 2
    assert "this is a file, and a folder is needed here" in result.stderr
