"""Every way in which xraytune can refuse or fail, and the exit code of each.

    XraytuneError            1   (never raised itself)
    |- ConfigError           2   fix the file or the arguments
    |- DataError             3   fix the images
    |- MachineError          4   get what this machine lacks: weights, GPU, disk
    |- StudyError            5   the study is locked, changed or of another space
    |- ArtifactError         5   a shared file is damaged: it is rebuilt, or must be removed
    |- TrialError            6   this trial ended, the search goes on; 6 when no trial completed

0 is done, 130 is interrupted, and any other exception is a bug: exit code 1 with its traceback. A message says what
is wrong, where, and what to do. Exceptions take positional arguments only, so that they survive pickling.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import ClassVar

INTERRUPTED_EXIT_CODE = 130


@dataclass(frozen=True, slots=True)
class SourceLine:
    """One line of a person's file, 1-based, with its text when it is at hand."""

    path: Path
    line: int
    text: str = ""

    def __str__(self) -> str:
        return f"{self.path}:{self.line}"


@dataclass(frozen=True, slots=True)
class Problem:
    """One thing that is wrong: what, where, and how to mend it."""

    what: str
    where: SourceLine | Path | str = ""
    fix: str = ""

    def __str__(self) -> str:
        where = _in_one_line(str(self.where))
        lines = [f"{where}: {self.what}" if where else self.what]
        if isinstance(self.where, SourceLine) and self.where.text:
            lines.append(f"  {self.where.line} | {self.where.text.strip()}")
        if self.fix:
            lines.append(f"  fix: {self.fix}")
        return "\n".join(lines)


def _in_one_line(names: str) -> str:
    """Names come with the data: a line break in one must not start a line that looks like part of a message."""
    return names.replace("\n", r"\n")


def listed(names: Sequence[str], limit: int = 10) -> str:
    """Names for a message: all of them, or the first few and how many more."""
    shown = _in_one_line(", ".join(names[:limit]))
    return shown if len(names) <= limit else f"{shown} and {len(names) - limit} more"


class XraytuneError(Exception):
    """An outcome that is explained to the person; see the tree above.

    Args:
        *problems: One or more `Problem`s, shown in order; text stands for a `Problem` of that text alone.
    """

    exit_code: ClassVar[int] = 1

    def __init__(self, *problems: Problem | str) -> None:
        super().__init__(*problems)
        self.problems = tuple(p if isinstance(p, Problem) else Problem(p) for p in problems)

    def __str__(self) -> str:
        return "\n".join(str(problem) for problem in self.problems)


class ConfigError(XraytuneError):
    """A file or an argument that cannot be run as it stands."""

    exit_code = 2


class DataError(XraytuneError):
    """Images, folders or labels that cannot be used."""

    exit_code = 3


class MachineError(XraytuneError):
    """Something that this machine lacks: weights, a GPU, disk space, memory."""

    exit_code = 4


class StudyError(XraytuneError):
    """A study that is in use, of another space, changed or damaged."""

    exit_code = 5


class ArtifactError(XraytuneError):
    """A shared artifact or model bundle that is damaged or incomplete."""

    exit_code = 5


class TrialError(XraytuneError):
    """A trial that ended without a value (a loss that is not finite ...), or a study in which none completed."""

    exit_code = 6
