"""The command line: all commands, in the order in which a new user needs them.

Exit codes: 0 success, 1 a bug, 2 wrong usage, 130 interrupted; the others are those of the classes
in `errors.py`. What a command runs is imported when it runs, so that `--help` loads neither torch
nor Ray.
"""

import inspect
import os
import platform
import signal
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
_GROUPS = {
    "data": "Inspect a folder of X-rays, or draw phantom ones.",
    "generator": "Train a GAN, or generate images with it.",
    "space": "List, copy and validate search space files.",
    "cache": "Shrink the cache that studies share.",
}
_SPACE = "--space gan_ratio.yaml --data chest_xray"
_COMMANDS: Mapping[str, Sequence[tuple[str, Callable[..., None], str]]] = {
    "Getting started": (
        ("demo", getting_started.demo, ""),
        ("doctor", getting_started.doctor, ""),
    ),
    "Search": (
        ("data inspect", data.inspect, "chest_xray"),
        ("data phantom", data.phantom, "xrays --patients 200 --seed 1"),
        ("generator train", generator.train, f"{_SPACE} --set gan.steps=5000 -o generator"),
        ("generator sample", generator.sample, "generator -n 500 -o generated"),
        ("space list", space.list_, ""),
        ("space copy", space.copy, "gan_ratio_cpu"),
        ("space check", space.check, "gan_ratio.yaml"),
        ("plan", search.plan, _SPACE),
        ("curve", search.curve, f"{_SPACE} --donor hospital_a -o curve"),
        ("search", search.search, _SPACE),
        ("status", study.status, "studies/gan-ratio; without a study, it lists all"),
        ("report", study.report, "studies/gan-ratio"),
        ("confirm", confirm.confirm, "studies/gan-ratio"),
        ("audit", confirm.audit, "chest_xray generated"),
        ("export", study.export, "studies/gan-ratio -o best.yaml"),
        ("cache clean", study.clean_cache, "--max-size 50GB --dry-run"),
    ),
    "Final model": (
        ("train", model.train, "--config best.yaml -o model"),
        ("evaluate", model.evaluate, "model --data new_xrays"),
        ("predict", model.predict, "model new_xrays -o predictions.csv"),
    ),
}
"""By panel of `--help`: the name of each command, its function, and an example's arguments."""


def build_app() -> typer.Typer:
    """Return all commands, in the order in which a new user needs them."""
    app = _group(
        "Find out whether GAN-generated chest X-rays improve a classifier or segmenter, "
        "and in which mix."
    )
    app.callback()(_options)
    groups = {"": app}
    for panel, commands in _COMMANDS.items():
        for command, function, example in commands:
            group, _, name = command.rpartition(" ")
            if group not in groups:
                groups[group] = _group(_GROUPS[group])
                app.add_typer(groups[group], name=group, rich_help_panel=panel)
            epilog = f"Example: xraytune {command} {example}"
            paragraphs = (inspect.getdoc(function) or "").split("\n\n")
            add = groups[group].command(
                name,
                cls=Command,
                # typer would keep the line breaks of the docstring.
                help="\n\n".join(text.replace("\n", " ") for text in paragraphs),
                epilog=epilog,
                rich_help_panel=None if group else panel,
            )
            add(function)
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
        console.show_error(MachineError(what, fix="cd to a folder that exists"))
        raise typer.Exit(MachineError.exit_code) from None
