"""Where a process may be killed, and what its files may hold then.

`Operations` numbers everything that a process does to the files below a folder: opening for
writing, flushing, renaming, removing, making folders and links. Between two of them nothing on the
disk changes but the bytes that a flush then confirms.
"""

import os
import signal
import stat
import sys
import threading
from collections.abc import Callable
from dataclasses import dataclass
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
"""Audit events of Python: the argument with the changed path, and the one with its folder."""

Cut = Literal["whole", "half", "none"]
"""How much of what a file got since its last flush is there."""
CUTS: tuple[Cut, ...] = ("whole", "half", "none")


@dataclass(frozen=True, slots=True, kw_only=True)
class Operation:
    """What is about to happen.

    Attributes:
        kind: Python's name of it.
        path: The file or folder.
        added_from: Of a flush of a file: how many of its bytes were durable before; -1 of all else.
    """

    kind: str
    path: str
    added_from: int = -1

    @property
    def is_flush_of_file(self) -> bool:
        """Whether bytes become durable here."""
        return self.added_from >= 0


class Operations:
    """Call `before` with the number of each operation in or below `root`, from 0 on.

    Flushes are not carried out: a killed process needs none.
    """

    def __init__(self, root: Path, before: Callable[[int, Operation], None]) -> None:
        self._root = str(root)
        self._before = before
        self._sizes: dict[str, int] = {}
        self._count = 0
        self._lock = threading.RLock()
        self._is_busy = False
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
            self._number(
                Operation(
                    kind="flush", path=path, added_from=self._sizes.get(path, 0) if is_file else -1
                )
            )
            self._sizes[path] = os.fstat(descriptor).st_size

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
