"""Leases have one owner at a time, on one machine and between machines, and end with it."""

import errno
import json
import os
import signal
import subprocess
import sys
import threading
from dataclasses import asdict
from pathlib import Path

import pytest

from xraytune.base import lease
from xraytune.base.errors import MachineError
from xraytune.base.files import append_jsonl, write_text
from xraytune.base.lease import (
    LeaseHeldError,
    build_lock,
    current_owner,
    has_ownership,
    hold,
    read_owner,
    take_ownership,
)

HOLD = """
import sys
from pathlib import Path
from xraytune.base.lease import build_lock, hold
with (hold if sys.argv[1] == "held" else build_lock)(Path(sys.argv[2])):
    print("mine", flush=True)
    sys.stdin.read()
"""


def another_process(kind: str, path: Path) -> subprocess.Popen[str]:
    """Start a process that holds the lock when this returns, until its stdin is closed."""
    process = subprocess.Popen(
        [sys.executable, "-c", HOLD, kind, str(path)], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    )
    assert process.stdout is not None
    assert process.stdout.readline() == "mine\n"
    return process


def end(process: subprocess.Popen[str], number: int = signal.SIGKILL) -> None:
    process.send_signal(number)
    process.communicate()


def owner_elsewhere(path: Path, host: str = "node-7") -> None:
    """Write the record of an owner on another machine."""
    owner = {"token": "t", "host": host, "pid": 4711, "kernel": "another", "since": "2026-01-01T00:00:00+00:00"}
    path.write_text(json.dumps(owner), encoding="utf-8")


@pytest.mark.slow
def test_the_lease_of_a_killed_process_is_free_at_once(tmp_path: Path) -> None:
    process = another_process("held", tmp_path / "lock")
    with pytest.raises(LeaseHeldError), hold(tmp_path / "lock"):
        pass
    end(process)

    assert not current_owner(tmp_path / "lock")
    with hold(tmp_path / "lock") as owner:
        assert owner.pid == os.getpid()


def test_a_lease_is_released_when_its_block_fails(tmp_path: Path) -> None:
    with pytest.raises(ZeroDivisionError), hold(tmp_path / "lock"):
        1 / 0  # noqa: B018

    assert read_owner(tmp_path / "lock") is None


@pytest.mark.slow
def test_an_owner_on_another_machine_counts_while_its_heartbeat_lasts(tmp_path: Path) -> None:
    owner_elsewhere(tmp_path / "lock")

    with lease.heartbeat(tmp_path / "lock"), pytest.raises(LeaseHeldError) as refusal, hold(tmp_path / "lock"):
        pass

    assert str(refusal.value.owner) == "process 4711 on node-7, since 2026-01-01T00:00:00+00:00"


@pytest.mark.slow
def test_the_lease_of_a_failed_node_is_taken_over_when_its_heartbeat_stops(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    owner_elsewhere(tmp_path / "lock")
    monkeypatch.setattr(lease, "PATIENCE_SECONDS", 0.3)

    with hold(tmp_path / "lock") as owner:
        assert owner.host != "node-7"


def test_an_owner_that_lost_its_lease_writes_nothing_more(tmp_path: Path) -> None:
    with hold(tmp_path / "lock"):
        write_text(tmp_path / "before", "x")
        owner_elsewhere(tmp_path / "lock")
        with pytest.raises(LeaseHeldError):
            append_jsonl(tmp_path / "rows.jsonl", {"number": 1})

    assert {path.name for path in tmp_path.iterdir()} == {"lock", "before"}
    taken = read_owner(tmp_path / "lock")
    assert taken is not None, "the new owner's lease stays"
    assert taken.host == "node-7"


@pytest.mark.slow
def test_without_file_locks_the_heartbeat_decides_on_one_machine_too(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As on Lustre mounted without `-o flock`."""

    def no_flock(*_: object) -> None:
        raise OSError(errno.ENOSYS, "Function not implemented")

    monkeypatch.setattr("fcntl.flock", no_flock)
    with hold(tmp_path / "lock") as owner:
        assert current_owner(tmp_path / "lock")
        with pytest.raises(LeaseHeldError) as refusal, hold(tmp_path / "lock"):
            pass
    assert refusal.value.owner == owner
    assert not current_owner(tmp_path / "lock")

    (tmp_path / "lock").write_text(json.dumps(asdict(owner)), encoding="utf-8")  # as if it had been killed
    monkeypatch.setattr(lease, "PATIENCE_SECONDS", 0.3)
    with hold(tmp_path / "lock") as second:
        assert second != owner


def test_waiting_contender_sees_the_current_owner(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    owner_elsewhere(tmp_path / "lock", "lost-node")
    monkeypatch.setattr("time.sleep", lambda _: owner_elsewhere(tmp_path / "lock", "node-8"))

    with pytest.raises(LeaseHeldError) as refusal, hold(tmp_path / "lock"):
        pass

    assert refusal.value.owner is not None
    assert refusal.value.owner.host == "node-8"


def test_no_write_while_the_owner_is_unreadable(tmp_path: Path) -> None:
    with pytest.raises(MachineError, match="the storage does not answer"), hold(tmp_path / "lock"):  # noqa: PT012
        (tmp_path / "lock").unlink()
        (tmp_path / "lock").mkdir()  # reading it is an OSError, as with a network file system that is away
        write_text(tmp_path / "file", "x")

    assert not (tmp_path / "file").exists()


def test_nothing_is_written_to_a_folder_that_was_moved_away(tmp_path: Path) -> None:
    (tmp_path / "study").mkdir()
    with pytest.raises(MachineError, match="lock: the lock file is gone"), hold(tmp_path / "study" / "lock"):  # noqa: PT012
        (tmp_path / "study").rename(tmp_path / "elsewhere")
        write_text(tmp_path / "study" / "file", "x")

    assert not (tmp_path / "study").exists()


def test_a_truncated_lock_file_has_no_owner(tmp_path: Path) -> None:
    (tmp_path / "lock").write_text('{"token": "t", "ho', encoding="utf-8")

    with hold(tmp_path / "lock"):
        pass


@pytest.mark.slow
def test_the_same_work_is_done_by_one_process_at_a_time(tmp_path: Path) -> None:
    process = another_process("turn", tmp_path / "lock")
    had_turn = threading.Event()

    def wait() -> None:
        with build_lock(tmp_path / "lock"):
            had_turn.set()

    waiting = threading.Thread(target=wait)
    waiting.start()
    assert not had_turn.wait(0.5)
    end(process)
    waiting.join()
    assert had_turn.is_set()


@pytest.mark.slow
def test_a_third_process_waits_while_the_second_works(tmp_path: Path) -> None:
    """The first one has removed the lock file that the second waited for."""
    second_waits, second_began, second_may_end = (threading.Event() for _ in range(3))
    queue_: list[str] = []

    def second() -> None:
        with build_lock(tmp_path / "lock", second_waits.set):
            queue_.append("second begins")
            second_began.set()
            second_may_end.wait()
            queue_.append("second ends")

    with build_lock(tmp_path / "lock"):
        waiter = threading.Thread(target=second)
        waiter.start()
        second_waits.wait()
    second_began.wait()
    with build_lock(tmp_path / "lock", second_may_end.set):
        queue_.append("third begins")
        second_may_end.set()
    waiter.join()

    assert queue_ == ["second begins", "second ends", "third begins"]


@pytest.mark.slow
def test_waiting_process_reports_progress(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(lease, "PATIENCE_SECONDS", 0.5)
    calls: list[bool] = []

    with build_lock(tmp_path / "lock"), build_lock(tmp_path / "lock", lambda: calls.append(True)):
        pass
    with build_lock(tmp_path / "lock", lambda: calls.append(False)):
        pass

    assert calls
    assert all(calls), "only while another process holds the lock"


@pytest.mark.slow
def test_a_suspended_process_is_not_waited_for(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(lease, "PATIENCE_SECONDS", 0.5)
    process = another_process("turn", tmp_path / "lock")
    process.send_signal(signal.SIGSTOP)
    try:
        with build_lock(tmp_path / "lock"):
            pass
    finally:
        end(process)


def test_the_newest_owner_of_a_folder_wins(tmp_path: Path) -> None:
    first = take_ownership(tmp_path / ".claim")
    assert has_ownership(tmp_path / ".claim", first)

    second = take_ownership(tmp_path / ".claim")

    assert not has_ownership(tmp_path / ".claim", first)
    assert has_ownership(tmp_path / ".claim", second)
