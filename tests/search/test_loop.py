"""The search without Ray: budgets, pruning, failures, waiting for GANs, and restarts."""

import math
import random
import shutil
import socket
from contextlib import nullcontext
from pathlib import Path

import pytest

from tests.study.studies import direct, ended, ended_trials, epoch, new_study, no_gan
from xraytune.base.errors import MachineError, StudyError, TrialError
from xraytune.base.files import read_json, read_jsonl
from xraytune.search.asha import Rungs
from xraytune.search.callbacks import Callbacks
from xraytune.search.trials import SearchTrials
from xraytune.space.source_settings import GanSettings
from xraytune.study.folder import StudyFolder, locked
from xraytune.study.row import TrialRow
from xraytune.study.trial import (
    LOST,
    LOST_WITH_NODE,
    OpenTrial,
    ProgressFile,
    TrialFailed,
    TrialMessage,
)


class Clock:
    """The time that `time.monotonic` gives."""

    now = 1000.0


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> Clock:
    clock = Clock()
    monkeypatch.setattr("time.monotonic", lambda: clock.now)
    return clock


def start(loop: SearchTrials, gpus: float = 0.0) -> OpenTrial:
    """Start a trial that holds so many GPUs."""
    trial = loop.next_trial()
    assert isinstance(trial, OpenTrial)
    loop.on_placed(trial.number)
    trial.resources = {"GPU": gpus}
    return trial


def complete(loop: SearchTrials, number: int, value: float = 0.8) -> None:
    assert not loop.on_result(number, ended(value))


def statuses(study: StudyFolder) -> dict[int, str]:
    return {number: row.status for number, row in ended_trials(study).items()}


def test_a_log_of_a_repeated_trial_grows_alone(study: StudyFolder) -> None:
    """If the search is killed before the repeat is recorded, the repeat is trained, and writes."""
    loop = direct(study, "source={value: none}", "lr={values: [1e-3, 1e-4]}")
    for number in range(2):
        folder = study.trial_path(start(loop).number)
        folder.mkdir(parents=True, exist_ok=True)
        (folder / "sha256.jsonl").write_text("first\n")
        complete(loop, number)
    while len(ended_trials(study)) < 3:
        loop.next_trial()

    with (study.trial_path(2) / "sha256.jsonl").open("a") as log:
        log.write("second\n")

    assert [(study.trial_path(number) / "sha256.jsonl").read_text() for number in range(3)] == [
        "first\n",
        "first\n",
        "first\nsecond\n",
    ]


def test_a_trial_that_ended_before_its_node_was_lost_stays_ended(study: StudyFolder) -> None:
    loop = direct(study)
    complete(loop, start(loop).number)

    loop.on_result(0, LOST_WITH_NODE)

    assert statuses(study) == {0: "complete"}
    assert start(loop).number == 1


def test_running_trials_finish_after_the_hours_are_spent(study: StudyFolder, clock: Clock) -> None:
    loop = direct(study, "budget.hours=1")
    running = start(loop)
    clock.now += 3601
    loop.on_result(running.number, epoch(1, 0.6))

    assert loop.next_trial() == "wait"
    complete(loop, running.number)
    assert loop.next_trial() == "done"
    loop.save_seconds()
    assert direct(study, "budget.hours=1").next_trial() == "done"


def test_time_and_gpus_count_also_if_the_search_was_killed(
    study: StudyFolder, clock: Clock
) -> None:
    """A trial counts its attempts since the last start; the study counts all."""
    killed = direct(study)
    start(killed)
    clock.now += 80
    killed.heartbeat()
    clock.now += 3600  # nothing runs

    again = direct(study)
    for _ in range(2):
        start(again, gpus=0.5)
        clock.now += 40
        again.on_result(0, LOST)
    start(again, gpus=0.5)
    complete(again, 0)

    (row,) = read_jsonl(study.rows_path)
    assert (row["seconds"], row["gpu_seconds"]) == (80.0, 40.0)
    assert read_json(study.wall_path)["seconds"] == 160.0


def test_asha_prunes_a_weak_trial_and_reports_it(study: StudyFolder) -> None:
    rows = list[TrialRow]()
    loop = direct(study, callbacks=Callbacks(on_trial_end=rows.append))
    strong = start(loop)
    weak = start(loop)

    assert loop.on_result(strong.number, epoch(1, 0.9))
    assert not loop.on_result(weak.number, epoch(1, 0.6))

    assert [(row.number, row.status, row.value) for row in rows] == [(1, "pruned", 0.6)]
    assert "ASHA after epoch 1" in rows[0].reason
    assert loop.on_result(strong.number, epoch(2, 0.9))


@pytest.mark.parametrize(
    "message", [TrialFailed(reason="the loss is nan", cause="settings"), epoch(1, math.nan)]
)
def test_failed_trial_records_its_reason(study: StudyFolder, message: TrialMessage) -> None:
    loop = direct(study)

    assert not loop.on_result(start(loop).number, message)

    (row,) = ended_trials(study).values()
    assert (row.status, row.value) == ("failed", None)
    assert row.reason in {"the loss is nan", "val_score is nan after epoch 1"}
    assert start(loop).number == 1, "the search continues"


def test_trial_of_lost_process_is_retried_up_to_retries(study: StudyFolder) -> None:
    """Also if the search restarts between them."""
    for _ in range(3):
        loop = direct(study)
        loop.on_result(start(loop).number, LOST)

    assert statuses(study) == {0: "failed"}
    assert "its process was lost" in ended_trials(study)[0].reason


def test_search_waits_for_its_last_trial_and_a_new_epoch_resets_its_retry_count(
    study: StudyFolder,
) -> None:
    loop = direct(study, "budget.trials=1")
    for number in range(1, 4):
        assert start(loop).number == 0
        assert loop.next_trial() == "wait"
        loop.on_result(0, epoch(number, 0.9))
        loop.on_result(0, LOST)

    assert start(loop).number == 0
    assert statuses(study) == {}


def test_a_trial_that_two_nodes_in_a_row_do_not_survive_has_failed(study: StudyFolder) -> None:
    """Its process may need more memory than a node has, so that it would end one after another."""
    loop = direct(study)
    loop.on_result(start(loop).number, LOST_WITH_NODE)
    loop.on_result(start(loop).number, epoch(1, 0.6))  # it got further than on the first node
    loop.on_result(0, LOST_WITH_NODE)
    assert statuses(study) == {}

    again = direct(study)
    again.on_result(start(again).number, LOST_WITH_NODE)

    assert statuses(study) == {0: "failed"}
    assert "node" in ended_trials(study)[0].reason


def test_a_generator_that_gets_further_on_each_node_is_not_to_blame(study: StudyFolder) -> None:
    """Nodes that a cloud takes back at any time, and a training of hours with checkpoints."""
    loop, _ = gan_search(study, (8, 100))
    for steps in (10, 20, 30):
        trial = start(loop)
        assert trial.trains_generator
        ProgressFile(study.trial_path(trial.number))("GAN", steps, steps)
        loop.on_result(trial.number, LOST_WITH_NODE)
    assert statuses(study) == {}

    loop.on_result(start(loop).number, LOST_WITH_NODE)

    assert statuses(study) == {trial.number: "failed"}


def test_time_in_the_queue_of_a_cluster_does_not_count(study: StudyFolder, clock: Clock) -> None:
    loop = direct(study, "budget.hours=1")
    trial = loop.next_trial()
    assert isinstance(trial, OpenTrial)
    clock.now += 7200  # Ray finds no room, or no node is there
    assert loop.used_up == ""

    loop.on_placed(trial.number)
    clock.now += 60
    complete(loop, trial.number)
    clock.now += 7200

    assert ended_trials(study)[0].seconds == 60.0
    assert loop.busy_seconds() == 60.0


def test_machine_error_ends_the_search_not_the_trial(study: StudyFolder) -> None:
    loop = direct(study)
    with pytest.raises(MachineError, match="the disk is full"):
        loop.on_result(start(loop).number, TrialFailed(reason="the disk is full", cause="machine"))

    assert statuses(study) == {}
    assert start(direct(study)).number == 0


@pytest.mark.slow
@pytest.mark.parametrize(
    ("ends", "is_stopped"),
    [
        (["settings"] * 3, True),
        (["complete", *["fault"] * 3], True),
        (["complete", *["lost"] * 3], False),
        (["complete", *["settings"] * 3], False),
        (["settings", "lost", *["settings"] * 2], False),
    ],
)
def test_search_stops_if_trials_fail_for_one_reason(
    study: StudyFolder, ends: list[str], is_stopped: bool
) -> None:
    """As when a folder is missing for an hour, which would otherwise use up the budget."""
    loop = direct(study)
    messages: dict[str, TrialMessage] = {
        "complete": ended(0.8),
        "lost": LOST,
        "fault": TrialFailed(reason="pixels.npy is missing", cause="fault"),
        "settings": TrialFailed(reason="pixels.npy is missing", cause="settings"),
    }

    def end(number: int, how: str) -> None:
        for _ in range(3 if how in ("lost", "fault") else 1):  # two retries
            assert start(loop).number == number
            loop.on_result(number, messages[how])

    for number, how in enumerate(ends[:-1]):
        end(number, how)
    refusal = pytest.raises(TrialError, match=r"3 trials in a row .*pixels\.npy is missing")
    with refusal if is_stopped else nullcontext():
        end(len(ends) - 1, ends[-1])

    assert start(direct(study)).number == len(ends), "once it is fixed the same command continues"


def test_unfinished_trial_uses_current_settings(study: StudyFolder, tmp_path: Path) -> None:
    """Some settings may change between two starts, such as the folder of weights."""
    trial = start(direct(study, f"weights_dir={tmp_path / 'old'}"))

    start(direct(study, f"weights_dir={tmp_path / 'new'}", "resources.concurrent=9"))

    experiment = study.experiment(trial.number)
    assert experiment.settings.weights_dir == tmp_path / "new"
    assert experiment.settings.resources.concurrent == 9
    assert experiment.parameters == trial.parameters


@pytest.mark.slow
@pytest.mark.parametrize("within", ["all", "arm"])
def test_concurrent_decisions_follow_journal_order(study: StudyFolder, within: str) -> None:
    """Timing and kills may change the order of trials, but no decision that follows from it."""
    draw = random.Random(7)
    overrides = (f"scheduler.within={within}", "budget.trials=8")
    values = [draw.random() for _ in range(8)]
    loop = direct(study, *overrides)
    running = dict[int, int]()
    while not loop.is_done:
        if draw.random() < 0.3:  # killed
            loop = direct(study, *overrides)
            running = {}
        elif len(running) < 3 and isinstance(trial := loop.next_trial(), OpenTrial):
            running[trial.number] = max(0, trial.epochs - 1)  # reported again
        elif running:
            number = draw.choice(list(running))
            running[number] += 1
            message: TrialMessage = ended(values[number])
            if running[number] <= 9:
                message = epoch(running[number], values[number])
            if not loop.on_result(number, message):
                del running[number]

    reports = [*loop.journal.reports()]
    assert len({(number, epoch) for number, epoch, _ in reports}) == len(reports), (
        "each is recorded once"
    )
    rungs = Rungs(loop.space.settings.scheduler, max_epochs=9)
    replayed = {
        number: rungs.should_continue(*report)
        for (number, _, _), report in zip(reports, loop.journal.rung_reports(), strict=True)
    }
    assert statuses(study) == {
        number: "complete" if kept else "pruned" for number, kept in replayed.items()
    }
    assert "pruned" in statuses(study).values()


def test_trials_jsonl_is_written_again_from_the_journal(study: StudyFolder) -> None:
    loop = direct(study)
    for number in range(2):
        start(loop)
        complete(loop, number)
    rows = read_jsonl(study.rows_path)
    study.rows_path.write_text("torn")

    direct(study)

    assert read_jsonl(study.rows_path) == rows


class Gans:
    """The trained GANs; those of one lineage differ in their steps."""

    def __init__(self) -> None:
        self.trained: set[tuple[int, int]] = set()

    def need(self, generator: object, draw: int | None, size_px: int) -> str | None:
        del draw, size_px
        if generator is None:
            return None
        assert isinstance(generator, GanSettings)
        is_trained = (generator.width, generator.steps) in self.trained
        return None if is_trained else f"width {generator.width}"


def gan_search(
    study: StudyFolder, *widths_and_steps: tuple[int, int], hours: float = 1.0
) -> tuple[SearchTrials, Gans]:
    """A search of trials with these GANs, and after the first one, a trial without."""
    rows = [
        f"{{source: gan, synthetic_ratio: 0.5, lr: {number}e-4, gan.width: {w}, gan.steps: {s}}}"
        for number, (w, s) in enumerate(widths_and_steps, start=1)
    ]
    rows.insert(1, "{source: none, lr: 1e-3}")
    gans = Gans()
    points = f"points_to_evaluate=[{', '.join(rows)}]"
    overrides = ("gan.width={values: [8, 16]}", points, f"budget.hours={hours}")
    return direct(study, *overrides, lineage_to_train=gans.need), gans


def test_a_trial_waits_while_another_one_trains_its_gan(study: StudyFolder) -> None:
    loop, gans = gan_search(study, (8, 100), (8, 100), (16, 100))

    first = [start(loop) for _ in range(3)]

    assert [(trial.number, trial.trains_generator) for trial in first] == [
        (0, True),
        (3, True),
        (1, False),
    ]
    complete(loop, 1)
    gans.trained.add((8, 100))
    resumed = SearchTrials(study, loop.space, no_gan)
    assert (start(loop).number, start(resumed).number) == (2, 0)


def test_the_longest_chain_of_gans_is_trained_first_and_its_shortest_run_before_the_others(
    study: StudyFolder,
) -> None:
    loop, gans = gan_search(study, (8, 100), (16, 200), (16, 100))

    assert [start(loop).number for _ in range(3)] == [3, 0, 1]
    gans.trained.add((16, 100))
    assert start(loop).number == 2, "it continues the shorter run"


@pytest.mark.parametrize("is_trained", [True, False])
def test_after_a_kill_the_trial_that_had_begun_runs_first(
    study: StudyFolder, is_trained: bool
) -> None:
    """Also if its generator is trained by then: in another order, ASHA would decide otherwise."""
    loop, gans = gan_search(study, (8, 100), (16, 200), (16, 100))
    assert start(loop).number == 3
    if is_trained:
        gans.trained.add((16, 100))

    resumed = SearchTrials(study, loop.space, gans.need)

    assert start(resumed).number == 3


def test_no_other_trial_takes_the_slots_that_a_large_one_waits_for(study: StudyFolder) -> None:
    loop, _ = gan_search(study, (8, 100))

    def reserve(trial: OpenTrial) -> None:
        trial.slots = 2 if trial.number == 1 else 1

    assert isinstance(loop.next_trial(2, reserve), OpenTrial)
    assert loop.next_trial(2, reserve) == "wait", "one slot is free, and trial 1 needs two"
    complete(loop, 0)
    assert isinstance(loop.next_trial(2, reserve), OpenTrial)
    assert loop.slots_in_use() == 2


def test_when_the_time_is_used_up_only_trials_that_have_begun_continue(
    study: StudyFolder, clock: Clock
) -> None:
    loop, _ = gan_search(study, (8, 100))
    start(loop)
    clock.now += 3601
    loop.on_result(0, LOST)

    assert start(loop).number == 0
    assert loop.next_trial() == "wait", "trial 1 was drawn as a point, but has not begun"
    complete(loop, 0)
    assert loop.is_done
    assert loop.used_up == "hours"

    longer, _ = gan_search(study, (8, 100), hours=3)
    assert start(longer).number == 1


ONE_MIX = ("source=none", "lr=0.001")
"""A space in which all trials have the same settings."""


def test_a_trial_with_the_settings_of_a_complete_one_gets_its_result(study: StudyFolder) -> None:
    """In a small space, a sampler draws the same settings again; they would give the same bits."""
    one_mix = [*ONE_MIX, "budget.trials=3"]
    loop = direct(study, *one_mix)
    first = start(loop)
    loop.on_result(first.number, epoch(1, 0.7))
    path = study.trial_path(first.number)
    (path / "val_b.npy").write_bytes(b"scores")
    complete(loop, first.number)

    assert loop.next_trial() == "wait"  # the two repetitions end while it is asked
    assert loop.next_trial() == "done"
    rows = ended_trials(study)
    assert [rows[number].value for number in range(3)] == [0.8] * 3
    assert (study.trial_path(2) / "val_b.npy").read_bytes() == b"scores"
    again = direct(study, *one_mix)
    assert again.journal.values(2) == again.journal.values(0) == {1: 0.7}
    assert [row.seconds for row in rows.values()][1:] == [0.0, 0.0]


def test_kills_change_no_decision_on_trials_that_repeat_others(tmp_path: Path) -> None:
    overrides = [
        "source={value: none}",
        "lr={values: [1e-3, 7e-4, 5e-4, 3e-4, 2e-4, 1e-4]}",
        "scheduler={name: asha, grace: 1, reduction: 2}",
        "budget.trials=40",
    ]

    def search(name: str, kills: float) -> dict[int, tuple[str, float | None]]:
        root = tmp_path / name
        root.mkdir()
        study = new_study(root, *overrides)
        dice = random.Random(5)
        loop = direct(study, *overrides)
        while not loop.is_done:
            trial = loop.next_trial()
            while isinstance(trial, OpenTrial):
                if dice.random() < kills:
                    loop = direct(study, *overrides)
                    break
                value = 100 * trial.parameters.lr + trial.epochs / 100
                if trial.epochs == 9:
                    complete(loop, trial.number, value)
                    break
                if not loop.on_result(trial.number, epoch(trial.epochs + 1, value)):
                    break
        return {number: (row.status, row.value) for number, row in ended_trials(study).items()}

    unbroken = search("unbroken", kills=0.0)

    assert search("killed", kills=0.1) == unbroken
    assert {status for status, _ in unbroken.values()} == {"complete", "pruned"}


def test_a_repeat_that_was_killed_before_it_ended_ends_at_the_next_start(
    study: StudyFolder,
) -> None:
    two = [*ONE_MIX, "budget.trials=2"]
    loop = direct(study, *two)
    complete(loop, start(loop).number)
    loop.journal.ask()  # and the search is killed

    assert direct(study, *two).next_trial() == "done"
    assert ended_trials(study)[1].value == ended_trials(study)[0].value


def test_a_trial_whose_settings_have_no_result_is_trained(study: StudyFolder) -> None:
    """The trial that has them is running, or its folder was removed."""
    loop = direct(study, *ONE_MIX)

    first, second = (start(loop).number for _ in range(2))
    for number in (first, second):
        complete(loop, number)
        shutil.rmtree(study.trial_path(number))

    assert (second, start(loop).number) == (1, 2)


def test_a_search_ends_if_another_machine_took_its_lock(study: StudyFolder, clock: Clock) -> None:
    """As on storage where each machine has locks of its own, so that both hold it."""
    with locked(study):
        loop = direct(study)
        start(loop)
        clock.now += 60
        loop.heartbeat()
        lock = study.path / ".lock"
        lock.write_text(lock.read_text().replace(socket.gethostname(), "node-b"))

        clock.now += 60
        with pytest.raises(StudyError, match=r"process \d+ on node-b.*local to each machine"):
            loop.heartbeat()


def test_restart_resumes_unfinished_trials_first_without_counting_a_retry(
    study: StudyFolder,
) -> None:
    first = direct(study)
    trials = [start(first), start(first)]
    first.on_result(0, epoch(1, 0.9))
    complete(first, 0)

    second = direct(study)

    assert start(second).parameters == trials[1].parameters
    assert start(second).number == 2
