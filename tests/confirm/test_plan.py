"""The choice of finalists, controls and runs; a plan survives its file."""

from pathlib import Path
from typing import Any

import pytest

from xraytune.confirm.arms import (
    Arm,
    Plan,
    matched_control,
    read_plan,
    replicate,
    write_plan,
)
from xraytune.confirm.plan import (
    belongs_to_control,
    best_trials,
    choose_finalists,
    donor_controls,
    sample_control,
    why_exploratory,
)
from xraytune.space.data_settings import DataSettings
from xraytune.space.encoders import DataSet
from xraytune.space.load import load_space
from xraytune.space.parameters import Parameters
from xraytune.space.settings import Settings
from xraytune.space.space import Space
from xraytune.study.row import TrialRow

SPACE = """\
name: small
data: {path: xrays}
parameters:
  source: {values: [none, duplicate, gan]}
  synthetic_ratio: {values: [0.5, 1.0], when: {source: [duplicate, gan]}}
  augmentation: {values: [none, flip, affine]}
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
    trial(2, 0.97, "gan", lr=2e-3, augmentation="flip"),
    trial(3, 0.97, "gan", lr=2e-3, augmentation="flip"),
    trial(4, 0.90, "gan", lr=3e-3),
    trial(5, 0.80, "none", augmentation="affine"),
    trial(6, 0.85, "duplicate", augmentation="flip"),
)
SETTINGS = Settings(name="small", seed=5, data=DataSettings(path=Path("xrays")))


def arm_of(chosen: Parameters) -> Arm:
    return Arm(name=f"{chosen.source} #1", role="finalist", trial_label="#1", parameters=chosen)


def gan_arm(**changes: Any) -> Arm:
    return arm_of(parameters("gan", **changes))


@pytest.fixture
def space(tmp_path: Path) -> Space:
    path = tmp_path / "small.yaml"
    path.write_text(SPACE)
    return load_space(path)


def test_controls_keep_every_setting_but_the_source() -> None:
    changes: dict[str, Any] = {
        "lr": 2e-3,
        "augmentation": "flip",
        "backbone": "resnet18",
        "batch_size": 16,
        "synthetic_ratio": 0.75,
    }
    finalist = gan_arm(gan={"z_dim": 32}, **changes)
    own = finalist.parameters

    matched = [
        arm for source in ("none", "duplicate") if (arm := matched_control(finalist, source))
    ]

    without: dict[str, Any] = {"source": "none", "gan": None, "synthetic_ratio": 0.0}
    duplicate: dict[str, Any] = {"source": "duplicate", "gan": None}
    assert [arm.parameters for arm in matched] == [
        own.model_copy(update=one) for one in (without, duplicate)
    ]
    assert {(arm.role, arm.trial_label) for arm in matched} == {("matched", "#1")}


def test_finalists_are_the_best_different_trials_by_val_b_of_equals_the_simplest() -> None:
    equals = [
        trial(0, 0.9, "gan", augmentation="flip", synthetic_ratio=0.5),
        trial(1, 0.9, "gan", synthetic_ratio=2.0),
        trial(2, 0.9, "gan", synthetic_ratio=0.5),
    ]

    finalists = choose_finalists(TRIALS, 3)

    assert [finalist.label for finalist in finalists] == ["#2", "#1", "#4"]
    assert [one.label for one in best_trials(equals)] == ["#2", "#1", "#0"]


@pytest.mark.parametrize("control", ["real_only", "augmented", "duplicate"])
def test_top_up_trials_are_different_settings_of_the_arm_and_the_same_each_time(
    space: Space, control: str
) -> None:
    first = sample_control(space, control, 5, ())

    assert len(first) == 5
    assert all(belongs_to_control(drawn, control) for drawn in first)
    assert len({drawn.lr for drawn in first}) == 5
    assert sample_control(space, control, 5, ()) == first
    assert sample_control(space, control, 3, first[:1])[0] == first[1], (
        "settings of the search are not sampled again"
    )


def test_tuned_controls_may_have_any_backbone_of_the_space(tmp_path: Path) -> None:
    path = tmp_path / "small.yaml"
    backbones = "{values: [mobilenet_v2, resnet18, xrv_densenet121_all]}"
    with_file = "{value: x.pth, when: {backbone: xrv_densenet121_all}}"
    path.write_text(f"{SPACE}  backbone: {backbones}\n  weights: {with_file}\n")

    drawn = sample_control(load_space(path), "real_only", 20, ())

    assert {each.backbone for each in drawn} == {"mobilenet_v2", "resnet18", "xrv_densenet121_all"}


def test_a_verdict_on_a_set_that_an_encoder_has_seen_is_exploratory() -> None:
    """Of the study or of the test images; likewise an undeclared set. Random layers saw nothing."""

    def reasons(weights: str, *data_sets: DataSet | None) -> tuple[str, ...]:
        finalist = gan_arm()
        encoder = {"backbone": "rad_dino", "weights": weights}
        control = finalist.model_copy(
            update={"role": "tuned", "parameters": parameters("none", **encoder)}
        )
        plan = Plan(test="folder", replicates=5, arms=(finalist, control))
        return why_exploratory(plan, *data_sets)

    because = "the encoder rad_dino was pretrained on images of nih"
    assert reasons("x.pth", "nih", "nih") == (because,)
    assert reasons("x.pth", "other", "nih") == (because,)
    assert reasons("x.pth", "kermany", "other") == reasons("none", "nih", None) == ()
    (unknown,) = reasons("x.pth", "kermany", None)
    assert "may have been pretrained" in unknown


def test_equal_arms_share_their_runs_in_every_replicate() -> None:
    """Equal in what trains them: not their names, nor that one would stop early."""
    gan = gan_arm()
    none = matched_control(gan, "none")
    assert none
    early = none.parameters.model_copy(update={"early_stop_epochs": 2})
    same = none.model_copy(update={"name": "none, matched to #2", "parameters": early})
    perfect = none.model_copy(update={"name": "real images", "role": "perfect"})
    plan = Plan(test="unused", replicates=3, arms=(gan, none, same, perfect))

    runs = [plan.run_numbers(arm) for arm in plan.arms]

    assert runs == [[0, 3, 6], [1, 4, 7], [1, 4, 7], [2, 5, 8]]
    assert [*plan.trainings.values()] == ["gan #1", "none, matched to #1", "real images"]


def test_replicate_has_new_seeds_and_all_steps_and_the_real_images_of_other_arms() -> None:
    gan = gan_arm(gan={"seed": 3}, early_stop_epochs=2)
    none = matched_control(gan, "none")
    assert none
    made = [replicate(gan, SETTINGS, number, "folder") for number in range(3)]
    generators = [one.parameters.gan for one in made if one.parameters.gan]

    assert len({one.settings.seed for one in made} | {SETTINGS.seed}) == 4
    assert len({one.seed for one in generators} | {3}) == 4
    assert all(one.parameters.early_stop_epochs is None for one in made)
    assert replicate(none, SETTINGS, 1, "folder").settings.seed == made[1].settings.seed


def test_a_plan_moves_with_its_study_and_the_files_next_to_it(tmp_path: Path) -> None:
    here = tmp_path / "here"
    there = tmp_path / "there"
    (here / "confirm").mkdir(parents=True)
    chosen = parameters("folder", folder={"path": here / "copies"}, weights=str(here / "net.pth"))
    arm = arm_of(chosen)
    write_plan(Plan(test="folder", replicates=2, arms=(arm,)), here / "confirm")

    here.rename(there)
    plan = read_plan(there / "confirm")

    assert plan is not None
    moved = plan.arms[0].parameters
    assert moved.folder is not None
    assert (moved.folder.path, moved.weights) == (there / "copies", str(there / "net.pth"))


def test_a_generator_without_a_classifier_has_its_images_alone_as_control(tmp_path: Path) -> None:
    """Nobody knows what a classifier of its hospital would do, and the answer says so."""
    (tmp_path / "gan_of_a").mkdir()
    chosen = parameters("generator", generator={"path": tmp_path / "gan_of_a"})
    notes: list[str] = []

    (control,) = donor_controls(SETTINGS, ("NORMAL", "PNEUMONIA"), arm_of(chosen), notes)

    assert control.name == "images of #1 alone"
    (note,) = notes
    assert "gan_of_a has no classifier" in note
