"""The log of a search, and what it prints at its end."""

from pathlib import Path

import pytest

from tests.study.studies import CPU, two_images, write_space
from xraytune.cli.search import SearchScreen
from xraytune.space.settings import Parameters
from xraytune.study.folder import StudyFolder, locked
from xraytune.study.row import TrialRow
from xraytune.study.start import create_study, record_budget
from xraytune.study.suggestion import TrialSuggestion


def lines_of(error_output: str) -> list[str]:
    """The lines without their times."""
    return [line.split("  ", 1)[1] for line in error_output.splitlines()]


def test_a_log_has_a_line_for_each_start_and_end(capsys: pytest.CaptureFixture[str]) -> None:
    parameters = Parameters.model_validate({"source": "duplicate", "synthetic_ratio": 0.5})

    with SearchScreen() as callbacks:
        callbacks.on_progress("reading images", 1, 2)
        callbacks.on_progress("reading images", 2, 2)
        callbacks.on_trial_start(TrialSuggestion(number=3, parameters=parameters))
        pruned = TrialRow(number=3, status="pruned", parameters=parameters, epochs=2, seconds=61.2, value=0.75)
        callbacks.on_trial_end(pruned)
        reason = "the loss is not finite\nat step 3"
        callbacks.on_trial_end(TrialRow(number=4, status="failed", parameters=parameters, reason=reason))

    captured = capsys.readouterr()
    assert captured.out == ""
    assert lines_of(captured.err) == [
        "reading images: 2 of 2",
        "#3 started: duplicate r=0.5",
        "#3 pruned after 2 epochs, 1:01: val-A 0.750",
        "#4 failed: the loss is not finite",
    ]


def test_a_search_is_watched_with_the_budget_of_this_start(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    folder = StudyFolder(tmp_path / "studies" / "small")
    create_study(folder, write_space(tmp_path, "budget.trials=6"), two_images(), CPU)

    with locked(folder):
        record_budget(folder, write_space(tmp_path, "budget.trials=9"))
    with SearchScreen() as callbacks:
        callbacks.on_start(folder.path, "")

    assert "0 of 9 trials ended" in capsys.readouterr().err
