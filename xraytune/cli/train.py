"""`xraytune train --config best.yaml -o MODEL`."""

from __future__ import annotations

from pathlib import Path
from shlex import quote
from typing import TYPE_CHECKING, Annotated

import typer

from xraytune.cli import console
from xraytune.cli.options import AsJson, Data, Overrides, SkipBroken, TrainCache, WeightsDir

if TYPE_CHECKING:
    from xraytune.export.train import Trained
    from xraytune.records import EpochRecord


def train(
    config: Annotated[
        Path,
        typer.Option(
            "--config",
            metavar="FILE",
            help="A file in which nothing is left open, or a space and its first points_to_evaluate line.",
        ),
    ],
    out: Annotated[Path, typer.Option("--out", "-o", metavar="MODEL", help="The folder to make.")],
    data: Data = None,
    weights_dir: WeightsDir = None,
    overrides: Overrides = None,
    cache: TrainCache = None,
    skip_broken: SkipBroken = False,
    as_json: AsJson = False,
) -> None:
    """Train the final model, without Ray; interrupted, the same command goes on."""
    from xraytune.export.train import train

    with console.progress() as on_progress:
        trained = train(
            config,
            out=out,
            data=data,
            weights_dir=weights_dir,
            overrides=overrides or (),
            cache=cache,
            skip_broken=skip_broken,
            on_epoch=show_epoch,
            on_progress=on_progress,
            note=console.event,
        )
    if as_json:
        console.show_json(trained.to_json())
    else:
        show(trained)


def show_epoch(record: EpochRecord) -> None:
    """One line of the training."""
    console.event(
        f"epoch {record.epoch:3d}  train loss {record.train_loss:.4f}  val-A loss {record.val_loss:.4f}  "
        f"val-A AUROC {record.val_auroc:.4f}"
    )


def show(trained: Trained, *, next_step: bool = True) -> None:
    """Say what came out, and how to go on."""
    console.say(
        f"{trained.path}: arm {trained.arm}, epoch {trained.best_epoch} of {trained.epochs}, "
        f"val-A AUROC {trained.val_auroc:.3f}, val-B AUROC {trained.val_b_auroc:.3f}"
    )
    if trained.positive:
        console.say(
            f"an image is called {trained.positive} from a probability of {trained.threshold:.3f} on, for balanced "
            f"accuracy ({trained.validation_images} images of {trained.validation_patients} patients in val-A and val-B)"
        )
    if trained.equals_trial:
        console.say("its figures are those of the exported trial, to the bit", "good")
    elif trained.equals_trial is False:
        console.say("its figures differ from those of the exported trial: another machine, or other versions", "busy")
    if next_step:
        console.say_command(f"xraytune evaluate {quote(str(trained.path))} --data FOLDER", "next: ")
