"""A study that an earlier version wrote is shown, exported and gone on with.

`assets/version-1` was played through the director of 0.1.0, `version-2` is its study with the table that was written next;
neither was edited since. A format that changes adds a folder.
"""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest

from tests.search.studies import direct
from xraytune.config.load import load_space
from xraytune.errors import DataError, StudyError
from xraytune.export.best import export
from xraytune.files import read_jsonl
from xraytune.search.journal import Journal
from xraytune.search.messages import TrialSuggestion
from xraytune.search.run import Quiet, search
from xraytune.search.status import status
from xraytune.search.study import StudyFolder, require_same_space

ASSETS = Path(__file__).parent / "assets"
ENDED = ["complete", "pruned", "complete", "pruned", "pruned"]


class Notes(Quiet):
    """An observer that keeps the notes."""

    def __init__(self) -> None:
        self.texts: list[str] = []

    def note(self, text: str) -> None:
        self.texts.append(text)


@pytest.fixture(params=sorted(folder.name for folder in ASSETS.iterdir()))
def old(tmp_path: Path, request: pytest.FixtureRequest) -> StudyFolder:
    """A copy of a study with five ended trials and an unfinished one, and of its space file, `small.yaml`."""
    shutil.copytree(ASSETS / request.param, tmp_path, dirs_exist_ok=True)
    return StudyFolder(tmp_path / "studies" / "small")


def test_it_is_shown(old: StudyFolder) -> None:
    view = status(old.path)

    assert [trial.status for trial in view.trials] == [*ENDED, "unfinished"]
    assert [trial.values[-1] for trial in view.trials] == [0.9, 0.8, 0.95, 0.7, 0.85, 0.97]
    assert view.best is not None
    assert view.best.number == 2


def test_its_journal_says_what_its_table_said(old: StudyFolder) -> None:
    journal = Journal(old.journal_path, old.space(), writable=False)

    assert journal.rows() == old.rows()


@pytest.mark.slow
def test_its_best_trial_is_exported(old: StudyFolder, tmp_path: Path) -> None:
    export(old.path, out=tmp_path / "best.yaml")

    parameters = load_space(tmp_path / "best.yaml").experiment().parameters
    row = old.rows()[2]
    assert (parameters.source, parameters.lr) == (row["parameters"]["source"], row["parameters"]["lr"])


@pytest.mark.slow
def test_it_goes_on_where_it_stopped(old: StudyFolder, tmp_path: Path) -> None:
    require_same_space(old, load_space(tmp_path / "small.yaml", unsaid=old.unsaid()))
    before = old.rows()

    controller = direct(old, "budget.trials=7")
    begun = [controller.next(), controller.next()]

    assert [suggestion.number for suggestion in begun if isinstance(suggestion, TrialSuggestion)] == [5, 6]
    assert read_jsonl(old.rows_path) == before, "rows of an earlier version are written anew"


def test_its_trials_keep_the_running_statistics_that_they_were_trained_with(old: StudyFolder, tmp_path: Path) -> None:
    """They were moving averages: what a search adds, replays or confirms must not differ in that."""
    journal = Journal(old.journal_path, old.space(), writable=False)
    exported = export(old.path, out=tmp_path / "best.yaml").path
    said = "".join(line for line in exported.read_text().splitlines(keepends=True) if "batch_norm" not in line)
    exported.write_text(said)  # as the earlier version wrote it

    suggestion = direct(old, "budget.trials=7").next()

    assert isinstance(suggestion, TrialSuggestion)
    trained = [journal.parameters(0), old.experiment(0).parameters, suggestion.parameters]
    assert [parameters.batch_norm for parameters in trained] == ["moving"] * 3
    assert load_space(exported).experiment().parameters.batch_norm == "moving"


def test_it_is_not_gone_on_with_otherwise(old: StudyFolder, tmp_path: Path) -> None:
    asked_for = load_space(tmp_path / "small.yaml", ["batch_norm=mix"], unsaid=old.unsaid())

    with pytest.raises(StudyError, match=r"(?s)-batch_norm: .*moving.*\+batch_norm: .*mix"):
        require_same_space(old, asked_for)


@pytest.mark.slow
def test_its_own_file_searches_it_as_it_was(old: StudyFolder, tmp_path: Path) -> None:
    """The same command gets as far as the images, which are not here, and says what held before."""
    notes = Notes()

    with pytest.raises(DataError):
        search(tmp_path / "small.yaml", studies=old.path.parent, observer=notes)

    assert notes.texts == ["the study began before batch_norm existed: its trials keep batch_norm: moving"]
