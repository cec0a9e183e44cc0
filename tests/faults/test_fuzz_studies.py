"""A file of a study, whatever is in it: told in our words, and nothing else happens."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tests.faults.fuzzing import (
    SCALARS,
    TRAPS,
    damaged_bytes,
    damaged_json,
    damaged_lines,
    damaged_rows,
    fuzzed,
    instead,
    only_our_errors,
)
from tests.faults.specimens import make_study
from xraytune.base.files import append_jsonl, read_jsonl
from xraytune.confirm.arms import read_plan
from xraytune.data.prepare import Prepared, SideName
from xraytune.model.best import export
from xraytune.study.folder import StudyFolder
from xraytune.study.inputs import require_same_inputs
from xraytune.study.journal import Journal
from xraytune.study.row import completed_runs, ended_trials
from xraytune.study.status import status

pytestmark = pytest.mark.filterwarnings("ignore:Generating overly large repr")  # of a failing input
SIDES: tuple[SideName, ...] = ("train", "val_a", "val_b")


@pytest.fixture(scope="module")
def study(tmp_path_factory: pytest.TempPathFactory) -> StudyFolder:
    """A whole study; each test damages a file of it and puts it back."""
    return make_study(tmp_path_factory.mktemp("root"))


def damaged_log(file: Path) -> st.SearchStrategy[bytes]:
    """A JSONL file of ours, damaged."""
    return damaged_rows([json.loads(line) for line in file.read_text(encoding="utf-8").splitlines()])


def read_whole_journal(journal: Journal) -> None:
    """All that status, report, export, confirm and a resumed search ask."""
    for number in [trial.number for trial in journal.trials]:
        if journal.status(number):  # else its settings may be on their way
            journal.parameters(number)
        journal.reported(number)
    journal.rows()
    journal.unfinished()
    list(journal.reports())


@pytest.mark.slow
@pytest.mark.parametrize("writable", [False, True], ids=["to be read", "to be written"])
def test_damaged_journal_is_reported(study: StudyFolder, writable: bool) -> None:
    space = study.space()

    @fuzzed(kinds=4)
    @given(damaged_log(study.journal_path))
    def open_it(content: bytes) -> None:
        with instead(study.journal_path, content), only_our_errors(*([] if writable else [study.path.parent.parent])):
            read_whole_journal(Journal(study.journal_path, space, writable=writable))

    open_it()


@pytest.mark.parametrize(
    "read", [status, lambda path: export(path, out=path.parent / "best.yaml")], ids=["status", "export"]
)
@pytest.mark.slow
def test_study_with_damaged_journal_is_reported(study: StudyFolder, read: Callable[[Path], object]) -> None:
    @fuzzed(kinds=4)
    @given(damaged_log(study.journal_path))
    def read_it(content: bytes) -> None:
        (study.path.parent / "best.yaml").unlink(missing_ok=True)
        with instead(study.journal_path, content), only_our_errors(study.path):
            read(study.path)

    read_it()


@pytest.mark.slow
def test_damaged_log_is_reported_and_still_appendable(tmp_path: Path) -> None:
    log = tmp_path / "log.jsonl"
    rows = [{"version": 1, "epoch": number, "val_score": 0.5} for number in range(3)]

    @fuzzed()
    @given(damaged_rows(rows))
    def read_it(content: bytes) -> None:
        log.write_bytes(content)
        with only_our_errors():
            there = read_jsonl(log)
            assert all(isinstance(row, dict) for row in there)
            append_jsonl(log, {"epoch": 9})
            assert read_jsonl(log) == [*there, {"epoch": 9}]

    read_it()


def use(prepared: Prepared) -> None:
    """What every trial asks of the images."""
    for side in SIDES:
        prepared.side(side)
    assert prepared.fingerprint
    assert prepared.train_fingerprint


FILES_OF_A_STUDY: dict[str, Callable[[StudyFolder], object]] = {
    "split.json": lambda study: use(study.prepared()),
    "environment.json": lambda study: (study.compute(), study.identity()),
    "inputs.json": lambda study: require_same_inputs(study, {study.path.parent.parent / "drawn": "0" * 32}),
    "wall.json": lambda study: status(study.path),
    "trials/0004/progress.json": lambda study: status(study.path),
    "trials/0000/config.json": lambda study: study.experiment(0),
    "confirm/plan.json": lambda study: read_plan(study.path / "confirm"),
    "confirm/verdict.json": lambda study: export(study.path, out=study.path.parent / "best.yaml"),
}


@pytest.mark.parametrize("name", FILES_OF_A_STUDY)
@pytest.mark.slow
def test_damaged_study_file_is_reported(study: StudyFolder, name: str) -> None:
    file = study.path / name

    @fuzzed(kinds=len(FILES_OF_A_STUDY))
    @given(damaged_json(json.loads(file.read_bytes())))
    def read_it(content: bytes) -> None:
        (study.path.parent / "best.yaml").unlink(missing_ok=True)
        with instead(file, content), only_our_errors(study.path):
            FILES_OF_A_STUDY[name](study)

    read_it()


@pytest.mark.slow
def test_damaged_study_space_is_reported(study: StudyFolder) -> None:
    whole = study.space_path.read_text(encoding="utf-8")

    @fuzzed()
    @given(st.one_of(damaged_lines(whole, TRAPS, SCALARS), damaged_bytes(whole.encode())))
    def read_it(content: bytes) -> None:
        (study.path.parent / "best.yaml").unlink(missing_ok=True)
        with instead(study.space_path, content), only_our_errors(study.path):
            export(study.path, out=study.path.parent / "best.yaml")

    read_it()


@pytest.mark.parametrize("name", ["trials.jsonl", "confirm/runs.jsonl"])
@pytest.mark.slow
def test_damaged_study_log_is_reported(study: StudyFolder, name: str) -> None:
    file = study.path / name
    read: Callable[[StudyFolder], object] = ended_trials if name == "trials.jsonl" else completed_runs

    @fuzzed(kinds=2)
    @given(damaged_log(file))
    def read_it(content: bytes) -> None:
        with instead(file, content), only_our_errors(study.path):
            read(StudyFolder(file.parent))

    read_it()
