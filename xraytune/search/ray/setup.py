"""What Ray needs on this machine, checked before it starts: Ray fails late and with unclear errors.

It also keeps other users of the machine out. Ray opens its folders to everyone, and writes a token
that everyone can read; with either, one can run code as the user who started Ray.
"""

import fcntl
import os
import resource
import shlex
import shutil
import signal
import socket
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from xraytune.base.errors import MachineError, Problem
from xraytune.base.files import nearest_folder

_LONGEST_PARENT_BYTES = 107 - len(
    "/xray-12345678/ray/session_2026-01-31_23-59-59_123456_4194304/sockets/dash_MetricsHead"
)
"""A socket's path has at most 107 bytes; the longest of Ray's is below the parent."""
_LEAST_FREE_BYTES = 100 * 2**20
_LEAST_FREE_INODES = 1000
"""The room for Ray's logs, and for the temporary files of trials."""
_LEAST_LIMITS = {
    "ulimit -n 65536": (resource.RLIMIT_NOFILE, 256, "open files"),
    "ulimit -u 65536": (resource.RLIMIT_NPROC, 300, "processes and threads"),
    "ulimit -f unlimited": (resource.RLIMIT_FSIZE, 2**28, "bytes in a file"),
}
"""How to raise each limit, and what Ray and two trials need."""
_REMOVE_SECONDS = 5.0


def ray_parent() -> Path:
    """Return where a search creates its private folder.

    That is RAY_TMPDIR, or else TMPDIR if its path is short enough, or else /tmp.
    """
    if setting := os.environ.get("RAY_TMPDIR"):
        return Path(setting).absolute()
    default = Path(os.environ.get("TMPDIR", "/tmp")).absolute()
    return default if len(os.fsencode(default)) <= _LONGEST_PARENT_BYTES else Path("/tmp")


def why_ray_cannot_start() -> Problem | None:
    """Return what keeps Ray from starting on this machine, if anything; leaves no files behind."""
    parent = ray_parent()
    fix = "export RAY_TMPDIR=DIR, a folder with a short path, space, and write access"
    excess_bytes = len(os.fsencode(parent)) - _LONGEST_PARENT_BYTES
    if excess_bytes > 0:
        what = f"the path of Ray's temporary folder is {excess_bytes} bytes too long"
        return Problem(what, parent, fix)
    try:
        tempfile.TemporaryDirectory(dir=nearest_folder(parent)).cleanup()
    except OSError as error:
        what = f"Ray cannot write to its temporary folder ({error.strerror})"
        return Problem(what, parent, fix)
    disk = os.statvfs(nearest_folder(parent))
    free_bytes = disk.f_bavail * disk.f_frsize
    shortage = ""
    if free_bytes < _LEAST_FREE_BYTES:
        shortage = f"{free_bytes // 2**20} MiB left, and needs {_LEAST_FREE_BYTES // 2**20}"
    elif disk.f_files and disk.f_favail < _LEAST_FREE_INODES:  # without files: no limit
        shortage = f"{disk.f_favail} inodes left, and needs {_LEAST_FREE_INODES}"
    if shortage:
        return Problem(f"Ray's temporary folder has {shortage}", parent, fix)
    try:
        with socket.socket(type=socket.SOCK_DGRAM) as probe:
            probe.connect(("127.0.0.1", 1))  # sends nothing
    except OSError as error:
        what = f"this machine has no loopback interface ({error.strerror})"
        return Problem(what, "127.0.0.1", "ip link set lo up")
    for fix, (kind, least, name) in _LEAST_LIMITS.items():
        limit = resource.getrlimit(kind)[1]  # Ray itself raises the soft limit
        if 0 <= limit < least:
            what = f"only {limit} {name} are allowed"
            return Problem(what, fix.rpartition(" ")[0], fix)
    return None


@contextmanager
def private_folder() -> Iterator[Path]:
    """Make a folder that only this user can open, for the temporary files of Ray and of trials.

    A file in it is locked while it is used. Folders of searches that were killed are removed first.
    At the end, the processes of a Ray that uses it are killed, and it is removed.
    """
    parent = ray_parent()
    parent.mkdir(parents=True, exist_ok=True)
    for lock in parent.glob("xray-*/lock"):
        with suppress(OSError), lock.open() as stream:  # it is in use, or another user's
            fcntl.flock(stream, fcntl.LOCK_EX | fcntl.LOCK_NB)
            remove_with_processes(lock.parent)
    path = Path(tempfile.mkdtemp(prefix="xray-", dir=parent))
    hidden = path / "new"  # until it is locked
    with hidden.open("x") as stream:
        fcntl.flock(stream, fcntl.LOCK_EX)
        hidden.rename(path / "lock")
        try:
            yield path
        finally:
            remove_with_processes(path)


def processes_of(folder: Path) -> dict[int, str]:
    """Return the processes of the Ray that uses a private folder, with their names.

    They have a variable of their environment or, as Ray's agents write their title over that, no
    environment and the working folder. A user's shell in the folder has an environment.
    """
    variable = b"RAY_TMPDIR=" + os.fsencode(folder)
    names = {}
    for process in Path("/proc").glob("[0-9]*"):
        with suppress(OSError):  # it has ended, or is another user's
            works_in = str((process / "cwd").readlink()).removesuffix(" (deleted)")
            environment = (process / "environ").read_bytes().split(b"\0")
            has_title = not any(line.startswith(b"PATH=") for line in environment)
            if variable in environment or (has_title and works_in == str(folder)):
                names[int(process.name)] = (process / "comm").read_text().strip()
    return names


def remove_with_processes(folder: Path) -> None:
    """Kill the processes of the Ray that uses a private folder, except this one, and remove it."""
    deadline = time.monotonic() + _REMOVE_SECONDS
    while folder.exists() and time.monotonic() < deadline:
        for process in processes_of(folder).keys() - {os.getpid()}:
            with suppress(ProcessLookupError):
                os.kill(process, signal.SIGKILL)
        shutil.rmtree(folder, ignore_errors=True)
        time.sleep(0.01)  # a process that ends may still write


def protect_token() -> None:
    """Keep other users from Ray's token: open the folder in which Ray writes it only to this user.

    Raises MachineError if that fails, or if they can read the file of a token that the user gives.
    """
    is_used = os.environ.get("RAY_AUTH_MODE", "token").lower() == "token"
    if not is_used or os.environ.get("RAY_AUTH_TOKEN"):
        return
    token_path = os.environ.get("RAY_AUTH_TOKEN_PATH")
    folder = Path(os.path.expanduser("~"), ".ray")  # noqa: PTH111  raises nothing
    try:
        if token_path and Path(token_path).stat().st_mode & 0o077:
            raise MachineError(
                "other users can read Ray's token",
                Path(token_path),
                f"chmod 600 {shlex.quote(token_path)}",
            )
        if not token_path:
            folder.mkdir(parents=True, exist_ok=True)
            folder.chmod(0o700)
    except OSError as error:
        if token_path:
            raise MachineError(
                f"Ray cannot read its token ({error.strerror})",
                Path(token_path),
                "unset RAY_AUTH_TOKEN_PATH",
            ) from error
        raise MachineError(
            f"Ray cannot write its token ({error.strerror})",
            folder,
            "export HOME=DIR, a folder that you can write to",
        ) from error
