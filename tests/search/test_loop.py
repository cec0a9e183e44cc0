"""The search without Ray: budgets, pruning, failures, waiting for GANs, and restarts."""

import json
import math
import random
from contextlib import nullcontext
from pathlib import Path

import pytest

from tests.study.studies import DirectSearch, Watching, direct, ended, epoch
from xraytune.base.errors import MachineError, TrialError
from xraytune.base.files import read_jsonl
from xraytune.search.asha import rungs_of
from xraytune.search.messages import GeneratorTrained, TrialFailed, TrialMessage
from xraytune.space.settings import GanSettings
from xraytune.study.folder import StudyFolder
from xraytune.study.row import ended_trials
from xraytune.study.trial import Cause, Trial


class Clock:
    """The time that `time.monotonic` gives."""

    now = 1000.0


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> Clock:
    clock = Clock()
    monkeypatch.setattr("time.monotonic", lambda: clock.now)
    return clock


def start(loop: DirectSearch, slots: int | None = None) -> Trial:
    """Start a trial on a machine with so many slots."""
    suggestion = loop.next_trial(slots) if slots else loop.next_trial()
    assert isinstance(suggestion, Trial)
    return suggestion


def complete(loop: DirectSearch, number: int, value: float = 0.8) -> None:
    assert not loop.on_result(number, ended(value))


def statuses(study: StudyFolder) -> dict[int, str]:
    return {number: row.status for number, row in ended_trials(study).items()}


def test_running_trials_finish_after_the_hours_are_spent(study: StudyFolder, clock: Clock) -> None:
    loop = direct(study, "budget.hours=1")
    running = start(loop)
    clock.now += 3601
    loop.on_result(running.number, epoch(1, 0.6))

    assert loop.next_trial() == "wait"
    assert not loop.is_done
    complete(loop, running.number)
    assert loop.next_trial() == "done"
    assert loop.is_done
    loop.clock.save()
    assert direct(study, "budget.hours=1").next_trial() == "done"


def test_gpu_seconds_count_the_gpus_of_each_attempt(study: StudyFolder, clock: Clock) -> None:
    """A quarter of a GPU for 80 s, and after a restart half of one for 80 s."""
    loop = direct(study)
    loop.clock.start(start(loop).number, 0.25)
    clock.now += 80
    loop.clock.save()

    again = direct(study)
    again.clock.start(start(again).number, 0.5)
    clock.now += 80
    complete(again, 0)

    (row,) = read_jsonl(study.rows_path)
    assert (row["seconds"], row["gpu_seconds"]) == (160.0, 60.0)


def test_asha_prunes_a_weak_trial_and_reports_it(study: StudyFolder) -> None:
    watching = Watching()
    loop = direct(study, watching=watching)
    strong, weak = start(loop), start(loop)

    assert loop.on_result(strong.number, epoch(1, 0.9))
    assert not loop.on_result(weak.number, epoch(1, 0.6))

    assert [(row.number, row.status, row.value) for row in watching.ended_rows] == [
        (1, "pruned", 0.6)
    ]
    assert "ASHA after epoch 1" in watching.ended_rows[0].reason
    assert loop.on_result(strong.number, epoch(2, 0.9))


@pytest.mark.parametrize(
    "message", [TrialFailed(reason="the loss is nan", cause="settings"), epoch(1, math.nan)]
)
def test_failed_trial_records_its_reason(study: StudyFolder, message: TrialMessage) -> None:
    loop = direct(study)
    number = start(loop).number

    assert not loop.on_result(number, message)

    (row,) = ended_trials(study).values()
    assert (row.status, row.value) == ("failed", None)
    assert row.reason in {"the loss is nan", "val_score is nan after epoch 1"}
    assert start(loop).number == 1, "the search continues"


def test_trial_of_lost_process_is_retried_up_to_retries(study: StudyFolder) -> None:
    """Also if the search restarts between them."""
    for _ in range(3):
        loop = direct(study)
        number = start(loop).number
        loop.on_trial_lost(number, out_of_memory=False)

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
        loop.on_trial_lost(0, out_of_memory=False)

    assert start(loop).number == 0
    assert statuses(study) == {}


def test_machine_error_ends_the_search_not_the_trial(study: StudyFolder) -> None:
    loop = direct(study)
    with pytest.raises(MachineError, match="the disk is full"):
        loop.on_result(start(loop).number, TrialFailed(reason="the disk is full", cause="machine"))

    assert statuses(study) == {}
    assert start(direct(study)).number == 0


def test_a_trial_whose_node_cannot_run_it_goes_to_another(study: StudyFolder) -> None:
    """It never fails for a reason of its node, however many there are."""
    loop = direct(study)
    stale = TrialFailed(reason="the storage does not answer", cause="machine")
    for _ in range(4):
        assert not loop.on_result(start(loop).number, stale, other_nodes=True)
    with pytest.raises(MachineError, match="the storage does not answer"):
        loop.on_result(start(loop).number, stale, other_nodes=False)

    assert statuses(study) == {}


BAD_LAYER, BAD_FOLDER = (
    "no such layer (traceback: 000{}/error.txt)",
    "FileNotFoundError: pixels-{}.npy",
)


@pytest.mark.slow
@pytest.mark.parametrize(
    ("ends", "reported"),
    [
        ([BAD_LAYER] * 3, "first 3 trials all failed for the same reason.*no such layer"),
        (
            ["complete", *[BAD_FOLDER] * 3],
            "last 3 trials all failed for the same reason.*pixels-3.npy",
        ),
        (["complete", *["lost"] * 3], ""),
        ([BAD_LAYER, "another reason", *[BAD_LAYER] * 3], ""),
        ([BAD_LAYER, "complete", *[BAD_LAYER] * 3], ""),
    ],
    ids=[
        "the first settings",
        "a missing folder",
        "a library crashes in a corner",
        "other reasons",
        "other settings",
    ],
)
def test_search_stops_if_trials_fail_for_one_reason(
    study: StudyFolder, ends: list[str], reported: str
) -> None:
    """As when a folder is missing for an hour, which would otherwise use up the budget."""
    loop = direct(study)

    def end(number: int, how: str) -> None:
        cause: Cause = "fault" if how == BAD_FOLDER else "settings"
        for _ in range(3 if how in ("lost", BAD_FOLDER) else 1):  # two retries
            assert start(loop).number == number
            if how == "complete":
                complete(loop, number)
            elif how == "lost":
                loop.on_trial_lost(number, out_of_memory=False)
            else:
                loop.on_result(number, TrialFailed(reason=how.format(number), cause=cause))

    for number, how in enumerate(ends[:-1]):
        end(number, how)
    with pytest.raises(TrialError, match=reported) if reported else nullcontext():
        end(len(ends) - 1, ends[-1])

    assert start(direct(study)).number == len(ends), "once it is fixed the same command continues"


def test_ray_loss_restarts_running_trials_without_counting_a_retry(study: StudyFolder) -> None:
    lost = direct(study)
    suggestion = [start(lost), start(lost)]

    loop = direct(study)

    assert [start(loop), start(loop)] == suggestion
    complete(loop, 0)
    complete(loop, 1)
    assert statuses(study) == {0: "complete", 1: "complete"}


def test_time_used_by_a_killed_search_is_counted(study: StudyFolder, clock: Clock) -> None:
    killed = direct(study)
    start(killed)
    clock.now += 60
    killed.heartbeat()
    clock.now += 3600  # nothing runs

    loop = direct(study)
    start(loop)
    clock.now += 5
    complete(loop, 0)
    loop.heartbeat()

    assert ended_trials(study)[0].seconds == 65.0
    assert json.loads((study.path / "wall.json").read_text(encoding="utf-8"))["seconds"] == 65.0


def test_a_damaged_clock_counts_from_zero(study: StudyFolder) -> None:
    (study.path / "wall.json").write_text("torn", encoding="utf-8")

    loop = direct(study)
    complete(loop, start(loop).number)

    assert statuses(study) == {0: "complete"}


def test_restart_resumes_unfinished_trials_first(study: StudyFolder) -> None:
    first = direct(study)
    suggestion = [start(first), start(first)]
    first.on_result(0, epoch(1, 0.9))
    complete(first, 0)
    first.clock.save()

    watching = Watching()
    second = direct(study, watching=watching)

    assert start(second) == suggestion[1]
    assert start(second).number == 2
    assert watching.began_numbers == [1, 2]


def test_unfinished_trial_uses_current_settings(study: StudyFolder, tmp_path: Path) -> None:
    """Some settings may change between two starts, such as the folder of weights."""
    suggestion = start(direct(study, f"weights_dir={tmp_path / 'old'}"))

    start(direct(study, f"weights_dir={tmp_path / 'new'}", "resources.concurrent=9"))

    experiment = study.experiment(suggestion.number)
    assert experiment.settings.weights_dir == tmp_path / "new"
    assert experiment.settings.resources.concurrent == 9
    assert experiment.parameters == suggestion.parameters


@pytest.mark.slow
@pytest.mark.parametrize("within", ["all", "arm"])
def test_concurrent_decisions_follow_journal_order(study: StudyFolder, within: str) -> None:
    """Timing and kills may change which trial reaches a rung first, but never a decision that the journal implies."""
    draw, overrides = random.Random(7), (f"scheduler.within={within}", "budget.trials=8")
    values = [draw.random() for _ in range(8)]
    loop, running = direct(study, *overrides), dict[int, int]()
    while not loop.is_done:
        if draw.random() < 0.3:  # killed
            loop, running = direct(study, *overrides), {}
        elif len(running) < 3 and isinstance(suggestion := loop.next_trial(), Trial):
            running[suggestion.number] = max(
                0, len(loop.journal.reported(suggestion.number)) - 1
            )  # reported again
        elif running:
            number = draw.choice(list(running))
            running[number] += 1
            message: TrialMessage = ended(values[number])
            if running[number] <= 9:
                message = epoch(running[number], values[number])
            if not loop.on_result(number, message):
                del running[number]

    reported = [(number, epoch) for number, epoch, _ in loop.journal.reports()]
    assert len({*reported}) == len(reported), "a repeated report is recorded once"
    rungs, arm = rungs_of(loop.space.settings), loop.journal.arm
    replayed = {
        report[0]: rungs.should_continue(*report, arm=arm(report[0]))
        for report in loop.journal.reports()
    }
    assert statuses(study) == {
        number: "complete" if kept else "pruned" for number, kept in replayed.items()
    }
    assert "pruned" in statuses(study).values()


def test_settings_that_are_drawn_again_are_not_trained_again(study: StudyFolder) -> None:
    """Two combinations, six trials, two at a time: a trial waits for a running one with its settings, and copies it."""
    overrides = (
        "lr={values: [0.05, 0.1]}",
        "source={value: none}",
        "budget.trials=6",
        "scheduler.name=none",
    )
    loop, started = direct(study, *overrides), list[int]()
    while not loop.is_done:
        while isinstance(suggestion := loop.next_trial(2), Trial):
            started.append(suggestion.number)
            loop.on_result(suggestion.number, epoch(1, suggestion.parameters.lr))
        for number in started:
            loop.on_result(number, ended(loop.journal.parameters(number).lr))

    rows = ended_trials(study)
    assert len(started) == 2
    assert [row.status for row in rows.values()] == ["complete"] * 6
    assert all(rows[number].value == loop.journal.parameters(number).lr for number in rows)
    assert loop.journal.reported(5) == {1: loop.journal.parameters(5).lr}
    assert sum(row.reason.startswith("a copy of #") for row in rows.values()) == 4


def test_trials_jsonl_is_repaired_from_the_journal(study: StudyFolder) -> None:
    loop = direct(study)
    for number in range(2):
        start(loop)
        complete(loop, number)
    rows = read_jsonl(study.rows_path)
    lines = [json.dumps(rows[1] | {"value": 0.99}), "torn"]
    study.rows_path.write_text("\n".join(lines), encoding="utf-8")

    direct(study)

    assert read_jsonl(study.rows_path) == rows


class Gans:
    """The trained GANs; those of one lineage differ in their steps."""

    def __init__(self) -> None:
        self.trained: set[tuple[int, int]] = set()

    def need(self, generator: GanSettings | None) -> str | None:
        if generator is None or (generator.width, generator.steps) in self.trained:
            return None
        return f"width {generator.width}"


def trained(loop: DirectSearch, gans: Gans, number: int, width_and_steps: tuple[int, int]) -> None:
    """A trial has trained its GAN."""
    gans.trained.add(width_and_steps)
    assert not loop.on_result(number, GeneratorTrained())


def gan_points(*widths_and_steps: tuple[int, int]) -> str:
    """Points with different `lr`."""
    rows = ", ".join(
        f"{{source: gan, synthetic_ratio: 0.5, lr: {number}e-4, gan.width: {w}, gan.steps: {s}}}"
        for number, (w, s) in enumerate(widths_and_steps, start=1)
    )
    return f"points_to_evaluate=[{rows}, {{source: none, lr: 1e-3}}]"


WIDTHS = "gan.width={values: [8, 16]}"


def gan_search(
    study: StudyFolder, points: str, *overrides: str, slots: int = 1
) -> tuple[DirectSearch, Gans]:
    gans = Gans()
    return direct(
        study, WIDTHS, points, *overrides, generator_need=gans.need, generator_slots=slots
    ), gans


def test_trial_waits_for_gan_in_training_while_others_run(study: StudyFolder) -> None:
    loop, gans = gan_search(study, gan_points((8, 100), (8, 100), (16, 100)))

    assert start(loop).number == 0, "trains the GAN of width 8"
    assert start(loop).number == 2, "trial 1 needs that GAN and waits; trial 2 needs another"
    assert start(loop).number == 3, "needs none"

    trained(loop, gans, 0, (8, 100))
    assert [start(loop).number, start(loop).number] == [0, 1], "the GAN is there"


def test_generators_are_trained_first_the_longest_chain_before_others_and_its_shortest_run_first(
    study: StudyFolder,
) -> None:
    points = gan_points((8, 100), (16, 200), (16, 100)).replace("[", "[{source: none, lr: 2e-3}, ")
    loop, _ = gan_search(study, points)

    first = [start(loop) for _ in range(4)]

    assert [(one.number, one.only_generator) for one in first] == [
        (3, True),
        (1, True),
        (0, False),
        (4, False),
    ]


def test_a_generator_in_training_occupies_its_slots(study: StudyFolder) -> None:
    loop, gans = gan_search(study, gan_points((8, 100)), slots=2)

    assert start(loop, 3).only_generator
    assert start(loop, 3).number == 1
    assert loop.next_trial(3) == "wait"
    assert loop.slots_in_use() == 3

    trained(loop, gans, 0, (8, 100))
    assert start(loop, 3).number == 0
    assert loop.slots_in_use() == 2


def test_no_other_trial_takes_the_slots_that_a_generator_waits_for(study: StudyFolder) -> None:
    gans = Gans()
    gans.trained.add((8, 100))
    loop = direct(
        study, WIDTHS, gan_points((8, 100), (16, 100)), generator_need=gans.need, generator_slots=2
    )
    gans.trained.add((16, 100))
    assert start(loop, 2).number == 0

    gans.trained.discard((16, 100))
    assert loop.next_trial(2) == "wait", "one slot is free, and the GAN of width 16 needs two"
    complete(loop, 0)

    assert start(loop, 2).only_generator


def test_a_trial_that_has_trained_its_generator_elsewhere_trains_it_no_second_time_alone(
    study: StudyFolder,
) -> None:
    """As when the caches of two machines are not shared: it finds its own generator, or trains it like any trial."""
    loop, _ = gan_search(study, gan_points((8, 100)))
    assert start(loop).only_generator

    loop.on_result(0, GeneratorTrained())

    assert [(one.number, one.only_generator) for one in (start(loop), start(loop))] == [
        (0, False),
        (1, False),
    ]


def test_when_the_time_is_used_up_only_trials_that_have_begun_continue(
    study: StudyFolder, clock: Clock
) -> None:
    loop, gans = gan_search(study, gan_points((8, 100)), "budget.hours=1")
    start(loop)
    clock.now += 3601
    trained(loop, gans, 0, (8, 100))

    assert start(loop).number == 0, "its generator is trained: it has begun"
    assert loop.next_trial() == "wait", "trial 1 was drawn as a point, but has not begun"
    complete(loop, 0)
    assert loop.is_done
    assert loop.used_up == "hours"

    longer, gans_of_longer = gan_search(study, gan_points((8, 100)), "budget.hours=3")
    gans_of_longer.trained.add((8, 100))
    assert start(longer).number == 1
