"""`cache clean`: a cache that several studies and users share."""

import os
import subprocess
import time
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest

from xraytune.base.arrays import Float32Array, Int64Array
from xraytune.base.artifacts import CACHE_TAG, TAG_LINE, build_once, is_intact, start_folder
from xraytune.base.errors import ConfigError
from xraytune.nets.feature_store import FeatureStore
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


def in_an_hour() -> float:
    return time.time() + 3601


def size(path: Path) -> int:
    return sum(file.stat().st_size for file in path.rglob("*") if file.is_file())


def test_the_least_recently_used_artifacts_are_removed_until_the_cache_is_small_enough(
    tmp_path: Path,
) -> None:
    first = artifact(tmp_path, 1, hours_old=30)
    second = artifact(tmp_path, 2, hours_old=20)
    third = artifact(tmp_path, 3, hours_old=10)
    limit = f"{size(second) + size(third)}B"
    assert is_intact(first), "counts as a use, so the second is now the oldest"

    would = clean_cache(tmp_path, max_size=limit, dry_run=True)
    assert all(path.exists() for path in (first, second, third))
    cleaned = clean_cache(tmp_path, max_size=limit)

    assert (first.exists(), second.exists(), third.exists()) == (True, False, True)
    assert [*would.removed] == [*cleaned.removed] == [second]
    assert clean_cache(tmp_path, max_size=limit).removed == {}


def test_features_are_removed_like_other_artifacts_and_can_be_added_again(tmp_path: Path) -> None:
    """Not while they are in use."""
    (tmp_path / CACHE_TAG).write_text(f"{TAG_LINE} xraytune")

    def compute(places: Int64Array) -> Iterator[Float32Array]:
        yield np.ones((len(places), 2), dtype=np.float32)

    for _ in range(2):
        features, rows = FeatureStore(tmp_path, {"network": 1}).find([b"0" * 16], compute)
        assert features[rows].tolist() == [[1, 1]]
        assert clean_cache(tmp_path, max_size="0").removed == {}
        assert len(clean_cache(tmp_path, max_size="0", clock=in_an_hour).removed) == 1


@pytest.mark.parametrize("is_finished", [True, False])
def test_what_was_used_or_written_in_the_last_hour_stays(tmp_path: Path, is_finished: bool) -> None:
    old = artifact(tmp_path, 2)
    if is_finished:
        path = artifact(tmp_path, 1, hours_old=0.5)
    else:
        path = start_folder(tmp_path, "gan-1.work", {"seed": 1})
        (path / "checkpoint.pt").write_bytes(b"x")

    during = clean_cache(tmp_path, max_size="0")
    stayed = path.exists(), old.exists()
    after = clean_cache(tmp_path, max_size="0", clock=in_an_hour)

    assert stayed == (True, False)
    assert "used in the last hour" in during.note
    assert not path.exists()
    assert after.note == ""


@pytest.mark.slow
def test_only_artifacts_are_removed_and_the_command_prints_each_path(tmp_path: Path) -> None:
    from tests.in_process import said  # seconds, which only this test should pay

    path = artifact(tmp_path, 1)
    others = [
        path.parent / "notes",
        path.parent / ("0" * 32),
        tmp_path / "images-2024" / ("0" * 32),
        tmp_path / "images-2024" / path.name,
    ]
    for other in others:
        other.mkdir(parents=True)
        (other / "scan.dcm").write_bytes(b"x")
        (other / "manifest.json").write_bytes((path / "manifest.json").read_bytes())

    would = said("cache", "clean", "--cache", tmp_path, "--max-size", "0", "--dry-run")
    stayed = path.is_dir()
    cleaned = clean_cache(tmp_path, max_size="0", clock=in_an_hour)

    assert stayed
    assert [*would["removed"]] == [str(path)]
    assert [*cleaned.removed] == [path]
    assert all((other / "scan.dcm").is_file() for other in others)
    assert all(str(other.relative_to(tmp_path)) in cleaned.note for other in others)


@pytest.mark.parametrize(
    "content", ["", "Signature: 8a477f597d28d172789f06886806bc55\n# of another program"]
)
def test_a_folder_that_xraytune_did_not_mark_is_refused_and_the_fix_marks_it(
    tmp_path: Path, content: str
) -> None:
    cache = tmp_path / "my cache"
    (cache / "images-2024").mkdir(parents=True)
    if content:
        (cache / "CACHEDIR.TAG").write_text(content)
    path = artifact(cache, 1)

    with pytest.raises(ConfigError, match="not a cache of xraytune") as refused:
        clean_cache(cache, max_size="0")
    stayed = path.is_dir()
    subprocess.run(refused.value.problems[0].fix.partition("mark it: ")[2], shell=True, check=True)
    cleaned = clean_cache(cache, max_size="0")

    assert stayed
    assert [*cleaned.removed] == [path]


@pytest.mark.parametrize("place", ["gan-1", f"gan-1/{'0' * 32}", "notes.txt"])
def test_links_and_files_of_others_in_a_cache_are_named_and_stay(
    tmp_path: Path, place: str
) -> None:
    """And so does what is behind a link."""
    elsewhere = artifact(tmp_path / "elsewhere", 1)
    other = tmp_path / "cache" / place
    other.parent.mkdir(parents=True)
    if other.suffix:
        other.write_text("mine")
    else:
        other.symlink_to(elsewhere.parent)
    (tmp_path / "cache" / CACHE_TAG).write_text(f"{TAG_LINE} xraytune")

    cleaned = clean_cache(tmp_path / "cache", max_size="0", clock=in_an_hour)

    assert cleaned.removed == {}
    assert other.exists()
    assert is_intact(elsewhere)
    assert cleaned.note.endswith(f"or links: {place}")
