"""A W&B that fails or hangs costs one warning; `test_tracker_faults.py` has the same with the real one.

No clock is needed to see that a call does not wait: it returns while W&B still hangs, which only the test can end.
"""

import sys
import threading
from collections.abc import Callable, Iterator
from dataclasses import replace
from functools import partial
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest

from tests.search.wandb.test_wandb import EPOCHS
from xraytune.search.wandb import TrackedRun, WandbRun, publish
from xraytune.space.settings import WandbSettings

CALLS = ("setup", "init", "log", "finish", "teardown")
AT_ONCE = 0.01
SOON = 30.0


class FakeWandb(ModuleType):
    """The part of wandb that xraytune calls, and the run that `init` returns.

    Args:
        at: The call that fails.
        error: Raised by it; None: it hangs until the test sets `release`.
        starting_step: The step at which the server resumes the run.
    """

    def __init__(self, at: str = "", error: BaseException | None = None, *, starting_step: int = 0) -> None:
        super().__init__("wandb")
        self.starting_step = starting_step
        self._at, self._error = at, error
        self.reached, self.release = threading.Event(), threading.Event()
        self.calls: list[str] = []
        self.steps: list[int] = []
        self.summary: dict[str, Any] = {}
        self.setup, self.init, self.finish, self.teardown = (
            partial(self.call, name) for name in ("setup", "init", "finish", "teardown")
        )

    def call(self, call: str, /, **_: object) -> "FakeWandb":
        self.calls.append(call)
        if call == self._at:
            self.reached.set()
            if self._error is not None:
                raise self._error
            self.release.wait()
        return self

    Settings = Image = define_metric = staticmethod(lambda *_, **__: None)

    def log(self, values: dict[str, Any], *, step: int, commit: bool) -> None:
        assert values
        assert commit, "an epoch is visible when it has ended"
        self.call("log")
        self.steps.append(step)


Install = Callable[[FakeWandb], FakeWandb]


@pytest.fixture
def install(monkeypatch: pytest.MonkeyPatch) -> Iterator[Install]:
    """Replace wandb with a fake; calls that hang return when the test ends."""
    installed: list[FakeWandb] = []

    def install(fake: FakeWandb) -> FakeWandb:
        monkeypatch.setitem(sys.modules, "wandb", fake)
        installed.append(fake)
        return fake

    yield install
    for fake in installed:
        fake.release.set()


def track(trial: TrackedRun, *, finish_seconds: float = SOON, before_end: threading.Event | None = None) -> None:
    """Track a complete trial, which ends after an event."""
    run = WandbRun(WandbSettings(mode="offline"), trial, finish_seconds=finish_seconds)
    for record in EPOCHS:
        run.log(record)
    if before_end:
        assert before_end.wait(SOON)
        run.log(EPOCHS[-1])
    run.finish("complete")


def warnings_of(caplog: pytest.LogCaptureFixture) -> list[str]:
    return [record.getMessage() for record in caplog.records if record.name.startswith("xraytune")]


@pytest.mark.parametrize("call", CALLS)
def test_wandb_exception_gives_one_warning(
    call: str, trial: TrackedRun, install: Install, caplog: pytest.LogCaptureFixture
) -> None:
    fake = install(FakeWandb(call, SystemExit(1) if call == "init" else OSError("no network")))

    track(trial)

    assert fake.calls.count(call) == 1, "a failed call is not repeated"
    (message,) = warnings_of(caplog)
    assert message.startswith("W&B failed, and no result is lost")
    assert "epochs.jsonl" in message


@pytest.mark.parametrize("call", CALLS)
def test_unresponsive_wandb_is_abandoned(
    call: str, trial: TrackedRun, install: Install, caplog: pytest.LogCaptureFixture
) -> None:
    fake = install(FakeWandb(call))

    track(trial, finish_seconds=AT_ONCE, before_end=fake.reached if call in {"setup", "init", "log"} else None)

    assert not fake.release.is_set(), "it still hangs, and every call has returned"
    (message,) = warnings_of(caplog)
    assert f"did not answer within {AT_ONCE} s" in message


def test_an_abandoned_wandb_gets_no_further_calls(trial: TrackedRun, install: Install) -> None:
    fake, earlier = install(FakeWandb("init")), threading.enumerate()
    track(trial, finish_seconds=AT_ONCE, before_end=fake.reached)

    fake.release.set()
    (thread,) = (thread for thread in threading.enumerate() if thread.name == "W&B" and thread not in earlier)
    thread.join(SOON)

    assert not thread.is_alive()
    assert fake.calls == ["setup", "init"]


def test_finished_work_that_cannot_be_sent_costs_one_warning(
    trial: TrackedRun, install: Install, caplog: pytest.LogCaptureFixture, tmp_path: Path
) -> None:
    install(FakeWandb("init", OSError("no network")))

    publish(WandbSettings(), replace(trial, kind="train"), {"threshold": 0.4}, epochs=EPOCHS, model=tmp_path)

    (message,) = warnings_of(caplog)
    assert message.startswith("W&B failed, and no result is lost: OSError: no network (metrics are in")


def test_logged_epochs_are_not_sent_again(trial: TrackedRun, install: Install) -> None:
    """The server reports the step at which the run resumes: the third, after two epochs."""
    fake = install(FakeWandb(starting_step=3))

    track(trial)

    assert fake.steps == [3]
    assert (fake.summary["value"], fake.summary["best_epoch"]) == (0.9, 2)
