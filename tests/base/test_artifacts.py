"""Artifacts: built once, verified, rebuilt when damaged, never half written."""

import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from xraytune.base.artifacts import (
    artifacts_of,
    build_once,
    is_intact,
)
from xraytune.base.files import read_json, write_json

INPUTS = {"seed": 7, "data": ["a", "b"]}


class Builder:
    """Writes two files and counts its calls."""

    builds = 0

    def __call__(self, folder: Path) -> None:
        self.builds += 1
        (folder / "pixels.bin").write_bytes(b"x" * 1000)
        (folder / "grids").mkdir()
        (folder / "grids/one.txt").write_text("1")


def put_another_stage(path: Path) -> None:
    manifest = path / "manifest.json"
    write_json(manifest, read_json(manifest) | {"stage": "pixels-0"})


DAMAGES: dict[str, Callable[[Path], Any]] = {
    "flipped": lambda path: (path / "pixels.bin").write_bytes(b"y" + b"x" * 999),
    "truncated": lambda path: (path / "pixels.bin").write_bytes(b"x" * 999),
    "deleted": lambda path: (path / "pixels.bin").unlink(),
    "manifest torn": lambda path: (path / "manifest.json").write_text("{"),
    "manifest deleted": lambda path: (path / "manifest.json").unlink(),
    "of another version": put_another_stage,
}


@pytest.mark.parametrize("damage", DAMAGES)
def test_only_a_damaged_artifact_is_rebuilt(tmp_path: Path, damage: str) -> None:
    """Also in the process that built and verified it."""
    build = Builder()
    path = build_once(tmp_path, "pixels-1", INPUTS, build)
    assert build_once(tmp_path, "pixels-1", dict(reversed(INPUTS.items())), build) == path
    assert build.builds == 1

    DAMAGES[damage](path)

    assert not is_intact(path)
    assert "manifest" not in damage or list(artifacts_of(tmp_path, "pixels-1")) == []
    assert build_once(tmp_path, "pixels-1", INPUTS, build) == path
    assert build.builds == 2
    assert is_intact(path)
    assert (path / "pixels.bin").read_bytes() == b"x" * 1000
    assert [entry.name for entry in path.parent.glob("[!.]*")] == [path.name], "no leftovers"


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
    cache = tmp_path / "cache"
    counted = tmp_path / "builds"
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
    assert counted.read_text() == ("xx" if is_killed else "x")
    assert is_intact(path)
    assert (path / "pixels.bin").read_bytes() == b"1"
