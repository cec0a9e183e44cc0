"""Progress in a log, durations, closed terminals, and control characters."""

from __future__ import annotations

import io
import json
import logging
import os
import re
import time
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path

import pytest
from rich.console import Console

from xraytune.base.errors import Problem, StudyError
from xraytune.base.tables import Table
from xraytune.cli import console

OF_A_GAN = {4000: 0.0, 4010: 4.0, 4100: 20.0, 4300: 25.0, 4500: 40.0, 5000: 70.0}
SHOWN_OF_A_GAN = [
    "4,100 of 5,000 steps, 2:40 left",
    "4,500 of 5,000 steps, 0:37 left",
    "5,000 of 5,000 steps",
]


@pytest.mark.parametrize(
    ("pace", "shown"),
    [
        ([*OF_A_GAN.items()], SHOWN_OF_A_GAN),
        ([(0, 0.0), (0, 5.0), (0, 11.0)], ["0 of 5,000 steps"]),
    ],
)
def test_a_log_shows_progress_and_the_time_left(
    pace: list[tuple[int, float]],
    shown: list[str],
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    """The time left follows from the pace after the first progress; there is none while another process does the work."""
    with console.progress() as on_progress:
        for done, seconds in pace:
            monkeypatch.setattr(time, "monotonic", lambda seconds=seconds: seconds)
            on_progress("training the GAN (steps)", done, 5000)

    lines = [line.split("  ", 1)[1] for line in capsys.readouterr().err.splitlines()]
    assert lines == [f"training the GAN: {text}" for text in shown]


def test_paths_below_the_current_folder_are_shown_relative(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    here = tmp_path / "here"
    here.mkdir()
    monkeypatch.chdir(here)

    console.log(f"{here}/demo/xrays: a note ({here}/a, '{here}/b')")
    console.log(f"{here}: /elsewhere{here}/c")

    assert capsys.readouterr().err == f"demo/xrays: a note (a, 'b')\n{here}: /elsewhere{here}/c\n"


@pytest.mark.parametrize("is_live", [True, False])
def test_work_continues_after_terminal_closes(
    monkeypatch: pytest.MonkeyPatch, is_live: bool
) -> None:
    """For example when a connection breaks, or the disk of a log is full."""
    ours, theirs = (
        os.openpty()
        if is_live
        else (os.open(os.devnull, os.O_RDONLY), os.open("/dev/full", os.O_WRONLY))
    )
    monkeypatch.setenv("TERM", "xterm")
    went_on = False
    with (
        suppress(OSError),
        os.fdopen(theirs, "w") as screen,
    ):  # raised again when the file is closed
        monkeypatch.setattr("sys.stderr", screen)
        assert console.is_live() == is_live
        with console.watching(lambda: ("drawn",), lambda: "drawn"):
            os.close(ours)
            console.event("line")
        console.event("line")
        went_on = True
        monkeypatch.undo()
    assert went_on


FINDINGS = {
    "": ["Enlarged Cardiomediastinum", "Pleural Effusion"],
    "present": ["1,235", "87"],
    "AUROC": ["0.8341", "0.9227"],
    "95 % interval": ["0.740 to 0.912", "0.851 to 0.963"],
    "sensitivity\nat 0.5": ["0.7113", "0.6172"],
    "specificity": ["0.8134", "0.9155"],
    "threshold": ["0.5231", "0.4977"],
}


@pytest.mark.parametrize("width", [30, 40, 60, 80, 100, 160])
def test_a_column_is_shown_whole_or_named_as_left_out(width: int) -> None:
    table = Table(
        [dict(zip(FINDINGS, cells, strict=True)) for cells in zip(*FINDINGS.values(), strict=True)]
    )
    screen = io.StringIO()

    Console(width=width, file=screen).print(console.drawn([table]))

    lines = screen.getvalue().splitlines()
    shown, _, left_out = " ".join(" ".join(lines).split()).partition(
        "left out on this narrow screen: "
    )
    hidden = left_out.rpartition(" (COLUMNS=")[0].split(", ") if left_out else []
    assert max(map(len, lines)) <= width
    for name, cells in [*FINDINGS.items()][1:]:
        is_hidden = " ".join(name.split()) in hidden
        assert [cell in shown for cell in cells] == [not is_hidden] * 2
        assert not [
            digits
            for cell in cells
            for digits in re.findall(r"\d.\d+", cell)
            if is_hidden and digits in shown
        ]
    assert all(word in shown for name in FINDINGS[""] for word in name.split())
    assert "present" not in hidden
    assert (hidden == []) == (width >= 100)


HOSTILE = "\x1b[2J\x1b]0;owned\x07\r\x9b31m\u202egnp.exe\u2066"
"""Clears the screen, renames the window, overwrites a line, reverses what follows."""
SHOWN = r"\x1b[2J\x1b]0;owned\x07\r\x9b31m\u202egnp.exe\u2066"


def in_a_table(text: str) -> None:
    console.show(text, Table([{text: text}], text))


def in_a_bug(text: str) -> None:
    try:
        raise KeyError(f"{text}") from ValueError(text)
    except KeyError:
        console.show_traceback("a bug")


def in_progress(text: str) -> None:
    with console.progress() as on_progress:
        on_progress(text, 1, 1)


@pytest.mark.parametrize("is_terminal", [True, False])
@pytest.mark.parametrize(
    "output",
    [
        console.write,
        console.event,
        in_a_table,
        in_a_bug,
        in_progress,
        lambda text: console.show_error(
            StudyError(Problem(f"no {text}\n    second line", Path(text), text))
        ),
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


def test_line_breaks_of_a_message_are_kept_and_json_escapes_control_characters(
    capsys: pytest.CaptureFixture[str],
) -> None:
    console.show_error(StudyError(Problem("a\n    b\x85c", "d", "e")))
    console.show_json({HOSTILE: "Müller"})

    written = capsys.readouterr()
    assert written.err == "d: a\n    b\\x85c\n  fix: e\n"
    assert json.loads(written.out) == {HOSTILE: "Müller"}
    assert all(character.isprintable() or character == "\n" for character in written.out)
