"""ASHA's decisions, against Ray Tune's own and after a restart."""

from dataclasses import dataclass
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from xraytune.search.asha import Rungs
from xraytune.space.search_settings import SchedulerSettings

values = st.floats(0.3, 1.0)


def shared(grace: int, reduction: int) -> SchedulerSettings:
    return SchedulerSettings(grace=grace, reduction=reduction, within="all")


@dataclass(frozen=True)
class TuneTrial:
    """The attributes that Tune's scheduler reads."""

    trial_id: str
    stub: bool = False


@st.composite
def arrivals(draw: st.DrawFn) -> list[tuple[int, int, float]]:
    """Epochs of up to 12 trials, interleaved at random, each trial's in order."""
    trials = draw(st.integers(1, 12))
    order = draw(st.permutations([trial for trial in range(trials) for _ in range(9)]))
    done = dict.fromkeys(range(trials), 0)
    rows = []
    for trial in order:
        done[trial] += 1
        rows.append((trial, done[trial], draw(values)))
    return rows


@pytest.fixture(scope="module")
def tunes_scheduler() -> Any:
    """Ray Tune's ASHA; importing it takes seconds, so only the test that needs it does."""
    from ray.tune.schedulers import AsyncHyperBandScheduler

    return AsyncHyperBandScheduler


@pytest.mark.slow
@given(rows=arrivals(), grace=st.integers(1, 3), reduction=st.integers(2, 4))
def test_every_decision_equals_ray_tune(
    tunes_scheduler: Any, rows: list[tuple[int, int, float]], grace: int, reduction: int
) -> None:
    ours = Rungs(shared(grace, reduction), max_epochs=10)
    theirs = tunes_scheduler(
        time_attr="epoch",
        metric="value",
        mode="max",
        max_t=10,
        grace_period=grace,
        reduction_factor=reduction,
    )
    stopped: set[int] = set()
    for trial in {trial for trial, _, _ in rows}:
        theirs.on_trial_add(None, TuneTrial(str(trial)))

    for trial, epoch, value in rows:
        if trial in stopped:
            continue
        should_continue = ours.should_continue(trial, epoch, value)
        decision = theirs.on_trial_result(
            None, TuneTrial(str(trial)), {"epoch": epoch, "value": value}
        )
        assert should_continue == (decision == theirs.CONTINUE)
        if not should_continue:
            stopped.add(trial)


def curve(start: float, end: float) -> list[float]:
    """Values after epochs 1 to 9, on a line."""
    return [start + (end - start) * epoch / 8 for epoch in range(9)]


def epochs_run(trials: list[tuple[str, list[float]]], scheduler: SchedulerSettings) -> list[int]:
    """Run trials, given by arm and values, one after the other; return the epochs of each."""
    rungs = Rungs(scheduler, max_epochs=9)
    epochs = []
    for number, (arm, values) in enumerate(trials):
        reached = (
            epoch
            for epoch, value in enumerate(values, 1)
            if not rungs.should_continue(number, epoch, value, rung_group=arm)
        )
        epochs.append(next(reached, 9))
    return epochs


def test_an_arm_that_starts_slower_and_ends_higher_is_completed() -> None:
    """With shared rungs, trials with GAN images end at the first one, though they are best."""
    real_only = [("real_only", curve(0.90 + number / 100, 0.95)) for number in range(4)]
    gan = [("gan", curve(0.80, 0.98)), ("gan", curve(0.81, 0.99))]

    assert epochs_run([*real_only, *gan], shared(1, 3))[4:] == [1, 1]
    assert epochs_run([*real_only, *gan], SchedulerSettings(grace=1, reduction=3))[4:] == [9, 9]


def test_the_first_two_trials_of_an_arm_are_completed_and_weak_ones_after_them_are_stopped() -> (
    None
):
    falling = [("gan", curve(0.90 - number / 100, 0.95 - number / 100)) for number in range(5)]

    assert epochs_run(falling, SchedulerSettings(grace=1, reduction=3)) == [9, 9, 1, 1, 1]


def test_repeats_of_the_best_trial_are_no_further_values_to_beat() -> None:
    rungs = Rungs(shared(1, 3), max_epochs=9)
    for trial in range(10):
        rungs.should_continue(trial, 1, 0.80 + trial / 100)

    assert all(rungs.should_continue(9, 1, 0.89) for _ in range(10))
    assert rungs.should_continue("another", 1, 0.8899)
