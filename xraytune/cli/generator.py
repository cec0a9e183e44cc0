"""`xraytune generator`: train a generator, or generate images with it."""

from pathlib import Path
from typing import Annotated

from typer import Argument, Option

from xraytune.cli import options
from xraytune.cli.command import run


def generator_train(
    space: options.SpaceFile,
    out: options.OutFolder,
    data: options.Data = None,
    overrides: options.Overrides = None,
    weights_dir: options.WeightsDir = None,
    cache: options.Cache = None,
    skip_broken: options.SkipBroken = False,
    without_generator: Annotated[
        bool,
        options.flag(
            "--without-generator",
            "Write only a classifier of the images and statistics of their features.",
        ),
    ] = False,
    as_json: options.AsJson = False,
) -> None:
    """Train the GAN of a search space file and save it to a folder. Run again to resume.

    If the space has a frozen backbone, the folder also gets a classifier and statistics of
    features: what another hospital should compare the GAN's images with.

    Example: xraytune generator train --space gan_ratio.yaml --data chest_xray
    --set gan.steps=5000 -o generator
    """
    run("generator_train", locals())


def generator_sample(
    generator: Annotated[Path, Argument(metavar="FOLDER", help="Folder from `generator train`.")],
    out: options.OutFolder,
    count: Annotated[int, Option("--count", "-n", metavar="N", help="Number of images.")],
    as_json: options.AsJson = False,
) -> None:
    """Generate images with a saved generator, as PNG files in class folders.

    Pairs are in images/ and masks/; findings in data.yaml.

    Classes have their training proportions. The first 100 of 500 images are the same as with -n
    100.

    Example: xraytune generator sample generator -n 500 -o generated
    """
    run("generator_sample", locals())
