"""Locks have one owner at a time, and end with it."""

import errno
import os
import subprocess
import sys
from contextlib import ExitStack
from pathlib import Path

import pytest

from xraytune.base.errors import MachineError
from xraytune.base.locks import LockHeldError, build_lock, current_owner, hold

HOLD = """
import sys
from pathlib import Path
from xraytune.base.locks import hold
with hold(Path(sys.argv[1])):
    print("mine", flush=True)
    sys.stdin.read()
"""


@pytest.mark.slow
def test_the_lock_of_a_killed_process_is_free_at_once(tmp_path: Path) -> None:
    command = [sys.executable, "-c", HOLD, str(tmp_path / "lock")]
    process = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
    assert process.stdout is not None
    assert process.stdout.readline() == "mine\n"
    with pytest.raises(LockHeldError) as refusal, hold(tmp_path / "lock"):
        pass
    process.kill()
    process.communicate()

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


def test_waiting_for_the_work_of_another_process_is_said_once(
    tmp_path: Path, waited_for: tuple[ExitStack, list[str]]
) -> None:
    """Unless the caller says it, as a bar of progress."""
    other, messages = waited_for
    other.enter_context(build_lock(tmp_path / "lock"))
    with build_lock(tmp_path / "lock"):
        other.enter_context(build_lock(tmp_path / "another"))
        with build_lock(tmp_path / "another", other.close):
            pass

    (message,) = messages
    assert message.startswith(f"{tmp_path}: waiting for another process")
