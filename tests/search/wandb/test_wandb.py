"""The W&B run of a trial, offline; and when there is one.

`test_worker.py` compares one with its trial.
"""

from pathlib import Path

import pytest

from tests.search.wandb.offline_runs import EPOCHS, begin, read_run, run_files
from xraytune.search.trackers import Trackers
from xraytune.space.parameters import Parameters
from xraytune.space.search_settings import Tracking, WandbSettings
from xraytune.space.source_settings import GanSettings

pytestmark = [pytest.mark.slow, pytest.mark.filterwarnings("default")]  # wandb's own


@pytest.fixture(autouse=True)
def no_key(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """A home without a login."""
    for name in ("WANDB_API_KEY", "WANDB_BASE_URL", "WANDB_MODE", "NETRC"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("WANDB_ERROR_REPORTING", "false")
    monkeypatch.setenv("HOME", str(tmp_path))


def start_run(folder: Path) -> Trackers:
    parameters = Parameters(source="gan", gan=GanSettings(steps=20))
    name = "small #7 gan r=1 (20 steps)"
    tracking = Tracking(wandb=WandbSettings())
    return begin(folder, tracking, parameters=parameters, metric="val_dice", name=name)


def test_a_resumed_trial_is_one_run_with_curves_named_after_the_metric(tmp_path: Path) -> None:
    """Each start writes a separate file; both have the same id, so they are one run."""
    for status, epochs in (("failed", EPOCHS[:1]), ("complete", EPOCHS)):
        run = start_run(tmp_path / "trial")
        for record in epochs:
            run.log(record)
        run.finish({"status": status, "value": 0.9, "val_b_score": 0.85})

    files = sorted(run_files(tmp_path / "trial"), key=lambda file: file.stat().st_mtime)
    failed, complete = map(read_run, files)
    assert (failed.id, failed.exit_code) == (complete.id, 1)
    assert (complete.name, complete.group) == ("small #7 gan r=1 (20 steps)", "small 3f9a1c")
    config = {"gan.steps": 20, "arm": "gan", "study": "small", "trial": 7}
    assert complete.config.items() >= config.items()
    assert [row["_step"] for row in complete.rows] == [1, 2, 3]
    curves = {"steps": 16, "val_loss": 0.5, "val_dice": 0.9, "best_val_dice": 0.9, "lr": 1e-3}
    assert complete.rows[1].items() >= curves.items()
    summary = {"value": 0.9, "val_b_dice": 0.85, "status": "complete"}
    assert complete.summary.items() >= summary.items()


@pytest.mark.parametrize(
    ("variable", "files"),
    [("WANDB_API_KEY=", 1), ("WANDB_MODE=offline", 1), ("WANDB_MODE=disabled", 0)],
)
def test_auto_is_offline_without_a_key_and_wandb_mode_takes_precedence(
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
    variable: str,
    files: int,
) -> None:
    monkeypatch.setenv("WANDB_API_KEY", "0f" * 20)
    monkeypatch.setenv(*variable.split("="))

    run = start_run(tmp_path / "trial")
    run.log(EPOCHS[0])
    run.finish({"status": "complete"})

    assert len(run_files(tmp_path / "trial")) == files
    assert "W&B failed" not in caplog.text
