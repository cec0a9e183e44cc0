"""`cache clean`: a cache that several studies and users share."""

from __future__ import annotations

import os
import subprocess
import time
from pathlib import Path

import pytest

from xraytune.base.artifacts import build_once, is_intact, start_work
from xraytune.base.errors import ConfigError
from xraytune.study.clean import clean_cache


def artifact(cache: Path, seed: int, *, hours_old: float = 30, stage: str = "pool-1") -> Path:
    """An artifact of 1,000 bytes and its manifest, used this long ago."""
    path = build_once(cache, stage, {"generator": "0" * 32, "seed": seed}, fill)
    then = time.time() - hours_old * 3600
    for entry in (path / "pixels.npy", path / "manifest.json", path):
        os.utime(entry, (then, then))
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
    assert [*would.removed] == [*cleaned.removed] == [second]
    assert clean_cache(tmp_path, max_size=limit).removed == {}


@pytest.mark.parametrize("is_finished", [True, False])
def test_what_was_used_or_written_in_the_last_hour_stays(tmp_path: Path, is_finished: bool) -> None:
    old = artifact(tmp_path, 2)
    if is_finished:
        path = artifact(tmp_path, 1, hours_old=0.5)
    else:
        path = start_work(tmp_path, "gan-4", {"seed": 1})
        (path / "checkpoint.pt").write_bytes(b"x")

    during = clean_cache(tmp_path, max_size="0")
    stayed = path.exists(), old.exists()
    after = clean_cache(tmp_path, max_size="0", clock=lambda: time.time() + 3601)

    assert stayed == (True, False)
    assert "used in the last hour" in during.note
    assert not path.exists()
    assert after.note == ""


@pytest.mark.parametrize(("umask", "mode"), [(0o002, 0o060), (0o022, 0o040)])
def test_the_umask_decides_what_a_group_may_do_with_an_artifact(tmp_path: Path, umask: int, mode: int) -> None:
    before = os.umask(umask)
    try:
        build_once(tmp_path / "cache", "pool-1", {}, fill)
    finally:
        os.umask(before)

    assert {path.stat().st_mode & 0o060 for path in (tmp_path / "cache").rglob("*")} == {mode}


@pytest.mark.parametrize("wrong", ["lots", "50 apples", "-1GB", "50GBB"])
def test_an_invalid_size_is_refused(tmp_path: Path, wrong: str) -> None:
    with pytest.raises(ConfigError, match="is not a size"):
        clean_cache(tmp_path, max_size=wrong)


@pytest.mark.slow
def test_only_artifacts_are_removed_and_the_command_prints_each_path(tmp_path: Path) -> None:
    from tests.in_process import command, said  # seconds, which only this test should pay

    path = artifact(tmp_path, 1)
    others = [tmp_path / "photos" / ("0" * 32), path.parent / "notes", tmp_path / "pool-1.bak" / ("0" * 32)]
    others += [tmp_path / "images-2024" / ("0" * 32), tmp_path / "images-2024" / path.name, path.parent / ("0" * 32)]
    for other in others:
        other.mkdir(parents=True)
        (other / "scan.dcm").write_bytes(b"x")
        (other / "manifest.json").write_bytes((path / "manifest.json").read_bytes())

    would = said("cache", "clean", "--cache", tmp_path, "--max-size", "0", "--dry-run")
    stayed = path.is_dir()
    cleaned = clean_cache(tmp_path, max_size="0", clock=lambda: time.time() + 3601)
    missing = command("cache", "clean", "--cache", tmp_path / "nowhere", "--max-size", "0")

    assert stayed
    assert [*would["removed"]] == [str(path)]
    assert [*cleaned.removed] == [path]
    assert all((other / "scan.dcm").is_file() for other in others)
    assert missing.exit_code == 2
    assert "no cache here" in missing.stderr


@pytest.mark.parametrize("content", ["", "Signature: 8a477f597d28d172789f06886806bc55\n# of another program"])
def test_a_folder_that_xraytune_did_not_mark_is_refused_and_the_fix_marks_it(tmp_path: Path, content: str) -> None:
    cache = tmp_path / "my cache"
    (cache / "images-2024").mkdir(parents=True)
    if content:
        (cache / "CACHEDIR.TAG").write_text(content, encoding="utf-8")
    path = artifact(cache, 1)

    with pytest.raises(ConfigError, match="not a cache of xraytune") as refused:
        clean_cache(cache, max_size="0")
    stayed = path.is_dir()
    subprocess.run(refused.value.problems[0].fix.partition("mark it: ")[2], shell=True, check=True)
    cleaned = clean_cache(cache, max_size="0")

    assert stayed
    assert [*cleaned.removed] == [path]


def test_a_new_cache_is_marked_and_a_folder_with_files_is_not(tmp_path: Path) -> None:
    """Backup programs skip a marked folder, so a home folder that is given as the cache must not be one."""
    home = tmp_path / "home"
    home.mkdir()
    (home / "thesis.tex").write_bytes(b"x")

    for cache in (tmp_path / "new", home):
        artifact(cache, 1)

    assert (tmp_path / "new" / "CACHEDIR.TAG").read_text().startswith("Signature: 8a477f597d28d172789f06886806bc55")
    assert not (home / "CACHEDIR.TAG").exists()
