"""The command line: which commands there are. Each parses, calls the Python function of its name, and prints its record.

A command imports what it runs in its own body, so that `--help` loads neither torch nor Ray.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Annotated

import typer

from xraytune.cli import (
    clean,
    confirm,
    console,
    data,
    demo,
    doctor,
    evaluate,
    export,
    gan,
    model_summary,
    predict,
    replay,
    search,
    space_check,
    status,
    train,
)
from xraytune.cli.command import Command

_START, _SEARCH, _MODEL = "Start here", "From images to an answer", "The final model"


def build_app() -> typer.Typer:
    """All commands, in the order of a newcomer's way."""
    app = _group("Do GAN-made chest X-rays help a pneumonia classifier, and in which mix?")
    app.callback()(_options)

    _add(app, demo.demo, "xraytune demo", _START)
    _add(app, doctor.doctor, "xraytune doctor", _START)

    data_app = _group("Look at a folder of X-rays, transform it, or draw phantom ones.")
    _add(data_app, data.inspect, "xraytune data inspect chest_xray")
    _add(data_app, data.phantom, "xraytune data phantom xrays --patients 200 --seed 1")
    _add(data_app, data.transform, "xraytune data transform chest_xray copies --rotate 15 --elastic 0")
    app.add_typer(data_app, name="data", rich_help_panel=_SEARCH)

    gan_app = _group("Train one GAN, or draw images from it.")
    _add(gan_app, gan.train, "xraytune gan train --space search_spaces/gan_ratio.yaml --set gan.steps=5000 -o gan")
    _add(gan_app, gan.sample, "xraytune gan sample gan -n 5000 gan_images")
    app.add_typer(gan_app, name="gan", rich_help_panel=_SEARCH)

    model = _group("Look at networks.")
    _add(model, model_summary.summary, "xraytune model summary --config search_spaces/vgg16_two_class.yaml")
    app.add_typer(model, name="model", rich_help_panel=_MODEL)

    space = _group("Check space files.")
    _add(space, space_check.check, "xraytune space check search_spaces/gan_ratio.yaml")
    app.add_typer(space, name="space", rich_help_panel=_SEARCH)

    _add(app, search.search, "xraytune search --space search_spaces/gan_ratio.yaml --data chest_xray", _SEARCH)
    _add(app, status.status, "xraytune status studies/gan-ratio", _SEARCH)
    _add(app, confirm.confirm, "xraytune confirm studies/gan-ratio", _SEARCH)
    _add(app, export.export, "xraytune export studies/gan-ratio -o best.yaml", _SEARCH)
    _add(app, replay.replay, "xraytune replay studies/gan-ratio 7", _SEARCH)
    _add(app, clean.clean, "xraytune clean studies/gan-ratio --dry-run", _SEARCH)
    _add(app, train.train, "xraytune train --config best.yaml -o model", _MODEL)
    _add(app, evaluate.evaluate, "xraytune evaluate model --data new_xrays", _MODEL)
    _add(app, predict.predict, "xraytune predict model new_xrays -o predictions.csv", _MODEL)
    return app


def main() -> None:
    """The console script."""
    console.configure_output()
    console.configure_logging()
    build_app()()


def _group(about: str) -> typer.Typer:
    return typer.Typer(
        help=about,
        no_args_is_help=True,
        add_completion=False,
        pretty_exceptions_enable=False,
        context_settings={"help_option_names": ["-h", "--help"]},
    )


def _add(app: typer.Typer, function: Callable[..., None], example: str, panel: str | None = None) -> None:
    app.command(cls=Command, epilog=f"Example: {example}", rich_help_panel=panel)(function)


def _options(
    show_version: Annotated[
        bool,
        typer.Option(
            "--version", help="Print the version.", callback=lambda asked: _print_version(asked), is_eager=True
        ),
    ] = False,
) -> None:
    """Do GAN-made chest X-rays help a pneumonia classifier, and in which mix?"""


def _print_version(asked: bool) -> None:
    if asked:
        from importlib.metadata import version

        console.say(f"xraytune {version('xraytune')}")
        raise typer.Exit
