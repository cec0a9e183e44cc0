"""Claims that end with their owner, however it ends, on one machine and on shared storage.

Where owner and rival share a kernel, a file lock decides: the system frees it when the owner dies. Between machines such
locks may be absent, or outlive a lost node, so there, and on a file system without any locks, the owner's heartbeat
decides: it touches the file each second, and who sees no touch for `PATIENCE_SECONDS` of its own clock takes over. An owner
that had only slept then finds another's token in the file and writes nothing any more (`files.fenced`).
"""

from __future__ import annotations

import errno
import fcntl
import json
import os
import socket
import threading
import time
import uuid
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import asdict, dataclass
from datetime import UTC, datetime
from functools import cache
from io import FileIO
from pathlib import Path
from typing import Literal, TypeAlias

from xraytune.errors import MachineError, Problem
from xraytune.files import explained_disk_errors, fenced, make_folder, require_own, storage_is_away, write_text

PATIENCE_SECONDS = 10.0
_BEAT_SECONDS = 1.0
_BYTES = 512
_MOST_BYTES = 2**16
_LOOK_SECONDS = 0.1
_Lock: TypeAlias = Literal["ours", "another's", "no locks"]


@dataclass(frozen=True, slots=True, kw_only=True)
class Owner:
    """Who holds a claim.

    Attributes:
        token: Of this one claim.
        host: The machine's name.
        pid: The process.
        kernel: Tells one start of one machine from all others.
        since: ISO time, UTC.
        work: What the process does with it.
    """

    token: str
    host: str
    pid: int
    kernel: str
    since: str
    work: str = ""

    def __str__(self) -> str:
        return f"process {self.pid} on {self.host}, since {self.since}"


class HeldError(Exception):
    """Another process holds the claim."""

    def __init__(self, owner: Owner | None) -> None:
        super().__init__(owner)
        self.owner = owner


@contextmanager
def held(path: Path, work: str = "") -> Iterator[Owner]:
    """Hold a claim while the block runs; each durable write of the process then looks first whether it still does.

    Args:
        path: A file beside what is claimed; it stays, and is blank when nobody holds the claim.
        work: What the process does with it, for those who look.

    Raises:
        HeldError: Another process holds it, or took it over while this one slept.
        MachineError: The disk is full, the system refuses access, or a storage does not answer at a later write.
        ArtifactError: `path` is a symbolic link or a pipe.
    """
    require_own(path)
    with explained_disk_errors(path):
        path.touch()
    with path.open("rb+", buffering=0) as stream:
        rival = _rival(stream, path)
        if rival is not None:
            raise HeldError(rival)
        own = _new_owner(work)
        with explained_disk_errors(path):
            _write(stream, json.dumps(asdict(own)))

        def check() -> None:
            try:
                owner, is_there = read_owner(path), path.exists()
            except OSError as error:
                raise storage_is_away(error, path) from error
            if owner is None and not is_there:
                what = "this is gone: its folder was renamed or removed, or its storage is not there"
                raise MachineError(Problem(what, path, "put it back, and run the same command again"))
            if owner is None or owner.token != own.token:
                raise HeldError(owner)

        try:
            with beating(path), fenced(check):
                yield own
        finally:
            with suppress(OSError):  # its storage is away: what the block raised says more
                if read_owner(path) == own:
                    _write(stream, "")


def living_owner(path: Path) -> Owner | None:
    """The living process that holds a claim; for those who only look."""
    try:
        stream = path.open("rb", buffering=0)
    except FileNotFoundError:
        return None
    with stream:
        owner = _read(stream)
        if owner is None:
            return None
        if owner.kernel == _kernel() and (lock := _lock(stream, fcntl.LOCK_SH)) != "no locks":
            return owner if lock == "another's" else None
        return owner if time.time() - os.fstat(stream.fileno()).st_mtime < PATIENCE_SECONDS else None


def read_owner(path: Path) -> Owner | None:
    """Who holds a claim, or held it when it was killed."""
    try:
        with path.open("rb", buffering=0) as stream:
            return _read(stream)
    except FileNotFoundError:
        return None


@contextmanager
def turn(path: Path, waiting: Callable[[], None] = lambda: None) -> Iterator[None]:
    """Wait while another process does the same work: until it is done, dead, or has not touched `path` for long.

    It only spares work: two may do it at once, where locks do not reach or an owner sleeps.

    Args:
        path: A file that says whose turn it is.
        waiting: Called several times a second while it is another's.

    Raises:
        MachineError: The disk is full, or the system refuses access.
        ArtifactError: `path` is a symbolic link or a pipe.
    """
    require_own(path)
    with explained_disk_errors(path):
        make_folder(path.parent)
    with _first_in_line(path, waiting) as stream, beating(path):
        try:
            yield
        finally:
            if _is_at(path, stream):
                path.unlink(missing_ok=True)


def _first_in_line(path: Path, waiting: Callable[[], None]) -> FileIO:
    """Wait for the lock of the file that is at `path`: who had a turn removes its own, which others may still have open."""
    last, seen = -1, time.monotonic()
    while True:
        with explained_disk_errors(path):
            stream = path.open("ab", buffering=0)
        touched = os.fstat(stream.fileno()).st_mtime_ns
        if touched != last:
            last, seen = touched, time.monotonic()
        is_free = _lock(stream) != "another's" and _is_at(path, stream)
        if is_free or time.monotonic() - seen >= PATIENCE_SECONDS:
            return stream
        stream.close()
        waiting()
        time.sleep(_LOOK_SECONDS)


def _is_at(path: Path, stream: FileIO) -> bool:
    try:
        return os.path.samestat(path.stat(), os.fstat(stream.fileno()))
    except OSError:  # removed, here or, on shared storage, by another machine
        return False


@contextmanager
def beating(path: Path) -> Iterator[None]:
    """Touch a file each second while the block runs."""
    ended = threading.Event()

    def beat() -> None:
        while True:
            with suppress(OSError):  # gone, or its storage is away for a while
                os.utime(path)
            if ended.wait(_BEAT_SECONDS):
                return

    thread = threading.Thread(target=beat, name=f"heartbeat of {path.name}", daemon=True)
    thread.start()
    try:
        yield
    finally:
        ended.set()
        thread.join()


def write_claim(path: Path) -> str:
    """Claim a folder of files for this process, from whoever had it; gives the token that now stands in `path`.

    Raises:
        MachineError: The disk is full, or the system refuses access.
    """
    token = uuid.uuid4().hex
    write_text(path, token, durable=False)
    return token


def has_claim(path: Path, token: str) -> bool:
    """Whether nobody else claimed it since. A storage that does not answer is no reason to stop."""
    try:
        return path.read_text(encoding="utf-8") == token
    except OSError:
        return True


def may_be_held(path: Path, token: str) -> bool:
    """Whether nobody else holds a claim of `held`. A storage that is away is no reason to stop; a folder that is gone is."""
    try:
        owner = read_owner(path)
        return owner.token == token if owner else path.parent.is_dir()
    except OSError:
        return True


def _rival(stream: FileIO, path: Path) -> Owner | None:
    """Who holds the claim; None: this process has it now."""
    for _ in range(20):  # who just looks whether it is locked holds the lock for an instant
        if (lock := _lock(stream)) != "another's":
            break
        time.sleep(0.05)
    owner = _read(stream)
    if owner is None:
        is_free = lock != "another's"
        return None if is_free else Owner(token="", host="this machine", pid=0, kernel="", since="just now")
    if owner.kernel == _kernel() and lock != "no locks":
        return None if lock == "ours" else owner
    return read_owner(path) if _beats(path) else None  # another one may have taken it over meanwhile, or released it


def _beats(path: Path) -> bool:
    """Watch for a touch, for as long as patience lasts."""
    began, before = time.monotonic(), path.stat().st_mtime_ns
    while time.monotonic() - began < PATIENCE_SECONDS:
        time.sleep(_LOOK_SECONDS)
        with path.open("rb", buffering=0) as stream:  # opened anew: a network file system then asks its server
            if os.fstat(stream.fileno()).st_mtime_ns != before:
                return True
    return False


def _lock(stream: FileIO, kind: int = fcntl.LOCK_EX) -> _Lock:
    """Take the file's lock, if it is free; some shared file systems have none to take."""
    try:
        fcntl.flock(stream, kind | fcntl.LOCK_NB)
    except OSError as error:
        return "another's" if error.errno in {errno.EWOULDBLOCK, errno.EACCES} else "no locks"
    return "ours"


def _read(stream: FileIO) -> Owner | None:
    stream.seek(0)
    try:
        return Owner(**json.loads(stream.read(_MOST_BYTES)))
    except (ValueError, TypeError):  # released, or cut off in the middle of a write
        return None


def _write(stream: FileIO, content: str) -> None:
    """Over what stands there: on a full disk, too, a claim that was there before can be taken and released."""
    stream.seek(0)
    stream.write(content.encode().ljust(_BYTES))


def _new_owner(work: str) -> Owner:
    return Owner(
        token=uuid.uuid4().hex,
        host=socket.gethostname(),
        pid=os.getpid(),
        kernel=_kernel(),
        since=datetime.now(UTC).isoformat(timespec="seconds"),
        work=work,
    )


@cache
def _kernel() -> str:
    """The same for all processes that a file lock holds apart on every file system."""
    try:
        return Path("/proc/sys/kernel/random/boot_id").read_text(encoding="ascii").strip()
    except OSError:
        return f"{socket.gethostname()}-{uuid.getnode():x}"
