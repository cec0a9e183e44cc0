"""`replay` reproduces a trial, and notices metrics that differ."""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
import time
from pathlib import Path

import pytest

from tests.export.conftest import FAILED, PRUNED, WITHOUT_EPOCH, CopyLab, Lab, run_to_its_end
from tests.in_process import controller_of
from xraytune.config.settings import Parameters
from xraytune.errors import StudyError
from xraytune.export.replay import replay
from xraytune.files import read_jsonl
from xraytune.models.train import TRAINING_STEPS
from xraytune.pipeline.model import Pretrained, pretrained_weights
from xraytune.search.cache import clean
from xraytune.search.messages import TrialSuggestion
from xraytune.search.study import StudyFolder, locked

pytestmark = pytest.mark.slow

KILLED = """
import os, signal, sys
from pathlib import Path
from xraytune.models.train import TRAINING_STEPS
from xraytune.export.replay import replay

def kill(what, done, total):
    if what == TRAINING_STEPS and done == total:
        os.kill(os.getpid(), signal.SIGKILL)

replay(Path(sys.argv[1]), int(sys.argv[2]), on_progress=kill)
"""


@pytest.mark.parametrize("trial", [0, 1, PRUNED])
def test_a_replayed_trial_is_the_recorded_one_to_the_bit(lab: Lab, trial: int) -> None:
    """The first trained a GAN, the last was stopped by ASHA; the study may be searched meanwhile."""
    recorded = read_jsonl(StudyFolder(lab.study).trial_path(trial) / "epochs.jsonl")
    seen: list[tuple[int, int]] = []

    def on_progress(what: str, done: int, total: int) -> None:
        if what == TRAINING_STEPS:
            seen.append((done, total))

    with locked(StudyFolder(lab.study)):
        again = replay(lab.study, trial, on_progress=on_progress)

    assert again.is_identical
    assert [epoch.replayed_val_score for epoch in again.epochs] == [row["val_score"] for row in recorded]
    last_step = recorded[-1]["steps"]
    assert sorted({*seen}) == [(step, last_step) for step in range(last_step + 1)]
    assert (again.replayed_val_b_score is not None) == (again.status == "complete")
    assert not list(lab.path.glob("cache/.replay*"))


@pytest.mark.parametrize("figure", ["train_loss", "val_score"])
def test_changed_value_is_detected(copy_lab: CopyLab, figure: str) -> None:
    lab = copy_lab()
    log = StudyFolder(lab.study).trial_path(0) / "epochs.jsonl"
    rows = read_jsonl(log)
    rows[1][figure] += 1e-9
    log.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")

    again = replay(lab.study, 0)

    assert not again.is_identical
    assert [epoch.is_identical for epoch in again.epochs] == [index != 1 for index in range(len(rows))]


def test_omitted_epoch_is_detected(copy_lab: CopyLab) -> None:
    lab = copy_lab()
    log = StudyFolder(lab.study).trial_path(0) / "epochs.jsonl"
    log.write_text("".join(log.read_text("utf-8").splitlines(keepends=True)[:-1]), encoding="utf-8")

    again = replay(lab.study, 0)

    assert again.epochs[-1].recorded_val_score is None
    assert not again.is_identical


def test_a_failed_trial_fails_again_for_the_same_reason(lab: Lab) -> None:
    again = replay(lab.study, FAILED)

    assert "not finite" in again.replayed_failure
    assert again.is_identical


def test_a_trial_that_any_other_exception_ended_fails_again_for_the_same_reason(
    copy_lab: CopyLab, monkeypatch: pytest.MonkeyPatch
) -> None:
    lab = copy_lab()
    folder, cache = StudyFolder(lab.study), lab.path / "cache"

    def no_layer(*_: object, **__: object) -> None:
        raise ValueError("no such layer")

    monkeypatch.setattr("xraytune.pipeline.trial.TrialInputs", no_layer)
    with locked(folder):
        controller = controller_of(folder, folder.space(), folder.prepared(), cache)
        while isinstance(suggestion := controller.next_trial(), TrialSuggestion):
            run_to_its_end(controller, suggestion.number, folder, cache)
        controller.close()

    again = replay(lab.study, WITHOUT_EPOCH)

    assert again.replayed_failure == "ValueError: no such layer"
    assert again.is_identical


def test_pixels_missing_from_cache_are_decoded_again(copy_lab: CopyLab) -> None:
    lab = copy_lab()
    shutil.rmtree(lab.path / "cache")

    assert replay(lab.study, PRUNED).is_identical


def test_moved_images_and_weights_are_read_from_their_new_location(
    copy_lab: CopyLab, monkeypatch: pytest.MonkeyPatch
) -> None:
    lab = copy_lab()
    shutil.rmtree(lab.path / "cache")
    moved, weights_dir = lab.path / "elsewhere", lab.path / "weights"
    lab.xrays.rename(moved)
    folders: list[Path | None] = []

    def recorded(parameters: Parameters, folder: Path | None, cache: Path) -> Pretrained | None:
        folders.append(folder)
        return pretrained_weights(parameters, folder, cache)

    monkeypatch.setattr("xraytune.pipeline.network.pretrained_weights", recorded)

    assert replay(lab.study, PRUNED, data=moved, weights_dir=weights_dir).is_identical
    assert folders == [weights_dir]


def test_lost_pixels_of_other_images_are_refused(copy_lab: CopyLab) -> None:
    lab = copy_lab()
    shutil.rmtree(lab.path / "cache")
    next(iter(sorted(lab.xrays.glob("train/NORMAL/*")))).unlink()

    with pytest.raises(StudyError, match="the images changed"):
        replay(lab.study, PRUNED)


def test_a_trial_without_an_epoch_cannot_be_replayed(lab: Lab) -> None:
    with pytest.raises(StudyError, match=f"trial {WITHOUT_EPOCH} has no epoch yet"):
        replay(lab.study, WITHOUT_EPOCH)


def test_an_unknown_trial_is_refused(lab: Lab) -> None:
    with pytest.raises(StudyError, match="there is no trial 77"):
        replay(lab.study, 77)


def test_leftovers_of_killed_replay_are_removed(copy_lab: CopyLab) -> None:
    lab = copy_lab()
    done = subprocess.run([sys.executable, "-c", KILLED, str(lab.study), "1"], check=False)
    (left,) = lab.path.glob("cache/.replay*")

    cleaned = clean(lab.study, clock=lambda: time.time() + 3700)

    assert done.returncode == -9
    assert cleaned.freed_bytes["leftovers of killed processes"] > 0
    assert not left.exists()
