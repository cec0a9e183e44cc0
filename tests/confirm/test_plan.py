"""The choice of finalists, controls and runs; a plan survives its file."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest

from xraytune.base.errors import StudyError
from xraytune.confirm.arms import (
    Arm,
    Plan,
    compared_arms,
    finalist_arm,
    matched_control,
    read_plan,
    replicate,
    write_plan,
)
from xraytune.confirm.controls import belongs_to_control, choose_tuned, draw_control
from xraytune.confirm.plan import choose_finalists
from xraytune.space.load import load_space
from xraytune.space.settings import Parameters
from xraytune.space.space import Space
from xraytune.study.row import TrialRow

SPACE = """\
name: small
data: {path: xrays}
parameters:
  source: {values: [none, duplicate, gan]}
  synthetic_ratio: {values: [0.5, 1.0], when: {source: [duplicate, gan]}}
  classical: {min: 0, max: 2}
  lr: {min: 1e-5, max: 1e-2, distribution: log_uniform_values}
"""


def parameters(source: str, **changes: Any) -> Parameters:
    return Parameters.model_validate({"source": source, **changes})


def trial(number: int, val_b: float, source: str, **changes: Any) -> TrialRow:
    return TrialRow(
        number=number,
        status="complete",
        parameters=parameters(source, **changes),
        val_b_score=val_b,
    )


TRIALS = (
    trial(0, 0.99, "none"),
    trial(1, 0.95, "gan", lr=1e-3),
    trial(2, 0.97, "gan", lr=2e-3, classical=1),
    trial(3, 0.97, "gan", lr=2e-3, classical=1),
    trial(4, 0.90, "gan", lr=3e-3),
    trial(5, 0.80, "none", classical=2),
    trial(6, 0.85, "duplicate", classical=1),
)
GAN = Arm(
    name="gan #1",
    role="finalist",
    trial="#1",
    parameters=Parameters.model_validate(
        {"source": "gan", "gan": {"start_from": "/a", "steps": 7}}
    ),
)
NONE = Arm(
    name="none, matched to #1",
    role="matched",
    trial="#1",
    parameters=Parameters(),
    resolution_px=64,
)


def tuned(trials: Sequence[TrialRow], *controls: str) -> list[str]:
    """The trials that become tuned controls."""
    return [arm.trial for arm in choose_tuned(controls, trials, lambda unfinished: unfinished, [])]


@pytest.fixture
def space(tmp_path: Path) -> Space:
    path = tmp_path / "small.yaml"
    path.write_text(SPACE, encoding="utf-8")
    return load_space(path)


@pytest.mark.parametrize(
    ("trials", "what"),
    [((), "no trial is complete"), (TRIALS[:1], "no complete trial has synthetic images")],
)
def test_a_study_without_a_finalist_is_refused_with_a_fix(
    trials: tuple[TrialRow, ...], what: str
) -> None:
    with pytest.raises(StudyError, match=f"{what}(.|\n)*fix:"):
        choose_finalists(trials, 3, Path("s"))


def test_controls_keep_every_setting_but_the_source() -> None:
    """And inherit the resolution. None is a value: the last weights of the generator are used, not their moving average."""
    changes: dict[str, Any] = {
        "lr": 2e-3,
        "classical": 1,
        "backbone": "resnet18",
        "batch_size": 16,
        "synthetic_ratio": 0.75,
    }
    finalist = finalist_arm(trial(7, 0.9, "gan", gan={"z_dim": 32}, **changes), 64)
    own = finalist.parameters

    matched = [
        arm for source in ("none", "duplicate") if (arm := matched_control(finalist, source))
    ]

    without: dict[str, Any] = {"source": "none", "gan": None, "synthetic_ratio": 0.0}
    duplicate: dict[str, Any] = {"source": "duplicate", "gan": None}
    assert [arm.parameters for arm in matched] == [
        own.model_copy(update=one) for one in (without, duplicate)
    ]
    assert {(arm.role, arm.trial, arm.resolution_px) for arm in matched} == {("matched", "#7", 64)}


def test_controls_of_a_pretrained_finalist_pretrain_on_duplicates_or_not_at_all() -> None:
    finalist = finalist_arm(trial(7, 0.9, "gan", mixing="pretrain", synthetic_ratio=0.5), 64)

    none, duplicate = (matched_control(finalist, source) for source in ("none", "duplicate"))

    assert none is not None
    assert none.parameters.pretraining_steps(100) == 0
    assert duplicate is not None
    assert (
        duplicate.parameters.pretraining_steps(100)
        == finalist.parameters.pretraining_steps(100)
        == 33
    )


def test_finalists_and_tuned_controls_are_the_best_different_trials_by_val_b() -> None:
    assert [finalist.label for finalist in choose_finalists(TRIALS, 3, Path("s"))] == [
        "#2",
        "#1",
        "#4",
    ]
    assert tuned(TRIALS, "real_only", "classical", "duplicate") == ["#0", "#5", "#6"]
    assert tuned(TRIALS[1:3], "real_only") == []


def test_of_equals_on_val_b_the_simpler_and_cheaper_trial_comes_first() -> None:
    equals = [
        trial(0, 0.9, "gan", classical=1, synthetic_ratio=0.5),
        trial(1, 0.9, "gan", synthetic_ratio=2.0),
        trial(2, 0.9, "gan", synthetic_ratio=0.5),
        trial(3, 0.9, "duplicate", synthetic_ratio=1.0),
        trial(4, 0.9, "duplicate", synthetic_ratio=0.5),
        trial(5, 0.9, "none", classical=2),
        trial(6, 0.9, "none", classical=1),
    ]

    assert [one.label for one in choose_finalists(equals, 3, Path("s"))] == ["#2", "#1", "#0"]
    assert tuned(equals, "classical", "duplicate") == ["#6", "#4"]


@pytest.mark.parametrize("control", ["real_only", "classical", "duplicate"])
def test_top_up_trials_are_different_settings_of_the_arm_and_the_same_each_time(
    space: Space, control: str
) -> None:
    first = draw_control(space, control, 5, ())

    assert len(first) == 5
    assert all(belongs_to_control(drawn, control) for drawn in first)
    assert len({drawn.lr for drawn in first}) == 5
    assert draw_control(space, control, 5, ()) == first
    assert draw_control(space, control, 3, first[:1])[0] == first[1], (
        "settings of the search are not sampled again"
    )


def test_equal_arms_share_their_runs_in_every_replicate() -> None:
    """Equal in what trains them: not their names, nor that one would stop early."""
    early = NONE.parameters.model_copy(update={"early_stop_epochs": 2})
    same = NONE.model_copy(
        update={"name": "none, matched to #2", "trial": "#2", "parameters": early}
    )
    perfect = NONE.model_copy(update={"name": "real images", "role": "perfect"})
    plan = Plan(test="unused", replicates=3, arms=(GAN, NONE, same, perfect))

    runs = [plan.numbers(arm) for arm in plan.arms]

    assert runs == [[0, 3, 6], [1, 4, 7], [1, 4, 7], [2, 5, 8]]
    assert [*plan.runs] == [*range(9)]
    assert [arm.name for arm in plan.trainings.values()] == [
        "gan #1",
        "none, matched to #1",
        "real images",
    ]


def test_with_draws_each_finalist_has_an_arm_of_real_images_in_the_place_of_its_synthetic_ones(
    space: Space,
) -> None:
    """Trained like its duplicates, but never shared with them, and no control of the verdict."""
    arms = compared_arms(TRIALS[1:3], space.settings, "unused")
    plan = Plan(test="unused", replicates=2, arms=tuple(arms))

    perfect = [arm for arm in arms if arm.role == "perfect"]
    duplicates = [arm for arm in arms if arm.name.startswith("duplicate, matched")]
    assert [arm.name for arm in perfect] == [
        f"real images of other patients, as #{number}" for number in (1, 2)
    ]
    assert [arm.parameters for arm in perfect] == [arm.parameters for arm in duplicates]
    assert {*plan.numbers(perfect[0])}.isdisjoint(plan.numbers(duplicates[0]))
    assert not [
        control
        for finalist in plan.finalists
        for control in plan.controls(finalist)
        if control in perfect
    ]
    experiments = [
        replicate(arm, space.settings, 1, "unused") for arm in (perfect[0], duplicates[0])
    ]
    assert [(one.draw, one.has_real_extra) for one in experiments] == [(1, True), (1, False)]
    assert not [
        arm for arm in compared_arms(TRIALS[1:3], space.settings, "folder") if arm.role == "perfect"
    ]


def test_a_plan_moves_with_its_study_and_the_files_next_to_it(tmp_path: Path) -> None:
    here, there = tmp_path / "here", tmp_path / "there"
    (here / "confirm").mkdir(parents=True)
    settings = {
        "source": "folder",
        "folder": {"path": here / "copies"},
        "weights": str(here / "net.pth"),
    }
    arm = Arm(
        name="folder #1",
        role="finalist",
        trial="#1",
        parameters=Parameters.model_validate(settings),
    )
    write_plan(Plan(test="folder", replicates=2, arms=(arm,)), here / "confirm")

    here.rename(there)
    plan = read_plan(there / "confirm")

    assert plan is not None
    moved = plan.arms[0].parameters
    assert moved.folder is not None
    assert (moved.folder.path, moved.weights) == (there / "copies", str(there / "net.pth"))
