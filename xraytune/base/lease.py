"""Leases: locks that end with their owner, on one machine and on shared storage.

Between processes of one kernel `flock` decides: the kernel releases it when the owner dies. Between machines, and on file
systems without locks, the heartbeat decides: the owner touches the file every second, and a contender takes over after
seeing no touch for `PATIENCE_SECONDS` of its own clock. An owner that was only suspended then finds another token in the
file and writes nothing more (`files.fenced`).
"""

from __future__ import annotations

import errno
import fcntl
import json
import os
import socket
import time
import uuid
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import asdict, dataclass
from datetime import UTC, datetime
from functools import cache
from io import FileIO
from pathlib import Path
from typing import Literal

from xraytune.base.cores import repeated
from xraytune.base.errors import MachineError, Problem
from xraytune.base.files import AWAY_FIX, explain_disk_errors, fenced, make_folder, write_text

PATIENCE_SECONDS = 10.0
_BEAT_SECONDS = 1.0
_POLL_SECONDS = 0.1
_RECORD_BYTES = 512


@dataclass(frozen=True, slots=True, kw_only=True)
class Owner:
    """The process that holds a lease: `token` identifies the acquisition, `kernel` one boot of one machine."""

    token: str
    host: str
    pid: int
    kernel: str
    since: str
    work: str = ""

    def __str__(self) -> str:
        return f"process {self.pid} on {self.host}, since {self.since}"


class LeaseHeldError(Exception):
    """Another process holds the lease."""

    def __init__(self, owner: Owner | None) -> None:
        super().__init__(owner)
        self.owner = owner


@contextmanager
def hold(path: Path, work: str = "") -> Iterator[Owner]:
    """Hold a lease while the block runs; every durable write of the process first checks that it still does.

    The lock file at `path` stays, and is blank while no process holds the lease; `work` is for `current_owner`.

    Raises:
        LeaseHeldError: Another process holds the lease, or took it over while this one was suspended.
        MachineError: At a later write: the storage does not answer, or the lock file is gone.
    """
    with explain_disk_errors(path):
        path.open("ab").close()  # unlike touch(), this is no heartbeat
    with path.open("rb+", buffering=0) as stream:
        _acquire(path, stream)
        now = datetime.now(UTC).isoformat(timespec="seconds")
        token, host = uuid.uuid4().hex, socket.gethostname()
        holder = Owner(token=token, host=host, pid=os.getpid(), kernel=_kernel(), since=now, work=work)
        with explain_disk_errors(path):
            _overwrite(stream, json.dumps(asdict(holder)))

        def check() -> None:
            try:
                owner, exists = read_owner(path), path.exists()
            except OSError as error:
                what = f"the storage does not answer ({error.strerror})"
                raise MachineError(Problem(what, path, AWAY_FIX)) from error
            if not exists:
                what = "the lock file is gone: its folder was renamed or removed, or its storage is unmounted"
                raise MachineError(Problem(what, path, "restore it, and run the same command again"))
            if owner is None or owner.token != token:
                raise LeaseHeldError(owner)

        try:
            with heartbeat(path), fenced(check):
                yield holder
        finally:
            with suppress(OSError):  # if the storage is unavailable, the block's own error is more informative
                if read_owner(path) == holder:
                    _overwrite(stream, "")


def _acquire(path: Path, stream: FileIO) -> None:
    """Return when no other process holds the lease, else raise LeaseHeldError."""
    first_mtime, deadline = path.stat().st_mtime_ns, time.monotonic() + PATIENCE_SECONDS
    while True:
        lock, owner = _try_lock(stream), read_owner(path)
        lock_decides = lock != "unsupported" and (owner is None or owner.kernel == _kernel())
        is_free = lock == "acquired" if lock_decides else owner is None
        is_over = time.monotonic() >= deadline
        if is_free or (is_over and not lock_decides):
            return
        if is_over or (owner and path.stat().st_mtime_ns != first_mtime):
            raise LeaseHeldError(owner)
        time.sleep(_POLL_SECONDS)  # `current_owner` of another process has the lock for an instant


def current_owner(path: Path) -> Owner | None:
    """Return the live process that holds a lease, without acquiring it."""
    try:
        stream = path.open("rb", buffering=0)
    except FileNotFoundError:
        return None
    with stream:
        owner = _read(stream)
        is_local = owner is not None and owner.kernel == _kernel()
        lock = _try_lock(stream, fcntl.LOCK_SH) if is_local else "unsupported"
        was_touched = time.time() - os.fstat(stream.fileno()).st_mtime < PATIENCE_SECONDS
    return owner if lock == "taken" or (lock == "unsupported" and was_touched) else None


def read_owner(path: Path) -> Owner | None:
    """Return the process that holds a lease, or held it when it was killed."""
    try:
        with path.open("rb", buffering=0) as stream:  # opening makes a network file system ask its server
            return _read(stream)
    except FileNotFoundError:
        return None


@contextmanager
def build_lock(path: Path, waiting: Callable[[], None] = lambda: None) -> Iterator[None]:
    """Wait until no other process does the same work: it is done or dead, or has not touched `path` for `PATIENCE_SECONDS`.

    This only saves work: two processes may run at once where locks do not reach, or while an owner is suspended. The file is
    removed afterwards. `waiting` is called several times a second while another process holds the lock.
    """
    with explain_disk_errors(path):
        make_folder(path.parent)
    with _wait_for_lock(path, waiting) as stream, heartbeat(path):
        try:
            yield
        finally:
            if _is_at(path, stream):
                path.unlink(missing_ok=True)


def _wait_for_lock(path: Path, waiting: Callable[[], None]) -> FileIO:
    """Lock the file that is now at `path`: a previous owner may have removed the one that was waited for."""
    last_mtime, seen = -1, time.monotonic()
    while True:
        with explain_disk_errors(path):
            stream = path.open("ab", buffering=0)
        mtime = os.fstat(stream.fileno()).st_mtime_ns
        if mtime != last_mtime:
            last_mtime, seen = mtime, time.monotonic()
        is_free = _try_lock(stream) != "taken" and _is_at(path, stream)
        if is_free or time.monotonic() - seen >= PATIENCE_SECONDS:
            return stream
        stream.close()
        waiting()
        time.sleep(_POLL_SECONDS)


def _is_at(path: Path, stream: FileIO) -> bool:
    try:
        return os.path.samestat(path.stat(), os.fstat(stream.fileno()))
    except OSError:  # removed, here or by another machine
        return False


@contextmanager
def heartbeat(path: Path) -> Iterator[None]:
    """Touch a file every second while the block runs."""

    def beat() -> None:
        with suppress(OSError):  # the file is gone, or its storage is away for a while
            os.utime(path)

    beat()
    with repeated(beat, _BEAT_SECONDS):
        yield


def take_ownership(path: Path) -> str:
    """Take over a folder from its previous owner, and return the token that `path` now holds, which ends with the host."""
    token = f"{uuid.uuid4().hex} {socket.gethostname()}"
    write_text(path, token, durable=False)
    return token


def has_ownership(path: Path, token: str) -> bool:
    """Return whether no process has taken over since `take_ownership`. Storage that does not answer counts as yes."""
    try:
        return path.read_text(encoding="utf-8") == token
    except OSError:
        return True


def may_hold_lease(path: Path, token: str) -> bool:
    """Return whether no other process holds this lease; True if the storage does not answer, False if the folder is lost."""
    try:
        owner = read_owner(path)
        return owner.token == token if owner else path.parent.is_dir()
    except OSError:
        return True


def _try_lock(stream: FileIO, kind: int = fcntl.LOCK_EX) -> Literal["acquired", "taken", "unsupported"]:
    try:
        fcntl.flock(stream, kind | fcntl.LOCK_NB)
    except OSError as error:
        return "taken" if error.errno in {errno.EWOULDBLOCK, errno.EACCES} else "unsupported"
    return "acquired"


def _read(stream: FileIO) -> Owner | None:
    try:
        return Owner(**json.loads(stream.read(2**16)))
    except (ValueError, TypeError):  # released, or torn in the middle of a write
        return None


def _overwrite(stream: FileIO, content: str) -> None:
    """Write in place, so that a lease can be acquired and released even on a full disk."""
    stream.seek(0)
    stream.write(content.encode().ljust(_RECORD_BYTES))


@cache
def _kernel() -> str:
    try:
        return Path("/proc/sys/kernel/random/boot_id").read_text(encoding="ascii").strip()
    except OSError:
        return f"{socket.gethostname()}-{uuid.getnode():x}"
