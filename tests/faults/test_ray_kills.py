"""A search with Ray whose processes are killed: it goes on, and every trial ends once.

`XRAYTUNE_FAULTS=all` kills 40 times, any kind of process; else three times.
"""

from __future__ import annotations

import random
import time
from pathlib import Path

import pytest

from tests.faults.ray_processes import HEADS, IS_LONG, Killable, Kind, kill, killable
from xraytune.base.files import read_json, read_jsonl
from xraytune.study.folder import StudyFolder
from xraytune.study.journal import Journal
from xraytune.study.row import write_trials

ALL: tuple[Kind, ...] = ("worker", "raylet", "gcs", "ray driver", "driver", "all at once")


def require_whole(search: Killable) -> None:
    """Every trial ended once, in the journal and in `trials.jsonl`, with epochs 1 to k and the values that it reported."""
    folder = StudyFolder(search.study)
    journal = Journal(folder.journal_path, folder.space(), writable=False)
    rows = journal.rows()
    assert [row.number for row in rows] == list(range(search.trials))
    written = folder.rows_path.read_bytes()
    write_trials(folder, rows)
    assert folder.rows_path.read_bytes() == written
    reported = [(number, epoch) for number, epoch, _ in journal.reports()]
    assert len(set(reported)) == len(reported), "a value was recorded twice"
    for row in rows:
        log = read_jsonl(folder.trial_path(row.number) / "epochs.jsonl")
        assert [epoch["epoch"] for epoch in log] == list(range(1, len(log) + 1))
        assert journal.reported(row.number) == {e["epoch"]: e["best_val_score"] for e in log[: row.epochs]}
        assert row.status in {"complete", "pruned"}, row.reason


@pytest.mark.ray
@pytest.mark.slow
def test_same_command_resumes_after_any_kill(tmp_path: Path) -> None:
    dice = random.Random(7)
    search = killable(tmp_path)
    kinds: list[Kind] = [dice.choice(ALL) for _ in range(40)] if IS_LONG else ["worker", "raylet", "driver"]
    for kind in kinds:
        search.train_on(more_epochs=1)
        time.sleep(dice.random())
        search.wait_for(lambda kind=kind: kill(kind, search.process, dice))  # type: ignore[misc]
    search.finish()

    require_whole(search)
    used = read_json(search.study / "wall.json")["seconds"]
    assert used >= sum(row["seconds"] for row in read_jsonl(search.study / "trials.jsonl")) / 2
    told = ", ".join(f"{kinds.count(kind)} {kind}" for kind in ALL)
    print(f"\nkilled: {told}; {search.trials} trials, 0 lost, 0 twice, 0 counted twice, 0 by hand")  # noqa: T201


@pytest.mark.ray
@pytest.mark.slow
def test_killed_process_that_runs_several_trials_is_replaced(tmp_path: Path) -> None:
    search = killable(tmp_path, space=HEADS)
    search.train_on(more_epochs=1)
    search.wait_for(lambda: kill("worker", search.process, random.Random(1)))
    search.finish()

    require_whole(search)


@pytest.mark.nightly
@pytest.mark.ray
@pytest.mark.slow
def test_concurrent_studies_do_not_interfere(tmp_path: Path) -> None:
    searches = [killable(tmp_path / name) for name in ("one", "other")]
    for search in searches:
        search.keep_running()
    searches[0].train_on(more_epochs=1)
    kill("driver", searches[0].process, random.Random(1))
    for search in searches:
        search.finish()

    for search in searches:
        require_whole(search)
