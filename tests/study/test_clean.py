"""`cache clean` frees only what can be computed again: the study continues with the same numbers."""

from __future__ import annotations

import shutil
import time
from collections.abc import Callable, Iterator
from contextlib import closing, suppress
from pathlib import Path
from typing import Any

import pytest

from tests.in_process import CPU, InProcess, loop_of, one_thread
from xraytune.base.artifacts import CACHE_TAG, TAG_LINE
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

pytestmark = pytest.mark.slow

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
    create_study(StudyFolder(root / "studies" / "small"), space, prepare(space.settings, root / "cache")[0], CPU)
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
        loop.trials.callbacks = Callbacks(on_epoch=stop)
        with closing(loop):
            InProcess(folder, cache=cache).run_loop(loop)


def results(root: Path) -> list[dict[str, Any]]:
    rows = read_jsonl(root / "studies" / "small" / "trials.jsonl")
    return [{name: value for name, value in row.items() if name != "seconds"} for row in rows]


def tag(cache: Path) -> None:
    (cache / CACHE_TAG).write_text(f"{TAG_LINE} xraytune", encoding="utf-8")


def in_an_hour() -> float:
    return time.time() + 3700


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


@pytest.mark.parametrize("place", ["linked", "gan-4", "gan-4.work", f"pool-1/{'0' * 32}", f"gan-4.work/{'0' * 32}"])
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
