"""Where a process may be cut off, and what a disk may hold then.

`Operations` numbers everything that a process does to the files below a folder: opening for writing, flushing, renaming,
removing, making folders and links. Between two of them nothing on the disk changes but the bytes that a flush then confirms.

`Disk` knows what power loss cannot take: a file's bytes at its last flush, a folder's entries at its last flush; and builds
what may be found afterwards.
"""

from __future__ import annotations

import os
import signal
import stat
import sys
import threading
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal, NoReturn

_WRITING = os.O_WRONLY | os.O_RDWR | os.O_CREAT | os.O_TRUNC | os.O_APPEND
_PLACES = {
    "open": (0, None),
    "os.rename": (1, 3),
    "os.remove": (0, 1),
    "os.mkdir": (0, 2),
    "os.rmdir": (0, 1),
    "os.symlink": (1, 2),
    "os.truncate": (0, None),
}
"""Audit events of Python: which argument is the path that changes, and which the folder that it is relative to."""

Cut = Literal["whole", "half", "none"]
"""How much of what a file got since its last flush is there."""
CUTS: tuple[Cut, ...] = ("whole", "half", "none")


@dataclass(frozen=True, slots=True, kw_only=True)
class Operation:
    """What is about to happen.

    Attributes:
        kind: Python's name of it.
        path: The file or folder.
        added_from: Of a flush of a file: its size when it was opened for writing; -1 of all else.
    """

    kind: str
    path: str
    added_from: int = -1

    @property
    def is_flush_of_file(self) -> bool:
        """Whether bytes become durable here."""
        return self.added_from >= 0


class Operations:
    """Calls `before` with the number of each operation in or below `root`, from 0 on, until the process ends.

    Flushes are not carried out: a killed process needs none, and power loss is reckoned.
    """

    def __init__(self, root: Path, before: Callable[[int, Operation], None]) -> None:
        self._root, self._before = str(root), before
        self._sizes: dict[str, int] = {}
        self._count, self._lock, self._is_busy = 0, threading.RLock(), False
        os.fsync = self._flush  # type: ignore[assignment]
        sys.addaudithook(self._audit)

    def _audit(self, event: str, arguments: tuple[Any, ...]) -> None:
        if event not in _PLACES or (event == "open" and not arguments[2] & _WRITING):
            return
        place, folder = _PLACES[event]
        path = _absolute(arguments[place], -1 if folder is None else arguments[folder])
        if not self._is_below_root(path):
            return
        if event == "open":
            is_new = arguments[2] & (os.O_TRUNC | os.O_EXCL) or not Path(path).exists()
            self._sizes[path] = 0 if is_new else Path(path).stat().st_size
        self._number(Operation(kind=event, path=path))

    def _flush(self, descriptor: int) -> None:
        path = str(Path(f"/proc/self/fd/{descriptor}").readlink())
        if self._is_below_root(path):
            is_file = stat.S_ISREG(os.fstat(descriptor).st_mode)
            self._number(Operation(kind="flush", path=path, added_from=self._sizes.get(path, 0) if is_file else -1))

    def _is_below_root(self, path: str) -> bool:
        return f"{path}/".startswith(f"{self._root}/")

    def _number(self, operation: Operation) -> None:
        with self._lock:
            if self._is_busy:  # what `before` itself does is not the process's
                return
            self._is_busy = True
            try:
                self._before(self._count, operation)
            finally:
                self._is_busy = False
            self._count += 1


def _absolute(path: Any, folder: int) -> str:
    if isinstance(path, int):
        return str(Path(f"/proc/self/fd/{path}").readlink())
    name = os.fsdecode(path)
    return name if folder < 0 else str(Path(f"/proc/self/fd/{folder}").readlink() / name)


def die() -> NoReturn:
    """SIGKILL, for this process."""
    os.kill(os.getpid(), signal.SIGKILL)
    raise AssertionError("dead")


def cut_off(operation: Operation, cut: Cut) -> None:
    """Take from a file what a flush was about to confirm, or the second half of it."""
    if operation.is_flush_of_file and cut != "whole":
        added = Path(operation.path).stat().st_size - operation.added_from
        os.truncate(operation.path, operation.added_from + (added // 2 if cut == "half" else 0))


Loss = Literal["all that was not flushed", "bytes", "half of the bytes"]
LOSSES: tuple[Loss, ...] = ("all that was not flushed", "bytes", "half of the bytes")
"""Names and bytes; bytes alone, where renames and new names had got to the disk; or only half of them."""


@dataclass(slots=True)
class Disk:
    """What is durable below a folder. Files are known by their inodes, which are held so that none is used again.

    Args:
        root: All that is there at the beginning is durable.
        grave: An empty folder on the same file system.
    """

    root: Path
    grave: Path
    _bytes: dict[int, bytes] = field(default_factory=dict)
    _entries: dict[int, dict[str, tuple[int, str]]] = field(default_factory=dict)
    _held: set[int] = field(default_factory=set)

    def __post_init__(self) -> None:
        for path in (self.root, *self.root.rglob("*")):
            self.flushed(path)

    def flushed(self, path: Path) -> None:
        """Take over what a file, or a folder's list of names, holds now."""
        self._hold(path)
        if path.is_dir() and not path.is_symlink():
            self._entries[path.stat().st_ino] = {
                entry.name: (entry.lstat().st_ino, _kind(entry)) for entry in path.iterdir()
            }
            for entry in path.iterdir():
                self._hold(entry)
        elif path.is_file() and not path.is_symlink():
            self._bytes[path.stat().st_ino] = path.read_bytes()

    def fallen(self, loss: Loss, out: Path) -> None:
        """Build in `out` what the disk may hold when the power fails now."""
        out.mkdir(parents=True)
        if loss == "all that was not flushed":
            self._build_flushed(self.root.stat().st_ino, out)
        else:
            self._build_named(loss, out)

    def _build_flushed(self, folder: int, out: Path) -> None:
        for name, (inode, kind) in self._entries.get(folder, {}).items():
            path = out / name
            if kind == "folder":
                path.mkdir()
                self._build_flushed(inode, path)
            elif kind == "file":
                path.write_bytes(self._bytes.get(inode, b""))
            else:
                path.symlink_to(kind)

    def _build_named(self, loss: Loss, out: Path) -> None:
        for source in sorted(self.root.rglob("*")):
            path, kind = out / source.relative_to(self.root), _kind(source)
            if kind == "folder":
                path.mkdir()
            elif kind == "file":
                now, durable = source.read_bytes(), self._bytes.get(source.stat().st_ino, b"")
                kept = durable if now.startswith(durable) else b""
                more = 0 if loss == "bytes" else (len(now) - len(kept)) // 2
                path.write_bytes(now[: len(kept) + more])
            else:
                path.symlink_to(kind)

    def _hold(self, path: Path) -> None:
        inode = path.lstat().st_ino
        if inode in self._held:
            return
        self._held.add(inode)
        if path.is_dir() and not path.is_symlink():
            os.open(path, os.O_RDONLY)  # until the process ends
        else:
            os.link(path, self.grave / str(inode), follow_symlinks=False)


def _kind(path: Path) -> str:
    """What lies there: a "folder", a "file", or where a link points to."""
    if path.is_symlink():
        return str(path.readlink())
    return "folder" if path.is_dir() else "file"
