"""Before a search and during it.

`xraytune plan` says what a study could tell, `xraytune curve` measures what it could gain,
`xraytune search` runs the search.
"""

from pathlib import Path
from typing import Annotated

from typer import Exit, Option

from xraytune.base.errors import ConfigError, MachineError
from xraytune.cli import console, options


def _numbers(text: str) -> list[int]:
    try:
        return [int(number) for number in text.split(",")]
    except ValueError:
        raise ConfigError(
            f"--patients {text} is no list of numbers",
            fix="separate whole numbers by commas: 25,50,100",
        ) from None


def search(
    space: options.FirstSpaceFile = None,
    data: options.Data = None,
    classes: options.Classes = None,
    group_regex: options.GroupRegex = None,
    weights_dir: options.WeightsDir = None,
    overrides: options.Overrides = None,
    studies: options.Studies = Path("studies"),
    cache: options.Cache = None,
    address: options.Address = None,
    skip_broken: options.SkipBroken = False,
    extensions: options.Extensions = None,
    as_json: options.AsJson = False,
) -> None:
    """Search a space of augmentation mixes. Run the same command again to resume.

    Example: xraytune search --space gan_ratio.yaml --data chest_xray
    """
    from xraytune.cli.results import print_search, show_search
    from xraytune.search.run import search as search_space

    with show_search() as callbacks:
        view = search_space(
            space,
            data=data,
            classes=classes,
            group_regex=group_regex,
            weights_dir=weights_dir,
            overrides=overrides or (),
            studies=studies,
            cache=cache,
            address=address,
            skip_broken=skip_broken,
            extensions=extensions or (),
            callbacks=callbacks,
        )
    if as_json:
        console.show_json(view)
    else:
        print_search(view, address)


def plan(
    space: options.FirstSpaceFile = None,
    data: options.Data = None,
    classes: options.Classes = None,
    group_regex: options.GroupRegex = None,
    weights_dir: options.WeightsDir = None,
    overrides: options.Overrides = None,
    auroc: Annotated[
        float | None,
        Option(metavar="AUROC", help="AUROC to expect; default: that of frozen features."),
    ] = None,
    sd: Annotated[
        float,
        Option(
            metavar="SD",
            min=0.0,
            help="SD of an arm's AUROC over replicates to assume.",
        ),
    ] = 0.006,
    gpus: Annotated[
        int | None,
        Option(metavar="N", min=0, help="GPUs to assume; default: those of this machine."),
    ] = None,
    cache: options.Cache = None,
    skip_broken: options.SkipBroken = False,
    extensions: options.Extensions = None,
    as_json: options.AsJson = False,
) -> None:
    """Say, before a search, what a verdict could tell, and how long it takes to get it.

    Shows the expected half-width of the verdict's interval, the smallest gain that it would find,
    the time of search and confirmation, and what this machine lacks. Nothing is trained. Without
    `--space` and `--data`, it only checks this machine: versions, GPUs, disk and Ray.

    Example: xraytune plan --data chest_xray
    """
    console.event("checking this machine")  # before the imports
    from xraytune.confirm.outlook import study_outlook
    from xraytune.present.design import outlook_frame

    with console.show_progress() as on_progress:
        outlook = study_outlook(
            space=space,
            data=data,
            classes=classes,
            group_regex=group_regex,
            weights_dir=weights_dir,
            overrides=overrides or (),
            cache=cache,
            skip_broken=skip_broken,
            extensions=extensions or (),
            auroc=auroc,
            sd=sd,
            gpus=gpus,
            on_progress=on_progress,
            note=console.event,
        )
    if as_json:
        console.show_json(outlook)
    else:
        console.show(*outlook_frame(outlook))
        if outlook.design and outlook.is_ready:
            console.propose(
                "search",
                space=space,
                data=data,
                classes=classes,
                group_regex=group_regex,
                weights_dir=weights_dir,
                overrides=overrides or (),
                extensions=extensions or (),
                skip_broken=skip_broken,
            )
        elif outlook.is_ready:
            console.propose("demo")
    if not outlook.is_ready:
        raise Exit(MachineError.exit_code)


def curve(
    space: options.SpaceFile,
    data: options.Data = None,
    weights_dir: options.WeightsDir = None,
    overrides: options.Overrides = None,
    patients: Annotated[
        str | None,
        Option(metavar="N,N,...", help="Numbers of patients; default: 25,50,100 and so on."),
    ] = None,
    donor: Annotated[
        Path | None,
        Option(
            metavar="FOLDER",
            help="What another hospital has sent: a folder of `xraytune generator train`.",
        ),
    ] = None,
    folder: Annotated[
        Path | None, Option(metavar="FOLDER", help="Extra images, in class folders.")
    ] = None,
    out: Annotated[
        Path | None,
        options.out("OUT", "Folder to create, with the figures and a picture."),
    ] = None,
    cache: options.Cache = None,
    skip_broken: options.SkipBroken = False,
    extensions: options.Extensions = None,
    as_json: options.AsJson = False,
) -> None:
    """Measure, before a search, how many patients synthetic or other images are worth.

    Trains on several numbers of patients, with real images of others in the place of perfect
    synthetic ones, and with what another hospital has sent. With a frozen backbone, it takes
    minutes. The test folder stays sealed.

    Example: xraytune curve --space gan_ratio.yaml --data chest_xray --donor hospital_a -o curve
    """
    from xraytune.confirm.curve import curve as measure_curve
    from xraytune.present.curve import curve_frame

    with console.show_progress() as on_progress:
        measured = measure_curve(
            space,
            data=data,
            weights_dir=weights_dir,
            overrides=overrides or (),
            patients=_numbers(patients) if patients else (),
            donor=donor,
            folder=folder,
            out=out,
            cache=cache,
            skip_broken=skip_broken,
            extensions=extensions or (),
            on_progress=on_progress,
            note=console.event,
        )
    if as_json:
        console.show_json(measured)
        return
    console.show(*curve_frame(measured))
    if out:
        console.write(f"{out}: curve.json, curve.png and curve.svg")
    console.propose(
        "search",
        space=space,
        data=data,
        weights_dir=weights_dir,
        overrides=overrides or (),
        extensions=extensions or (),
        skip_broken=skip_broken,
    )
