"""What ASHA saved, and which searched values it never let train to the end."""

from pathlib import Path
from typing import Any

import pytest

from xraytune.space.domains import Value
from xraytune.space.fields import parameters_from
from xraytune.space.settings import Objective
from xraytune.study.pruning import pruning_of
from xraytune.study.status import StudyView, TrialView


def trial(state: Any, epochs: int, **parameters: Value) -> TrialView:
    values = {name.replace("_steps", ".steps"): value for name, value in parameters.items()}
    return TrialView(number=0, mix="", status=state, epochs=epochs, value=0.9, parameters=parameters_from(values))


def study(*trials: TrialView, is_running: bool = False) -> StudyView:
    return StudyView(
        path=Path("small"),
        metric="AUROC",
        objective=Objective(),
        trials=tuple(one.model_copy(update={"number": number}) for number, one in enumerate(trials)),
        trial_budget=len(trials),
        max_epochs=27,
        seconds=100.0,
        seconds_left=None,
        is_running=is_running,
        searched=("source", "gan.steps"),
    )


REAL = trial("complete", 27, source="none")
GAN_3 = trial("pruned", 3, source="gan", gan_steps=500)
GAN_9 = trial("pruned", 9, source="gan", gan_steps=1500)
SHORT = trial("complete", 27, source="gan", gan_steps=500)
LONGEST = trial("pruned", 9, source="gan", gan_steps=5000)
FAILED = trial("failed", 0, source="gan", gan_steps=1500)


@pytest.mark.parametrize(
    ("trials", "is_running", "named"),
    [
        ((REAL, GAN_3, GAN_3, GAN_9, FAILED), False, ("source gan", "2 after epoch 3, 1 after epoch 9")),
        ((REAL, SHORT, GAN_3, LONGEST, LONGEST), False, ("gan.steps 5000", "2 after epoch 9")),
        ((REAL, GAN_3, trial("complete", 5, source="gan", gan_steps=500)), False, None),
        ((REAL, GAN_3, trial("unfinished", 5, source="gan", gan_steps=500)), False, None),
        ((REAL, GAN_3), True, None),
    ],
    ids=["a source, whose steps are not named again", "steps", "complete", "unfinished", "the search runs"],
)
def test_a_value_that_was_never_trained_to_the_end_is_named_once(
    trials: tuple[TrialView, ...], is_running: bool, named: tuple[str, str] | None
) -> None:
    found = pruning_of(study(*trials, is_running=is_running))

    assert found
    if named is None:
        assert found.warnings == ()
    else:
        warning, advice = found.warnings
        assert warning == f"no trial with {named[0]} was trained to the end: ASHA stopped all of them ({named[1]})"
        assert "--set name=small-2" in advice


def test_epochs_of_stopped_trials_are_saved_and_without_any_nothing_is_reported() -> None:
    found = pruning_of(study(REAL, GAN_3, GAN_9, FAILED))

    assert found
    assert found.summary == "ASHA stopped 2 of 3 trials and saved 42 of 81 epochs"
    assert pruning_of(study(REAL, FAILED)) is None
