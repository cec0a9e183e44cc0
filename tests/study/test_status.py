"""`status` and the live table, which read the study's folder alone."""

import os
import time
from pathlib import Path
from typing import Literal

import pytest

from tests.study.studies import direct, ended, epoch
from xraytune.search.messages import TrialFailed
from xraytune.space.settings import Parameters
from xraytune.study.clock import Times
from xraytune.study.folder import StudyFolder, locked
from xraytune.study.row import TrialRow
from xraytune.study.status import StudyWatcher, seconds_left, status, trials_dataframe
from xraytune.study.trial_files import ProgressFile, read_progress, write_samples


@pytest.mark.slow
def test_status_shows_each_trial(study: StudyFolder) -> None:
    loop = direct(study)
    watcher = StudyWatcher(study)
    for _ in range(4):
        loop.next_trial()
    loop.on_result(0, epoch(1, 0.9))
    loop.on_result(0, ended(0.9, epochs=1))
    loop.on_result(1, epoch(1, 0.5))
    loop.on_result(2, TrialFailed(reason="weights are missing", cause="settings"))
    ProgressFile(study.trial_path(3))("training the GAN (steps)", 1000, 2000)

    with locked(study):
        view = watcher.look()

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


def test_status_names_the_study_and_the_picture_of_a_trials_gan(
    study: StudyFolder, monkeypatch: pytest.MonkeyPatch
) -> None:
    loop = direct(study, "points_to_evaluate=[{source: gan}, {source: none}]")
    for number in range(2):
        loop.next_trial()
        write_samples(study.trial_path(number), study.path / "samples" / f"gan-{number}.png")
    monkeypatch.chdir(study.path)

    assert status(Path()).name == "small"
    assert [trial.samples for trial in status(study.path).trials] == ["samples/gan-0.png", ""]


def test_activity_of_a_trial_can_have_any_name_and_its_time_left_follows_from_its_pace(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    show, name = ProgressFile(tmp_path), 'training the GAN of a "shadow" (lung)'
    for done, seconds in ((1000, 10.0), (1100, 14.0), (1200, 30.0)):
        monkeypatch.setattr(time, "monotonic", lambda seconds=seconds: seconds)
        show(f"{name} (steps)", done, 1500)

    assert read_progress(tmp_path) == (f"{name} (steps)", 1200, 1500, 48.0)
    assert str(read_progress(tmp_path)).startswith(f"{name}: 1,200 of 1,500 steps")


@pytest.mark.slow
def test_status_writes_nothing(study: StudyFolder) -> None:
    """A reader beside a running search must not touch its journal."""
    loop = direct(study)
    loop.next_trial()
    before = {path: path.read_bytes() for path in study.path.rglob("*") if path.is_file()}

    StudyWatcher(study).look()

    after = {path: path.read_bytes() for path in study.path.rglob("*") if path.is_file()}
    assert {path: content for path, content in after.items() if path.name != ".lock"} == before


def test_a_trial_whose_generator_is_trained_waits_for_a_slot(study: StudyFolder) -> None:
    loop = direct(study)
    loop.next_trial()
    ProgressFile(study.trial_path(0))("waiting for a slot", 0, 0)

    with locked(study):
        assert StudyWatcher(study).look().trials[0].status == "waiting"
        ProgressFile(study.trial_path(0))("decoding images", 1, 2)
        assert StudyWatcher(study).look().trials[0].status == "running"


def test_while_a_study_is_confirmed_no_time_is_counted_and_no_trial_runs(
    study: StudyFolder,
) -> None:
    loop = direct(study)
    loop.next_trial()
    loop.clock.save()
    wall = study.path / "wall.json"
    os.utime(wall, (0, 0))
    before = StudyWatcher(study).look()

    with locked(study, "confirmed"):
        view = StudyWatcher(study).look()

    assert view == before
    assert (view.is_running, view.trials[0].status) == (False, "unfinished")


def test_trials_are_a_dataframe_with_the_searched_parameters(study: StudyFolder) -> None:
    none = trials_dataframe(study.path)
    loop = direct(
        study,
        "points_to_evaluate=[{source: none, lr: 1e-3}, {source: gan, gan.steps: 200, lr: 1e-4}]",
    )
    for number, value in enumerate((0.9, 0.8)):
        loop.next_trial()
        loop.on_result(number, epoch(1, value))
        if number == 0:
            loop.on_result(0, ended(0.9, epochs=1))

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


def test_the_time_left_falls_while_trials_start() -> None:
    """One at a time: the first took a minute, four more will, and of the one that runs so many seconds have passed."""
    trials = (_trial(0, "complete", seconds=60.0), _trial(1, "running"))

    left = [
        seconds_left(trials, 6, Times(seconds=60.0 + passed, trials={1: passed}))
        for passed in (0.0, 10.0, 50.0)
    ]

    assert left == [300.0, 290.0, 250.0]


def _trial(
    number: int, status: Literal["complete", "running"], seconds: float | None = None
) -> TrialRow:
    return TrialRow(
        number=number, mix="real_only", status=status, parameters=Parameters(), seconds=seconds
    )
