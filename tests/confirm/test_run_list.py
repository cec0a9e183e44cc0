"""A fixed list of runs: each ends once, and a restart repeats what was decided."""

from dataclasses import asdict
from pathlib import Path
from typing import Any

import pytest

from tests.study.studies import ended, epoch, no_gan
from xraytune.base.errors import StudyError
from xraytune.base.files import append_jsonl
from xraytune.confirm.run_list import RunList
from xraytune.present.trials import runs_line
from xraytune.search.asha import Rungs
from xraytune.search.callbacks import Callbacks, RunsView
from xraytune.search.loop import TrialLoop
from xraytune.space.data_settings import DataSettings
from xraytune.space.parameters import Parameters
from xraytune.space.search_settings import SchedulerSettings
from xraytune.space.settings import Experiment, Settings
from xraytune.study.folder import StudyFolder
from xraytune.study.row import append_run, ended_runs
from xraytune.study.trial import LOST, OpenTrial, ProgressFile
from xraytune.synth.generator_inputs import GAN_PROGRESS

SETTINGS = Settings(name="small", data=DataSettings(path=Path("xrays")))


@pytest.fixture
def folder(tmp_path: Path) -> StudyFolder:
    return StudyFolder(tmp_path / "confirm")


def runs_of(each: list[Parameters]) -> list[OpenTrial]:
    experiments = [Experiment(settings=SETTINGS, parameters=parameters) for parameters in each]
    return [
        OpenTrial(number=number, label=f"run {number}", experiment=experiment)
        for number, experiment in enumerate(experiments)
    ]


def work(
    folder: StudyFolder,
    count: int,
    lr: float = 1e-3,
    source: str = "none",
    mixing: Any = "additive",
    **options: Any,
) -> TrialLoop:
    runs = runs_of([Parameters(lr=lr, source=source, mixing=mixing)] * count)
    return RunList(folder, runs, what="runs", **{"lineage_to_train": no_gan, **options})


def started(work: TrialLoop) -> int:
    suggestion = work.next_trial()
    assert isinstance(suggestion, OpenTrial)
    return suggestion.number


def test_each_run_ends_once_and_restart_resumes(folder: StudyFolder) -> None:
    """With the same settings only."""
    first = work(folder, 3)
    assert [started(first), started(first)] == [0, 1]
    assert all(first.on_result(1, epoch(place, 0.5)) for place in range(1, 30))
    first.on_result(1, ended(0.9))

    second = work(folder, 3)
    assert [started(second), started(second)] == [0, 2]
    second.on_result(0, ended(0.8))
    assert not second.is_done
    second.on_result(2, ended(0.7))

    assert second.next_trial() == "done"
    values = {number: row.value for number, row in ended_runs(folder).items()}
    assert values == {1: 0.9, 0: 0.8, 2: 0.7}
    with pytest.raises(StudyError, match="started with other settings"):
        work(folder, 3, lr=1e-2)


def test_resumed_top_up_repeats_its_decisions(folder: StudyFolder) -> None:
    """Run 1 was the first at the rung; after run 0 it would have been pruned.

    A resumed run reports its epochs again. Fewer runs than before are refused.
    """

    def start(count: int) -> TrialLoop:
        rungs = Rungs(SchedulerSettings(grace=1, reduction=3, within="all"), max_epochs=9)
        top_ups = work(folder, count, rungs=rungs)
        assert [started(top_ups), started(top_ups)] == [0, 1]
        return top_ups

    first = start(2)
    assert first.on_result(1, epoch(1, 0.5))
    assert first.on_result(0, epoch(1, 0.9))

    with pytest.raises(StudyError, match="started with other settings"):
        start(1)
    second = start(2)

    assert second.on_result(0, epoch(1, 0.9))
    assert second.on_result(1, epoch(1, 0.5))


def test_top_ups_are_compared_with_those_of_their_mixing(folder: StudyFolder) -> None:
    """A pretrained network sees real images late: beside additive ones, it would be pruned."""
    scheduler = SchedulerSettings(grace=1, reduction=3, within="arm")
    searched = [(number, 1, 0.9, "duplicate") for number in range(6)]
    for mixing, continues in (("additive", False), ("pretrain", True)):
        rungs = Rungs(scheduler, max_epochs=9, reports=searched)
        runs = StudyFolder(folder.path / mixing)
        top_ups = work(runs, 1, source="duplicate", mixing=mixing, rungs=rungs)
        started(top_ups)
        assert top_ups.on_result(0, epoch(1, 0.5)) == continues


def test_what_a_generator_took_is_not_expected_of_runs_without_one(folder: StudyFolder) -> None:
    """The first run of a confirmation trains a generator; its network takes less than a second."""
    seen = list[RunsView]()
    runs = runs_of([Parameters(source="gan"), Parameters(), Parameters()])
    first = RunList(folder, runs, what="runs", lineage_to_train=no_gan)
    started(first)
    row = asdict(epoch(1, 0.5)) | {"seconds": 0.5}
    append_jsonl(folder.trial_path(0) / "epochs.jsonl", row)
    first.on_result(0, ended(0.9))
    append_run(folder, ended_runs(folder)[0].model_copy(update={"seconds": 50.0}))

    follow = Callbacks(on_runs=seen.append)
    RunList(folder, runs, follow, what="runs", lineage_to_train=no_gan)

    assert seen[-1].seconds_left == pytest.approx(2 * 0.5)


def test_a_retried_run_is_announced(folder: StudyFolder) -> None:
    notes = list[str]()
    runs = work(folder, 1, callbacks=Callbacks(note=notes.append))
    started(runs)

    runs.on_result(0, LOST)

    (note,) = notes
    assert note.startswith("retrying run 0: ")


def test_the_runs_and_their_generators_and_the_time_left_are_reported(
    folder: StudyFolder,
) -> None:
    """Hours may pass before the first run ends. A run takes as long as the others of its arm."""
    said: list[tuple[str, int, int]] = []
    seen = list[RunsView]()
    follow = Callbacks(on_progress=lambda *progress: said.append(progress), on_runs=seen.append)
    runs = work(folder, 4, source="gan", callbacks=follow, lineage_to_train=lambda *_: "a lineage")
    started(runs)

    ProgressFile(folder.trial_path(0))(GAN_PROGRESS, 300, 600)
    runs.heartbeat()
    generating = seen[-1]
    runs.on_result(0, ended(0.9))
    append_run(folder, ended_runs(folder)[0].model_copy(update={"seconds": 40.0}))
    runs = work(folder, 4, source="gan", callbacks=follow)
    for number in (1, 2):
        assert started(runs) == number
    runs.on_result(1, epoch(2, 0.5))
    runs.heartbeat()

    assert said[:3] == [
        ("training runs", 0, 4),
        ("GAN of run 0 (steps)", 300, 600),
        ("training runs", 1, 4),
    ]
    assert generating.running == {"run 0": "training the GAN: 300 of 600 steps"}
    assert (generating.waiting, generating.seconds_left) == (3, None)
    now = seen[-1]
    epochs = SETTINGS.budget.max_epochs
    assert now.running == {"run 1": f"epoch 2/{epochs}", "run 2": "starting"}
    assert (now.ended, now.waiting) == (1, 1)
    assert now.seconds_left == pytest.approx((3 - 2 / epochs) * 40 / 2)
    assert runs_line(now).startswith("training runs: 1 of 4 ended, 2 running, +1 waiting, about 0:")
