"""The commands: their output, its streams, and their exit codes."""

import errno
import os
import re
import subprocess
import sys
from pathlib import Path

import pytest
import typer
from typer.testing import CliRunner

from tests.in_process import PROGRAM, other_process, said, shown
from tests.in_process import command as run
from xraytune.base.errors import ConfigError, DataError, Problem, StudyError
from xraytune.cli.command import Command
from xraytune.space.load import load_space


def test_space_check_prints_the_file_with_every_default(space: Path) -> None:
    head, _, resolved = run(f"space check {space}").stdout.partition("\n\n")
    (space.parent / "resolved.yaml").write_text(resolved)

    assert "valid. 3 parameters are searched" in " ".join(head.split())
    assert "batch_size" in resolved
    assert load_space(space.parent / "resolved.yaml") == load_space(space)


WRONG = """
    space check -> 2
    space check space.yaml --jsn -> 2 --json
    status nowhere -> 5 no study here
    export nowhere -> 5 no study here
    evaluate nowhere --data x -> 5 not a model bundle
    data inspect nowhere -> 3 nowhere
    generator sample nowhere -o out -n 3 -> 5 there is no generator.json here
    train --config nowhere.yaml -o model -> 2 there is no such file
    train --config nowhere.yaml -o model --members 0 -> 2 --members: cannot train 0 networks
    train -o model -> 2 give a study or --config FILE
    train studies/small --config nowhere.yaml -o model -> 2 give a study or --config FILE
    train studies/typo -o model -> 5 studies/typo: there is no such study
    report nowhere -> 5 no study here
    search -> 2 --data FOLDER
    space copy imbalanced -> 2 did you mean 'imbalance'?
    data phantom . -> 2 this path already exists
    cache clean --cache nowhere --max-size 0 -> 2 no cache here
"""
"""A command -> its exit code, and words of its message."""


@pytest.mark.parametrize("case", WRONG.strip().splitlines())
def test_an_error_has_its_exit_code_and_one_message(here: Path, case: str) -> None:
    line, _, expected = case.strip().partition(" -> ")

    result = run(*line.split())

    exit_code, _, message = expected.partition(" ")
    assert (f"{result.exit_code}", result.stdout) == (exit_code, "")
    assert message in result.stderr
    assert "fix:" in result.stderr or line.startswith("space check")
    assert "Traceback" not in result.stderr
    assert list(here.iterdir()) == []


def test_phantoms_are_drawn_and_inspected(tmp_path: Path) -> None:
    drawn = said(f"data phantom {tmp_path}/xrays --patients 20 --size 32")
    told = shown(f"data inspect {tmp_path}/xrays")
    answer = said(f"data inspect {tmp_path}/xrays")

    assert drawn["patient_count"] == 20
    assert "too small to rank trials" in told
    assert answer["positive"] == "PNEUMONIA"
    assert list(answer["sides"]) == ["train", "val-A", "val-B", "test"]


def test_help_is_wrapped_once() -> None:
    """Lines end at the width of the terminal, and not where those of the docstring end."""
    shown = run("curve --help").stdout

    paragraph = shown[shown.index("Trains on several numbers") :].partition("\n" + " " * 80)[0]
    assert len(paragraph.splitlines()) == 3
    assert all(len(line.strip()) > 60 for line in paragraph.splitlines()[:-1])


@pytest.mark.parametrize("command", ["", "space", "search", "audit", "data phantom"])
def test_the_help_shows_no_type_for_an_option_without_a_value(command: str) -> None:
    shown = run(f"{command} --help").stdout

    assert "--help" in shown
    assert "bool" not in shown


PROBLEM = Problem("wrong", "here", "fix it")
KINDS = {ConfigError: 2, DataError: 3, StudyError: 5}


NO_MEMORY = (
    "out of memory\n  fix: run fewer trials at the same time, or set a smaller batch_size or "
    "image_size\n"
)
TOO_LARGE = (
    ".: too large a file\n  fix: raise the limit (ulimit -f unlimited), then run the same command "
    "again: nothing that was written is lost\n"
)


def failing_app(error: BaseException) -> typer.Typer:
    app = typer.Typer(pretty_exceptions_enable=False)

    def fail() -> None:
        raise error

    app.command(cls=Command)(fail)
    return app


@pytest.mark.parametrize(
    ("error", "exit_code", "message"),
    [
        *((kind(PROBLEM), code, "here: wrong\n  fix: fix it\n") for kind, code in KINDS.items()),
        (KeyboardInterrupt(), 130, "interrupted: run the same command again to resume\n"),
        *((error, 4, NO_MEMORY) for error in (MemoryError(), ImportError("failed to map segment"))),
        (OSError(errno.EFBIG, "File too large"), 4, TOO_LARGE),
    ],
)
def test_an_error_is_printed_without_a_traceback(
    error: BaseException, exit_code: int, message: str
) -> None:
    result = CliRunner().invoke(failing_app(error))

    assert (result.exit_code, result.stderr) == (exit_code, message)


def test_a_bug_keeps_its_traceback() -> None:
    result = CliRunner().invoke(failing_app(ZeroDivisionError("by zero")))

    assert result.exit_code == 1
    for words in ("Traceback", "ZeroDivisionError: by zero", "this is a bug in xraytune"):
        assert words in result.stderr


def test_python_m_xraytune_is_the_command_with_its_exit_codes(tmp_path: Path) -> None:
    (tmp_path / "json.py").write_text("raise ImportError")  # not imported
    version = other_process(f"{PROGRAM} --version", cwd=tmp_path)
    unknown = other_process(f"{PROGRAM} status nowhere", cwd=tmp_path)

    assert version.returncode == 0
    assert re.fullmatch(
        r"xraytune [\d.]+ \(torch [\w.+]+, Ray [\d.]+, Python [\d.]+\)\n", version.stdout
    )
    assert (unknown.returncode, "no study here" in unknown.stderr) == (5, True)


@pytest.mark.parametrize("number", ["SIGINT", "SIGTERM"])
def test_a_signal_interrupts_a_command(number: str) -> None:
    """Queues send SIGTERM; jobs in the background of a script ignore SIGINT."""
    program = f"""
import os, signal
from xraytune.cli import main
signal.signal(signal.SIGINT, signal.SIG_IGN)
def demo(): os.kill(os.getpid(), signal.{number})
main._COMMANDS = {{"": (demo,)}}
main.main()
"""
    done = other_process(sys.executable, "-c", program, "demo")

    assert (done.returncode, "run the same command again" in done.stderr) == (130, True)


def test_a_deleted_working_folder_is_named(tmp_path: Path) -> None:
    script = f"cd {tmp_path} && rmdir {tmp_path} && exec {sys.executable} -m xraytune status"
    done = other_process("sh -c", script)

    assert (done.returncode, done.stdout) == (4, "")
    assert "the current folder is not there" in done.stderr
    assert "Traceback" not in done.stderr


@pytest.mark.parametrize("columns", ["0", ""])
@pytest.mark.parametrize("words", ["space list", "--help"])
def test_a_screen_without_columns_shows_what_others_show(columns: str, words: str) -> None:
    shown = other_process(f"{PROGRAM} {words}", env={**os.environ, "COLUMNS": columns})

    assert shown.stdout == other_process(f"{PROGRAM} {words}").stdout
    assert len(shown.stdout.splitlines()) > 10


@pytest.mark.parametrize("closed", ["2>&-", "1>&-", "<&- 1>&- 2>&-"])
def test_work_is_done_with_closed_streams(closed: str, tmp_path: Path) -> None:
    """As in cron."""
    line = f"{PROGRAM} data phantom {tmp_path}/xrays --patients 20 --size 32 {closed}"

    done = other_process("sh -c", line)

    assert done.returncode == 0, done.stderr
    assert list((tmp_path / "xrays/train/NORMAL").iterdir())


@pytest.mark.parametrize("words", ["space list", "--help", "data phantom {} --size 32 --json"])
def test_a_result_that_nobody_reads_to_the_end_is_a_success(words: str, tmp_path: Path) -> None:
    """As after `| head -1`."""
    reading, writing = os.pipe()
    os.close(reading)

    program = [sys.executable, "-m", "xraytune", *words.format(tmp_path / "xrays").split()]
    done = subprocess.run(program, stdout=writing, stderr=subprocess.PIPE, check=False)

    os.close(writing)
    assert done.returncode == 0, done.stderr
    assert b"Error" not in done.stderr
