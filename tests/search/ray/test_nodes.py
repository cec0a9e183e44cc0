"""What a node finds out about its storage before it gets a trial."""

from __future__ import annotations

import subprocess
from pathlib import Path

import pytest

from tests.faults.small_disk import small_disk
from xraytune.search.ray.nodes import missing_storage

pytestmark = pytest.mark.slow  # it imports Ray


def test_a_folder_that_is_full_read_only_or_on_another_disk_is_named(tmp_path: Path) -> None:
    images = tmp_path / "xrays"
    images.mkdir()
    (images / "one.jpeg").touch()
    with small_disk(tmp_path / "studies") as disk:
        file = disk.path / ".look"
        file.write_text(file.name, encoding="utf-8")
        lacks = [[*missing_storage([file], images)]]
        disk.fill()
        lacks.append([*missing_storage([file], images)])
        disk.free()
        subprocess.run(["mount", "-o", "remount,ro", disk.path], check=True)
        lacks.append([*missing_storage([file], images)])
    lacks.append([*missing_storage([file], images)])

    nothing, *others = lacks
    assert nothing == []
    assert [problem.where for (problem,) in others] == [tmp_path / "studies"] * 3
    for (problem,), words in zip(
        others, ["the disk is full", "Read-only", "are missing"], strict=True
    ):
        assert words in problem.what


def test_a_folder_of_images_that_is_missing_or_an_empty_mount_point_is_named(
    tmp_path: Path,
) -> None:
    for folder in (tmp_path / "missing", tmp_path):
        (problem,) = missing_storage([], folder)
        assert problem.where == folder
