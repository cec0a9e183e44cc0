"""Weights & Biases: written offline without a key, and never the trial's problem."""

import logging
from pathlib import Path

import pytest
import wandb

from xraytune.config.settings import Experiment, Parameters, Settings, WandbSettings
from xraytune.records import EpochRecord
from xraytune.tracking.wandb import WandbRun, has_key

EXPERIMENT = Experiment(
    settings=Settings.model_validate_json('{"name": "small", "data": {"path": "xrays"}}'),
    parameters=Parameters(source="none"),
)
EPOCH = EpochRecord(
    epoch=1, steps=8, train_loss=0.5, val_loss=0.4, val_auroc=0.9, best_val_auroc=0.9, lr=1e-3, seconds=2.0
)


@pytest.fixture(autouse=True)
def no_key(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """A home without a login."""
    monkeypatch.delenv("WANDB_API_KEY", raising=False)
    monkeypatch.setenv("HOME", str(tmp_path))


def start(folder: Path) -> WandbRun:
    folder.mkdir(exist_ok=True)
    return WandbRun(WandbSettings(), EXPERIMENT, study="small", name="small #7 real only", folder=folder)


@pytest.mark.slow
@pytest.mark.filterwarnings("default")  # wandb's own
def test_without_a_key_a_run_is_written_beside_its_trial(tmp_path: Path) -> None:
    run = start(tmp_path / "0007")
    run.log(EPOCH)
    run.finish({"value": 0.9})

    (written,) = (tmp_path / "0007" / "wandb").glob("offline-run-*/*.wandb")
    assert written.stat().st_size > 0


def test_a_wandb_that_fails_is_said_once_and_harms_nothing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    def refuse(**arguments: object) -> None:
        raise wandb.errors.CommError(f"no network for {len(arguments)} arguments")

    monkeypatch.setattr(wandb, "init", refuse)
    with caplog.at_level(logging.WARNING):
        run = start(tmp_path / "0007")
        run.log(EPOCH)
        run.finish({"value": 0.9})

    assert [record.message.partition(":")[0] for record in caplog.records] == ["W&B is off for this trial"]


def test_a_key_is_found_in_the_environment_and_in_a_netrc(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    assert not has_key()
    (tmp_path / ".netrc").write_text("machine api.wandb.ai login user password x\n", encoding="utf-8")
    assert has_key()
    (tmp_path / ".netrc").unlink()
    monkeypatch.setenv("WANDB_API_KEY", "x")
    assert has_key()
