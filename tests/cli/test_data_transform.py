"""`data transform`: its output and its errors."""

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


def test_copies_are_written_and_inspected(run: Run, xrays: Path, tmp_path: Path) -> None:
    made = run("data", "transform", xrays, tmp_path / "copies", "--copies", 1)
    table = run("data", "inspect", tmp_path / "copies")

    count = len(list((xrays / "train").rglob("*.jpeg")))
    assert made.exit_code == 0
    assert f"copies of {count} images" in " ".join(made.stdout.split())
    assert "test/ stays sealed" in made.stderr
    assert len(list((tmp_path / "copies").rglob("*.png"))) == count
    assert "PNEUMONIA" in table.stdout


def test_json_output_is_one_object(run: Run, xrays: Path, tmp_path: Path) -> None:
    answer = json.loads(run("data", "transform", xrays, tmp_path / "copies", "--no-flip", "--json").stdout)

    assert answer["counts"]["NORMAL"] == 2 * len(list((xrays / "train" / "NORMAL").iterdir()))
    assert answer["sealed_count"] == len(list((xrays / "test").rglob("*.jpeg")))
    strengths = json.loads((tmp_path / "copies" / "provenance.json").read_text(encoding="utf-8"))["strengths"]
    assert strengths["flip"] is False


@pytest.mark.parametrize(
    ("options", "exit_code", "message"),
    [
        (["--rotate", "181"], 2, "rotate out of bounds: 181"),
        (["--zoom", "nan"], 2, "zoom out of bounds: nan"),
        (["--copies", "0"], 2, "copies out of bounds: 0"),
        (
            [
                *("--no-flip", "--rotate", "0", "--shift", "0", "--zoom", "0"),
                *("--shear", "0", "--contrast", "0", "--elastic", "0"),
            ],
            2,
            "every transformation is off",
        ),
        (["--group-regex", "["], 2, "not a regular expression"),
        (["--classes", "auto"], 0, ""),
    ],
)
def test_an_invalid_option_is_an_error_and_leaves_nothing(
    run: Run, xrays: Path, tmp_path: Path, options: list[str], exit_code: int, message: str
) -> None:
    result = run("data", "transform", xrays, tmp_path / "copies", *options)

    assert result.exit_code == exit_code, result.stderr
    assert message in result.stderr
    assert "Traceback" not in result.stderr
    assert (tmp_path / "copies").exists() == (exit_code == 0)


def test_a_folder_that_is_missing_is_a_data_error(run: Run, tmp_path: Path) -> None:
    result = run("data", "transform", tmp_path / "nowhere", tmp_path / "copies")

    assert result.exit_code == 3
    assert "there is no such folder" in result.stderr
    assert list(tmp_path.iterdir()) == []


def test_broken_images_are_named_and_can_be_left_out(run: Run, xrays: Path, tmp_path: Path) -> None:
    broken = sorted((xrays / "train" / "NORMAL").iterdir())[0]
    broken.write_bytes(b"")

    refused = run("data", "transform", xrays, tmp_path / "copies")
    made = run("data", "transform", xrays, tmp_path / "copies", "--skip-broken")

    assert refused.exit_code == 3
    assert "the file is empty" in refused.stderr
    assert "--skip-broken" in refused.stderr
    assert made.exit_code == 0
    assert f"left out: train/NORMAL/{broken.name}" in " ".join(made.stderr.split())
