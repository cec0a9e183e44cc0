"""A space file, an override, or a file of a study, whatever is in it: told in our words, and nothing else happens."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path

import pytest

from tests.faults import fuzzing
from tests.faults.fuzzing import SCALARS, TRAPS, Damage, damaged_rows, read_damaged
from tests.faults.specimens import make_study
from xraytune.confirm.arms import read_plan
from xraytune.data.prepare import Prepared, SideName
from xraytune.model.best import export
from xraytune.space.load import load_space
from xraytune.study.folder import StudyFolder
from xraytune.study.inputs import require_same_inputs
from xraytune.study.journal import Journal
from xraytune.study.row import completed_runs, ended_trials
from xraytune.study.status import status

pytestmark = pytest.mark.slow

SIDES: tuple[SideName, ...] = ("train", "val_a", "val_b")
SPACES = sorted([*Path("search_spaces").glob("*.yaml"), *Path("search_spaces/studies").glob("*.yaml")])


def load(path: Path, overrides: tuple[str, ...] = ()) -> None:
    """All that a command does with a space before it starts."""
    space = load_space(path, overrides)
    space.identity()
    space.to_yaml(path.parent)
    space.experiment()


def damaged_space(whole: str) -> Damage:
    lines = fuzzing.damaged_lines(whole, TRAPS, SCALARS)
    return fuzzing.any_of(lines, lines, lines, fuzzing.damaged_bytes(whole.encode()))


@pytest.mark.parametrize("space", SPACES, ids=lambda path: path.stem)
def test_damaged_space_file_is_reported(tmp_path: Path, space: Path) -> None:
    file = Path(shutil.copy(space, tmp_path / "space.yaml"))
    whole = file.read_text(encoding="utf-8")

    read_damaged(file, damaged_space(whole), lambda: load(file), tmp_path, kinds=len(SPACES))


@pytest.fixture(scope="module")
def study(tmp_path_factory: pytest.TempPathFactory) -> StudyFolder:
    """A whole study; each test damages a file of it and puts it back."""
    return make_study(tmp_path_factory.mktemp("root"))


def damaged_log(file: Path) -> Damage:
    """A JSONL file of ours, damaged."""
    return damaged_rows([json.loads(line) for line in file.read_text(encoding="utf-8").splitlines()])


def read_journal(study: StudyFolder, *, writable: bool) -> None:
    """All that status, report, export, confirm and a resumed search ask."""
    journal = Journal(study.journal_path, study.space(), writable=writable)
    for number in [trial.number for trial in journal.trials]:
        if journal.status(number):  # else its settings may be on their way
            journal.parameters(number)
        journal.reported(number)
    journal.rows()
    journal.unfinished()
    list(journal.reports())


def export_best(study: StudyFolder) -> None:
    best = study.path.parent / "best.yaml"
    best.unlink(missing_ok=True)
    export(study.path, out=best)


JOURNAL_READERS: dict[str, Callable[[StudyFolder], object]] = {
    "to be read": lambda study: read_journal(study, writable=False),
    "to be written": lambda study: read_journal(study, writable=True),
    "status": lambda study: status(study.path),
    "export": export_best,
}


@pytest.mark.parametrize("reader", JOURNAL_READERS)
def test_damaged_journal_is_reported(study: StudyFolder, reader: str) -> None:
    unchanged = () if reader == "to be written" else (study.path,)
    damage = damaged_log(study.journal_path)

    read_damaged(study.journal_path, damage, lambda: JOURNAL_READERS[reader](study), *unchanged, kinds=4)


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
    "confirm/verdict.json": export_best,
    "study.yaml": export_best,
    "trials.jsonl": ended_trials,
    "confirm/runs.jsonl": lambda study: completed_runs(StudyFolder(study.path / "confirm")),
}


@pytest.mark.parametrize("name", FILES_OF_A_STUDY)
def test_damaged_study_file_is_reported(study: StudyFolder, name: str) -> None:
    file = study.path / name
    if file.suffix == ".json":
        damage = fuzzing.damaged_json(json.loads(file.read_bytes()))
    else:
        damage = damaged_log(file) if file.suffix == ".jsonl" else damaged_space(file.read_text(encoding="utf-8"))

    read_damaged(file, damage, lambda: FILES_OF_A_STUDY[name](study), study.path, kinds=len(FILES_OF_A_STUDY))
