"""`xraytune gan sample GAN -n N OUT`."""

from __future__ import annotations

from pathlib import Path
from shlex import quote
from typing import Annotated

import typer

from xraytune.cli import console
from xraytune.cli.options import AsJson, Data, GanCache, Overrides, SkipBroken, SpaceFile


def train(
    space: SpaceFile,
    out: Annotated[Path, typer.Option("--out", "-o", metavar="OUT", help="The folder to make.")],
    data: Data = None,
    overrides: Overrides = None,
    cache: GanCache = None,
    skip_broken: SkipBroken = False,
    as_json: AsJson = False,
) -> None:
    """Train the GAN of a space file, and keep it as a folder; interrupted, the same command goes on."""
    from xraytune.pipeline.gan_folder import gan_train

    with console.progress() as on_progress:
        trained = gan_train(
            space,
            out=out,
            data=data,
            overrides=overrides or (),
            cache=cache,
            skip_broken=skip_broken,
            note=console.tell,
            on_progress=on_progress,
        )
    if as_json:
        console.show_json(trained.to_json())
        return
    counts = ", ".join(f"{count} {name}" for name, count in trained.class_counts.items())
    size, steps = trained.settings.image_size, trained.settings.steps
    console.say(f"{trained.path}: a {size}-px GAN after {steps:,} steps on {counts}")
    console.say(f"sample grids: {trained.grids}")
    console.say_command(f"xraytune gan sample {quote(str(trained.path))} -n 500 OUT", "next: ")


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
