"""A full disk: the message says where and what to do, nothing is lost, and the search resumes."""

import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from tests.faults.small_disk import SmallDisk, small_disk
from tests.study.studies import direct, ended, epoch, new_study, write_space
from xraytune.base.errors import MachineError
from xraytune.base.files import read_jsonl
from xraytune.study.folder import StudyFolder
from xraytune.study.journal import Journal
from xraytune.study.status import status
from xraytune.study.trial import OpenTrial


@pytest.fixture
def disk(tmp_path: Path) -> Iterator[SmallDisk]:
    with small_disk(tmp_path / "disk") as disk:
        yield disk


@contextmanager
def told_full(where: Path) -> Iterator[None]:
    """The refusal names a file below `where` and says what to do."""
    with pytest.raises(MachineError, match="the disk is full") as refusal:
        yield
    (problem,) = refusal.value.problems
    assert str(problem.where).startswith(str(where)), problem.where
    assert "run the same command again" in problem.fix


@pytest.fixture
def study(disk: SmallDisk) -> StudyFolder:
    return new_study(disk.path)


def test_search_on_full_disk_stays_readable_and_resumes(
    study: StudyFolder, disk: SmallDisk
) -> None:
    """Whichever write fails, a trial's end is recorded once and an unfinished trial resumes."""
    told = 0
    for pages_left in (0, 0, 1, 2, 3, 0, 1, 0):
        loop = direct(study, "budget.trials=60")
        disk.fill(pages_left=pages_left)
        try:
            while isinstance(suggestion := loop.next_trial(), OpenTrial):
                for number in range(1, 3):
                    if not loop.on_result(
                        suggestion.number, epoch(number, 0.5 + suggestion.number / 100)
                    ):
                        break
                else:
                    loop.on_result(
                        suggestion.number, ended(0.5 + suggestion.number / 100, epochs=2)
                    )
        except MachineError as error:
            told += "the disk is full" in str(error)
        seen = status(study.path).trials
        disk.free()

        assert [trial.number for trial in seen] == list(range(len(seen)))
        assert all(
            row["number"] == number
            for number, row in enumerate(read_jsonl(study.rows_path)[: len(seen) - 1])
        )
    loop = direct(study, "budget.trials=60")
    rows = read_jsonl(study.rows_path)

    assert told == 8
    assert [row["number"] for row in rows] == sorted({row["number"] for row in rows})
    assert isinstance(loop.next_trial(), OpenTrial)


def test_journal_on_full_disk_keeps_only_complete_lines(
    study: StudyFolder, disk: SmallDisk
) -> None:
    """Optuna writes half a line; after a further append, the journal would be unreadable."""
    space = write_space(disk.path)
    journal = Journal(study.journal_path, space, is_writable=True)
    journal.ask()
    disk.fill()

    reported = 0

    def report_until_full() -> None:
        nonlocal reported
        while True:
            journal.report(0, reported + 1, 0.5)
            reported += 1

    with pytest.raises(MachineError, match=r"optuna\.journal: the disk is full"):
        report_until_full()
    seen = status(study.path).trials[0].values
    content = study.journal_path.read_bytes()
    disk.free()
    journal.report(0, reported + 1, 0.5)  # the same process continues
    again = Journal(study.journal_path, space, is_writable=True)

    assert content.endswith(b"\n")
    assert len(seen) == reported > 0
    assert len(again.row(0).values) == reported + 1
    assert isinstance(direct(study).next_trial(), OpenTrial)


def test_a_full_disk_is_named_while_the_files_of_a_repeated_trial_are_copied(
    study: StudyFolder, disk: SmallDisk, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Where a file system has no links."""
    loop = direct(study, "source={value: none}", "lr={values: [1e-3, 1e-4]}")
    trial = loop.next_trial()
    assert isinstance(trial, OpenTrial)
    results = study.results_path(trial.number)
    results.parent.mkdir(parents=True, exist_ok=True)
    results.write_bytes(bytes(10**5))
    loop.on_result(trial.number, ended(0.5, epochs=2))

    def no_links(file: str, new: str) -> None:
        raise PermissionError(file, new)

    monkeypatch.setattr(os, "link", no_links)
    disk.fill(pages_left=4)

    with told_full(study.path):
        for _ in range(9):
            loop.next_trial()
