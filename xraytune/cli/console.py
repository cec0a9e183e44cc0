"""Print to the terminal; no other file does. Results go to stdout, as text or as one JSON object; the rest to stderr.

Commands pass text and the records of `base/tables.py`; this module formats them. On a terminal,
progress is shown as bars and a search as a live table; otherwise, as in a log file, both are lines
with the time.
"""

from __future__ import annotations

import json
import logging
import re
import shlex
import sys
import time
import traceback
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager, nullcontext, suppress
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path
from typing import Any, Literal, TextIO, TypeVar, cast

import typer
from rich import box
from rich import progress as bars
from rich.console import Console, ConsoleOptions, Group, RenderableType, RenderResult
from rich.live import Live
from rich.measure import Measurement
from rich.table import Table as RichTable
from rich.text import Text

from xraytune.base.cores import repeated
from xraytune.base.errors import XraytuneError, printable
from xraytune.base.records import Pace, Progress, progress_text, split_unit, to_json
from xraytune.base.tables import (
    Cell,
    Entry,
    Frame,
    Section,
    Table,
    Tone,
    duration,
    shown_path,
    text_of,
)

R = TypeVar("R")
_STYLES: dict[Tone, str] = {
    "plain": "",
    "strong": "bold",
    "dim": "dim",
    "good": "green",
    "busy": "cyan",
    "bad": "red",
}
_LOG_EVERY_SECONDS = 10.0
_FRAME_EVERY_SECONDS = 1.0
_SUMMARY_EVERY_SECONDS = 30.0
_WIDEST = 10_000


class _Stderr:
    """The current `sys.stderr`. A closed terminal, or a full disk under a log, does not stop the work."""

    def write(self, text: str) -> int:
        with suppress(OSError):
            self._file().write(text)
        return len(text)

    def flush(self) -> None:
        with suppress(OSError):
            self._file().flush()

    def _file(self) -> TextIO:
        return cast(TextIO, getattr(sys.stderr, "rich_proxied_file", sys.stderr))

    def __getattr__(self, name: str) -> Any:
        return getattr(self._file(), name)


# One console per stream, so that lines appear above what is drawn live.
_OUT = Console(highlight=False)
_ERR = Console(file=cast(TextIO, _Stderr()), highlight=False)


def write(text: str = "", tone: Tone = "plain") -> None:
    """Print a line of the result; wrapped on a terminal, never in a file."""
    _OUT.print(_text(Cell(text, tone)), soft_wrap=not _OUT.is_terminal)


def write_command(command: str, before: str = "$ ") -> None:
    """Print a command to copy; never wrapped."""
    _OUT.print(_text(before).append(_text(Cell(command, "busy"))), soft_wrap=True)


def propose(*words: object, given: Mapping[str, Any] | None = None, when: str = "next") -> None:
    """Print the next command, with the options of this one that it also needs."""
    options = given or {}
    shared = [("--data", options.get("data")), ("--weights-dir", options.get("weights_dir"))]
    shared += [("--set", line) for line in options.get("overrides") or ()]
    named = [word for option, value in shared if value is not None for word in (option, value)]
    shown = [shown_path(word) if isinstance(word, Path) else word for word in (*words, *named)]
    write_command(shlex.join(["xraytune", *map(str, shown)]), f"{when}: ")


def show(*frame: Cell | str | Table) -> None:
    """Print lines and tables of the result."""
    _OUT.print(drawn(frame))


def show_section(section: Section) -> None:
    """Print the text and tables of a section, without details."""
    show(
        Cell(section.lead, section.tone),
        *section.notes,
        *(table for table in section.tables if not table.details),
    )


def show_result(result: R, show_text: Callable[[R], None], *, as_json: bool) -> None:
    """Print a record as JSON, by its `to_json` if it has one, or as text with `show_text`."""
    if as_json:
        show_json(result.to_json() if hasattr(result, "to_json") else result)
    else:
        show_text(result)


def show_json(content: object) -> None:
    """Print the result, a record or a dict, as one JSON object; nothing else goes to stdout."""
    print(json.dumps(to_json(content), indent=2, allow_nan=False))


def log(text: str, tone: Tone = "plain") -> None:
    """Print a line to stderr, with paths below the current folder made relative."""
    with suppress(FileNotFoundError):  # the current folder was removed
        here = Path.cwd()
        if here != Path(here.anchor):
            text = re.sub(rf"(?<![\w./~-]){re.escape(f'{here}/')}(?=\S)", "", text)
    _ERR.print(_text(Cell(text, tone)), soft_wrap=not _ERR.is_terminal)


def event(text: str) -> None:
    """Log a line, with the time unless stderr is a terminal."""
    log(text if is_live() else f"{datetime.now().astimezone():%H:%M:%S}  {text}")


def is_live() -> bool:
    """Return whether stderr is a terminal that can be redrawn."""
    return _ERR.is_terminal and not _ERR.is_dumb_terminal


def agreed(question: str) -> bool:
    """Ask a yes-or-no question on the terminal; without a terminal, the answer is yes."""
    if not (is_live() and sys.stdin.isatty()):
        return True
    try:
        return typer.confirm(printable(question), err=True)
    except typer.Abort as abort:  # Ctrl-C or Ctrl-D
        raise KeyboardInterrupt from abort


def show_error(error: XraytuneError) -> None:
    """Log each problem: what is wrong, where, and the fix."""
    for problem in error.problems:
        what, *rest = str(problem).split("\n")
        log(what, "bad")
        for line in rest:
            log(line, "strong" if line.strip().startswith("fix:") else "plain")


def show_traceback(conclusion: str) -> None:
    """Log the traceback of the exception being handled, then a conclusion."""
    _ERR.print(_text(traceback.format_exc()), soft_wrap=True, end="")
    log(conclusion, "bad")


def configure() -> None:
    """Send warnings of xraytune to stderr."""
    logger = logging.getLogger("xraytune")
    logger.handlers = [_LogHandler(logging.WARNING)]
    logger.propagate = False


class _LogHandler(logging.Handler):
    def emit(self, record: logging.LogRecord) -> None:
        log(f"{record.levelname.lower()}: {record.getMessage()}", "dim")


@contextmanager
def progress() -> Iterator[Progress]:
    """Yield a `Progress` that draws a bar for each kind of work; without a terminal, it logs a line every ten seconds."""
    if not is_live():
        yield _logged_progress()
        return
    columns = (
        bars.TextColumn("{task.description}", markup=False),
        bars.BarColumn(bar_width=30),
        bars.TextColumn("{task.completed:,} of {task.total:,}{task.fields[unit]}", markup=False),
        bars.TextColumn("[dim]left"),
        bars.TimeRemainingColumn(compact=True),
    )
    with bars.Progress(*columns, console=_ERR) as screen:
        tasks: dict[str, bars.TaskID] = {}

        def on_progress(what: str, done: int, total: int) -> None:
            if what not in tasks:
                work, unit = split_unit(printable(what))
                tasks[what] = screen.add_task(work, total=total, unit=unit)
            screen.update(tasks[what], completed=done, total=total)

        yield on_progress


def _logged_progress() -> Progress:
    logged: dict[str, float] = {}
    pace = Pace()

    def on_progress(what: str, done: int, total: int) -> None:
        now = time.monotonic()
        seconds = pace.seconds_left(what, done, total, now)
        if done < total and now - logged.setdefault(what, now) < _LOG_EVERY_SECONDS:
            return
        logged[what] = now
        left = f", {duration(seconds)} left" if seconds is not None else ""
        event(f"{progress_text(what, done, total)}{left}")

    return on_progress


@contextmanager
def watching(picture: Callable[[], Frame], line: Callable[[], str]) -> Iterator[None]:
    """While the block runs, draw `picture` every second on a terminal; elsewhere, log `line` every 30 seconds."""
    live = Live(Text(), console=_ERR, auto_refresh=False, transient=False) if is_live() else None
    with live or nullcontext() as screen:

        def try_to_refresh() -> None:
            with suppress(
                OSError, XraytuneError
            ):  # unreadable or gone: if it matters, the block raises
                screen.update(drawn(picture()), refresh=True) if screen else event(line())

        try:
            with repeated(
                try_to_refresh, _FRAME_EVERY_SECONDS if screen else _SUMMARY_EVERY_SECONDS
            ):
                yield
        finally:
            try_to_refresh()


def drawn(frame: Frame) -> RenderableType:
    """Return a frame for rich."""
    return Group(*(_DrawnTable(part) if isinstance(part, Table) else _text(part) for part in frame))


@dataclass(frozen=True, slots=True)
class _DrawnTable:
    """A table below an empty line. Each column is shown whole or not at all; a line below names those that are left out."""

    table: Table

    def __rich_console__(self, screen: Console, options: ConsoleOptions) -> RenderResult:
        table = self.table
        shown = list(table.columns)
        room = options.update(max_width=_WIDEST)
        needed = Measurement.get(screen, room, self._grid(shown)).maximum
        optional = [name for name in reversed(shown) if name in table.optional]
        for name in (*optional, *reversed(shown[2:])):
            size = Measurement.get(screen, room, self._grid(shown))
            if (
                name in shown
                and (size.maximum if name in optional else size.minimum) > options.max_width
            ):
                shown.remove(name)
        yield Text()
        if table.title:
            yield _text(Cell(table.title, "strong"))
        yield self._grid(shown)
        if hidden := [name.replace("\n", " ") for name in table.columns if name not in shown]:
            note = (
                f"left out on this narrow screen: {', '.join(hidden)} (COLUMNS={needed} shows all)"
            )
            yield _text(Cell(note, "dim"))

    def _grid(self, columns: Sequence[str]) -> RichTable:
        has_header = any(name.strip() for name in columns)
        grid = RichTable(
            box=box.SIMPLE_HEAD,
            padding=(0, 1, 0, 0),
            pad_edge=False,
            show_edge=False,
            show_header=has_header,
        )
        cells = [[_text(name), *(_text(row[name]) for row in self.table.rows)] for name in columns]
        for name, column in zip(columns, cells, strict=True):
            is_text = self.table.is_text(name)
            side: Literal["left", "right"] = "left" if is_text else "right"
            width = (
                None if is_text else max(line.cell_len for cell in column for line in cell.split())
            )
            grid.add_column(
                column[0], justify=side, min_width=width, overflow="fold", header_style="dim"
            )
        for row in zip(*(column[1:] for column in cells), strict=True):
            grid.add_row(*row)
        return grid


def _text(entry: Entry) -> Text:
    """Return text for rich; all text passes through here."""
    return Text(
        printable(text_of(entry)), style=_STYLES[entry.tone] if isinstance(entry, Cell) else ""
    )
