"""`xraytune predict MODEL FOLDER -o predictions.csv`."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from xraytune.cli import console
from xraytune.cli.options import AsJson, AtSensitivity, ModelArgument, SkipBroken


def predict(
    model: ModelArgument,
    images: Annotated[Path, typer.Argument(metavar="FOLDER", help="A folder of images, or one image.")],
    out: Annotated[Path, typer.Option("--out", "-o", metavar="FILE", help="The CSV file to write.")],
    skip_broken: SkipBroken = False,
    at_sensitivity: AtSensitivity = None,
    as_json: AsJson = False,
) -> None:
    """Write a model's probabilities for each image of a folder as CSV."""
    from xraytune.export.predict import predict

    with console.progress() as on_progress:
        predicted = predict(
            model, images, out=out, skip_broken=skip_broken, sensitivity=at_sensitivity, on_progress=on_progress
        )
    if as_json:
        console.show_json(predicted.to_json())
        return
    for image in predicted.broken:
        console.tell(f"left out: {image.file}: {image.reason}", "bad")
    counts = ", ".join(f"{count} {name}" for name, count in predicted.counts.items())
    rule = f" ({predicted.positive} from a probability of {predicted.threshold:.3f} on)" if predicted.positive else ""
    console.say(f"{predicted.path}: {sum(predicted.counts.values())} images, called {counts}{rule}")
