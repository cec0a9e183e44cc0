"""A home without a W&B login, and a trial to track."""

from pathlib import Path

import pytest

from xraytune.search.wandb import TrackedRun


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
        metric="val_auroc",
        folder=folder,
    )
