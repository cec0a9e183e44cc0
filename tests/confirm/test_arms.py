"""Who is confirmed, and against whom."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from xraytune.config.load import load_space
from xraytune.config.settings import Parameters
from xraytune.config.space import Space
from xraytune.confirm.arms import (
    Candidate,
    Stopped,
    choose_finalists,
    draw_control,
    finalist_arm,
    is_of,
    matched_control,
    missing_trials,
    ratio_arms,
    to_be_finished,
    tuned_control,
)
from xraytune.errors import StudyError

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


def trial(number: int, val_b: float, source: str, **changes: Any) -> Candidate:
    return Candidate(name=f"#{number}", parameters=parameters(source, **changes), val_b_auroc=val_b)


TRIALS = (
    trial(0, 0.99, "none"),
    trial(1, 0.95, "gan", lr=1e-3),
    trial(2, 0.97, "gan", lr=2e-3, classical=1),
    trial(3, 0.97, "gan", lr=2e-3, classical=1),
    trial(4, 0.90, "gan", lr=3e-3),
    trial(5, 0.80, "none", classical=2),
    trial(6, 0.85, "duplicate", classical=1),
)


@pytest.fixture
def space(tmp_path: Path) -> Space:
    path = tmp_path / "small.yaml"
    path.write_text(SPACE, encoding="utf-8")
    return load_space(path)


def test_finalists_are_the_best_different_trials_with_synthetic_images_by_val_b() -> None:
    assert [finalist.name for finalist in choose_finalists(TRIALS, 3, Path("s"))] == ["#2", "#1", "#4"]
    assert [finalist.name for finalist in choose_finalists(TRIALS, 1, Path("s"))] == ["#2"]


def test_where_asha_stopped_every_gan_trial_the_furthest_are_to_be_finished() -> None:
    stopped = [
        Stopped(name="#8", parameters=parameters("gan", lr=1e-3), epochs=3, val_auroc=0.99),
        Stopped(name="#9", parameters=parameters("gan", lr=2e-3), epochs=9, val_auroc=0.95),
        Stopped(name="#10", parameters=parameters("gan", lr=3e-3), epochs=9, val_auroc=0.97),
        Stopped(name="#11", parameters=parameters("gan", lr=3e-3), epochs=9, val_auroc=0.97),
        Stopped(name="#12", parameters=parameters("duplicate"), epochs=9, val_auroc=1.0),
    ]
    without_gan = [trial for trial in TRIALS if trial.parameters.source != "gan"]

    assert [one.name for one in to_be_finished(without_gan, stopped, 2)] == ["#10", "#9"]
    assert to_be_finished(TRIALS, stopped, 2) == ()


@pytest.mark.parametrize(
    ("trials", "what"),
    [((), "no trial ran to its end"), (TRIALS[:1], "no trial with GAN images .* ran to its end")],
)
def test_a_study_without_a_finalist_is_refused_with_what_to_do(trials: tuple[Candidate, ...], what: str) -> None:
    with pytest.raises(StudyError, match=f"{what}(.|\n)*fix:"):
        choose_finalists(trials, 3, Path("s"))


def test_a_matched_control_keeps_every_setting_but_the_source_and_inherits_the_band() -> None:
    finalist = trial(7, 0.9, "gan", lr=2e-3, classical=1, synthetic_ratio=0.5, backbone="resnet18", batch_size=16)

    none, duplicate = (matched_control(finalist, source, 64) for source in ("none", "duplicate"))

    assert none is not None
    assert duplicate is not None
    for control, source, ratio in ((none, "none", 0.0), (duplicate, "duplicate", 0.5)):
        expected = finalist.parameters.model_copy(update={"source": source, "gan": None, "synthetic_ratio": ratio})
        assert control.parameters == expected
        assert control.bandwidth_px == 64
        assert control.trial == "#7"


def test_with_total_matching_duplicates_are_no_control_of_their_own() -> None:
    finalist = trial(7, 0.9, "gan", matching="total")

    assert matched_control(finalist, "duplicate", 64) is None
    assert matched_control(finalist, "none", 64) is not None


def test_settings_that_are_off_stay_off_in_controls_and_at_other_ratios() -> None:
    """None has a meaning of its own: the last weights of the generator are used, not their moving average."""
    finalist = trial(7, 0.9, "gan", gan={"ema_half_life_images": None}, synthetic_ratio=1.0)

    for arm in ratio_arms(finalist, 64):
        assert arm.parameters.gan is not None
        assert arm.parameters.gan.ema_half_life_images is None
        assert arm.parameters == finalist.parameters.model_copy(
            update={"synthetic_ratio": arm.parameters.synthetic_ratio}
        )
    assert [arm.parameters.synthetic_ratio for arm in ratio_arms(finalist, 64)] == [0.25, 0.5, 2.0, 4.0]


def test_a_tuned_control_is_the_best_of_its_arm_by_val_b() -> None:
    best = {control: tuned_control(TRIALS, control) for control in ("real_only", "classical", "duplicate")}

    assert {control: arm.trial for control, arm in best.items() if arm} == {
        "real_only": "#0",
        "classical": "#5",
        "duplicate": "#6",
    }
    assert tuned_control(TRIALS[1:3], "real_only") is None


def test_each_controls_arm_is_topped_up_to_as_many_trials_as_the_finalists_arm_had() -> None:
    """Four GAN trials ran to their end, and one of each control's arm."""
    finalists = choose_finalists(TRIALS, 1, Path("s"))

    assert [missing_trials(TRIALS, finalists, control) for control in ("real_only", "classical", "duplicate")] == [
        3,
        3,
        3,
    ]
    assert missing_trials((*TRIALS, *TRIALS[:1] * 5), finalists, "real_only") == 0


@pytest.mark.parametrize("control", ["real_only", "classical", "duplicate"])
def test_top_up_trials_are_different_settings_of_the_arm_and_the_same_each_time(space: Space, control: str) -> None:
    first = draw_control(space, control, 5, ())

    assert len(first) == 5
    assert all(is_of(drawn, control) for drawn in first)
    assert len({drawn.lr for drawn in first}) == 5
    assert draw_control(space, control, 5, ()) == first
    assert draw_control(space, control, 3, first[:1])[0] == first[1], "what the search had is not drawn again"


@pytest.mark.slow
def test_an_arm_that_has_no_more_settings_gives_those_it_has(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("xraytune.confirm.arms._DRAWS", 500)
    path = tmp_path / "small.yaml"
    path.write_text(SPACE.replace("{min: 1e-5, max: 1e-2, distribution: log_uniform_values}", "{values: [1, 2]}"))

    assert len(draw_control(load_space(path), "real_only", 9, ())) == 2
    assert finalist_arm(TRIALS[1]).name == "gan #1"
