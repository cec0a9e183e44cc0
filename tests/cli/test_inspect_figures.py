"""`data inspect --figures`."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from tests.in_process import command as run
from xraytune.data.phantom import draw_phantoms

pytestmark = pytest.mark.slow


def test_an_inspection_draws_figures_and_names_them(tmp_path: Path) -> None:
    xrays = tmp_path / "xrays"
    draw_phantoms(xrays, patients=20, seed=1, image_size_px=32)
    shown = run("data", "inspect", xrays, "--figures", tmp_path / "figures")
    answer = run("data", "inspect", xrays, "--figures", tmp_path / "more", "--json")

    names = ["samples.png", "samples.svg", "class_frequency.png", "class_frequency.svg"]
    assert [Path(line).name for line in shown.stdout.splitlines()[-4:]] == names
    assert json.loads(answer.stdout)["figures"] == [str(tmp_path / "more" / name) for name in names]
    assert sorted(names) == sorted(file.name for file in (tmp_path / "figures").iterdir())


def test_figures_that_are_there_already_are_refused_before_anything_is_read(tmp_path: Path) -> None:
    (tmp_path / "samples.png").write_bytes(b"mine")

    result = run("data", "inspect", tmp_path / "nowhere", "--figures", tmp_path)

    assert result.exit_code == 2
    assert "figures are here already: samples.png" in result.stderr
    assert result.stdout == ""


def test_pairs_are_drawn_inspected_and_shown_in_figures_and_broken_masks_listed(tmp_path: Path) -> None:
    """From `data phantom --masks`."""
    drawn = run("data", "phantom", tmp_path / "pairs", "--masks", "--patients", 12, "--size", 32)
    shown = run("data", "inspect", tmp_path / "pairs", "--figures", tmp_path / "figures")
    answer = json.loads(run("data", "inspect", tmp_path / "pairs", "--json").stdout)

    masks = sorted((tmp_path / "pairs" / "train" / "masks").iterdir())
    for victim in (masks[0], sorted((tmp_path / "pairs" / "test" / "masks").iterdir())[0]):
        victim.write_bytes(b"no image")
    damaged = json.loads(run("data", "inspect", tmp_path / "pairs", "--json").stdout)
    assert drawn.exit_code == shown.exit_code == 0
    assert {file.name for file in (tmp_path / "pairs").iterdir()} == {"train", "test", "phantom.json"}
    assert answer["masks"]["files_per_image"] == [1, 1]
    assert answer["masks"]["connected_parts"] == {"2": len(masks)}
    assert "pairs of images and masks" in " ".join(shown.stdout.split())
    assert f"2 in {len(masks)} masks" in shown.stdout
    assert not any(word in shown.stdout for word in ("shortcut", "positive class", "NORMAL "))
    assert [Path(line).name for line in shown.stdout.splitlines()[-2:]] == ["samples.png", "samples.svg"]
    broken = [image["file"] for image in damaged["broken"]]
    assert broken == [f"train/masks/{masks[0].name}"], "the test part stays sealed"
