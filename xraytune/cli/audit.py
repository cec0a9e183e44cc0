"""`xraytune audit`: evaluate a folder of synthetic images against real ones."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

from typer import Argument, Option

from xraytune.cli import console, options
from xraytune.cli.confirm import ConfirmScreen
from xraytune.cli.search import shown_path

if TYPE_CHECKING:
    from xraytune.audit import Audit


def audit(
    real: options.DataSource,
    synthetic: Annotated[
        Path, Argument(metavar="SYNTHETIC", help="Synthetic images, in class folders named like the real ones.")
    ],
    quick: Annotated[
        bool, Option("--quick", help="Only measure the images; no training, and the test folder stays sealed.")
    ] = False,
    weights_dir: options.WeightsDir = None,
    overrides: options.Overrides = None,
    studies: options.Studies = Path("studies"),
    cache: options.Cache = None,
    skip_broken: options.SkipBroken = False,
    yes: options.Yes = False,
    as_json: options.AsJson = False,
) -> None:
    """Evaluate synthetic images against real ones: copies, realism, labels, variety, and benefit to a classifier."""
    from xraytune.audit import audit

    with ConfirmScreen(ask=not (yes or as_json)) as screen:
        result = audit(
            real,
            synthetic,
            quick=quick,
            weights_dir=weights_dir,
            overrides=overrides or (),
            studies=studies,
            cache=cache,
            skip_broken=skip_broken,
            callbacks=screen.callbacks,
            before_test=screen.before_test,
        )
    console.show_result(result, _show, as_json=as_json)


def _show(result: Audit) -> None:
    from xraytune.audit import audit_section

    console.show_section(audit_section(result))
    folder = shown_path(result.study)
    console.write(f"report: {folder}/audit.html; all figures: {folder}/audit.json")
