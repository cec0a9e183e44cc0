"""The command line: all commands, in the order in which a new user needs them.

Exit codes: 0 success, 1 a bug, 2 wrong usage, 130 interrupted; the others are those of the classes
in `errors.py`. What a command runs is imported when it runs, so that `--help` loads neither torch
nor Ray.
"""

from __future__ import annotations

import os
import platform
from collections.abc import Callable
from typing import Annotated

import typer

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
from xraytune.cli.command import Command, Group

_SPIN_COUNT = "1000"
"""How often a waiting thread of torch looks again before it sleeps. Threads that spin for long take
the core that another one waits for: beside other work, a command becomes many times as slow
(docs/results.md#beside-other-work)."""
_START, _SEARCH, _MODEL = "Getting started", "Search", "Final model"


def build_app() -> typer.Typer:
    """Return all commands, in the order in which a new user needs them."""
    app = _group(
        "Find out whether GAN-generated chest X-rays improve a classifier or segmenter, and in which mix."
    )
    app.callback()(_options)
    _add(app, getting_started.demo, "xraytune demo", _START)
    _add(app, getting_started.doctor, "xraytune doctor", _START)

    data_app = _group("Inspect a folder of X-rays, or draw phantom ones.")
    app.add_typer(data_app, name="data", rich_help_panel=_SEARCH)
    _add(data_app, data.inspect, "xraytune data inspect chest_xray")
    _add(data_app, data.phantom, "xraytune data phantom xrays --patients 200 --seed 1")

    generators = _group("Train a GAN, or generate images with it.")
    app.add_typer(generators, name="generator", rich_help_panel=_SEARCH)
    train = "xraytune generator train --space gan_ratio.yaml --data chest_xray --set gan.steps=5000 -o generator"
    _add(generators, generator.train, train)
    _add(generators, generator.sample, "xraytune generator sample generator -n 500 -o generated")

    space_app = _group("List, copy and validate search space files.")
    app.add_typer(space_app, name="space", rich_help_panel=_SEARCH)
    _add(space_app, space.list_, "xraytune space list", name="list")
    _add(space_app, space.copy, "xraytune space copy gan_ratio_cpu")
    _add(space_app, space.check, "xraytune space check gan_ratio.yaml")

    _add(
        app, search.headroom, "xraytune headroom --space gan_ratio.yaml --data chest_xray", _SEARCH
    )
    _add(app, search.search, "xraytune search --space gan_ratio.yaml --data chest_xray", _SEARCH)
    _add(
        app,
        study.status,
        "xraytune status studies/gan-ratio; without a study, it lists all",
        _SEARCH,
    )
    _add(app, study.report, "xraytune report studies/gan-ratio", _SEARCH)
    _add(app, confirm.confirm, "xraytune confirm studies/gan-ratio", _SEARCH)
    _add(app, confirm.audit, "xraytune audit chest_xray generated", _SEARCH)
    _add(app, study.export, "xraytune export studies/gan-ratio -o best.yaml", _SEARCH)

    cache_app = _group("Shrink the cache that studies share.")
    app.add_typer(cache_app, name="cache", rich_help_panel=_SEARCH)
    _add(
        cache_app, study.clean_cache, "xraytune cache clean --max-size 50GB --dry-run", name="clean"
    )

    _add(app, model.train, "xraytune train --config best.yaml -o model", _MODEL)
    _add(app, model.evaluate, "xraytune evaluate model --data new_xrays", _MODEL)
    _add(app, model.predict, "xraytune predict model new_xrays -o predictions.csv", _MODEL)
    return app


def main() -> None:
    """Entry point of the console script."""
    if not {"OMP_WAIT_POLICY", "GOMP_SPINCOUNT"} & os.environ.keys():
        os.environ["GOMP_SPINCOUNT"] = _SPIN_COUNT
    console.configure()
    build_app()()


def _group(about: str) -> typer.Typer:
    return typer.Typer(
        cls=Group,
        help=about,
        no_args_is_help=True,
        pretty_exceptions_enable=False,
        context_settings={"help_option_names": ["-h", "--help"]},
    )


def _add(
    app: typer.Typer,
    function: Callable[..., None],
    example: str,
    panel: str | None = None,
    name: str | None = None,
) -> None:
    epilog = f"Example: {example}"
    app.command(name or function.__name__, cls=Command, epilog=epilog, rich_help_panel=panel)(
        function
    )


def _print_version(is_wanted: bool) -> None:
    if is_wanted:
        from importlib.metadata import version

        others = (
            f"torch {version('torch')}, Ray {version('ray')}, Python {platform.python_version()}"
        )
        console.write(f"xraytune {version('xraytune')} ({others})")
        raise typer.Exit


def _options(
    show_version: Annotated[
        bool,
        typer.Option(
            "--version", help="Print the version.", callback=_print_version, is_eager=True
        ),
    ] = False,
) -> None: ...
