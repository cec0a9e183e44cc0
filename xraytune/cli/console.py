"""The only file that prints. What a command found goes to stdout, as text or as one JSON object; all else to stderr.

Commands hand over plain records (`Table`, `Frame`, text); how they look is decided here. On a terminal progress is a bar
and a search a live table; in a log both are plain lines with the time.
"""

from __future__ import annotations

import io
import json
import logging
import re
import sys
import threading
import time
import traceback
from collections.abc import Callable, Iterator, Mapping
from contextlib import AbstractContextManager, ExitStack, contextmanager, nullcontext, suppress
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path
from typing import Any, Literal, TextIO, TypeAlias, cast

import typer
from rich import box
from rich import progress as bars
from rich.console import Console, Group, RenderableType
from rich.live import Live
from rich.table import Column as RichColumn
from rich.table import Table as RichTable
from rich.text import Text

from xraytune.errors import XraytuneError
from xraytune.records import Json, Progress

Tone: TypeAlias = Literal["plain", "strong", "dim", "good", "busy", "bad"]
_STYLES: dict[Tone, str] = {
    "plain": "",
    "strong": "bold",
    "dim": "dim",
    "good": "green",
    "busy": "cyan",
    "bad": "red",
}
_OBEYED_BY_TERMINALS = re.compile("[\0-\x09\x0b-\x1f\x7f-\x9f\u061c\u200e\u200f\u2028-\u202e\u2066-\u2069]")
"""Control characters but the line feed, and those that change the direction of writing."""
_LOG_EVERY_SECONDS = 10.0
_FRAME_EVERY_SECONDS = 1.0
_LINE_EVERY_SECONDS = 30.0


@dataclass(frozen=True, slots=True)
class Cell:
    """A text of a table that stands out or steps back."""

    text: str
    tone: Tone = "plain"


@dataclass(frozen=True, slots=True, kw_only=True)
class Column:
    """A column of a table; a `flexible` one gives way where the screen is narrow, by folding its text."""

    name: str
    align: Literal["left", "right"] = "left"
    flexible: bool = False


@dataclass(frozen=True, slots=True, kw_only=True)
class Table:
    """Rows under named columns."""

    columns: tuple[Column, ...]
    rows: tuple[tuple[Cell | str, ...], ...]
    title: str = ""


def facts(*rows: tuple[str, str]) -> Table:
    """A table of names and what they are."""
    columns = (Column(name=""), Column(name="", flexible=True))
    return Table(columns=columns, rows=tuple((Cell(name, "dim"), value) for name, value in rows))


@dataclass(frozen=True, slots=True, kw_only=True)
class Frame:
    """One picture of something that changes: lines of text, and tables below them."""

    lines: tuple[Cell | str, ...]
    tables: tuple[Table, ...] = ()


class _Nowhere(io.TextIOBase):
    """Where Python was started without a stdout or stderr."""

    def write(self, text: str) -> int:
        return len(text)


_NOWHERE = _Nowhere()


class _Screen:
    """`sys.stderr` or `sys.stdout` as it is now. A terminal that was closed, or a full disk with a log, ends no work."""

    def __init__(self, name: Literal["stdout", "stderr"]) -> None:
        self._name = name

    @property
    def rich_proxied_file(self) -> _Screen:
        """This one, also while rich has put itself in the place of `sys.stderr`."""
        return self

    def write(self, text: str) -> int:
        with self._lenient():
            self._file().write(text)
        return len(text)

    def flush(self) -> None:
        with self._lenient():
            self._file().flush()

    def _lenient(self) -> AbstractContextManager[None]:
        """A result that a file or a pipe does not take is an error; what is only shown is left out."""
        return suppress(OSError) if self._name == "stderr" or self._file().isatty() else nullcontext()

    def _file(self) -> TextIO:
        file: Any = getattr(sys, self._name) or _NOWHERE
        return cast(TextIO, getattr(file, "rich_proxied_file", file))

    def __getattr__(self, name: str) -> Any:
        return getattr(self._file(), name)


# One for each, so that lines pass above what is drawn live.
_OUT = Console(file=cast(TextIO, _Screen("stdout")), highlight=False)
_ERR = Console(file=cast(TextIO, _Screen("stderr")), highlight=False)


def say(text: str = "", tone: Tone = "plain") -> None:
    """A line of the result; broken between words on a terminal, never in a file."""
    _OUT.print(_text(Cell(text, tone)), soft_wrap=not _OUT.is_terminal)


def say_command(command: str, before: str = "$ ") -> None:
    """A command to copy: never broken."""
    _OUT.print(_text(before).append(_text(Cell(command, "busy"))), soft_wrap=True)


def show(frame: Frame) -> None:
    """A result."""
    _OUT.print(drawn(frame))


def show_json(content: Mapping[str, Json]) -> None:
    """The result as one JSON object, and nothing else on stdout."""
    ensure_ascii = (getattr(sys.stdout, "encoding", None) or "utf-8").lower() != "utf-8"
    text = json.dumps(content, indent=2, ensure_ascii=ensure_ascii, allow_nan=False)
    print(_OBEYED_BY_TERMINALS.sub(lambda found: f"\\u{ord(found[0]):04x}", text))


def tell(text: str, tone: Tone = "plain") -> None:
    """A line about what is going on."""
    _ERR.print(_text(Cell(as_typed(text), tone)), soft_wrap=not _ERR.is_terminal)


def duration(seconds: float) -> str:
    """`0:07`, `12:30`, `3:05:00`."""
    minutes, second = divmod(round(seconds), 60)
    hours, minute = divmod(minutes, 60)
    return f"{hours}:{minute:02d}:{second:02d}" if hours else f"{minute}:{second:02d}"


def as_typed(text: str) -> str:
    """The text with paths below the current folder as a person would type them: `xrays`, not `/home/ann/demo/xrays`."""
    try:
        here = Path.cwd()
    except FileNotFoundError:  # somebody removed it
        return text
    return text if here == Path(here.anchor) else re.sub(rf"(?<![\w./~-]){re.escape(f'{here}/')}(?=\S)", "", text)


def event(text: str) -> None:
    """A line about what is going on; in a log it has the time."""
    tell(text if is_live() else f"{datetime.now().astimezone():%H:%M:%S}  {text}")


def is_live() -> bool:
    """Whether a person looks at a terminal that can be redrawn."""
    return _ERR.is_terminal and not _ERR.is_dumb_terminal


def agreed(question: str) -> bool:
    """Whether the person at the terminal says yes; where nobody can be asked, yes."""
    if not (is_live() and sys.stdin is not None and sys.stdin.isatty()):
        return True
    try:
        return typer.confirm(printable(question), err=True)
    except typer.Abort as abort:  # Ctrl-C or Ctrl-D
        raise KeyboardInterrupt from abort


def show_refusal(error: XraytuneError) -> None:
    """What is wrong, where, and what to do."""
    for problem in error.problems:
        what, *rest = str(problem).split("\n")
        tell(what, "bad")
        for line in rest:
            tell(line, "strong" if line.strip().startswith("fix:") else "plain")


_BUG = "this is a bug in xraytune, not in what you did: please report it with the lines above"


def show_bug(conclusion: str = _BUG) -> None:
    """The whole traceback of the exception that is being handled, and what it means."""
    _ERR.print(_text(traceback.format_exc()), soft_wrap=True, end="")
    tell(conclusion, "bad")


def configure_output() -> None:
    """What the encoding of stdout does not hold becomes `?`; Python's own stderr refuses nothing."""
    if isinstance(sys.stdout, io.TextIOWrapper) and sys.stdout.errors == "strict":
        sys.stdout.reconfigure(errors="replace")


def configure_logging() -> None:
    """Warnings of xraytune go to stderr, as lines of their own."""
    logger = logging.getLogger("xraytune")
    logger.handlers = [_TellHandler(logging.WARNING)]
    logger.propagate = False


class _TellHandler(logging.Handler):
    def emit(self, record: logging.LogRecord) -> None:
        tell(f"{record.levelname.lower()}: {record.getMessage()}", "dim")


@contextmanager
def progress() -> Iterator[Progress]:
    """A `Progress` that draws a bar with the time left for each kind of work, or a line now and then in a log."""
    if not is_live():
        yield _LoggedProgress()
        return
    columns = (
        bars.TextColumn("{task.description}", markup=False),
        bars.BarColumn(bar_width=30),
        bars.MofNCompleteColumn(),
        bars.TextColumn("[dim]left"),
        bars.TimeRemainingColumn(compact=True),
    )
    with bars.Progress(*columns, console=_ERR) as screen:
        tasks: dict[str, bars.TaskID] = {}

        def on_progress(what: str, done: int, total: int) -> None:
            if what not in tasks:
                tasks[what] = screen.add_task(printable(what), total=total)
            screen.update(tasks[what], completed=done, total=total)

        yield on_progress


class _LoggedProgress:
    """A line every ten seconds for each kind of work, with the time left at the pace since the line before, and its end."""

    def __init__(self) -> None:
        self._told: dict[str, tuple[float, int]] = {}

    def __call__(self, what: str, done: int, total: int) -> None:
        now = time.monotonic()
        last, done_then = self._told.setdefault(what, (now, done))
        if done < total and now - last < _LOG_EVERY_SECONDS:
            return
        self._told[what] = (now, done)
        has_pace = done_then < done < total
        left = f", {duration((now - last) / (done - done_then) * (total - done))} left" if has_pace else ""
        event(f"{what}: {done}/{total}{left}")


@contextmanager
def watching(picture: Callable[[], Frame], line: Callable[[], str]) -> Iterator[None]:
    """Show what changes while the block runs, from a thread beside it.

    Args:
        picture: Drawn about once a second on a terminal; the last one stays there.
        line: Written every half a minute to a log.
    """
    ended = threading.Event()
    with ExitStack() as stack:
        if is_live():
            screen = stack.enter_context(Live(Text(), console=_ERR, auto_refresh=False, transient=False))

            def refresh() -> None:
                screen.update(drawn(picture()), refresh=True)
        else:

            def refresh() -> None:
                event(line())

        def try_to_refresh() -> None:
            with suppress(OSError, XraytuneError):  # what is shown is away, or gone: the block says so if it matters
                refresh()

        def repeat() -> None:
            while not ended.wait(_FRAME_EVERY_SECONDS if is_live() else _LINE_EVERY_SECONDS):
                try_to_refresh()

        thread = threading.Thread(target=repeat, daemon=True)
        thread.start()
        try:
            yield
        finally:
            ended.set()
            thread.join()
            try_to_refresh()


def drawn(frame: Frame) -> RenderableType:
    """A frame as rich draws it."""
    parts: list[RenderableType] = [_text(line) for line in frame.lines]
    for table in frame.tables:
        parts.append(Text())
        if table.title:
            parts.append(_text(Cell(table.title, "strong")))
        parts.append(_drawn_table(table))
    return Group(*parts)


def _drawn_table(table: Table) -> RichTable:
    columns = [
        RichColumn(
            _text(column.name),
            justify=column.align,
            overflow="fold",
            no_wrap=not column.flexible,
            header_style="dim",
        )
        for column in table.columns
    ]
    has_names = any(column.name for column in table.columns)
    drawn = RichTable(
        *columns, box=box.SIMPLE_HEAD, padding=(0, 1, 0, 0), pad_edge=False, show_edge=False, show_header=has_names
    )
    for row in table.rows:
        drawn.add_row(*map(_text, row))
    return drawn


def _text(cell: Cell | str) -> Text:
    """All text that rich draws is made here."""
    cell = Cell(cell) if isinstance(cell, str) else cell
    return Text(printable(cell.text), style=_STYLES[cell.tone])


def printable(text: str) -> str:
    r"""Text for a terminal: names come with the data, and an ESC in one is shown as `\x1b` instead of being obeyed."""
    return _OBEYED_BY_TERMINALS.sub(lambda found: found[0].encode("unicode_escape").decode(), text)
