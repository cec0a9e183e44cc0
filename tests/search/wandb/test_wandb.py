"""The W&B run of a trial, offline; and when there is one."""

from dataclasses import replace
from pathlib import Path

import pytest
from PIL import Image

from tests.search.wandb.offline_runs import read_run, run_files
from xraytune.base.records import EpochRecord
from xraytune.search.wandb import TrackedRun, WandbRun, enabled, note_on_outer_run
from xraytune.space.settings import WandbSettings
from xraytune.study.row import TrialStatus


def epoch(number: int, val_score: float, best: float) -> EpochRecord:
    return EpochRecord(
        epoch=number,
        steps=8 * number,
        train_loss=0.5,
        val_loss=0.4,
        val_score=val_score,
        best_val_score=best,
        lr=1e-3,
        seconds=2.0,
    )


EPOCHS = (epoch(1, 0.7, 0.7), epoch(2, 0.9, 0.9), epoch(3, 0.8, 0.9))


@pytest.fixture(autouse=True)
def no_key(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """A home without a login."""
    for name in ("WANDB_API_KEY", "WANDB_BASE_URL", "WANDB_MODE", "NETRC"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("WANDB_ERROR_REPORTING", "false")
    monkeypatch.setenv("HOME", str(tmp_path))


@pytest.fixture
def trial(tmp_path: Path) -> TrackedRun:
    """Trial 7 of a study."""
    folder = tmp_path / "studies" / "small" / "trials" / "0007"
    folder.mkdir(parents=True)
    return TrackedRun(
        study="small",
        study_identity="3f9a1c77",
        key=7,
        label="small #7 gan r=1 (20 steps)",
        parameters={"source": "gan", "gan.steps": 20, "lr": 1e-3, "arm": "gan"},
        metric="val_dice",
        folder=folder,
    )


def run_of(
    trial: TrackedRun,
    *epochs: EpochRecord,
    status: TrialStatus = "complete",
    samples: Path | None = None,
) -> WandbRun:
    run = WandbRun(WandbSettings(mode="offline"), trial)
    if samples:
        run.log_samples(samples)
    for record in epochs:
        run.log(record)
    run.finish(status, {"val_b_score": 0.85, "threshold": 0.4})
    return run


@pytest.mark.slow
@pytest.mark.filterwarnings("default")  # wandb's own
def test_trial_is_one_run_with_curves_status_and_the_picture_of_its_generator_first(
    trial: TrackedRun, tmp_path: Path
) -> None:
    """Each start writes a separate file; both have the same id, so they are one run."""
    run_of(trial, EPOCHS[0], status="unfinished")
    Image.new("L", (12, 8), 99).save(tmp_path / "gan.png")
    run_of(trial, *EPOCHS, samples=tmp_path / "gan.png")

    before, file = sorted(run_files(trial.folder), key=lambda file: file.stat().st_mtime)
    interrupted, written = read_run(before), read_run(file)
    assert file.parent.name.startswith("offline-run-")
    assert (written.id, interrupted.id, written.name) == (
        trial.run_id,
        trial.run_id,
        "small #7 gan r=1 (20 steps)",
    )
    assert written.group == "small 3f9a1c"
    expected = {
        "source": "gan",
        "gan.steps": 20,
        "lr": 1e-3,
        "arm": "gan",
        "study": "small",
        "trial": 7,
    }
    assert written.config.items() >= expected.items()
    assert [(row["_step"], row["epoch"]) for row in written.rows] == [
        (0, 0),
        (1, 1),
        (2, 2),
        (3, 3),
    ]
    curves = {
        "steps": 16,
        "train_loss": 0.5,
        "val_loss": 0.4,
        "val_dice": 0.9,
        "best_val_dice": 0.9,
        "lr": 1e-3,
    }
    assert written.rows[2].items() >= (curves | {"seconds": 2.0}).items()
    ended = {
        "value": 0.9,
        "best_epoch": 2,
        "val_b_dice": 0.85,
        "threshold": 0.4,
        "status": "complete",
    }
    assert written.summary.items() >= ended.items()
    assert (interrupted.summary["status"], written.exit_code) == ("unfinished", 0)
    (picture,) = file.parent.rglob("*.png")
    assert written.rows[0]["samples.path"].endswith(picture.name)
    assert not any("samples.path" in row for row in written.rows[1:])
    with Image.open(picture) as shown:
        assert shown.size == (12, 8)


def test_a_run_belongs_to_one_study_and_one_trial(trial: TrackedRun) -> None:
    """Two studies of the same name in different folders do not share runs."""
    same = replace(trial, folder=trial.folder.parent / "moved", label="another")
    others = (
        replace(trial, study_identity="b2"),
        replace(trial, key=8),
        replace(trial, study="other"),
    )

    assert same.run_id == trial.run_id
    assert len({trial.run_id, *(other.run_id for other in others)}) == 4
    assert replace(trial, study_identity="b2").group != trial.group


@pytest.mark.slow
@pytest.mark.filterwarnings("default")  # wandb's own
@pytest.mark.parametrize("variable", ["WANDB_API_KEY=", "WANDB_MODE=offline"])
def test_auto_is_offline_without_a_key_or_if_wandb_mode_says_so(
    trial: TrackedRun,
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
    variable: str,
) -> None:
    monkeypatch.setenv("WANDB_API_KEY", "0f" * 20)
    monkeypatch.setenv(*variable.split("="))

    WandbRun(WandbSettings(mode="auto"), trial).finish("complete", {})

    assert len(run_files(trial.folder)) == 1
    assert "W&B failed" not in caplog.text


def test_an_outer_run_or_sweep_is_noted(monkeypatch: pytest.MonkeyPatch) -> None:
    settings = WandbSettings(mode="offline")
    assert note_on_outer_run(settings) == ""

    monkeypatch.setenv("WANDB_SWEEP_ID", "the-sweep")

    assert "WANDB_SWEEP_ID" in note_on_outer_run(settings)
    assert note_on_outer_run(None) == ""


@pytest.mark.parametrize("variable", ["WANDB_MODE=disabled", "WANDB_DISABLED=true"])
def test_the_environment_can_turn_wandb_off(monkeypatch: pytest.MonkeyPatch, variable: str) -> None:
    settings = WandbSettings(mode="offline")
    assert enabled(settings) == settings

    monkeypatch.setenv(*variable.split("="))

    assert enabled(settings) is None
