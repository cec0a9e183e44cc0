"""Locks have one owner at a time, and end with it."""

import errno
import os
import signal
import subprocess
import sys
import threading
from pathlib import Path

import pytest

from xraytune.base.errors import MachineError
from xraytune.base.locks import LockHeldError, build_lock, current_owner, hold

HOLD = """
import sys
from pathlib import Path
from xraytune.base.locks import build_lock, hold
with (hold if sys.argv[1] == "held" else build_lock)(Path(sys.argv[2])):
    print("mine", flush=True)
    sys.stdin.read()
"""


def another_process(kind: str, path: Path) -> subprocess.Popen[str]:
    """Start a process that holds the lock when this returns, until its stdin is closed."""
    process = subprocess.Popen(
        [sys.executable, "-c", HOLD, kind, str(path)],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
    )
    assert process.stdout is not None
    assert process.stdout.readline() == "mine\n"
    return process


def kill(process: subprocess.Popen[str]) -> None:
    process.send_signal(signal.SIGKILL)
    process.communicate()


@pytest.mark.slow
def test_the_lock_of_a_killed_process_is_free_at_once(tmp_path: Path) -> None:
    process = another_process("held", tmp_path / "lock")
    with pytest.raises(LockHeldError) as refusal, hold(tmp_path / "lock"):
        pass
    kill(process)

    assert refusal.value.owner is not None
    assert refusal.value.owner.pid == process.pid
    assert current_owner(tmp_path / "lock") is None
    with hold(tmp_path / "lock", "searched"):
        owner = current_owner(tmp_path / "lock")
        assert owner is not None
        assert (owner.pid, owner.work) == (os.getpid(), "searched")


def test_storage_without_locks_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """As Lustre mounted without `-o flock`."""

    def no_flock(*_: object) -> None:
        raise OSError(errno.ENOSYS, "Function not implemented")

    monkeypatch.setattr("fcntl.flock", no_flock)
    with (
        pytest.raises(MachineError, match="this storage has no file locks"),
        hold(tmp_path / "lock"),
    ):
        pass


@pytest.mark.slow
def test_the_same_work_is_done_by_one_process_at_a_time(tmp_path: Path) -> None:
    process = another_process("turn", tmp_path / "lock")
    waits, had_turn = threading.Event(), threading.Event()

    def wait() -> None:
        with build_lock(tmp_path / "lock", waits.set):
            had_turn.set()

    waiting = threading.Thread(target=wait)
    waiting.start()
    waits.wait()
    assert not had_turn.is_set()
    kill(process)
    waiting.join()
    assert had_turn.is_set()
