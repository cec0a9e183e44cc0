"""The log of a search, and what it prints at its end."""

from pathlib import Path
from typing import Any

import pytest

from tests.study.studies import CPU, two_images, write_space
from xraytune.cli.search import SearchScreen, show_search
from xraytune.space.settings import Objective, Parameters
from xraytune.study.folder import StudyFolder, locked
from xraytune.study.row import TrialRow
from xraytune.study.start import create_study, record_budget
from xraytune.study.status import StudyView, TrialView
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


def test_next_command_is_quoted(capsys: pytest.CaptureFixture[str]) -> None:
    for source in ("gan", "none"):
        parameters = Parameters(source=source)
        best = TrialView(number=0, status="complete", value=0.9, val_b_score=0.8, parameters=parameters, mix=source)
        counts: dict[str, Any] = {
            "trial_budget": 1,
            "max_epochs": 1,
            "seconds": 1.0,
            "seconds_left": None,
            "is_running": False,
        }
        path = Path("studies/a #b")
        show_search(StudyView(path=path, metric="AUROC", objective=Objective(), trials=(best,), **counts))

    said = capsys.readouterr().out
    assert "next: xraytune confirm 'studies/a #b'\n" in said
    assert "next: xraytune train 'studies/a #b' -o model" in said
