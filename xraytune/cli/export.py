"""`xraytune export STUDY -o best.yaml`."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from xraytune.cli import console
from xraytune.cli.options import AsJson, StudyArgument

if TYPE_CHECKING:
    from xraytune.export.best import Exported


def export(
    study: StudyArgument,
    out: Annotated[Path, typer.Option("--out", "-o", metavar="FILE", help="The YAML file to write.")] = Path(
        "best.yaml"
    ),
    trial: Annotated[
        int | None, typer.Option(metavar="NUMBER", help="This trial, instead of the best on val-B.")
    ] = None,
    arm: Annotated[
        str | None,
        typer.Option(
            metavar="ARM",
            help="The best of this arm: real_only, classical, duplicate, gan, classical+gan; after a confirm, its control.",
        ),
    ] = None,
    as_json: AsJson = False,
) -> None:
    """Write the best configuration of a study as a file that `train` runs."""
    from xraytune.export.best import export

    exported = export(study, out=out, trial=trial, arm=arm)
    if as_json:
        console.show_json(exported.to_json())
    else:
        show(exported)


def show(exported: Exported, *, next_step: bool = True) -> None:
    """Say which trial was written, and how to go on."""
    if exported.trial is None:
        console.say(f"{exported.path}: a control that confirm added to {exported.study}, arm {exported.arm}")
    else:
        console.say(
            f"{exported.path}: trial {exported.trial} of {exported.study}, arm {exported.arm}, "
            f"val-A AUROC {exported.val_auroc:.3f}, val-B AUROC {exported.val_b_auroc:.3f}"
        )
    if exported.synthetic:
        console.say(f"its synthetic images are {exported.synthetic}")
    if exported.advice:
        console.say_command(exported.advice, "to do without them until they are: ")
    if next_step:
        console.say_command(exported.command, "next: ")
