"""Print to the terminal; no other file does.

Results go to stdout, as text or as one JSON object; everything else goes to stderr.

Commands pass text and the records of `base/tables.py`; this module formats them with rich. On a
terminal, progress is shown as bars and a search as a live table; otherwise, as in a log file, both
are lines with the time.
"""

import json
import logging
import os
import re
import shlex
import sys
import time
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager, nullcontext, suppress
from datetime import datetime
from pathlib import Path
from typing import Any, Literal

from rich import box
from rich.cells import cell_len
from rich.console import Console, Group, RenderableType
from rich.live import Live
from rich.progress import BarColumn, TaskID, TextColumn, TimeRemainingColumn
from rich.progress import Progress as Bars
from rich.table import Table as RichTable
from rich.text import Text

from xraytune.base.cores import call_repeatedly
from xraytune.base.errors import XraytuneError, printable
from xraytune.base.records import Progress, progress_text, to_json
from xraytune.base.tables import Cell, Entry, Frame, Table, Tone, duration, text_of

_STYLES: dict[Tone, str] = {
    "plain": "",
    "strong": "bold",
    "dim": "dim",
    "good": "green",
    "busy": "cyan",
    "bad": "red",
}
_LOG_EVERY_SECONDS = 10.0
_SPEED_SECONDS = 3600.0
"""The time left is estimated from the progress of the last hour."""
_FRAME_EVERY_SECONDS = 1.0
_SUMMARY_EVERY_SECONDS = 30.0
_GAP = 2
"""The width between two columns of a table."""


class _Stderr:
    """The current stderr; a full disk or a closed terminal does not end the work."""

    def __getattr__(self, name: str) -> Any:
        # While something is shown live, rich has replaced stderr.
        return getattr(getattr(sys.stderr, "rich_proxied_file", sys.stderr), name)

    def write(self, text: str) -> None:
        with suppress(OSError):
            self.__getattr__("write")(text)

    def flush(self) -> None:
        with suppress(OSError):
            self.__getattr__("flush")()


def _go_on_unread(screen: Console) -> None:
    """Print nothing more once nobody reads it, as after `| head`, and let the work end."""
    screen.quiet = True
    os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())


_on_broken_pipe: Any = _go_on_unread
Console.on_broken_pipe = _on_broken_pipe  # type: ignore[method-assign]  # also of `--help`
if not os.environ.get("COLUMNS", "80").strip("0"):  # in CI; rich would print nothing
    del os.environ["COLUMNS"]
# One console per stream, so that lines appear above what is shown live.
_OUT = Console(highlight=False)
_STDERR: Any = _Stderr()
_ERR = Console(file=_STDERR, highlight=False)


def write(text: str = "", tone: Tone = "plain") -> None:
    """Print a line of the result, which is wrapped on a terminal, but not in a file."""
    _OUT.print(_text(text, tone), soft_wrap=not _OUT.is_terminal)


def write_command(command: str, before: str = "$ ") -> None:
    """Print a command that the user may copy, without wrapping it."""
    _OUT.print(_text(before), _text(command, "busy"), sep="", soft_wrap=True)


def propose(
    *words: object,
    overrides: Sequence[str] = (),
    extensions: Sequence[str] = (),
    when: str = "next",
    **options: object,
) -> None:
    """Print the next command, with the options of the current command that it also needs.

    An option is a flag if its value is true or false.
    """
    option_values = [(f"--{name.replace('_', '-')}", value) for name, value in options.items()]
    option_values += [("--set", line) for line in overrides]
    option_values += [("--extension", place) for place in extensions]
    option_words: list[object] = []
    for option, value in option_values:
        if value is True:
            option_words.append(option)
        elif value is not None and value is not False:
            option_words += [option, value]
    write_command(shlex.join(["xraytune", *map(str, (*words, *option_words))]), f"{when}: ")


def show(*frame: Cell | str | Table) -> None:
    """Print lines and tables of the result."""
    _OUT.print(render(frame))


def show_json(content: object) -> None:
    """Print the result, a dict or a record, as one JSON object; nothing else goes to stdout."""
    if hasattr(content, "to_json"):
        content = content.to_json()
    _OUT.out(json.dumps(to_json(content), indent=2, allow_nan=False), highlight=False)


def log(text: str, tone: Tone = "plain") -> None:
    """Print a line to stderr."""
    _ERR.print(_text(text, tone), soft_wrap=not _ERR.is_terminal)


def event(text: str) -> None:
    """Log a line, with the time unless stderr is a terminal."""
    log(text if is_live() else f"{datetime.now().astimezone():%H:%M:%S}  {text}")


def is_live() -> bool:
    """Return whether stderr is a terminal that can be updated."""
    return _ERR.is_terminal and not _ERR.is_dumb_terminal


def show_error(error: XraytuneError) -> None:
    """Log each problem: what is wrong, where, and the fix."""
    for problem in error.problems:
        what, *rest = str(problem).split("\n")
        log(what, "bad")
        for line in rest:
            log(line, "strong" if line.strip().startswith("fix:") else "plain")


def configure() -> None:
    """Send warnings of xraytune to stderr."""
    logger = logging.getLogger("xraytune")
    logger.handlers = [_Handler()]
    logger.propagate = False


class _Handler(logging.Handler):
    """Log each message once: several steps of a command may warn of the same images."""

    def __init__(self) -> None:
        super().__init__(logging.WARNING)
        self._logged: set[str] = set()

    def emit(self, record: logging.LogRecord) -> None:
        text = f"{record.levelname.lower()}: {record.getMessage()}"
        if text not in self._logged:
            self._logged.add(text)
            log(text, "dim")


@contextmanager
def show_progress() -> Iterator[Progress]:
    """Yield a `Progress` that shows a bar for each kind of work.

    Without a terminal, it logs a line every ten seconds, unless the line is the last one again.
    """
    screen = Bars(
        BarColumn(bar_width=30),
        TextColumn("{task.description}", markup=False),
        TextColumn("[dim]left"),
        TimeRemainingColumn(compact=True),
        console=_ERR,
        disable=not is_live(),
        get_time=time.monotonic,
        speed_estimate_period=_SPEED_SECONDS,
    )
    tasks: dict[str, TaskID] = {}
    log_times: dict[str, float] = {}
    last_logged = ""

    def on_progress(what: str, done: int, total: int) -> None:
        nonlocal last_logged
        text = printable(progress_text(what, done, total))
        if what not in tasks:
            tasks[what] = screen.add_task(text, total=total)
        screen.update(tasks[what], completed=done, total=total, description=text)
        now = time.monotonic()
        is_due = done == total or now - log_times.setdefault(what, now) >= _LOG_EVERY_SECONDS
        if screen.disable and is_due and text != last_logged:
            last_logged = text
            log_times[what] = now
            seconds_left = screen.tasks[tasks[what]].time_remaining
            ending = f", {duration(seconds_left)} left" if seconds_left else ""
            event(text + ending)

    with screen:
        yield on_progress


@contextmanager
def watching(picture: Callable[[], Frame], line: Callable[[], str]) -> Iterator[None]:
    """While the block runs, show `picture` every second, or log `line` when it changes.

    The picture needs a terminal; without one, as in a log file, lines are logged, at most one in 30
    seconds.
    """
    live = Live(console=_ERR, auto_refresh=False) if is_live() else None
    last_logged = ""

    def refresh() -> None:
        nonlocal last_logged
        with suppress(OSError, XraytuneError):  # if it matters, the block raises it, too
            if live:
                live.update(render(picture()), refresh=True)
            elif (text := line()) != last_logged:
                last_logged = text
                event(text)

    with live or nullcontext():
        with call_repeatedly(refresh, _FRAME_EVERY_SECONDS if live else _SUMMARY_EVERY_SECONDS):
            yield
        refresh()


def render(frame: Frame) -> RenderableType:
    """Return a frame for rich, with an empty line before each table."""
    return Group(*(_rich_table(part) if isinstance(part, Table) else _text(part) for part in frame))


def _rich_table(table: Table) -> RenderableType:
    """Return a table; columns that do not fit on a narrow screen are named below it.

    Texts wrap between words, and numbers do not. Only a word of the first column that is longer
    than the screen is wide, such as a path, continues on the next line.
    """
    cells = {
        name: [_text(name, "dim"), *(_text(row[name]) for row in table.rows)]
        for name in table.columns
    }
    needed = {name: _widest(texts) for name, texts in cells.items()}
    narrowest = {
        name: _widest(word for text in texts for word in text.plain.split())
        if table.is_text(name)
        else needed[name]
        for name, texts in cells.items()
    }
    names = [*cells]

    def spare_width(widths: Mapping[str, int]) -> int:
        return _OUT.width - sum(widths[name] + _GAP for name in names) + _GAP

    for name in (*reversed([*table.optional]), *reversed([*cells][1:])):
        widths = needed if name in table.optional else narrowest
        if name in names and spare_width(widths) < 0:
            names.remove(name)

    grid = RichTable(
        box=box.SIMPLE_HEAD,
        padding=(0, 1, 0, 0),
        pad_edge=False,
        show_edge=False,
        show_header=any(name.strip() for name in names),
    )
    spare = spare_width(narrowest)
    widths = {}
    for count, name in enumerate(sorted(names, key=lambda name: needed[name] - narrowest[name])):
        added = min(needed[name] - narrowest[name], spare // (len(names) - count))
        widths[name] = narrowest[name] + added
        spare -= added
    for name in names:
        justify: Literal["left", "right"] = "left" if table.is_text(name) else "right"
        grid.add_column(cells[name][0], justify=justify, width=widths[name], overflow="fold")
    for texts in zip(*(cells[name][1:] for name in names), strict=True):
        grid.add_row(*texts)

    title = [_text(table.title, "strong")] if table.title else []
    hidden_names = [name.replace("\n", " ") for name in cells if name not in names]
    note = f"left out on this narrow screen: {', '.join(hidden_names)} (COLUMNS=200 shows more)"
    notes = [_text(note, "dim")] if hidden_names else []
    return Group(Text(), *title, grid, *notes)


def _widest(texts: Iterable[Text | str]) -> int:
    """Return the width of the widest line of some texts, at least 1."""
    return max((cell_len(line) for text in texts for line in str(text).split("\n")), default=1)


def _text(entry: Entry, tone: Tone = "plain") -> Text:
    """Return text for rich, with paths below the current folder made relative.

    All text passes through here.
    """
    if isinstance(entry, Cell):
        tone = entry.tone
    folder = re.escape(f"{Path.cwd()}/")
    text = re.sub(rf"(?<![^\s'\"`(:=]){folder}", "", text_of(entry))
    return Text(printable(text), style=_STYLES[tone])
