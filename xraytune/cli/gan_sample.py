"""`xraytune gan sample GAN -n N OUT`."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from xraytune.cli import console
from xraytune.cli.options import AsJson


def sample(
    gan: Annotated[Path, typer.Argument(metavar="GAN", help="The folder that `gan train` made.")],
    out: Annotated[Path, typer.Argument(metavar="OUT", help="The folder to make.")],
    count: Annotated[int, typer.Option("--count", "-n", metavar="N", help="How many images.")],
    class_name: Annotated[
        str | None,
        typer.Option("--class", metavar="NAME", help="This class alone; else the classes' shares in training."),
    ] = None,
    as_json: AsJson = False,
) -> None:
    """Draw any number of images from a GAN, as PNG in class folders; 100 are the first 100 of 500."""
    from xraytune.pipeline.gan_folder import gan_sample

    with console.progress() as on_progress:
        drawn = gan_sample(gan, count=count, out=out, class_name=class_name, on_progress=on_progress)
    if as_json:
        console.show_json(drawn.to_json())
        return
    counts = ", ".join(f"{count} {name}" for name, count in drawn.counts.items())
    console.say(f"{drawn.path}: {counts} ({drawn.image_size_px} px), with provenance.json")
