"""`xraytune generator`: train a generator, or generate images with it."""

from pathlib import Path
from typing import Annotated

from typer import Argument, Exit, Option

from xraytune.base.errors import ConfigError, DataError
from xraytune.base.tables import Cell, Row, Table
from xraytune.cli import console, options


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
    from xraytune.cli.results import print_trained_generator
    from xraytune.model.generator_folder import generator_train as train_generator
    from xraytune.space.load import load_space, override_of
    from xraytune.trial.soft_labels import require_labeller

    with console.show_progress() as on_progress:
        trained = train_generator(
            space,
            out=out,
            data=data,
            overrides=overrides or (),
            weights_dir=weights_dir,
            cache=cache,
            skip_broken=skip_broken,
            without_generator=without_generator,
            note=console.event,
            on_progress=on_progress,
        )
    if as_json:
        console.show_json(trained)
        return
    print_trained_generator(trained)
    generator = trained.generator
    if generator and len(generator.class_counts) > 1:
        fixed = [*(overrides or ()), "points_to_evaluate=[]"]
        settings = load_space(space, fixed, data=data).settings
        given = settings.data.model_dump(include={"classes", "positive"}, exclude_defaults=True)
        changes = [override_of(f"data.{name}", value) for name, value in given.items()]
        changes.append(override_of("generator.path", out))
        other = load_space("other_hospital_cpu", changes, weights_dir=weights_dir)
        try:
            for mix in other.extreme_parameters("source", "labels", "generator.path"):
                if mix.labels == "donor":
                    require_labeller(mix, other.settings, (*generator.class_counts,))
        except DataError:
            changes.append("labels=class")
        console.propose(
            *("search", "--space", "other_hospital_cpu"),
            data="OTHER_XRAYS",
            weights_dir=weights_dir,
            overrides=changes,
            when="next, with X-rays of other patients",
        )


def extension_check(
    extension: Annotated[
        str,
        Argument(metavar="FILE.py:CLASS", help="The class, or the YAML file of a program."),
    ],
    data: Annotated[Path, Option(metavar="DATA", help="Image folder, or data file (YAML).")],
    image_size: Annotated[int, Option(metavar="PX", help="Side of the images.")] = 64,
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
    from xraytune.model.extension_check import extension_check as check_extension

    with console.show_progress() as on_progress:
        promises = check_extension(
            extension,
            data=data,
            image_size=image_size,
            overrides=overrides or (),
            on_progress=on_progress,
        )
    if as_json:
        console.show_json(promises)
    else:
        rows: list[Row] = [
            {
                "promise": promise.name,
                "kept": Cell("yes", "good") if promise.is_kept else Cell("no", "bad"),
                "found, and fix": f"{promise.found}\n{promise.fix}".strip(),
            }
            for promise in promises
        ]
        console.show(Table(rows, extension))
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
    from xraytune.cli.results import count_images
    from xraytune.model.generator_folder import generator_sample as sample_generator

    with console.show_progress() as on_progress:
        sample = sample_generator(generator, count=count, out=out, on_progress=on_progress)
    if as_json:
        console.show_json(sample)
        return
    counts = count_images(sample.counts, sample.task)
    console.write(f"{sample.path}: {counts} ({sample.image_size_px} px), with provenance.json")
