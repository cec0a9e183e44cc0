"""Shared work: done once, verified, rebuilt when damaged, never half there."""

import subprocess
import sys
from pathlib import Path

import pytest

from xraytune.pipeline import artifacts
from xraytune.pipeline.artifacts import artifact_path, build_once, fingerprint, is_whole

INPUTS = {"seed": 7, "data": ["a", "b"]}


class Builder:
    """Writes two files, and counts."""

    def __init__(self) -> None:
        self.builds = 0

    def __call__(self, folder: Path) -> None:
        self.builds += 1
        (folder / "pixels.bin").write_bytes(b"x" * 1000)
        (folder / "grids").mkdir()
        (folder / "grids" / "one.txt").write_text("1", encoding="utf-8")


def test_what_is_there_is_not_built_again(tmp_path: Path) -> None:
    build = Builder()

    first = build_once(tmp_path, "pixels-1", INPUTS, build)
    second = build_once(tmp_path, "pixels-1", dict(reversed(INPUTS.items())), build)

    assert first == second
    assert build.builds == 1


@pytest.mark.parametrize("other", [("pixels-2", INPUTS), ("pixels-1", INPUTS | {"seed": 8})])
def test_another_version_or_input_is_another_artifact(tmp_path: Path, other: tuple[str, dict[str, object]]) -> None:
    assert artifact_path(tmp_path, "pixels-1", INPUTS) != artifact_path(tmp_path, *other)
    assert len(fingerprint(*other)) == 32


@pytest.mark.parametrize("damage", ["flip", "truncate", "delete", "manifest", "no manifest"])
def test_a_damaged_artifact_is_built_again(tmp_path: Path, damage: str) -> None:
    build = Builder()
    path = build_once(tmp_path, "pixels-1", INPUTS, build)
    pixels, manifest = path / "pixels.bin", path / "manifest.json"
    match damage:
        case "flip":
            pixels.write_bytes(b"y" + pixels.read_bytes()[1:])
        case "truncate":
            pixels.write_bytes(b"x" * 999)
        case "delete":
            pixels.unlink()
        case "manifest":
            manifest.write_text("{", encoding="utf-8")
        case _:
            manifest.unlink()
    artifacts._verified.clear()  # as in a new process: within one, what was verified stays so

    assert not is_whole(path)
    assert build_once(tmp_path, "pixels-1", INPUTS, build) == path

    assert build.builds == 2
    assert is_whole(path)
    assert pixels.read_bytes() == b"x" * 1000
    assert [entry.name for entry in path.parent.iterdir()] == [path.name], "nothing is left beside it"


def test_a_builder_that_fails_leaves_nothing(tmp_path: Path) -> None:
    def build(folder: Path) -> None:
        (folder / "half").write_bytes(b"1")
        raise RuntimeError("lost")

    with pytest.raises(RuntimeError, match="lost"):
        build_once(tmp_path, "pixels-1", INPUTS, build)

    assert list((tmp_path / "pixels-1").iterdir()) == []


def test_of_two_builders_the_first_wins(tmp_path: Path) -> None:
    """The second, on a machine that does not see the first one's lock, finds the place taken and drops its own."""

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
from xraytune.pipeline.artifacts import build_once
cache, began = Path(sys.argv[1]), Path(sys.argv[2])

def build(folder):
    began.write_text(began.read_text() + "x" if began.exists() else "x")
    print("building", flush=True)
    sys.stdin.readline()
    (folder / "pixels.bin").write_bytes(b"1")

build_once(cache, "pixels-1", {"seed": 7}, build)
"""


def builder(*arguments: Path) -> subprocess.Popen[str]:
    command = [sys.executable, "-c", BUILDER, *map(str, arguments)]
    return subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)


@pytest.mark.parametrize("is_killed", [False, True])
def test_a_second_process_waits_for_the_first_and_takes_over_when_it_dies(tmp_path: Path, is_killed: bool) -> None:
    counted = tmp_path / "builds"
    first = builder(tmp_path / "cache", counted)
    assert first.stdout is not None
    assert first.stdin is not None
    first.stdout.readline()
    second = builder(tmp_path / "cache", counted)

    if is_killed:
        first.kill()
    else:
        first.stdin.write("\n")
        first.stdin.flush()
    second.communicate("\n")
    first.communicate()

    assert second.returncode == 0
    assert counted.read_text(encoding="utf-8") == ("xx" if is_killed else "x")
    assert is_whole(artifact_path(tmp_path / "cache", "pixels-1", {"seed": 7}))
