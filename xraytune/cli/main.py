"""The command line: all commands, in the order in which a new user needs them.

Exit codes: 0 success, 1 a bug, 2 wrong usage, 130 interrupted; the others are those of the classes
in `errors.py`. What a command runs is imported when it runs, so that `--help` loads neither torch
nor Ray.
"""

from __future__ import annotations

import os
import platform
import signal
from collections.abc import Callable
from importlib.metadata import version
from pathlib import Path
from typing import Annotated

import typer

from xraytune.base.errors import MachineError, Problem
from xraytune.cli import (
    confirm,
    console,
    data,
    generator,
    getting_started,
    model,
    search,
    space,
    study,
)
from xraytune.cli.command import Command

_SPIN_COUNT = "1000"
"""How often a waiting thread of torch looks again before it sleeps. Threads that spin for long take
the core that another one waits for: beside other work, a command becomes many times as slow
(docs/results.md#beside-other-work)."""
_START = "Getting started"
_SEARCH = "Search"
_MODEL = "Final model"
_GROUPS = {
    "data": "Inspect a folder of X-rays, or draw phantom ones.",
    "generator": "Train a GAN, or generate images with it.",
    "space": "List, copy and validate search space files.",
    "cache": "Shrink the cache that studies share.",
}
_SPACE = "--space gan_ratio.yaml --data chest_xray"
_COMMANDS: tuple[tuple[str, Callable[..., None], str, str], ...] = (
    ("demo", getting_started.demo, _START, ""),
    ("doctor", getting_started.doctor, _START, ""),
    ("data inspect", data.inspect, _SEARCH, "chest_xray"),
    ("data phantom", data.phantom, _SEARCH, "xrays --patients 200 --seed 1"),
    ("generator train", generator.train, _SEARCH, f"{_SPACE} --set gan.steps=5000 -o generator"),
    ("generator sample", generator.sample, _SEARCH, "generator -n 500 -o generated"),
    ("space list", space.list_, _SEARCH, ""),
    ("space copy", space.copy, _SEARCH, "gan_ratio_cpu"),
    ("space check", space.check, _SEARCH, "gan_ratio.yaml"),
    ("headroom", search.headroom, _SEARCH, _SPACE),
    ("search", search.search, _SEARCH, _SPACE),
    ("status", study.status, _SEARCH, "studies/gan-ratio; without a study, it lists all"),
    ("report", study.report, _SEARCH, "studies/gan-ratio"),
    ("confirm", confirm.confirm, _SEARCH, "studies/gan-ratio"),
    ("audit", confirm.audit, _SEARCH, "chest_xray generated"),
    ("export", study.export, _SEARCH, "studies/gan-ratio -o best.yaml"),
    ("cache clean", study.clean_cache, _SEARCH, "--max-size 50GB --dry-run"),
    ("train", model.train, _MODEL, "--config best.yaml -o model"),
    ("evaluate", model.evaluate, _MODEL, "model --data new_xrays"),
    ("predict", model.predict, _MODEL, "model new_xrays -o predictions.csv"),
)
"""The name of each command, its function, its panel in `--help`, and an example's arguments."""


def build_app() -> typer.Typer:
    """Return all commands, in the order in which a new user needs them."""
    app = _group(
        "Find out whether GAN-generated chest X-rays improve a classifier or segmenter, "
        "and in which mix."
    )
    app.callback()(_options)
    groups = {"": app}
    for command, function, panel, example in _COMMANDS:
        group, _, name = command.rpartition(" ")
        if group not in groups:
            groups[group] = _group(_GROUPS[group])
            app.add_typer(groups[group], name=group, rich_help_panel=panel)
        epilog = f"Example: xraytune {command} {example}"
        panel_here = None if group else panel
        groups[group].command(name, cls=Command, epilog=epilog, rich_help_panel=panel_here)(
            function
        )
    return app


def main() -> None:
    """Entry point of the console script."""
    if not {"OMP_WAIT_POLICY", "GOMP_SPINCOUNT"} & os.environ.keys():
        os.environ["GOMP_SPINCOUNT"] = _SPIN_COUNT
    for number in (signal.SIGINT, signal.SIGTERM):  # ignored in the background; sent by queues
        signal.signal(number, signal.default_int_handler)
    console.configure()
    build_app()()


def _group(about: str) -> typer.Typer:
    return typer.Typer(
        help=about,
        no_args_is_help=True,
        pretty_exceptions_enable=False,
        context_settings={"help_option_names": ["-h", "--help"]},
    )


def _print_version(is_wanted: bool) -> None:
    if is_wanted:
        others = (
            f"torch {version('torch')}, Ray {version('ray')}, Python {platform.python_version()}"
        )
        console.write(f"xraytune {version('xraytune')} ({others})")
        raise typer.Exit


def _options(
    show_version: Annotated[
        bool,
        typer.Option(
            "--version",
            metavar="",
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
        console.show_error(MachineError(Problem(what, fix="cd to a folder that exists")))
        raise typer.Exit(MachineError.exit_code) from None
