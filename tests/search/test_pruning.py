"""What ASHA saved, and which searched values it never let train to the end."""

import json
from pathlib import Path
from typing import Any

import pytest

from tests.study.studies import direct, ended, epoch
from xraytune.space.domains import Value
from xraytune.space.fields import parameters_from
from xraytune.space.settings import Objective
from xraytune.study.folder import StudyFolder
from xraytune.study.pruning import pruning_of
from xraytune.study.status import StudyView, TrialView, status


def trial(state: Any, epochs: int, **parameters: Value) -> TrialView:
    return TrialView(
        number=0,
        mix="",
        status=state,
        epochs=epochs,
        value=0.9,
        values=(0.9,) * epochs,
        seconds=10.0 + epochs,
        parameters=parameters_from({name.replace("_steps", ".steps"): value for name, value in parameters.items()}),
        epoch_seconds=1.0,
    )


def study(*trials: TrialView, is_running: bool = False) -> StudyView:
    numbered = tuple(one.model_copy(update={"number": number}) for number, one in enumerate(trials))
    return StudyView(
        path=Path("small"),
        metric="AUROC",
        objective=Objective(),
        trials=numbered,
        trial_budget=len(trials),
        max_epochs=27,
        seconds=100.0,
        seconds_left=None,
        is_running=is_running,
        searched=("source", "gan.steps"),
    )


def warnings(*trials: TrialView, is_running: bool = False) -> list[str]:
    found = pruning_of(study(*trials, is_running=is_running))
    assert found
    assert not found.warnings or "--set name=small-2" in found.warnings[-1]
    return list(found.warnings[:-1])


REAL = trial("complete", 27, source="none")
GAN_3 = trial("pruned", 3, source="gan", gan_steps=500)
GAN_9 = trial("pruned", 9, source="gan", gan_steps=1500)


def test_epochs_and_seconds_of_stopped_trials_are_saved() -> None:
    found = pruning_of(study(REAL, GAN_3, GAN_9, trial("failed", 0, source="gan")))

    assert found
    assert found.summary == "ASHA stopped 2 of 3 trials and saved 42 of 81 epochs (about 42 s of 2 min)"
    assert (found.seconds, found.saved_seconds) == (37.0 + 13 + 19 + 42, 42.0)


def test_nothing_is_reported_if_no_trial_was_stopped() -> None:
    assert pruning_of(study(REAL, trial("failed", 0, source="gan"))) is None


def test_a_source_that_was_never_trained_to_the_end_is_named_once() -> None:
    """Its steps, which only these trials have, are not named again."""
    assert warnings(REAL, GAN_3, GAN_3, GAN_9, trial("failed", 0, source="gan", gan_steps=1500)) == [
        "no trial with source gan was trained to the end: ASHA stopped all of them (2 after epoch 3, 1 after epoch 9)"
    ]


def test_steps_are_named_if_a_generator_of_other_steps_was_trained_to_the_end() -> None:
    complete = trial("complete", 27, source="gan", gan_steps=500)
    longest = trial("pruned", 9, source="gan", gan_steps=5000)

    assert warnings(REAL, complete, GAN_3, longest, longest) == [
        "no trial with gan.steps 5000 was trained to the end: ASHA stopped all of them (2 after epoch 9)"
    ]


@pytest.mark.parametrize("state", ["complete", "unfinished"])
def test_a_value_that_was_or_may_still_be_trained_to_the_end_is_not_named(state: str) -> None:
    assert warnings(REAL, GAN_3, trial(state, 5, source="gan", gan_steps=500)) == []


def test_a_running_search_is_not_judged() -> None:
    assert warnings(REAL, GAN_3, is_running=True) == []


def test_the_seconds_of_epochs_are_those_of_the_stopped_trial_itself(study: StudyFolder) -> None:
    loop = direct(study)
    for _ in range(2):
        loop.next_trial()
    loop.on_result(0, epoch(1, 0.9))
    loop.on_result(0, ended(0.9, epochs=1))
    rows = [json.dumps({"version": 1, "epoch": 1, "seconds": 2.5})]
    (study.trial_path(1) / "epochs.jsonl").write_text("\n".join(rows) + "\n", encoding="utf-8")
    loop.on_result(1, epoch(1, 0.5))

    found = pruning_of(status(study.path))

    assert found
    assert (found.saved_epochs, found.saved_seconds) == (8, 20.0)
