"""Progress in a log, and control characters."""

import io
import logging
import os
import re
import time
from collections.abc import Callable
from contextlib import AbstractContextManager, suppress
from dataclasses import replace
from pathlib import Path
from threading import Semaphore

import pytest

from xraytune.base.errors import Problem, StudyError
from xraytune.base.tables import Cell, Table
from xraytune.cli import console
from xraytune.cli.results import show_confirmation
from xraytune.present.trials import runs_frame
from xraytune.search.callbacks import RunsView


def test_a_log_shows_progress_every_ten_seconds_and_its_end(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    clock = [0.0]
    monkeypatch.setattr(time, "monotonic", lambda: clock[0])
    with console.show_progress() as on_progress:
        for done, clock[0] in {0: 0.0, 100: 9.0, 200: 11.0, 300: 12.0, 5000: 13.0}.items():
            on_progress("training the GAN (steps)", done, 5000)

    lines = [line.split("  ", 1)[1] for line in capsys.readouterr().err.splitlines()]
    assert lines == [
        "training the GAN: 200 of 5,000 steps, 1:36 left",
        "training the GAN: 5,000 of 5,000 steps",
    ]


def test_a_log_shows_the_runs_of_a_confirmation_and_then_what_follows(
    capsys: pytest.CaptureFixture[str],
) -> None:
    running = {"gan #2, replicate 0": "epoch 3/9"}
    view = RunsView(what="replicates", ended=1, running=running, waiting=2, seconds_left=75.0)
    with show_confirmation(is_asked=False) as callbacks:
        callbacks.on_runs(view)
        callbacks.on_progress("training replicates", 4, 4)
        for _ in range(2):
            callbacks.on_runs(replace(view, ended=4, running={}, waiting=0, seconds_left=0.0))
        callbacks.on_progress("scoring test (replicates)", 4, 4)

    lines = [line.split("  ", 1)[1] for line in capsys.readouterr().err.splitlines()]
    assert lines == ["training replicates: 4 of 4 ended", "scoring test: 4 of 4 replicates"]
    line, table = runs_frame(view)
    assert isinstance(line, Cell)
    assert line.text == "training replicates: 1 of 4 ended, 1 running, +2 waiting, about 1:15 left"
    assert isinstance(table, Table)
    assert [[*row.values()] for row in table.rows] == [["gan #2, replicate 0", "epoch 3/9"]]


def test_a_log_has_a_line_once_until_something_changes(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(console, "_SUMMARY_EVERY_SECONDS", 0.001)
    looks = Semaphore(0)

    def line() -> str:
        looks.release()
        return "training replicates: 0 of 20 ended"

    with console.watching(lambda: ("drawn",), line):
        for _ in range(3):
            looks.acquire()
    with console.show_progress() as on_progress:
        for _ in range(3):
            on_progress("decoding images", 7, 7)
    console.configure()
    for _ in range(3):
        logging.getLogger("xraytune.data").warning("images are left out")

    shown = capsys.readouterr().err
    for words in ("training replicates", "decoding images", "images are left out"):
        assert shown.count(words) == 1


def test_paths_below_the_current_folder_are_shown_relative(
    here: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    console.log(f"{here}/demo/xrays: a note ({here}/a, '{here}/b'); {here} /mnt{here}/c")

    assert capsys.readouterr().err == f"demo/xrays: a note (a, 'b'); {here} /mnt{here}/c\n"


@pytest.mark.parametrize("is_terminal", [True, False])
@pytest.mark.parametrize(
    "show", [console.show_progress, lambda: console.watching(lambda: ("drawn",), lambda: "drawn")]
)
def test_work_goes_on_after_the_terminal_has_closed_or_the_disk_of_a_log_is_full(
    show: Callable[[], AbstractContextManager[object]],
    is_terminal: bool,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    ours, theirs = os.openpty()
    monkeypatch.setenv("TERM", "xterm")
    with suppress(OSError), os.fdopen(theirs, "w") as screen, Path("/dev/full").open("w") as full:
        monkeypatch.setattr("sys.stderr", screen if is_terminal else full)
        assert console.is_live() == is_terminal
        done = []
        with show() as on_progress:
            os.close(ours)
            if callable(on_progress):
                on_progress("training (steps)", 5, 5)
            console.event("a line")
        with show():
            done.append("more work")
        monkeypatch.undo()
    assert done == ["more work"]


HOSTILE = "\x1b[2J\x1b]0;owned\x07\r\x9b31m\u202egnp.exe\u2066"
"""Clears the screen, renames the window, overwrites a line, reverses what follows."""
SHOWN = r"\x1b[2J\x1b]0;owned\x07\r\x9b31m\u202egnp.exe\u2066"


def in_a_table(text: str) -> None:
    console.show(text, Table([{text: text}], text))


@pytest.mark.parametrize("is_terminal", [True, False])
@pytest.mark.parametrize(
    "output",
    [
        console.event,
        in_a_table,
        lambda text: console.show_error(StudyError(Problem(f"no {text}", Path(text), text))),
        lambda text: logging.getLogger("xraytune").warning("%s is broken", text),
    ],
)
def test_control_characters_are_escaped(
    output: Callable[[str], None], is_terminal: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    """File and class names come with the data, and a terminal obeys what they contain."""
    screen = io.StringIO()
    monkeypatch.setattr(screen, "isatty", lambda: is_terminal)
    monkeypatch.setenv("TERM", "xterm")
    monkeypatch.setenv("COLUMNS", "400")
    monkeypatch.setattr("sys.stdout", screen)
    monkeypatch.setattr("sys.stderr", screen)
    console.configure()

    output(HOSTILE)

    written = screen.getvalue()
    own = re.sub(r"\x1b\[[0-9;?]*[A-Za-z]|\r(?=\n|\x1b|$)", "", written) if is_terminal else written
    assert SHOWN in own
    assert not [character for character in own if character != "\n" and not character.isprintable()]
    assert "\x1b[2J" not in written
