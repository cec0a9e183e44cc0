"""`xraytune data phantom OUT`."""

from __future__ import annotations

from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from xraytune.cli import console
from xraytune.cli.options import AsJson

if TYPE_CHECKING:
    from xraytune.data.phantom import PhantomSet


def phantom(
    out: Annotated[Path, typer.Argument(metavar="OUT", help="The folder to make.")],
    patients: Annotated[int, typer.Option(help="How many to draw; each has one to four images.")] = 200,
    seed: Annotated[int, typer.Option(help="The same seed gives the same bytes.")] = 0,
    size: Annotated[int, typer.Option(metavar="PX", help="Side of the images.")] = 256,
    as_json: AsJson = False,
) -> None:
    """Draw phantom chest X-rays, with masks of lungs and lesions."""
    from xraytune.data.phantom import draw_phantoms

    with console.progress() as on_progress:
        drawn = draw_phantoms(out, patients=patients, seed=seed, image_size_px=size, on_progress=on_progress)
    if as_json:
        console.show_json({**asdict(drawn), "path": str(drawn.path)})
    else:
        show(drawn)


def show(drawn: PhantomSet) -> None:
    """Say what was drawn."""
    console.say(
        f"{drawn.path}: {drawn.image_count} phantom X-rays of {drawn.patient_count} patients "
        f"({drawn.train_image_count} in train/, {drawn.test_image_count} in test/; "
        f"{drawn.normal_image_count} normal), masks beside them"
    )
