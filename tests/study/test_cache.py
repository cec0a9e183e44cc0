"""`cache clean`: a cache that several studies and users share; a study continues with the same numbers."""

from __future__ import annotations

import os
import shutil
import subprocess
import time
from collections.abc import Callable, Iterator
from contextlib import suppress
from pathlib import Path
from typing import Any

import pytest

from tests.in_process import CPU, InProcess, loop_of, one_thread
from xraytune.base.artifacts import CACHE_TAG, TAG_LINE, build_once, is_intact, start_work
from xraytune.base.errors import ConfigError
from xraytune.base.files import read_jsonl
from xraytune.base.records import EpochRecord
from xraytune.data.phantom import draw_phantoms
from xraytune.data.prepare import prepare
from xraytune.model.best import export
from xraytune.search.callbacks import Callbacks
from xraytune.space.load import load_space
from xraytune.study.clean import clean_cache
from xraytune.study.folder import StudyFolder, locked
from xraytune.study.start import create_study


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


def test_the_least_recently_used_artifacts_are_removed_until_the_cache_is_small_enough(
    tmp_path: Path,
) -> None:
    first, second, third = (
        artifact(tmp_path, seed, hours_old=hours) for seed, hours in ((1, 30), (2, 20), (3, 10))
    )
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
def test_the_umask_decides_what_a_group_may_do_with_an_artifact(
    tmp_path: Path, umask: int, mode: int
) -> None:
    before = os.umask(umask)
    try:
        build_once(tmp_path / "cache", "pool-1", {}, fill)
    finally:
        os.umask(before)

    assert {path.stat().st_mode & 0o060 for path in (tmp_path / "cache").rglob("*")} == {mode}


@pytest.mark.slow
def test_only_artifacts_are_removed_and_the_command_prints_each_path(tmp_path: Path) -> None:
    from tests.in_process import command, said  # seconds, which only this test should pay

    path = artifact(tmp_path, 1)
    others = [
        tmp_path / "photos" / ("0" * 32),
        path.parent / "notes",
        tmp_path / "pool-1.bak" / ("0" * 32),
    ]
    others += [
        tmp_path / "images-2024" / ("0" * 32),
        tmp_path / "images-2024" / path.name,
        path.parent / ("0" * 32),
    ]
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


@pytest.mark.parametrize(
    "content", ["", "Signature: 8a477f597d28d172789f06886806bc55\n# of another program"]
)
def test_a_folder_that_xraytune_did_not_mark_is_refused_and_the_fix_marks_it(
    tmp_path: Path, content: str
) -> None:
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

    assert (
        (tmp_path / "new" / "CACHEDIR.TAG")
        .read_text()
        .startswith("Signature: 8a477f597d28d172789f06886806bc55")
    )
    assert not (home / "CACHEDIR.TAG").exists()


SPACE = """\
version: 1
name: small
data: {path: xrays, image_size: 32, split: {val_a: 0.25, val_b: 0.25}}
parameters:
  source: {values: [none, gan]}
  synthetic_ratio: {value: 0.5, when: {source: gan}}
  gan:
    when: {source: gan}
    parameters: {image_size: {value: 32}, steps: {values: [2, 3]}, batch_size: {value: 8}, width: {value: 4}}
  backbone: {value: small_cnn}
  weights: {value: none}
  lr: {min: 1e-4, max: 1e-2, distribution: log_uniform_values}
  batch_size: {value: 16}
budget: {trials: 3, max_epochs: 2, steps_per_epoch: 4}
scheduler: {name: none}
points_to_evaluate:
  - {source: gan, gan.steps: 2, lr: 5e-3}
  - {source: none, lr: 3e-3}
  - {source: gan, gan.steps: 3, lr: 1e-3}
"""
INTERRUPTED = 2
"""The trial that was stopped after its first epoch."""


@pytest.fixture
def root(tmp_path: Path) -> Iterator[Path]:
    """A folder with `cache` and `studies/small`, in which two trials have ended and one was interrupted."""
    root = tmp_path / "root"
    draw_phantoms(root / "xrays", patients=30, seed=3, image_size_px=48)
    (root / "space.yaml").write_text(SPACE, encoding="utf-8")
    space = load_space(root / "space.yaml")
    create_study(
        StudyFolder(root / "studies" / "small"),
        space,
        prepare(space.settings, root / "cache")[0],
        CPU,
    )
    with one_thread():
        search(root, stop_in_trial=INTERRUPTED)
        yield root


def search(root: Path, *overrides: str, stop_in_trial: int | None = None) -> None:
    """Run the trials in turn, as a search does; optionally stop after the first epoch of one."""
    folder, cache = StudyFolder(root / "studies" / "small"), root / "cache"
    space = load_space(root / "space.yaml", overrides)

    def stop(number: int, record: EpochRecord) -> None:
        if number == stop_in_trial and record.epoch == 1:
            raise KeyboardInterrupt

    with locked(folder), suppress(KeyboardInterrupt):
        loop = loop_of(folder, space, folder.prepared(), cache)
        loop.callbacks = Callbacks(on_epoch=stop)
        InProcess(folder, cache=cache).run_loop(loop)


def results(root: Path) -> list[dict[str, Any]]:
    rows = read_jsonl(root / "studies" / "small" / "trials.jsonl")
    return [{name: value for name, value in row.items() if name != "seconds"} for row in rows]


def tag(cache: Path) -> None:
    (cache / CACHE_TAG).write_text(f"{TAG_LINE} xraytune", encoding="utf-8")


def in_an_hour() -> float:
    return time.time() + 3700


@pytest.mark.slow
def test_cleaned_study_resumes_identically(root: Path, tmp_path: Path) -> None:
    """A larger budget, an interrupted trial, and an export, all with a cache from which everything was removed."""
    untouched = Path(shutil.copytree(root, tmp_path / "untouched"))

    cleaned = clean_cache(root / "cache", max_size="0", clock=in_an_hour)
    for each in (root, untouched):
        search(each, "budget.trials=5")
        export(each / "studies" / "small", out=each / "best.yaml")

    assert cleaned.total_bytes > 0
    assert len(results(root)) == 5
    assert results(root) == results(untouched)
    assert (root / "best.yaml").read_bytes() == (untouched / "best.yaml").read_bytes()


def test_old_leftovers_of_killed_processes_are_removed(tmp_path: Path) -> None:
    tag(tmp_path)
    left = tmp_path / "gan-4" / ".small.4711-0123abcd.tmp"
    left.mkdir(parents=True)
    (left / "config.json").write_bytes(b"x" * 77)
    mine = left.with_name(".small.notes.tmp")
    mine.write_bytes(b"x")

    def removed(clock: Callable[[], float]) -> dict[Path, int]:
        return clean_cache(tmp_path, max_size="1TB", clock=clock).removed

    young, stayed = removed(time.time), left.is_dir()

    assert (young, stayed) == ({}, True)
    assert removed(in_an_hour) == {left.resolve(): 77}
    assert not left.exists()
    assert mine.is_file(), "not a name that xraytune gives"


@pytest.mark.parametrize(
    "place", ["linked", "gan-4", "gan-4.work", f"pool-1/{'0' * 32}", f"gan-4.work/{'0' * 32}"]
)
def test_links_in_a_cache_are_neither_followed_nor_removed(tmp_path: Path, place: str) -> None:
    elsewhere = tmp_path / "elsewhere"
    kept = elsewhere / ("f" * 32)
    kept.mkdir(parents=True)
    (kept / "manifest.json").write_bytes(b"x")
    (elsewhere / ".kept.4711-0123abcd.tmp").write_bytes(b"x")
    link = tmp_path / "cache" / place
    link.parent.mkdir(parents=True)
    link.symlink_to(elsewhere)
    tag(tmp_path / "cache")

    would = clean_cache(tmp_path / "cache", max_size="0", dry_run=True, clock=in_an_hour)
    cleaned = clean_cache(tmp_path / "cache", max_size="0", clock=in_an_hour)

    assert would.removed == cleaned.removed
    assert link.is_symlink()
    assert len(list(elsewhere.iterdir())) == 2
    assert kept.is_dir()
