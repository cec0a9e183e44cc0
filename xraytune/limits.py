"""The limits that the system sets on a process (`ulimit`), and the errors that they cause.

This module imports no large library, so it works where torch cannot be loaded.
"""

from __future__ import annotations

import errno
import resource
from dataclasses import dataclass

from xraytune.errors import Problem

_GIB = 2**30
_UNITS = ((_GIB, "GiB"), (2**20, "MiB"), (2**10, "KiB"), (1, "bytes"))
_TIGHT_GIB = 8  # torch with CUDA maps 3.5 GiB, a trial under Ray 5.8
_NO_MEMORY = (
    *("can't allocate memory", "cannot allocate memory", "not enough memory"),
    *("out of memory", "failed to map segment"),
)
_NO_THREAD = ("can't start new thread", "Resource temporarily unavailable")


@dataclass(frozen=True, slots=True)
class Limit:
    """One limit of this process: its option of `ulimit`, and its number for `resource.getrlimit`."""

    name: str
    option: str
    number: int
    is_bytes: bool = False

    @property
    def value(self) -> int | None:
        """The limit in force; None: unlimited."""
        soft, _ = resource.getrlimit(self.number)
        return None if soft == resource.RLIM_INFINITY else soft

    @property
    def highest(self) -> int | None:
        """The hard limit; None: unlimited."""
        _, hard = resource.getrlimit(self.number)
        return None if hard == resource.RLIM_INFINITY else hard

    @property
    def raised(self) -> str:
        """The fix if it is too low."""
        return f"raise it: ulimit {self.option} {'unlimited' if self.is_bytes else 65536}"

    def format_value(self, value: int | None) -> str:
        """Format a value for a message."""
        if value is None:
            return "unlimited"
        if not self.is_bytes:
            return str(value)
        unit, name = next((unit, name) for unit, name in _UNITS if value >= unit or unit == 1)
        return f"{value / unit:.4g} {name}"

    def __str__(self) -> str:
        return f"the limit on {self.name} is {self.format_value(self.value)} (ulimit {self.option})"


OPEN_FILES = Limit("open files", "-n", resource.RLIMIT_NOFILE)
ADDRESS_SPACE = Limit("address space", "-v", resource.RLIMIT_AS, is_bytes=True)
FILE_SIZE = Limit("file size", "-f", resource.RLIMIT_FSIZE, is_bytes=True)
PROCESSES = Limit("processes and threads", "-u", resource.RLIMIT_NPROC)
LIMITS = (OPEN_FILES, ADDRESS_SPACE, FILE_SIZE, PROCESSES)


def is_out_of_memory(error: Exception) -> bool:
    """Return whether an error means out of memory, perhaps only by its text: torch and the loader raise generic errors."""
    is_plain = isinstance(error, MemoryError) or (isinstance(error, OSError) and error.errno == errno.ENOMEM)
    return is_plain or any(words in str(error) for words in _NO_MEMORY)


def shortage(error: Exception) -> Problem | None:
    """Return the problem if an error means that this process ran out of memory, threads or files."""
    is_limited = ADDRESS_SPACE.value is not None
    if is_out_of_memory(error):
        what = f"out of memory: {ADDRESS_SPACE}" if is_limited else "out of memory"
        other = "run fewer trials at the same time, or set a smaller batch_size or image_size"
        return Problem(what, fix=ADDRESS_SPACE.raised if is_limited else other)
    if any(words in str(error) for words in _NO_THREAD):
        what = f"the system cannot start another process or thread: {PROCESSES}"
        return Problem(f"{what}, {ADDRESS_SPACE}" if is_limited else what, fix=PROCESSES.raised)
    return None


def likely_shortage() -> Problem | None:
    """Return the likely cause of an error whose text does not mention memory, if the address space is small."""
    value = ADDRESS_SPACE.value
    if value is None or value >= _TIGHT_GIB * _GIB:
        return None
    return Problem(f"probably out of memory: {ADDRESS_SPACE}", fix=ADDRESS_SPACE.raised)
