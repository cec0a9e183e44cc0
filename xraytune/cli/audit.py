"""`xraytune audit`: evaluate a folder of synthetic images against real ones."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

from typer import Argument, Option

from xraytune.cli import console, options
from xraytune.cli.confirm import ConfirmScreen
from xraytune.cli.console import Cell, Column, Table, Tone
from xraytune.cli.search import shown_path

if TYPE_CHECKING:
    from xraytune.audit.run import Audit

_TONES: dict[str, Tone] = {"good": "good", "warning": "busy", "bad": "bad", "not measured": "dim"}


def audit(
    real: options.DataSource,
    synthetic: Annotated[
        Path, Argument(metavar="SYNTHETIC", help="Synthetic images, in class folders named like the real ones.")
    ],
    model_space: Annotated[
        Path | None,
        Option(
            metavar="FILE",
            help="Space or experiment file (YAML) that describes the classifier; default: a frozen MobileNetV2.",
        ),
    ] = None,
    quick: Annotated[
        bool, Option("--quick", help="Only measure the images; no training, and the test folder stays sealed.")
    ] = False,
    test: Annotated[
        Path | None, Option(metavar="SOURCE", help="Test images of other patients, if SOURCE has no test/ folder.")
    ] = None,
    weights_dir: options.WeightsDir = None,
    overrides: options.Overrides = None,
    studies: options.Studies = Path("studies"),
    cache: options.Cache = None,
    address: options.Address = None,
    skip_broken: options.SkipBroken = False,
    yes: options.Yes = False,
    as_json: options.AsJson = False,
) -> None:
    """Evaluate synthetic images against real ones: copies, realism, labels, variety, and benefit to a classifier."""
    from xraytune.audit.run import audit

    with ConfirmScreen(ask=not (yes or as_json), as_json=as_json) as screen:
        found = audit(
            real,
            synthetic,
            model_space=model_space,
            quick=quick,
            test=test,
            weights_dir=weights_dir,
            overrides=overrides or (),
            studies=studies,
            cache=cache,
            address=address,
            skip_broken=skip_broken,
            callbacks=screen.callbacks,
            on_forecast=screen.on_forecast,
        )
    console.show_json(found.record) if as_json else _show(found)


def _show(found: Audit) -> None:
    is_bad = any(one.status == "bad" for one in found.lines)
    rows = [
        (Cell(one.name, "strong"), Cell(one.status, _TONES[one.status]), one.figure, one.sentence)
        for one in found.lines
    ]
    table = Table(("", "status", Column("figure", optional=True), Column("", flexible=True)), rows)
    console.show(Cell(found.headline, "bad" if is_bad else "good"), table)
    folder = shown_path(found.study)
    console.write(f"report: {folder}/audit.html; all numbers: {folder}/audit.json")
