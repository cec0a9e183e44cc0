"""File locks, which the system releases when their owner dies.

On network storage, the server releases them after a while.

`hold` refuses a second process, `build_lock` lets it wait, and `lock_if_free` lets it go on. All of
them need storage with file locks. The files of locks stay: if one were removed, two processes could
lock different files with the same name.
"""

import fcntl
import json
import logging
import os
import socket
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import asdict
from datetime import UTC, datetime
from io import FileIO
from pathlib import Path

from xraytune.base.errors import MachineError
from xraytune.base.files import explain_disk_errors, make_folder
from xraytune.base.records import frozen

# A process that was killed takes a moment to end, and `current_owner` holds a lock for an instant.
_WAIT_SECONDS = 1.0
POLL_SECONDS = 0.1
_LOOKS_IN_SILENCE = 20
"""How often a lock is tried before a warning; most waits are shorter."""
_logger = logging.getLogger(__name__)


@frozen
class Owner:
    """The process that holds a lock, and its work."""

    host: str
    pid: int
    since: str
    work: str = ""

    def __str__(self) -> str:
        return f"process {self.pid} on {self.host}, since {self.since}"


class LockHeldError(Exception):
    """Another process holds the lock; `owner` is None if it is not known."""

    def __init__(self, owner: Owner | None) -> None:
        super().__init__(owner)
        self.owner = owner


@contextmanager
def hold(path: Path, work: str = "") -> Iterator[None]:
    """Hold a lock, whose file names the owner and its `work`, while the block runs.

    Raises:
        LockHeldError: Another process holds the lock.
        MachineError: The storage has no file locks, or does not answer.
    """
    with _open(path) as stream:
        until = time.monotonic() + _WAIT_SECONDS
        while not _try_lock(path, stream):
            if time.monotonic() > until:
                raise LockHeldError(_read(stream))
            time.sleep(POLL_SECONDS)
        started = datetime.now(UTC).isoformat(timespec="seconds")
        owner = Owner(host=socket.gethostname(), pid=os.getpid(), since=started, work=work)
        with suppress(OSError):  # a full disk
            stream.truncate(0)
            stream.write(json.dumps(asdict(owner)).encode())
        yield


def current_owner(path: Path) -> Owner | None:
    """Return the process that holds a lock, without acquiring it."""
    if not path.exists():
        return None
    with _open(path, "rb") as stream:
        return None if _try_lock(path, stream, fcntl.LOCK_SH) else _read(stream)


def other_owner(path: Path) -> Owner | None:
    """Return who acquired a lock that this process, or the one that started it, holds.

    Such an owner shows that the storage keeps the locks of each machine apart. Returns None if
    there is none.
    """
    with _open(path, "rb") as stream:
        owner = _read(stream)
    is_own = owner is None or (
        owner.host == socket.gethostname() and owner.pid in (os.getpid(), os.getppid())
    )
    return None if is_own else owner


@contextmanager
def build_lock(
    path: Path,
    waiting: Callable[[], None] | None = None,
    *,
    what: str = "waiting for another process, which works here",
) -> Iterator[None]:
    """Wait for a lock, and hold it during the block.

    Meanwhile, `waiting` is called several times a second. Without it, a warning says after about
    two seconds `what` this process does.
    """
    with _open(path) as stream:
        looks = 0
        while not _try_lock(path, stream):
            if waiting:
                waiting()
            elif looks == _LOOKS_IN_SILENCE:
                _logger.warning("%s: %s", path.parent, what)
            looks += 1
            time.sleep(POLL_SECONDS)
        yield


@contextmanager
def lock_if_free(path: Path) -> Iterator[bool]:
    """Hold a lock during the block unless another process holds it; yield whether it is held."""
    with _open(path) as stream:
        yield _try_lock(path, stream)


def _open(path: Path, mode: str = "ab+") -> FileIO:
    with explain_disk_errors(path):
        make_folder(path.parent)
        return path.open(mode, buffering=0)  # type: ignore[return-value]  # without a buffer


def _try_lock(path: Path, stream: FileIO, kind: int = fcntl.LOCK_EX) -> bool:
    try:
        fcntl.flock(stream, kind | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    except OSError as error:
        raise MachineError(
            f"this storage has no file locks ({error.strerror})",
            path,
            "mount it with them (Lustre: -o flock), or use another one for studies and cache",
        ) from error
    return True


def _read(stream: FileIO) -> Owner | None:
    try:
        stream.seek(0)
        return Owner(**json.loads(stream.read()))
    except (ValueError, TypeError):  # the lock was just acquired
        return None
