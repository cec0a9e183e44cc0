"""The command line: all commands, in the order in which a new user needs them.

The exit code is 0 after success, 1 for a bug, 2 for wrong usage, and 130 after an interruption; the
classes in `errors.py` have the others. The code of a command is imported when it runs, so that
`--help` loads neither torch nor Ray.
"""

import inspect
import os
import platform
import re
import signal
import sys
from collections.abc import Callable, Mapping, Sequence
from importlib.metadata import version
from pathlib import Path
from typing import Annotated

import typer

from xraytune.base.errors import MachineError
from xraytune.cli import (
    confirm,
    console,
    data,
    generator,
    getting_started,
    judge,
    model,
    search,
    space,
    study,
)
from xraytune.cli.command import Command, Group

_SPIN_COUNT = "5000"
"""How often a waiting thread of torch checks for work before it sleeps.

Threads that spin for long occupy cores that others wait for: beside other work, a command becomes
many times slower. Those that sleep at once waste an idle core.
benchmarks/README.md#classifier-speed has the figures.
"""
_GROUPS = {
    "data": "Inspect a folder of X-rays, or make phantom ones.",
    "generator": "Train a GAN, or generate images with it.",
    "space": "List, copy and validate search space files.",
    "extension": "Check a generator of your own.",
    "cache": "Shrink the cache that studies share.",
}
_COMMANDS: Mapping[str, Sequence[Callable[..., None]]] = {
    "Getting started": (getting_started.demo,),
    "Search": (
        data.data_inspect,
        data.data_phantom,
        generator.generator_train,
        generator.generator_sample,
        space.space_list,
        space.space_copy,
        space.space_check,
        generator.extension_check,
        search.plan,
        search.curve,
        search.search,
        study.status,
        study.report,
        confirm.confirm,
        confirm.audit,
        judge.draws,
        judge.judge,
        study.export,
        study.cache_clean,
    ),
    "Final model": (
        model.train,
        model.evaluate,
        model.predict,
    ),
}
"""The functions of all commands, by panel of `--help`; a function is named like its command."""


def build_app() -> typer.Typer:
    """Return all commands, in the order in which a new user needs them."""
    app = _group(
        "Find out whether GAN-generated chest X-rays improve a classifier or segmenter, "
        "and in which mix."
    )
    app.callback()(_options)
    groups = {"": app}
    for panel, commands in _COMMANDS.items():
        for function in commands:
            group, _, name = function.__name__.rpartition("_")
            if group not in groups:
                groups[group] = _group(_GROUPS[group])
                app.add_typer(groups[group], name=group, rich_help_panel=panel)
            # typer would keep the line breaks of the docstring.
            text = re.sub(r"(?<!\n)\n(?!\n)", " ", inspect.getdoc(function) or "")
            summary, _, example = text.rpartition("\n\n")
            decorator = groups[group].command(
                name,
                cls=Command,
                help=summary,
                epilog=example,
                rich_help_panel=None if group else panel,
            )
            decorator(function)
    return app


def main() -> None:
    """Entry point of the console script."""
    for stream in ("stdin", "stdout", "stderr"):
        if getattr(sys, stream) is None:  # closed, as by cron's `2>&-`
            null = Path(os.devnull).open("r+")
            os.set_inheritable(null.fileno(), True)
            setattr(sys, stream, null)
    if not {"OMP_WAIT_POLICY", "GOMP_SPINCOUNT"} & os.environ.keys():
        os.environ["GOMP_SPINCOUNT"] = _SPIN_COUNT
    for number in (signal.SIGINT, signal.SIGTERM):  # ignored in the background; sent by queues
        signal.signal(number, signal.default_int_handler)
    console.configure()
    build_app()()


def _group(summary: str) -> typer.Typer:
    return typer.Typer(
        cls=Group,
        help=summary,
        no_args_is_help=True,
        pretty_exceptions_enable=False,
        context_settings={"help_option_names": ["-h", "--help"]},
    )


def _print_version(is_wanted: bool) -> None:
    if is_wanted:
        versions = (
            f"torch {version('torch')}, Ray {version('ray')}, Python {platform.python_version()}"
        )
        console.write(f"xraytune {version('xraytune')} ({versions})")
        raise typer.Exit


def _options(
    show_version: Annotated[
        bool,
        typer.Option(
            "--version",
            help="Print the version.",
            callback=_print_version,
            is_eager=True,
        ),
    ] = False,
) -> None:
    try:
        Path.cwd()
    except OSError as error:
        os.chdir("/")  # what is printed is relative to the current folder
        what = f"the current folder is not there any more ({error.strerror})"
        console.show_error(MachineError(what, fix="cd to a folder that exists"))
        raise typer.Exit(MachineError.exit_code) from None
