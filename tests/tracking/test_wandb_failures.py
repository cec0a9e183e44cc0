"""A W&B that fails, hangs or is logged out costs one warning.

No clock is needed to see that a call does not wait: it returns while W&B still hangs, which only the test can end.
"""

import os
import socket
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from PIL import Image

from tests.tracking.fake_wandb import FakeWandb
from tests.tracking.test_wandb import EPOCHS, a_grid
from xraytune.config.settings import WandbSettings
from xraytune.tracking.wandb import TrackedTrial, WandbRun

Install = Callable[[FakeWandb], FakeWandb]
CALLS = ("setup", "init", "log", "finish", "teardown")
AT_ONCE = 0.01
SOON = 30.0


def track(trial: TrackedTrial, *, finish_seconds: float = SOON, **options: int) -> WandbRun:
    """Track a complete trial."""
    run = WandbRun(WandbSettings(mode="offline"), trial, samples=a_grid, finish_seconds=finish_seconds, **options)
    for record in EPOCHS:
        run.log(record)
    run.finish("complete")
    return run


def warnings_of(caplog: pytest.LogCaptureFixture) -> list[str]:
    return [record.getMessage() for record in caplog.records if record.name.startswith("xraytune")]


@pytest.mark.parametrize("call", CALLS)
@pytest.mark.parametrize("error", [OSError("no network"), SystemExit(1)])
def test_wandb_exception_gives_one_warning(
    call: str, error: BaseException, trial: TrackedTrial, install: Install, caplog: pytest.LogCaptureFixture
) -> None:
    fake = install(FakeWandb(call, error))

    track(trial)

    assert fake.calls.count(call) == 1, "a failed call is not repeated"
    (message,) = warnings_of(caplog)
    assert message.startswith("W&B failed, the trial continues")
    assert "epochs.jsonl" in message


@pytest.mark.parametrize("call", CALLS)
def test_unresponsive_wandb_is_abandoned(
    call: str, trial: TrackedTrial, install: Install, caplog: pytest.LogCaptureFixture
) -> None:
    fake = install(FakeWandb(call))

    run = WandbRun(WandbSettings(mode="offline"), trial, samples=a_grid, finish_seconds=AT_ONCE)
    for record in EPOCHS:
        run.log(record)
    if call in {"setup", "init", "log"}:
        assert fake.reached.wait(SOON)
        run.log(EPOCHS[-1])
    run.finish("complete")

    assert not fake.release.is_set(), "it still hangs, and every call has returned"
    (message,) = warnings_of(caplog)
    assert f"did not answer within {AT_ONCE} s" in message


def test_an_abandoned_wandb_gets_no_further_calls(trial: TrackedTrial, install: Install) -> None:
    fake = install(FakeWandb("init"))
    track(trial, finish_seconds=AT_ONCE)
    assert fake.reached.wait(SOON)

    fake.release.set()
    (thread,) = (thread for thread in threading.enumerate() if thread.name == "wandb")
    thread.join(SOON)

    assert not thread.is_alive()
    assert fake.calls == ["setup", "init"]


def test_full_queue_drops_records_with_one_warning(
    trial: TrackedTrial, install: Install, caplog: pytest.LogCaptureFixture
) -> None:
    fake = install(FakeWandb("init"))
    run = WandbRun(WandbSettings(mode="offline"), trial, finish_seconds=AT_ONCE, most_waiting=2)
    assert fake.reached.wait(SOON)

    for record in EPOCHS * 3:
        run.log(record)
    run.finish("complete")

    (message,) = warnings_of(caplog)
    assert "does not keep up" in message
    assert not fake.release.is_set()


def test_a_queue_that_was_full_still_ends_the_run(trial: TrackedTrial, install: Install) -> None:
    """W&B was only slow: the queued epochs arrive, and the run ends."""
    fake = install(FakeWandb("init"))
    run = WandbRun(WandbSettings(mode="offline"), trial, finish_seconds=SOON, most_waiting=2)
    assert fake.reached.wait(SOON)
    for record in EPOCHS:
        run.log(record)

    fake.release.set()
    run.finish("complete")

    assert fake.calls == ["setup", "init", "log", "log", "finish", "teardown"]


def test_a_grid_that_cannot_be_drawn_does_not_affect_the_trial(
    trial: TrackedTrial, install: Install, caplog: pytest.LogCaptureFixture
) -> None:
    install(FakeWandb())

    def broken() -> Image.Image:
        raise ValueError("no pixels")

    run = WandbRun(WandbSettings(mode="offline"), trial, samples=broken)
    run.log(EPOCHS[0])
    run.finish("complete")

    (message,) = warnings_of(caplog)
    assert "ValueError: no pixels" in message


def test_a_missing_wandb_is_reported(
    trial: TrackedTrial, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setitem(sys.modules, "wandb", None)

    track(trial)

    (message,) = warnings_of(caplog)
    assert "import of wandb halted" in message


def test_a_message_holds_no_secret(
    trial: TrackedTrial, install: Install, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setenv("WANDB_API_KEY", "0f" * 20)
    install(FakeWandb("init", OSError(f"key {'0f' * 20} refused\nby http://me:hidden@proxy.org:3128/")))

    track(trial)

    (message,) = warnings_of(caplog)
    assert "key *** refused; by http://***@proxy.org:3128/" in message


TRIAL = """
import logging, sys, threading
from pathlib import Path
from tests.tracking.test_wandb import EPOCHS, a_grid
from xraytune.config.settings import Experiment, Parameters, Settings, WandbSettings
from xraytune.tracking.wandb import TrackedTrial, WandbRun

folder, finish_seconds = Path(sys.argv[1]), float(sys.argv[2])
trial = TrackedTrial(
    experiment=Experiment(
        settings=Settings.model_validate({"name": "small", "data": {"path": folder / "xrays"}}), parameters=Parameters()
    ),
    study="small", study_identity="3f9a1c77", number=7, label="small #7", folder=folder,
)
run = WandbRun(WandbSettings(mode="online"), trial, samples=a_grid, finish_seconds=finish_seconds)
for record in EPOCHS:
    run.log(record)
run.finish("complete")
print("the trial has ended", [thread.name for thread in threading.enumerate()])
"""


def a_trial_online(folder: Path, finish_seconds: float, **environment: str) -> str:
    """Run the trial as a process with the real wandb, and return its output.

    `run` returns when no process has the output open any more, so W&B's service has ended too.
    """
    kept = {name: value for name, value in os.environ.items() if not name.startswith("WANDB_")}
    done = subprocess.run(
        [sys.executable, "-c", TRIAL, str(folder), str(finish_seconds)],
        env=kept | {"HOME": str(folder), "PYTHONPATH": os.pathsep.join(sys.path)} | environment,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        check=True,
        timeout=60,  # W&B itself gives up on a server after 90
    )
    assert "the trial has ended" in done.stdout, done.stdout
    return done.stdout


@pytest.fixture
def silent_server() -> Iterator[str]:
    """A server that accepts connections and never answers."""
    with socket.create_server(("127.0.0.1", 0), backlog=64) as server:
        yield f"http://127.0.0.1:{server.getsockname()[1]}"


@pytest.mark.slow
def test_without_a_network_the_process_of_a_trial_still_ends(tmp_path: Path) -> None:
    with socket.create_server(("127.0.0.1", 0)) as server:
        port = server.getsockname()[1]

    output = a_trial_online(tmp_path, 3.0, WANDB_API_KEY="0f" * 20, WANDB_BASE_URL=f"http://127.0.0.1:{port}")

    assert output.count("W&B failed, the trial continues") == 1
    assert "0f0f" not in output


@pytest.mark.slow
def test_with_a_server_that_never_answers_the_process_of_a_trial_still_ends(tmp_path: Path, silent_server: str) -> None:
    output = a_trial_online(tmp_path, 3.0, WANDB_API_KEY="0f" * 20, WANDB_BASE_URL=silent_server)

    assert output.count("W&B failed, the trial continues") == 1
    assert "did not answer within 3 s" in output


@pytest.mark.slow
@pytest.mark.parametrize("key", ["", "too-short"])
def test_a_missing_login_is_reported_with_what_to_do(tmp_path: Path, key: str, silent_server: str) -> None:
    output = a_trial_online(tmp_path, SOON, WANDB_API_KEY=key, WANDB_BASE_URL=silent_server)

    assert output.count("W&B failed, the trial continues") == 1
    assert "wandb sync" in output
    assert "Otel" not in output, "no thread reports W&B's failure to a server"
    assert "too-short" not in output
