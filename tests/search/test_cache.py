"""`cache list`, `verify` and `clean`: a cache that several studies and users share."""

from __future__ import annotations

import os
import subprocess
import sys
import time
from pathlib import Path

import pytest
from typer.testing import Result

from tests.in_process import command
from xraytune.errors import ConfigError
from xraytune.pipeline.artifacts import build_once, in_use, is_intact
from xraytune.search.cache import clean_cache, list_cache, verify_cache

HOUR = 3600.0


def artifact(cache: Path, seed: int, *, hours_old: float, stage: str = "pool-1") -> Path:
    """An artifact of 1,000 bytes and its manifest, used this long ago."""
    path = build_once(cache, stage, {"generator": "0" * 32, "seed": seed}, fill)
    then = time.time() - hours_old * HOUR
    os.utime(path / "manifest.json", (then, then))
    return path


def fill(folder: Path) -> None:
    (folder / "pixels.npy").write_bytes(b"x" * 1000)


def size(path: Path) -> int:
    return sum(file.stat().st_size for file in path.rglob("*") if file.is_file())


def test_the_least_recently_used_artifacts_are_removed_until_the_cache_is_small_enough(tmp_path: Path) -> None:
    first, second, third = (artifact(tmp_path, seed, hours_old=hours) for seed, hours in ((1, 30), (2, 20), (3, 10)))
    limit = f"{size(second) + size(third)}B"
    assert is_intact(first), "counts as a use, so the second is now the oldest"

    would = clean_cache(tmp_path, max_size=limit, dry_run=True)
    assert all(path.exists() for path in (first, second, third))
    cleaned = clean_cache(tmp_path, max_size=limit)

    assert (first.exists(), second.exists(), third.exists()) == (True, False, True)
    assert would.freed_bytes == cleaned.freed_bytes == {"synthetic images": cleaned.total_bytes}
    assert clean_cache(tmp_path, max_size=limit).freed_bytes == {}


def test_within_an_hour_derived_artifacts_are_removed_first(tmp_path: Path) -> None:
    """A trial uses the generator just before the pool, and training it again would take much longer."""
    hour = time.time() // HOUR * HOUR - 9 * HOUR
    generator, pool = (artifact(tmp_path, 1, hours_old=9, stage=stage) for stage in ("gan-3", "pool-1"))
    os.utime(generator / "manifest.json", (hour + 1, hour + 1))
    os.utime(pool / "manifest.json", (hour + 2, hour + 2))

    clean_cache(tmp_path, max_size=f"{size(generator)}B")

    assert (generator.exists(), pool.exists()) == (True, False)


RUNNING = """
import sys
from pathlib import Path
from xraytune.pipeline.artifacts import in_use, is_intact
with in_use(Path(sys.argv[1])):
    assert is_intact(Path(sys.argv[2]))
    print("used", flush=True)
    sys.stdin.readline()
"""


@pytest.mark.slow
def test_what_a_running_command_has_used_stays_until_it_ends(tmp_path: Path) -> None:
    used, unused = (artifact(tmp_path, seed, hours_old=30) for seed in (1, 2))
    code = [sys.executable, "-c", RUNNING, str(tmp_path), str(used)]
    with subprocess.Popen(code, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as running:
        assert running.stdout is not None
        running.stdout.readline()
        during = clean_cache(tmp_path, max_size="0")
        stayed = used.exists(), unused.exists()
        running.communicate("\n")
    after = clean_cache(tmp_path, max_size="0")

    assert stayed == (True, False)
    assert "in use" in during.notes[0]
    assert not used.exists()
    assert after.notes == ()


@pytest.mark.skipif(os.geteuid() != 0, reason="only root can give a file to another user")
def test_files_whose_use_another_user_cannot_record_stay_while_that_user_works(tmp_path: Path) -> None:
    private, shared = (artifact(tmp_path, seed, hours_old=30) for seed in (1, 2))
    (private / "manifest.json").chmod(0o644)
    (shared / "manifest.json").chmod(0o664)
    with in_use(tmp_path):
        for lock in (tmp_path / ".users").iterdir():
            os.chown(lock, 12345, -1)
        clean_cache(tmp_path, max_size="0")

    assert (private.exists(), shared.exists()) == (True, False)


def test_an_artifact_whose_use_cannot_be_recorded_is_still_intact(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = artifact(tmp_path, 1, hours_old=30)

    def refuse(*_: object) -> None:
        raise PermissionError(1, "Operation not permitted")

    monkeypatch.setattr(os, "utime", refuse)

    assert is_intact(path)


@pytest.mark.parametrize(("umask", "mode"), [(0o002, 0o060), (0o022, 0o040)])
def test_the_umask_decides_what_a_group_may_do_with_an_artifact(tmp_path: Path, umask: int, mode: int) -> None:
    before = os.umask(umask)
    try:
        build_once(tmp_path / "cache", "pool-1", {}, fill)
    finally:
        os.umask(before)

    assert {path.stat().st_mode & 0o060 for path in (tmp_path / "cache").rglob("*")} == {mode}


def test_damaged_artifacts_are_named_with_their_files(tmp_path: Path) -> None:
    """Even if size and modification time are unchanged, and in the process that wrote the file."""
    intact, rotten, torn = (artifact(tmp_path, seed, hours_old=30) for seed in (1, 2, 3))
    file = rotten / "pixels.npy"
    before = file.stat().st_mtime_ns
    file.write_bytes(b"y" * 1000)
    os.utime(file, ns=(before, before))
    (torn / "manifest.json").write_text("{", encoding="utf-8")
    used = (intact / "manifest.json").stat().st_mtime

    found = {one.path: one.damaged for one in verify_cache(tmp_path)}

    assert found == {rotten: ("pixels.npy",), torn: ("manifest.json",)}
    assert (intact / "manifest.json").stat().st_mtime == used, "verifying does not count as a use"


def test_artifacts_are_listed_by_kind_most_recently_used_first(tmp_path: Path) -> None:
    old, new = (artifact(tmp_path, seed, hours_old=hours) for seed, hours in ((1, 30), (2, 10)))
    pixels = build_once(tmp_path, "pixels-2", {"files": [["a", "0"]], "image_size_px": 64, "resize": "pad"}, fill)
    other = build_once(tmp_path, "gan-1", {}, fill)
    (tmp_path / "gan-3.work" / ("0" * 32)).mkdir(parents=True)
    (tmp_path / "photos").mkdir()

    found = list_cache(tmp_path)

    assert [one.path for one in found] == [pixels, new, old, other]
    assert [one.kind for one in found] == ["decoded images", "synthetic images", "synthetic images", "gan-1"]
    assert (found[0].what, found[1].what) == ("1 images, 64 px", "from 00000000")
    assert found[0].size_bytes == size(pixels)


@pytest.mark.parametrize("wrong", ["lots", "50 apples", "-1GB", "50GBB"])
def test_an_invalid_size_is_refused(tmp_path: Path, wrong: str) -> None:
    path = artifact(tmp_path, 1, hours_old=30)

    with pytest.raises(ConfigError, match="is not a size"):
        clean_cache(tmp_path, max_size=wrong)

    assert path.exists()


def test_commands_print_totals_damage_and_freed_space(tmp_path: Path) -> None:
    cache = tmp_path / "cache"
    path = artifact(cache, 1, hours_old=30)

    def run(*arguments: str | Path) -> Result:
        return command("cache", *arguments, "--cache", cache)

    listed, intact = run("list"), run("verify")
    (path / "pixels.npy").unlink()
    damaged, cleaned = run("verify"), run("clean", "--max-size", "0")
    missing = command("cache", "list", "--cache", tmp_path / "nowhere")

    assert "1 artifacts, 0.0 MiB" in listed.stdout
    assert "synthetic images" in listed.stdout
    assert (intact.exit_code, damaged.exit_code) == (0, 1)
    assert "pixels.npy" in damaged.stdout
    assert cleaned.stdout.startswith("freed 0.0 MiB")
    assert missing.exit_code == 2
    assert "no cache here" in missing.stderr
