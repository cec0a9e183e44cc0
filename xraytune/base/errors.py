"""The errors of xraytune, with their exit codes; any other exception is a bug.

A message says what is wrong, where, and what to do. Errors take positional arguments only, so that
they survive pickling.
"""

import re
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar, TypeAlias

INTERRUPTED_EXIT_CODE = 130
_CONTROL_CHARACTERS = re.compile(
    "[\0-\x09\x0b-\x1f\x7f-\x9f\u061c\u200e\u200f\u2028-\u202e\u2066-\u2069]"
)
"""Control characters except the line feed, and characters that change the direction of text."""


@dataclass(frozen=True, slots=True)
class FileLine:
    """A line of a user's file, 1-based, with its text if known."""

    path: Path
    line: int
    text: str = ""

    def __str__(self) -> str:
        return f"{self.path}:{self.line}"


Place: TypeAlias = FileLine | Path | str


@dataclass(frozen=True, slots=True)
class Problem:
    """What is wrong, where, and how to fix it."""

    what: str
    where: Place = ""
    fix: str = ""

    def __str__(self) -> str:
        lines = [f"{self.where}: {self.what}" if self.where else self.what]
        if isinstance(self.where, FileLine) and self.where.text:
            lines.append(f"  {self.where.line} | {self.where.text.strip()}")
        if self.fix:
            lines.append(f"  fix: {self.fix}")
        return "\n".join(lines)


def printable(text: str) -> str:
    r"""Escape control characters, which file and class names may contain: ESC becomes `\x1b`."""
    return _CONTROL_CHARACTERS.sub(lambda match: match[0].encode("unicode_escape").decode(), text)


def about(count: float) -> str:
    """Return an estimated number with two digits that count, such as `about 9,900`."""
    return f"about {float(f'{count:.2g}'):,.0f}"


def join_names(names: Sequence[str], limit: int = 10) -> str:
    """Join names for a message: all of them, or the first few and how many more."""
    text = ", ".join(names[:limit])
    return text if len(names) <= limit else f"{text} and {len(names) - limit} more"


def counted(count: int, noun: str) -> str:
    """Return a number with its noun: `1 epoch`, `1,250 epochs`."""
    return f"{count:,} {noun}" if count == 1 else f"{count:,} {noun}s"


class XraytuneError(Exception):
    """The base class; takes the parts of a `Problem`, or several problems, shown in this order."""

    exit_code: ClassVar[int] = 1

    def __init__(self, *parts: Any, **more: Any) -> None:
        if not isinstance(parts[0], Problem):
            parts = (Problem(*parts, **more),)
        super().__init__(*parts)
        self.problems = tuple(p if isinstance(p, Problem) else Problem(p) for p in parts)

    def __str__(self) -> str:
        return "\n".join(str(problem) for problem in self.problems)


class ConfigError(XraytuneError):
    """Fix the file or the arguments."""

    exit_code = 2


class DataError(XraytuneError):
    """Fix the images, folders or labels."""

    exit_code = 3


class MachineError(XraytuneError):
    """The machine lacks weights, a GPU, disk space or memory."""

    exit_code = 4


class StudyError(XraytuneError):
    """The study is locked, changed, damaged or has another space."""

    exit_code = 5


class ArtifactError(XraytuneError):
    """A shared artifact or a model bundle is damaged or incomplete."""

    exit_code = 5


class TrialError(XraytuneError):
    """A trial ended without a value, as with a loss that is not finite, or no trial completed."""

    exit_code = 6


@contextmanager
def collect(errors: list[XraytuneError]) -> Iterator[None]:
    """Collect the error of the block, if any, for `raise_together`."""
    try:
        yield
    except XraytuneError as error:
        errors.append(error)


def raise_together(errors: Sequence[XraytuneError]) -> None:
    """Raise all problems of some errors as one error of the first one's class, if there are any."""
    if errors:
        problems = dict.fromkeys(problem for error in errors for problem in error.problems)
        raise type(errors[0])(*problems)


@contextmanager
def add_notes(notes: Iterable[str]) -> Iterator[None]:
    """Show notes with a DataError of the block, since what was left out may be its cause."""
    try:
        yield
    except DataError as error:
        raise DataError(*error.problems, *notes) from error


def is_out_of_memory(error: Exception) -> bool:
    """Return whether an error means out of memory, which torch's errors say only in their text."""
    words = (
        "can't allocate memory",
        "Cannot allocate memory",
        "not enough memory",
        "out of memory",
        "ALLOC_FAILED",
        "failed to map segment",  # raised when a library is loaded
    )
    return isinstance(error, MemoryError) or any(part in str(error) for part in words)
