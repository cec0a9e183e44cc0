"""Artifacts: built once, verified, rebuilt when damaged, never half written."""

import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from xraytune.base.artifacts import (
    artifact_path,
    artifacts_of,
    build_once,
    is_intact,
    work_path,
)
from xraytune.base.errors import ArtifactError
from xraytune.base.files import read_json, temporary_name, write_json

INPUTS = {"seed": 7, "data": ["a", "b"]}


class Builder:
    """Writes two files and counts its calls."""

    builds = 0

    def __call__(self, folder: Path) -> None:
        self.builds += 1
        (folder / "pixels.bin").write_bytes(b"x" * 1000)
        (folder / "grids").mkdir()
        (folder / "grids" / "one.txt").write_text("1", encoding="utf-8")


def test_existing_artifact_is_not_rebuilt(tmp_path: Path) -> None:
    build = Builder()

    first = build_once(tmp_path, "pixels-1", INPUTS, build)
    second = build_once(tmp_path, "pixels-1", dict(reversed(INPUTS.items())), build)

    assert first == second
    assert build.builds == 1


def put_another_manifest(path: Path, **changes: object) -> None:
    manifest = path / "manifest.json"
    write_json(manifest, read_json(manifest) | changes)


def put_instead(path: Path, make: Callable[[Path], Any]) -> None:
    path.rename(path.parent.parent / "elsewhere")
    make(path)


DAMAGES: dict[str, Callable[[Path], Any]] = {
    "flipped": lambda path: (path / "pixels.bin").write_bytes(b"y" + b"x" * 999),
    "truncated": lambda path: (path / "pixels.bin").write_bytes(b"x" * 999),
    "deleted": lambda path: (path / "pixels.bin").unlink(),
    "a link": lambda path: put_instead(
        path / "pixels.bin", lambda file: file.symlink_to("../elsewhere")
    ),
    "manifest torn": lambda path: (path / "manifest.json").write_text("{", encoding="utf-8"),
    "manifest deleted": lambda path: (path / "manifest.json").unlink(),
    "of another version": lambda path: put_another_manifest(path, stage="pixels-0"),
    "manifest a pipe": lambda path: put_instead(path / "manifest.json", os.mkfifo),
    "a link instead": lambda path: put_instead(
        path, lambda folder: folder.symlink_to("../elsewhere")
    ),
}


@pytest.mark.parametrize("damage", DAMAGES)
def test_damaged_artifact_is_rebuilt(tmp_path: Path, damage: str) -> None:
    """Also in the process that built and verified it. What a link leads to stays."""
    build = Builder()
    path = build_once(tmp_path, "pixels-1", INPUTS, build)
    assert is_intact(path)

    DAMAGES[damage](path)

    elsewhere = [*tmp_path.rglob("elsewhere")]
    assert not is_intact(path)
    assert "manifest" not in damage or list(artifacts_of(tmp_path, "pixels-1")) == []
    assert build_once(tmp_path, "pixels-1", INPUTS, build) == path
    assert build.builds == 2
    assert is_intact(path)
    assert not path.is_symlink()
    assert (path / "pixels.bin").read_bytes() == b"x" * 1000
    assert {entry.name for entry in path.parent.iterdir()} - {"elsewhere"} == {path.name}, (
        "no leftovers"
    )
    assert [*tmp_path.rglob("elsewhere")] == elsewhere


def test_artifacts_are_listed_with_inputs_skipping_damaged_ones(tmp_path: Path) -> None:
    """And a build that was killed after the manifest was written and before the rename."""
    first, second, damaged, moved, left = (
        build_once(tmp_path, "pixels-1", {"seed": seed}, Builder()) for seed in (1, 2, 3, 4, 5)
    )
    (damaged / "manifest.json").write_text("{", encoding="utf-8")
    moved.rename(moved.with_name("0" * 32))

    assert not is_intact(left.rename(temporary_name(left)))
    assert dict(artifacts_of(tmp_path, "pixels-1")) == {first: {"seed": 1}, second: {"seed": 2}}
    assert list(artifacts_of(tmp_path, "pool-1")) == []


def test_of_two_builders_the_first_wins(tmp_path: Path) -> None:
    """The second, which does not see the lock of the first, finds the folder there and drops its own."""

    def slow(folder: Path) -> None:
        (folder / "pixels.bin").write_bytes(b"the second")
        path = artifact_path(tmp_path, "pixels-1", INPUTS)
        path.mkdir()
        (path / "pixels.bin").write_bytes(b"the first")

    path = build_once(tmp_path, "pixels-1", INPUTS, slow)

    assert (path / "pixels.bin").read_bytes() == b"the first"
    assert [entry.name for entry in path.parent.iterdir()] == [path.name]


BUILDER = """
import sys, time
from pathlib import Path
from xraytune.base.artifacts import build_once
cache, began = Path(sys.argv[1]), Path(sys.argv[2])

def build(folder):
    began.write_text(began.read_text() + "x" if began.exists() else "x")
    print("building", flush=True)
    sys.stdin.readline()
    (folder / "pixels.bin").write_bytes(b"1")

build_once(cache, "pixels-1", {"seed": 7}, build)
"""


@pytest.mark.slow
@pytest.mark.parametrize("is_killed", [False, True])
def test_one_process_rebuilds_a_damaged_artifact_and_the_next_takes_over_when_it_dies(
    tmp_path: Path, is_killed: bool
) -> None:
    cache, counted = tmp_path / "cache", tmp_path / "builds"
    path = build_once(
        cache, "pixels-1", {"seed": 7}, lambda folder: (folder / "pixels.bin").touch()
    )
    (path / "pixels.bin").unlink()

    def builder() -> subprocess.Popen[str]:
        command = [sys.executable, "-c", BUILDER, str(cache), str(counted)]
        return subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)

    first = builder()
    assert first.stdout is not None
    first.stdout.readline()
    second = builder()
    if is_killed:
        first.kill()
    first.communicate("" if is_killed else "\n")
    second.communicate("\n")

    assert second.returncode == 0
    assert counted.read_text(encoding="utf-8") == ("xx" if is_killed else "x")
    assert is_intact(path)
    assert (path / "pixels.bin").read_bytes() == b"1"
    assert [entry.name for entry in path.parent.iterdir() if not entry.name.startswith(".")] == [
        path.name
    ]


def test_nothing_is_written_through_a_link_in_place_of_a_stage(tmp_path: Path) -> None:
    elsewhere, cache = tmp_path / "elsewhere", tmp_path / "cache"
    elsewhere.mkdir()
    cache.mkdir()
    for stage in ("pixels-1", "gan-1.work"):
        (cache / stage).symlink_to(elsewhere)

    with pytest.raises(ArtifactError, match="this is a symbolic link"):
        build_once(cache, "pixels-1", INPUTS, Builder())
    with pytest.raises(ArtifactError, match="this is a symbolic link"):
        work_path(cache, "gan-1", INPUTS)

    assert not list(elsewhere.iterdir())
