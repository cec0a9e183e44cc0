"""A fixed list of runs: each ends once, and a restart repeats what was decided."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from tests.study.studies import ended, epoch, no_gan
from xraytune.base.files import read_json, write_bytes, write_json
from xraytune.confirm.arms import Arm, replicate
from xraytune.confirm.controls import TopUpRungs
from xraytune.confirm.run_list import Run, RunList
from xraytune.search.asha import Rungs
from xraytune.search.callbacks import Callbacks
from xraytune.search.loop import TrialLoop
from xraytune.search.messages import TrialFailed
from xraytune.space.settings import (
    DataSettings,
    Experiment,
    Parameters,
    SchedulerSettings,
    Settings,
)
from xraytune.study.folder import StudyFolder
from xraytune.study.row import completed_runs
from xraytune.study.trial import Trial

SETTINGS = Settings(name="small", seed=5, data=DataSettings(path=Path("xrays")))


@pytest.fixture
def folder(tmp_path: Path) -> StudyFolder:
    return StudyFolder(tmp_path / "confirm")


def work(folder: StudyFolder, count: int, **options: Any) -> TrialLoop:
    experiment = Experiment(settings=SETTINGS, parameters=Parameters())
    runs = [
        Run(number=number, label=f"run {number}", experiment=experiment) for number in range(count)
    ]
    return RunList(folder, runs, what="runs", retries=1, generator_need=no_gan, **options)


def top_ups(folder: StudyFolder, *searched: tuple[int, int, float]) -> TrialLoop:
    """Two runs that ASHA prunes, after trials of a search that reported these values, as each start creates them."""
    rungs = Rungs(SchedulerSettings(grace=1, reduction=3, within="all"), max_epochs=9)
    for report in searched:
        rungs.should_continue(*report)
    return work(folder, 2, make_asha=lambda: TopUpRungs(folder, rungs))


def started(work: TrialLoop) -> int:
    suggestion = work.next_trial()
    assert isinstance(suggestion, Trial)
    return suggestion.number


def test_each_run_ends_once_and_restart_resumes(folder: StudyFolder) -> None:
    progress: list[tuple[str, int, int]] = []
    first = work(folder, 3, callbacks=Callbacks(on_progress=lambda *said: progress.append(said)))
    assert [started(first), started(first)] == [0, 1]
    assert all(first.on_result(1, epoch(place, 0.5)) for place in range(1, 30)), (
        "it trains all of its epochs"
    )
    first.on_result(1, ended(0.9))

    second = work(folder, 3)

    assert progress == [("training runs", 0, 3), ("training runs", 1, 3)]
    assert [started(second), started(second)] == [0, 2]
    second.on_result(0, ended(0.8))
    assert second.next_trial() == "wait" or not second.is_done
    second.on_result(2, ended(0.7))
    assert second.next_trial() == "done"
    assert second.is_done
    assert {number: row.value for number, row in completed_runs(folder).items()} == {
        1: 0.9,
        0: 0.8,
        2: 0.7,
    }


@pytest.mark.parametrize(
    "is_killed", [False, True], ids=["ends normally", "is killed before it removes checkpoints"]
)
def test_only_unfinished_and_failed_runs_keep_their_checkpoints(
    folder: StudyFolder, is_killed: bool
) -> None:
    first = work(folder, 3)
    checkpoints = [
        folder.trial_path(started(first)) / "checkpoint" / "checkpoint.pt" for _ in range(3)
    ]

    def write_checkpoints() -> None:
        for checkpoint in checkpoints:
            write_bytes(checkpoint, b"x")

    write_checkpoints()
    first.on_result(0, TrialFailed(reason="a cable was pulled", cause="settings"))
    first.on_result(1, ended(0.9))
    if is_killed:
        write_checkpoints()
    work(folder, 3)

    assert [checkpoint.exists() for checkpoint in checkpoints] == [True, False, True]


def test_resumed_top_up_repeats_its_decisions(folder: StudyFolder) -> None:
    """Run 1 was the first at the rung; after run 0 it would have been pruned. A resumed run reports its epochs again."""
    first = top_ups(folder)
    for _ in range(2):
        started(first)
    assert first.on_result(1, epoch(1, 0.5))
    assert first.on_result(0, epoch(1, 0.9))

    second = top_ups(folder)
    for _ in range(2):
        started(second)

    assert second.on_result(0, epoch(1, 0.9))
    assert second.on_result(1, epoch(1, 0.5))


def test_top_up_killed_before_recorded_end_is_pruned_on_resume(folder: StudyFolder) -> None:
    first = top_ups(folder, (0, 1, 0.8), (1, 1, 0.9))
    assert not first.on_result(started(first), epoch(1, 0.7))
    folder.runs_path.unlink()

    second = top_ups(folder, (0, 1, 0.8), (1, 1, 0.9))

    assert not second.on_result(started(second), epoch(1, 0.99)), (
        "its first value at the rung counts"
    )


def test_settings_without_effect_on_results_can_change(folder: StudyFolder) -> None:
    first = work(folder, 1)
    number = started(first)
    first.on_result(number, ended(0.9))
    config = folder.trial_path(number) / "config.json"
    content = read_json(config)
    content["settings"]["resources"] = {"concurrent": 7}
    content["settings"]["data"]["path"] = "../elsewhere"
    write_json(config, content)

    assert work(folder, 1).is_done


def arm(**changes: Any) -> Arm:
    return Arm(
        name="any",
        role="finalist",
        trial="#1",
        parameters=Parameters.model_validate(changes),
        resolution_px=64,
    )


def test_replicate_has_new_seeds_and_all_steps() -> None:
    own = arm(source="gan", gan={"seed": 3}, early_stop_epochs=2)
    made = [replicate(own, SETTINGS, number, "folder") for number in range(3)]
    generators = [one.parameters.gan for one in made if one.parameters.gan]

    assert len({one.settings.seed for one in made} | {SETTINGS.seed}) == 4
    assert len({one.seed for one in generators} | {3}) == 4
    assert len(generators) == 3
    assert all(one.parameters.early_stop_epochs is None for one in made)
    assert [one.draw for one in made] == [None] * 3
    assert [replicate(own, SETTINGS, number, "unused").draw for number in range(3)] == [0, 1, 2]


def test_arms_of_a_replicate_share_the_real_image_stream() -> None:
    """The stream follows from the seed alone."""
    gan, none = (replicate(arm(source=source), SETTINGS, 1, "folder") for source in ("gan", "none"))

    assert gan.settings.seed == none.settings.seed
    assert gan.resolution_px == none.resolution_px == 64
