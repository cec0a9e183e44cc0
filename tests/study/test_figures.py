"""Optuna's charts of a search: which trials and parameters they show."""

import pytest

from tests.study.studies import write_space
from xraytune.study.figures import Figure, search_figures
from xraytune.study.folder import StudyFolder
from xraytune.study.journal import Journal
from xraytune.study.status import StudyWatcher

pytestmark = pytest.mark.slow


def figures_after(study: StudyFolder, statuses: str) -> dict[str, Figure]:
    """Search trials that end so: `c`omplete, `p`runed, `f`ailed, or still `r`unning."""
    journal = Journal(study.journal_path, write_space(study.path.parent.parent), writable=True)
    for number, letter in enumerate(statuses):
        journal.ask(())
        value = round(0.5 + number / 300, 4)
        journal.report(number, 1, value)
        if letter == "c":
            journal.tell(number, "complete", value, {"val_b_score": value})
        elif letter in "pf":
            journal.tell(number, "pruned" if letter == "p" else "failed", value if letter == "p" else None, {})
    watcher = StudyWatcher(study)
    return search_figures(watcher.journal, watcher.look())


def test_each_trial_with_a_score_is_a_point_unless_it_failed(study: StudyFolder) -> None:
    figures = figures_after(study, "cpfcr")

    points, best, *_ = figures["history"]["data"]
    assert points["x"] == [0, 1, 3, 4]
    assert points["y"] == [0.5, 0.5033, 0.51, 0.5133]
    assert best["y"][-1] == 0.5133
    assert sorted(figures["slice lr"]["data"][0]["marker"]["color"]) == [0, 1, 3, 4]
    assert len(figures["parallel"]["data"]) == 4 + 1  # and the scale of colours
    assert "importances" not in figures


def test_importances_need_twenty_trials_and_lines_end_at_a_hundred(study: StudyFolder) -> None:
    figures = figures_after(study, "cp" * 55)

    (bars,) = figures["importances"]["data"]
    assert sum(bars["x"]) == pytest.approx(1)
    assert {name.removeprefix("slice ") for name in figures if name.startswith("slice ")} == {*bars["y"]}
    assert len(figures["parallel"]["data"]) == 100 + 1


def test_without_a_score_there_is_no_figure(study: StudyFolder) -> None:
    assert figures_after(study, "") == {}
