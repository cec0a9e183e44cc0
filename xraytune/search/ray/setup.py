"""What Ray needs on this machine, checked before it starts: Ray fails late and with unclear errors.

It also keeps other users of the machine out. Ray writes its token so that everyone can read it, and
opens its folders to everyone; anyone who has the token, or can write to those folders, can run code
as the user who started Ray.
"""

from __future__ import annotations

import fcntl
import os
import resource
import secrets
import shutil
import signal
import socket
import tempfile
import time
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path

from xraytune.base.errors import MachineError, Problem
from xraytune.base.files import nearest_folder

_LONGEST_SOCKET_BYTES = 107
_LEAST_FREE_BYTES = 100 * 2**20
_LEAST_FREE_INODES = 1000
"""For Ray's logs, and the temporary files of trials."""
_FEWEST = {
    "ulimit -n": (resource.RLIMIT_NOFILE, 256, "open files"),
    "ulimit -u": (resource.RLIMIT_NPROC, 300, "processes and threads"),
    "ulimit -f": (resource.RLIMIT_FSIZE, 2**28, "bytes in a file"),
}
"""Of Ray and two trials."""
_PREFIX = "xray-"
_REMOVE_SECONDS = 5.0
_SOCKET = _PREFIX + "12345678/ray/session_2026-01-31_23-59-59_123456_{pid}/sockets/dash_MetricsHead"
"""The longest of Ray's socket paths."""


def why_ray_cannot_start() -> Problem | None:
    """Return what keeps Ray from starting on this machine, if anything; leaves no files behind."""
    return next(_problems(), None)


def ray_parent() -> Path:
    """Return where a search creates its private folder.

    RAY_TMPDIR, else TMPDIR if its path is short enough, else /tmp.
    """
    if given := os.environ.get("RAY_TMPDIR"):
        return Path(given).absolute()
    usual = Path(os.environ.get("TMPDIR", "/tmp")).absolute()
    socket_bytes = len(os.fsencode(usual / _SOCKET.format(pid=os.getpid())))
    return usual if socket_bytes <= _LONGEST_SOCKET_BYTES else Path("/tmp")


def _problems() -> Iterator[Problem]:
    parent = ray_parent()
    other = "export RAY_TMPDIR=DIR, a folder with a short path, space, and write access"
    try:
        tempfile.TemporaryDirectory(dir=nearest_folder(parent)).cleanup()
    except OSError as error:
        what = f"Ray cannot write to its temporary folder ({error.strerror})"
        yield Problem(what, parent, other)
    disk = os.statvfs(nearest_folder(parent))
    free_bytes = disk.f_bavail * disk.f_frsize
    if free_bytes < _LEAST_FREE_BYTES:
        what = (
            f"Ray's temporary folder has {free_bytes // 2**20} MiB left, and needs "
            f"{_LEAST_FREE_BYTES // 2**20}"
        )
        yield Problem(what, parent, other)
    if disk.f_files and disk.f_favail < _LEAST_FREE_INODES:  # without files: no limit
        what = f"Ray's temporary folder has {disk.f_favail} inodes left, and needs "
        yield Problem(what + f"{_LEAST_FREE_INODES}", parent, other)
    try:
        with socket.create_server(("127.0.0.1", 0)) as server:
            socket.create_connection(server.getsockname(), timeout=5.0).close()
    except OSError as error:
        what = f"this machine has no loopback interface ({error.strerror})"
        yield Problem(what, "127.0.0.1", "ip link set lo up")
    for command, (kind, fewest, name) in _FEWEST.items():
        limit = resource.getrlimit(kind)[1]  # Ray itself raises the soft limit
        if 0 <= limit < fewest:
            fix = f"{command} {'unlimited' if name.startswith('bytes') else 65536}"
            yield Problem(f"only {limit} {name} are allowed", command, fix)


class PrivateFolder:
    """A folder that only this user can open, for the temporary files of Ray and of trials.

    It is locked while it is used. Those of searches that were killed are removed first.
    """

    def __init__(self) -> None:
        parent = ray_parent()
        parent.mkdir(parents=True, exist_ok=True)
        for folder in parent.glob(f"{_PREFIX}*"):
            with suppress(OSError):  # it is in use, or another user's
                os.close(_lock(folder))
                remove_with_processes(folder)
        hidden = Path(tempfile.mkdtemp(prefix=f".{_PREFIX}", dir=parent))  # until it is locked
        self._lock = _lock(hidden)
        self.path = hidden.rename(parent / hidden.name[1:])

    def remove(self) -> None:
        """Kill the processes of a Ray that uses it, and remove it."""
        remove_with_processes(self.path)
        os.close(self._lock)


def _lock(folder: Path) -> int:
    """Lock a folder until this process ends, or closes the descriptor.

    OSError if another one has locked it.
    """
    descriptor = os.open(folder, os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW)
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError:
        os.close(descriptor)
        raise
    return descriptor


def processes_of(folder: Path) -> dict[int, str]:
    """Return the processes of the Ray that uses a private folder, with their names."""
    variable = b"RAY_TMPDIR=" + os.fsencode(folder)
    found = {}
    for process in Path("/proc").glob("[0-9]*"):
        with suppress(OSError):  # it has ended, or is another user's
            if variable in (process / "environ").read_bytes().split(b"\0"):
                found[int(process.name)] = (process / "comm").read_text().strip()
    return found


def remove_with_processes(folder: Path) -> None:
    """Kill the processes of the Ray that uses a private folder, except this one, and remove it."""
    until = time.monotonic() + _REMOVE_SECONDS
    while True:
        for process in processes_of(folder).keys() - {os.getpid()}:
            with suppress(ProcessLookupError):
                os.kill(process, signal.SIGKILL)
        shutil.rmtree(folder, ignore_errors=True)
        if not folder.exists() or time.monotonic() > until:
            return
        time.sleep(0.1)  # a process that ends may still write


def protect_token() -> None:
    """Create `~/.ray/auth_token` if Ray needs one, readable by this user alone.

    Raises MachineError if that fails.
    """
    token = _token()
    if token is None:
        return
    try:
        token.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
        token.parent.chmod(0o700)
        with suppress(FileExistsError), token.open("x") as file:
            file.write(secrets.token_hex(32))  # as `ray get-auth-token --generate`
        token.chmod(0o600)
    except OSError as error:
        what = f"Ray cannot write its token ({error.strerror})"
        fix = "export HOME=DIR, a folder that you can write to"
        raise MachineError(Problem(what, token, fix)) from error


def _token() -> Path | None:
    """Return the file of Ray's token, unless the environment has another, or none is needed."""
    given = any(os.environ.get(name) for name in ("RAY_AUTH_TOKEN", "RAY_AUTH_TOKEN_PATH"))
    if given or os.environ.get("RAY_AUTH_MODE", "token").lower() != "token":
        return None
    return Path(os.path.expanduser("~")) / ".ray" / "auth_token"  # noqa: PTH111  raises nothing
