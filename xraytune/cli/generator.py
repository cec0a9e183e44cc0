"""`xraytune generator`: train a generator, or generate images with it."""

from pathlib import Path
from typing import Annotated

from typer import Argument, Exit, Option

from xraytune.base.errors import ConfigError
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


def extension_check(
    extension: Annotated[
        str,
        Argument(metavar="FILE.py:CLASS", help="The class, or the YAML file of a program."),
    ],
    data: Annotated[Path, Option(metavar="DATA", help="Image folder, or data file (YAML).")],
    image_size: Annotated[
        int | None, Option(metavar="PX", help="Side of the images; default: 64.")
    ] = None,
    overrides: Annotated[
        list[str] | None,
        Option("--set", metavar="SETTING=VALUE", help="A setting, such as steps=100; repeatable."),
    ] = None,
    as_json: options.AsJson = False,
) -> None:
    """Check a generator of your own, before a study trains it: shapes, seeds, a kill, copies.

    It is trained twice on the training images of the data, once with a kill.

    Example: xraytune extension check my_gan.py:MyGan --data chest_xray --set steps=200
    """
    promises = run("extension_check", locals())
    if not all(promise.is_kept for promise in promises):
        raise Exit(ConfigError.exit_code)


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
