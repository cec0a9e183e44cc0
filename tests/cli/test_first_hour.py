"""Common mistakes of new users, and the messages that say what to do."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import TypeAlias

import pytest
from typer.testing import Result

from tests.cli.spaces import EXPERIMENT
from xraytune.cli import console
from xraytune.cli.search import show_search
from xraytune.data.phantom import draw_phantoms
from xraytune.space.settings import Objective, Parameters
from xraytune.study.status import StudyView, TrialView
from xraytune.trial.mix import mix_label

Run: TypeAlias = Callable[..., Result]


@pytest.mark.slow
@pytest.mark.parametrize(
    ("override", "fix"),
    [
        ("parameters.lr=1e-3", "did you mean 'lr'?"),
        ("parameters.gan.parameters.steps.value=5", "did you mean 'gan.steps'?"),
        ("trials=3", "did you mean 'budget.trials'?"),
        ("train_patients=100", "did you mean 'data.train_patients'?"),
        ("source=off", "use one of: none, duplicate, folder, gan, diffusion"),
    ],
)
def test_wrong_option_error_lists_valid_choices(run: Run, space: Path, override: str, fix: str) -> None:
    result = run("space", "check", space, "--set", override)

    assert result.exit_code == 2
    assert result.stderr.endswith(f"  fix: {fix}\n")


@pytest.mark.slow
def test_a_check_reports_missing_images(run: Run, space: Path) -> None:
    assert "does not exist: give --data DIR" in " ".join(run("space", "check", space, "--data", "x").stdout.split())
    (space.parent / "xrays").mkdir()
    assert "does not exist" not in run("space", "check", space).stdout


@pytest.mark.slow
def test_a_check_reports_an_asha_without_a_rung(run: Run, space: Path) -> None:
    assert "stops no trial" in run("space", "check", space, "--set", "budget.max_epochs=1").stdout
    assert "stops no trial" not in run("space", "check", space, "--set", "budget.max_epochs=2").stdout
    assert (
        "stops no trial"
        not in run("space", "check", space, "--set", "budget.max_epochs=1", "--set", "scheduler.name=none").stdout
    )


@pytest.mark.slow
def test_a_missing_folder_of_weights_is_an_error(run: Run, space: Path) -> None:
    draw_phantoms(space.parent / "xrays", patients=20, seed=1, image_size_px=32)
    net = ("--set", "backbone=mobilenet_v2", "--set", "weights=imagenet")

    result = run("search", "--space", space, *net, "--weights-dir", space.parent / "nowhere")

    assert result.exit_code == 4
    assert f"{space.parent / 'nowhere'}: there is no such weights folder" in result.stderr


@pytest.mark.slow
def test_a_single_class_folder_lacks_the_other_class(run: Run, tmp_path: Path) -> None:
    draw_phantoms(tmp_path / "xrays", patients=20, seed=1, image_size_px=32)

    result = run("data", "inspect", tmp_path / "xrays" / "train" / "NORMAL")

    assert result.exit_code == 3
    assert "into PNEUMONIA/ there" in result.stderr


def test_mix_and_arm_have_the_same_name() -> None:
    def label(**values: object) -> str:
        return mix_label(Parameters.model_validate(values))

    assert label() == Parameters().arm == "real_only"
    assert label(classical=2) == "classical 2"
    assert label(source="duplicate", synthetic_ratio=0.5, classical=1) == "duplicate r=0.5 +classical 1"
    assert label(source="diffusion", synthetic_ratio=0.5, diffusion={"steps": 2000}) == "diffusion r=0.5 (2000 steps)"


def test_paths_below_the_current_folder_are_shown_relative(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    here = tmp_path / "here"
    here.mkdir()
    monkeypatch.chdir(here)

    console.log(f"{here}/demo/xrays: a note ({here}/a, '{here}/b')")
    console.log(f"{here}: /elsewhere{here}/c")

    assert capsys.readouterr().err == f"demo/xrays: a note (a, 'b')\n{here}: /elsewhere{here}/c\n"


def test_next_command_is_quoted(capsys: pytest.CaptureFixture[str]) -> None:
    for source in ("gan", "none"):
        best = TrialView(
            number=0,
            status="complete",
            value=0.9,
            val_b_score=0.8,
            parameters=Parameters(source=source),
            mix=source,
        )
        show_search(
            StudyView(
                path=Path("studies/a #b"),
                metric="AUROC",
                objective=Objective(),
                trials=(best,),
                trial_budget=1,
                max_epochs=1,
                seconds=1.0,
                seconds_left=None,
                is_running=False,
            )
        )

    said = capsys.readouterr().out
    assert "next: xraytune confirm 'studies/a #b' --quick" in said
    assert "next: xraytune export 'studies/a #b' -o best.yaml" in said


@pytest.mark.slow
def test_a_prediction_prints_its_threshold(run: Run, tmp_path: Path) -> None:
    draw_phantoms(tmp_path / "xrays", patients=30, seed=3, image_size_px=48)
    (tmp_path / "fixed.yaml").write_text(EXPERIMENT, encoding="utf-8")
    model, images = tmp_path / "model", tmp_path / "xrays" / "test"
    run("train", "--config", tmp_path / "fixed.yaml", "-o", model, "--cache", tmp_path / "cache")
    threshold = json.loads((model / "bundle.json").read_text(encoding="utf-8"))["threshold"]

    shown = run("predict", model, images, "-o", tmp_path / "shown.csv")
    answer = json.loads(run("predict", model, images, "-o", tmp_path / "answer.csv", "--json").stdout)

    assert f"(threshold for PNEUMONIA: {threshold:.3f})" in shown.stdout
    assert (answer["positive"], answer["threshold"]) == ("PNEUMONIA", threshold)
