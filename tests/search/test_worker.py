"""A trial's own process: its messages, and when it ends itself."""

from __future__ import annotations

import errno
import json
import platform
import shutil
import signal
import subprocess
import sys
from collections.abc import Generator
from contextlib import closing
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

import pytest
import torch

from tests.in_process import CPU, job_of
from tests.search.wandb.offline_runs import read_run, run_files
from xraytune.base.errors import DataError, MachineError, TrialError
from xraytune.base.files import read_json, read_jsonl, write_json
from xraytune.base.records import EpochRecord, TrialResult
from xraytune.data.phantom import draw_phantoms
from xraytune.data.prepare import prepare
from xraytune.search.messages import GeneratorTrained, Job, TrialFailed, TrialMessage
from xraytune.search.worker import TrialWorker, next_message
from xraytune.space.load import experiment_to_json, load_space
from xraytune.space.settings import Parameters
from xraytune.study.folder import StudyFolder
from xraytune.study.row import RunRow, append_row
from xraytune.study.start import create_study
from xraytune.study.trial import Trial
from xraytune.study.trial_files import TakenOverError, begin_attempt, read_samples
from xraytune.synth.synthesize import GAN_STAGE

pytestmark = pytest.mark.slow

SPACE = """\
version: 1
name: one
data: {path: xrays, image_size: 32, split: {val_a: 0.2, val_b: 0.2}}
parameters: {backbone: {value: small_cnn}, weights: {value: none}, batch_size: {value: 8}}
budget: {trials: 1, max_epochs: 3, steps_per_epoch: 2}
"""
GAN = {"image_size": 32, "width": 4, "batch_size": 4, "steps": 2}
GPU = {"device": "cuda", "threads": 1, "precision": "bfloat16"}
OLD = {"torch": "2.0.1+cu117", "torchvision": "0.15"}
WORKER = """
import json, sys, time
from xraytune.search.messages import Job
from xraytune.search.worker import TrialWorker
worker = TrialWorker(Job(**json.loads(sys.argv[1])))
print(type(worker.step()).__name__, flush=True)
time.sleep(float(sys.argv[2]))
print(type(worker.step()).__name__)
"""


@pytest.fixture(scope="module")
def study(tmp_path_factory: pytest.TempPathFactory) -> StudyFolder:
    root = tmp_path_factory.mktemp("worker")
    draw_phantoms(root / "xrays", patients=20, seed=1, image_size_px=32)
    (root / "one.yaml").write_text(SPACE, encoding="utf-8")
    space = load_space(root / "one.yaml")
    prepared, _ = prepare(space.settings, root / "cache")
    folder = StudyFolder(root / "studies" / "one")
    create_study(folder, space, prepared, CPU)
    return folder


def job(study: StudyFolder, number: int, tracking: Any = None, **parameters: object) -> Job:
    """A new trial of the study."""
    trial, experiment = study.trial_path(number), study.space().experiment()
    values = experiment.parameters.model_dump() | parameters
    experiment = experiment.model_copy(update={"parameters": Parameters.model_validate(values)})
    content: Any = experiment_to_json(experiment, trial)
    content["settings"] |= {"tracking": tracking} if tracking else {}
    write_json(trial / "config.json", content)
    suggestion = Trial(number=number, parameters=experiment.parameters)
    return replace(
        job_of(suggestion, study, study.path.parent.parent / "cache"), label=f"one #{number}"
    )


def steps(task: Job, count: int) -> list[TrialMessage]:
    """The first messages of a worker, which ends after them."""
    with closing(TrialWorker(task)) as worker:
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
    tracking = {"wandb": {"project": "small"}}
    tracked = job(
        study, 80, tracking=tracking, source="gan", synthetic_ratio=0.5, gan=GAN | {"steps": 3}
    )

    with closing(TrialWorker(tracked)) as worker:
        *records, end = [worker.step() for _ in range(4)]
        assert isinstance(end, TrialResult)
        append_row(
            study.runs_path,
            RunRow(number=80, status="complete", value=end.value, val_b_score=end.val_b_score),
        )

    assert [message.epoch for message in records if isinstance(message, EpochRecord)] == [1, 2, 3]
    assert isinstance(records[-1], EpochRecord)
    assert end.value == records[-1].best_val_score
    run = read_run(run_files(study.trial_path(80))[0])
    assert (run.name, run.group) == ("one #80", f"one {study.identity()[:6]}")
    assert run.epochs == epochs(study, 80) == [1, 2, 3]
    assert "samples.path" in run.rows[0]
    assert (run.config["arm"], run.summary["status"], run.exit_code) == ("gan", "complete", 0)
    assert (run.summary["value"], run.summary["val_b_auroc"]) == (end.value, end.val_b_score)


def test_a_worker_whose_trial_is_never_stopped_reports_only_the_last_epoch_of_a_second(
    study: StudyFolder, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("xraytune.search.worker.time.monotonic", lambda: 0.0)

    (end,) = steps(replace(job(study, 81), every_epoch=False), 1)

    assert isinstance(end, TrialResult)
    assert epochs(study, 81) == [1, 2, 3]


def test_a_worker_trains_only_a_generator_and_the_next_one_uses_it(study: StudyFolder) -> None:
    trial = job(study, 75, source="gan", synthetic_ratio=0.5, gan=GAN | {"steps": 3})
    gans = study.path.parent.parent / "cache" / GAN_STAGE

    said = steps(replace(trial, only_generator=True), 1)
    trained = {*gans.iterdir()}
    steps(trial, 1)

    assert said == [GeneratorTrained()]
    assert epochs(study, 75) == [1]
    assert read_samples(study.trial_path(75))
    assert {*gans.iterdir()} == trained


def torch_out_of_memory() -> Exception:
    """What torch raises on this CPU."""
    try:
        torch.empty(2**60, dtype=torch.uint8)
    except RuntimeError as error:
        return error
    raise AssertionError


@pytest.mark.parametrize(
    ("error", "cause"),
    [
        (TrialError("the loss is not finite"), "settings"),
        (DataError("this image cannot be read"), "fault"),
        (OSError("a cable was pulled"), "fault"),
        (MemoryError(), "memory"),
        (torch.OutOfMemoryError("CUDA out of memory"), "memory"),
        (torch_out_of_memory(), "memory"),
    ],
)
def test_trial_error_is_reported_with_cause_and_traceback(
    tmp_path: Path, error: Exception, cause: str
) -> None:
    (tmp_path / "config.json").touch()

    message = next_message(failing(error), tmp_path)

    assert isinstance(message, TrialFailed)
    assert message.cause == cause
    assert str(error) in message.reason
    assert "error.txt" in message.reason
    assert type(error).__name__ in (tmp_path / "error.txt").read_text(encoding="utf-8")


def test_missing_storage_or_disk_space_is_not_a_trial_failure(tmp_path: Path) -> None:
    full = MachineError("the disk is full")
    away = OSError(errno.ESTALE, "Stale file handle", str(tmp_path / "pixels.npy"))

    node = f"on {platform.node()}: "
    assert next_message(failing(full), tmp_path) == TrialFailed(
        reason=f"{node}the disk is full", cause="machine"
    )
    message = next_message(failing(away), tmp_path)

    assert isinstance(message, TrialFailed)
    assert message.cause == "machine"
    assert message.reason.startswith(
        f"{node}{tmp_path / 'pixels.npy'}: the storage does not answer (Stale file handle)"
    )


def test_an_error_on_a_machine_that_does_not_see_the_study_is_not_the_trials(
    study: StudyFolder,
) -> None:
    """As where another disk is mounted at its path: nothing is written there."""
    elsewhere = StudyFolder(study.path.with_name("another disk"))
    task = replace(job(study, 82), study=str(elsewhere.path))

    (message,) = steps(task, 1)

    assert isinstance(message, TrialFailed)
    assert message.cause == "machine"
    assert "another disk" in message.reason
    assert not elsewhere.path.exists()


@pytest.mark.parametrize(
    ("file", "change", "reason"),
    [
        ("environment.json", {"compute": GPU}, "sees no GPU here"),
        ("environment.json", {"packages": OLD}, "trained with torch 2.0.1 and torchvision"),
        ("split.json", {"images": None}, "split.json"),
    ],
    ids=["a lost GPU", "another torch", "a damaged file"],
)
def test_machine_that_cannot_run_the_study_stops_the_search_without_failing_trials(
    study: StudyFolder,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    file: str,
    change: dict[str, Any],
    reason: str,
) -> None:
    """As a node of a cluster that was not upgraded; a damaged file is a fault of the trial."""
    monkeypatch.setattr("torch.cuda.is_available", lambda: False)
    copy = StudyFolder(Path(shutil.copytree(study.path, tmp_path / "studies" / "one")))
    write_json(copy.path / file, read_json(copy.path / file) | change)

    (message,) = steps(job(copy, 10), 1)

    assert isinstance(message, TrialFailed)
    assert message.cause == ("machine" if file == "environment.json" else "fault")
    assert reason in message.reason
    assert not copy.checkpoint_path(10).exists()


def test_trial_continues_while_owner_is_unreadable(study: StudyFolder) -> None:
    worker = TrialWorker(job(study, 12))
    worker.step()
    owner = study.trial_path(12) / ".owner"
    owner.unlink()
    owner.mkdir()  # reading it is an OSError, as when a network file system does not answer

    message = worker.step()

    worker.close()
    assert isinstance(message, EpochRecord)


def process_of(study: StudyFolder, number: int, *prefix: str) -> subprocess.Popen[str]:
    """A process that has ended the first epoch of a new trial when this returns, and then hangs."""
    text = json.dumps(asdict(job(study, number)))
    process = subprocess.Popen(
        [*prefix, sys.executable, "-c", WORKER, text, "600"],
        stdout=subprocess.PIPE,
        text=True,
        start_new_session=True,
    )
    assert process.stdout is not None
    assert process.stdout.readline() == "EpochRecord\n"
    return process


@pytest.mark.parametrize("why", ["its trial runs elsewhere", "the study is moved"])
def test_process_exits_when_its_trial_is_no_longer_its_own(study: StudyFolder, why: str) -> None:
    """Also if it was suspended meanwhile."""
    folder = StudyFolder(Path(shutil.copytree(study.path, study.path.with_name(why))))
    process = process_of(folder, 3)
    if why == "its trial runs elsewhere":
        process.send_signal(signal.SIGSTOP)
        begin_attempt(folder.trial_path(3))
        process.send_signal(signal.SIGCONT)
    else:
        folder.path.rename(study.path.with_name("elsewhere"))
    process.communicate(timeout=120)

    assert process.returncode == 1
    if why == "the study is moved":
        assert not folder.path.exists(), "it makes no folder in the place of the old one"
    else:
        assert epochs(folder, 3) == [1]


def test_process_exits_when_its_parent_is_gone(study: StudyFolder) -> None:
    shell = process_of(study, 5, "sh", "-c", '"$@"; true', "sh")
    shell.kill()
    shell.communicate(timeout=120)  # its output is closed once the worker is gone too

    assert epochs(study, 5) == [1]


def test_an_earlier_attempt_writes_nothing_more(
    study: StudyFolder, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("xraytune.search.worker._LOOK_SECONDS", 3600.0)  # its check comes late
    worker = TrialWorker(job(study, 6))
    worker.step()
    begin_attempt(study.trial_path(6))

    with pytest.raises(TakenOverError):
        worker.step()

    worker.close()
    assert epochs(study, 6) == [1]
    assert not (study.trial_path(6) / "checkpoint" / "checkpoint.pt").exists()
