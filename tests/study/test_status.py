"""`status` and the live table, which read the study's folder alone."""

from dataclasses import replace
from pathlib import Path

import pytest

from tests.study.studies import direct, epoch, run_trial, trial, view_of
from xraytune.space.parameters import Parameters
from xraytune.space.source_settings import GanSettings
from xraytune.study.folder import StudyFolder, locked
from xraytune.study.status import StudyWatcher, trials_dataframe
from xraytune.study.trial import ProgressFile, TrialFailed, read_progress


@pytest.mark.slow
def test_status_shows_each_trial(study: StudyFolder) -> None:
    loop = direct(study)
    watcher = StudyWatcher(study)
    run_trial(loop, 0, 0.9)
    for _ in range(3):
        loop.next_trial()
    loop.on_result(1, epoch(1, 0.5))
    loop.on_result(2, TrialFailed(reason="weights are missing", cause="settings"))
    ProgressFile(study.trial_path(3))("training the GAN (steps)", 1000, 2000)

    with locked(study):
        view = watcher.refresh()

    assert [trial.status for trial in view.trials] == ["complete", "pruned", "failed", "running"]
    assert view.trials[0].values == (0.9,)
    assert view.trials[0].val_b_score == 0.89
    assert view.trials[2].reason == "weights are missing"
    assert view.trials[3].busy_with == "training the GAN: 1,000 of 2,000 steps"
    assert view.best is not None
    assert (view.best.number, view.counts["pruned"], view.is_running) == (0, 1, True)
    assert [(side.name, side.image_count) for side in view.sides] == [
        ("train", 1),
        ("val-A", 1),
        ("val-B", 1),
    ]


def test_while_a_study_is_confirmed_no_trial_runs(
    study: StudyFolder,
) -> None:
    loop = direct(study)
    loop.next_trial()
    before = StudyWatcher(study).refresh()

    with locked(study, "confirmed"):
        view = StudyWatcher(study).refresh()

    assert view == before
    assert (view.is_running, view.trials[0].status) == (False, "unfinished")


def test_trials_are_a_dataframe_with_the_searched_parameters(study: StudyFolder) -> None:
    none = trials_dataframe(study.path)
    loop = direct(
        study,
        "points_to_evaluate=[{source: none, lr: 1e-3}, {source: gan, gan.steps: 200, lr: 1e-4}]",
    )
    run_trial(loop, 0, 0.9)
    loop.next_trial()
    loop.on_result(1, epoch(1, 0.8))

    table = trials_dataframe(study.path)

    assert list(table.columns) == [
        *("status", "arm", "mix", "epochs", "val_a_score", "val_b_score", "seconds"),
        *("source", "synthetic_ratio", "gan.steps", "lr"),
    ]
    assert (len(none), list(none.columns), list(table.index)) == (0, list(table.columns), [0, 1])
    assert table.loc[0, ["status", "arm", "val_b_score", "lr"]].to_list() == [
        "complete",
        "real_only",
        0.89,
        1e-3,
    ]
    assert table["gan.steps"].isna().to_list() == [True, False]
    assert list(table["lr"]) == [1e-3, 1e-4]


def test_the_time_left_follows_from_the_mean_of_ended_trials() -> None:
    """One at a time: the first took a minute, half of the second is done, four more will follow."""
    trials = (trial(0, "complete", seconds=60.0), trial(1, "running"), trial(2, "waiting"))

    view = view_of(*trials, trial_budget=6, seconds=90.0)

    assert view.seconds_left == 270.0
    assert replace(view, seconds_budget=100.0).seconds_left == 10.0
    assert replace(view, trials=trials[1:]).seconds_left is None


def test_the_time_left_follows_from_trials_that_share_what_the_first_ones_computed() -> None:
    """Two trials trained generators; each of the other 18 takes two seconds, two at once."""
    seconds = enumerate([30.0, 30.0, 2.0, 2.0])
    trials = [trial(number, "complete", seconds=each) for number, each in seconds]
    waiting = [trial(number, "waiting") for number in range(4, 8)]

    view = view_of(*trials, *waiting, trial_budget=20, seconds=32.0)

    assert view.seconds_left == 16.0


def test_the_time_left_waits_for_the_generators_that_others_wait_for(tmp_path: Path) -> None:
    """The first of them is half done, and a run twice as long continues it, for three trials.

    A step takes .2 s, except for the first one. After the steps, the generator's trial takes half
    as long as the slowest trial without a generator, and each other trial takes 4 s.
    """
    now = [-50.0]
    report = ProgressFile(tmp_path, clock=lambda: now[0])
    for done, now[0] in {0: -50.0, 1: -40.0, 250: -10.0, 500: 40.0}.items():
        report("training the GAN (steps)", done, 1000)
    short, long = (
        Parameters(source="gan", gan=GanSettings(steps=steps), synthetic_ratio=1.0)
        for steps in (1000, 2000)
    )
    trials = [
        trial(0, "complete", seconds=4.0),
        trial(1, "running", parameters=short, preparing=read_progress(tmp_path)),
        *(trial(number, "waiting", parameters=long) for number in (2, 3, 4)),
    ]

    view = view_of(*trials, trial_budget=5, seconds=104.0)

    assert view.seconds_left == pytest.approx(1500 * 0.2 + 2.0 + 3 * 4.0)


def test_a_notebook_shows_a_study_without_trials() -> None:
    assert "<b>small</b>: </p>" in view_of()._repr_html_()
