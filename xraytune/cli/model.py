"""Commands on single models: `train`, `evaluate` and `predict`."""

from pathlib import Path
from typing import Annotated

from typer import Argument, Option

from xraytune.cli import options
from xraytune.cli.command import run


def train(
    out: Annotated[Path, options.out("MODEL", "Folder to create.")],
    study: Annotated[
        Path | None,
        Argument(metavar="STUDY", help="Study whose best configuration to train; or use --config."),
    ] = None,
    config: Annotated[
        Path | None,
        Option(
            "--config", metavar="FILE", help="Experiment file instead, e.g. from `xraytune export`."
        ),
    ] = None,
    members: Annotated[
        int | None,
        Option(
            metavar="K",
            help="Networks to train, which differ only in their seed; their probabilities are "
            "averaged. Default: 1.",
        ),
    ] = None,
    data: options.Data = None,
    weights_dir: options.WeightsDir = None,
    overrides: options.Overrides = None,
    cache: options.Cache = None,
    skip_broken: options.SkipBroken = False,
    extensions: options.Extensions = None,
    as_json: options.AsJson = False,
) -> None:
    """Train the final model, without Ray, and write it with a model card.

    Run the same command again to resume.

    Given a study, this runs `export` and trains the exported file: the mix that `confirm` found to
    help, or else the simplest one that is about as good as the best, with the settings of `final:`.

    Example: xraytune train --config best.yaml -o model
    """
    run("train", locals())


def evaluate(
    model: options.ModelArgument,
    data: Annotated[
        Path,
        Option(
            metavar="DATA",
            help="Folder with one subfolder per class (for a segmenter, images/ and masks/), "
            "or data file (YAML), whose test images are used.",
        ),
    ],
    out: Annotated[
        Path | None,
        options.out("OUT", "Folder to create: predictions, tables (CSV, JSON) and pictures."),
    ] = None,
    by: Annotated[
        list[str] | None,
        Option(
            metavar="COLUMN",
            help="Also report subgroups by this column of the patient table; repeatable.",
        ),
    ] = None,
    calibrate_on: Annotated[
        Path | None,
        Option(
            metavar="DATA",
            help="First adapt the probabilities and the threshold to these labelled images: "
            "about 50, of the same hospital, of other patients. For two classes.",
        ),
    ] = None,
    reason: options.Reason = "",
    skip_broken: options.SkipBroken = False,
    as_json: options.AsJson = False,
) -> None:
    """Evaluate a model on labelled images or pairs, with 95 % intervals over patients.

    Example: xraytune evaluate model --data new_xrays
    """
    run("evaluate", locals())


def predict(
    model: options.ModelArgument,
    images: Annotated[Path, Argument(metavar="FOLDER", help="Folder of images, or one image.")],
    out: Annotated[
        Path | None,
        options.out(
            "OUT",
            "CSV file to write, which one image does not need; for a segmenter, folder to create.",
        ),
    ] = None,
    skip_broken: options.SkipBroken = False,
    as_json: options.AsJson = False,
) -> None:
    """Write images' class probabilities to a CSV file, or their masks and overlays to a folder.

    For one image, also print its probabilities.

    Example: xraytune predict model new_xrays -o predictions.csv
    """
    run("predict", locals())
