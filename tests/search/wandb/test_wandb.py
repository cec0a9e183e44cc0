"""The W&B run of a trial, offline; and when there is one."""

from pathlib import Path
from typing import Any

import pytest
from PIL import Image

from tests.search.wandb.offline_runs import read_run, run_files
from xraytune.base.records import EpochRecord
from xraytune.search.wandb import WandbRun
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
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """That of trial 7 of a study; its run is offline."""
    monkeypatch.setenv("WANDB_MODE", "offline")
    folder = tmp_path / "studies" / "small" / "trials" / "0007"
    folder.mkdir(parents=True)
    return folder


def start_run(folder: Path, **other: Any) -> WandbRun:
    parameters = {"source": "gan", "gan.steps": 20, "lr": 1e-3, "arm": "gan"}
    run = {
        "study": ("small", "3f9a1c77"),
        "key": 7,
        "name": "small #7 gan r=1 (20 steps)",
        "config": parameters,
        "dir": str(folder),
    }
    return WandbRun(WandbSettings(), "val_dice", **{**run, **other})


def run_trial(
    folder: Path,
    *epochs: EpochRecord,
    status: TrialStatus = "complete",
    samples: Path | None = None,
) -> None:
    run = start_run(folder)
    if samples:
        run.log_samples(samples)
    for record in epochs:
        run.log(record)
    run.finish({"status": status, "value": 0.9, "val_b_score": 0.85, "threshold": 0.4})


@pytest.mark.slow
@pytest.mark.filterwarnings("default")  # wandb's own
def test_trial_is_one_run_with_curves_status_and_the_picture_of_its_generator_first(
    folder: Path, tmp_path: Path
) -> None:
    """Each start writes a separate file; both have the same id, so they are one run."""
    run_trial(folder, EPOCHS[0], status="unfinished")
    Image.new("L", (12, 8), 99).save(tmp_path / "gan.png")
    run_trial(folder, *EPOCHS, samples=tmp_path / "gan.png")

    before, file = sorted(run_files(folder), key=lambda file: file.stat().st_mtime)
    interrupted, written = read_run(before), read_run(file)
    assert file.parent.name.startswith("offline-run-")
    assert (interrupted.id, written.name) == (written.id, "small #7 gan r=1 (20 steps)")
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


@pytest.mark.slow
@pytest.mark.filterwarnings("default")  # wandb's own
def test_a_run_belongs_to_one_study_and_one_trial(folder: Path) -> None:
    """Two studies of the same name in different folders do not share runs."""
    for other in ({}, {"name": "another"}, {"study": ("small", "b2")}, {"key": 8}):
        start_run(folder, **other).finish({"status": "complete"})

    runs = [read_run(file) for file in run_files(folder)]
    assert len(runs) == 4
    assert len({run.id for run in runs}) == 3
    assert {run.group for run in runs} == {"small 3f9a1c", "small b2"}


@pytest.mark.slow
@pytest.mark.filterwarnings("default")  # wandb's own
@pytest.mark.parametrize(
    ("variable", "files"),
    [("WANDB_API_KEY=", 1), ("WANDB_MODE=offline", 1), ("WANDB_MODE=disabled", 0)],
)
def test_auto_is_offline_without_a_key_and_wandb_mode_takes_precedence(
    folder: Path,
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
    variable: str,
    files: int,
) -> None:
    monkeypatch.setenv("WANDB_API_KEY", "0f" * 20)
    monkeypatch.delenv("WANDB_MODE")
    monkeypatch.setenv(*variable.split("="))

    run = start_run(folder)
    run.log(EPOCHS[0])
    run.finish({"status": "complete"})

    assert len(run_files(folder)) == files
    assert "W&B failed" not in caplog.text
