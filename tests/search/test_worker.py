"""A trial's own process: its messages, and how it ends."""

import errno
import os
import shutil
from collections.abc import Generator
from contextlib import closing
from pathlib import Path
from typing import Any

import pytest

from tests.in_process import CPU
from tests.pair_files import draw_xrays
from tests.search.wandb.offline_runs import read_run, run_files
from xraytune.base.errors import DataError, MachineError, TrialError
from xraytune.base.files import read_json, read_jsonl, write_json
from xraytune.base.records import EpochRecord, TrialResult
from xraytune.data.prepare import prepare
from xraytune.search.worker import TrialWorker, next_message
from xraytune.space.load import load_space
from xraytune.study.folder import StudyFolder
from xraytune.study.start import create_study
from xraytune.study.trial import Job, TakenOverError, TrialFailed, TrialMessage, attempt

pytestmark = pytest.mark.slow

SPACE = """\
name: one
data: {path: xrays, image_size: 32, split: {val_a: 0.2, val_b: 0.2}}
parameters:
  source: {value: gan}
  synthetic_ratio: {value: 0.5}
  gan:
    parameters:
      {image_size: {value: 32}, width: {value: 4}, batch_size: {value: 4}, steps: {value: 3}}
  backbone: {value: small_cnn}
  weights: {value: none}
  batch_size: {value: 8}
budget: {trials: 1, max_epochs: 3, steps_per_epoch: 2}
tracking: {wandb: {project: small}}
"""
GPU = {"device": "cuda", "threads": 1, "precision": "bfloat16"}
OLD = {"torch": "2.0.1+cu117", "torchvision": "0.15"}


@pytest.fixture(scope="module")
def study(module_path: Path) -> StudyFolder:
    draw_xrays(module_path, patients=20)
    (module_path / "one.yaml").write_text(SPACE)
    space = load_space(module_path / "one.yaml")
    prepared, _ = prepare(space.settings, module_path / "cache")
    folder = StudyFolder(module_path / "studies/one")
    create_study(folder, space, prepared, CPU)
    return folder


def job(
    study: StudyFolder, number: int, *, is_tracked: bool = False, reports_every_epoch: bool = True
) -> Job:
    """A new trial of the study."""
    trial = study.trial_path(number)
    content: Any = study.space().experiment().model_dump(mode="json", context=trial)
    if not is_tracked:
        del content["settings"]["tracking"]
    write_json(trial / "config.json", content)
    return Job(
        study_folder=study,
        cache=study.default_cache,
        number=number,
        reports_every_epoch=reports_every_epoch,
        label=f"one #{number}",
        resources={},
    )


def test_an_epoch_after_which_the_search_may_end_the_trial_survives_a_power_cut(
    study: StudyFolder, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The end is on disk before the trial is closed, and an ended trial is not trained again."""
    durable: dict[Path, bytes] = {}

    def flush(descriptor: int) -> None:
        path = Path(f"/proc/self/fd/{descriptor}").readlink()
        if path.is_file():
            durable[path] = path.read_bytes()

    monkeypatch.setattr(os, "fsync", flush)
    with closing(TrialWorker(job(study, 20))) as worker:
        worker.step()  # trains the generator
        worker.step()
        log = study.trial_path(20) / "epochs.jsonl"

        assert len(read_jsonl(log)) >= 1
        assert durable.get(log) == log.read_bytes()


def steps(job: Job, count: int) -> list[TrialMessage]:
    """The first messages of a worker, which ends after them."""
    with closing(TrialWorker(job)) as worker:
        return [worker.step() for _ in range(count)]


def epochs(study: StudyFolder, number: int) -> list[int]:
    return [row["epoch"] for row in read_jsonl(study.trial_path(number) / "epochs.jsonl")]


def failing(error: BaseException) -> Generator[EpochRecord, None, TrialResult]:
    raise error
    yield


@pytest.mark.filterwarnings("default")  # wandb's own
def test_worker_reports_epochs_and_end_and_an_offline_run_equals_them(
    study: StudyFolder, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.delenv("WANDB_API_KEY", raising=False)

    *records, end = steps(job(study, 80, is_tracked=True), 4)

    assert [record.epoch for record in records if isinstance(record, EpochRecord)] == [1, 2, 3]
    assert isinstance(end, TrialResult)
    run = read_run(run_files(study.trial_path(80))[0])
    assert (run.name, run.group) == ("one #80", f"one {study.environment()['identity'][:6]}")
    assert run.epochs == epochs(study, 80) == [1, 2, 3]
    assert "samples.path" in run.rows[0]
    assert run.exit_code == 0
    assert (run.summary["value"], run.summary["val_b_auroc"]) == (end.value, end.val_b_score)


def test_a_worker_whose_trial_is_never_stopped_reports_only_the_last_epoch_of_a_second(
    study: StudyFolder, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("xraytune.search.worker.time.monotonic", lambda: 0.0)

    (end,) = steps(job(study, 81, reports_every_epoch=False), 1)

    assert isinstance(end, TrialResult)
    assert epochs(study, 81) == [1, 2, 3]


@pytest.mark.parametrize(
    ("error", "cause"),
    [
        (TrialError("the loss is not finite"), "settings"),
        (DataError("this image cannot be read"), "fault"),
        (MemoryError(), "memory"),
        (RuntimeError("CUDA out of memory"), "memory"),
        (MachineError("the disk is full"), "machine"),
        (OSError(errno.ESTALE, "Stale file handle"), "machine"),
    ],
)
def test_an_error_is_reported_with_its_cause_and_that_of_a_trial_with_its_traceback(
    tmp_path: Path, error: Exception, cause: str
) -> None:
    (tmp_path / "config.json").touch()

    message = next_message(failing(error), tmp_path)

    assert isinstance(message, TrialFailed)
    assert message.cause == cause
    assert str(error).rpartition("] ")[2] in message.reason
    if cause != "machine":
        assert type(error).__name__ in (tmp_path / "error.txt").read_text()


def test_an_error_on_a_machine_that_does_not_see_the_study_is_not_the_trials(
    study: StudyFolder,
) -> None:
    """As where another disk is mounted at its path: nothing is written there."""
    elsewhere = StudyFolder(study.path.with_name("another disk"))

    message = next_message(failing(DataError("no such file")), elsewhere.trial_path(0))

    assert isinstance(message, TrialFailed)
    assert message.cause == "machine"
    assert "another disk" in message.reason
    assert not elsewhere.path.exists()


@pytest.mark.parametrize(
    ("change", "reason"),
    [
        ({"compute": GPU}, "sees no GPU here"),
        ({"packages": OLD}, "trained with torch 2.0.1 and torchvision"),
    ],
    ids=["a lost GPU", "another torch"],
)
def test_machine_that_cannot_run_the_study_stops_the_search_without_failing_trials(
    study: StudyFolder,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    change: dict[str, Any],
    reason: str,
) -> None:
    """As a node of a cluster that was not upgraded."""
    monkeypatch.setattr("torch.cuda.is_available", lambda: False)
    copy = StudyFolder(Path(shutil.copytree(study.path, tmp_path / "studies/one")))
    environment = copy.path / "environment.json"
    write_json(environment, read_json(environment) | change)

    (message,) = steps(job(copy, 10), 1)

    assert isinstance(message, TrialFailed)
    assert message.cause == "machine"
    assert reason in message.reason


def test_an_earlier_attempt_writes_nothing_more(study: StudyFolder) -> None:
    """Also if its process was suspended for a while."""
    with closing(TrialWorker(job(study, 6))) as worker:
        worker.step()
        with attempt(study.trial_path(6)):
            pass

        with pytest.raises(TakenOverError):
            worker.step()

    assert epochs(study, 6) == [1]
    assert not (study.trial_path(6) / "checkpoint/checkpoint.pt").exists()
