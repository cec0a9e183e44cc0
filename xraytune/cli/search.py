"""Before a search and during it.

`xraytune plan` says what a study could tell, `xraytune headroom` measures what it could gain,
`xraytune search` runs the search.
"""

from pathlib import Path
from typing import Annotated

from typer import Exit, Option

from xraytune.base.errors import MachineError
from xraytune.cli import options
from xraytune.cli.command import run


def search(
    space: options.FirstSpaceFile = None,
    data: options.Data = None,
    weights_dir: options.WeightsDir = None,
    overrides: options.Overrides = None,
    studies: options.Studies = Path("studies"),
    cache: options.Cache = None,
    address: options.Address = None,
    skip_broken: options.SkipBroken = False,
    as_json: options.AsJson = False,
) -> None:
    """Search a space of augmentation mixes. Run the same command again to resume.

    Example: xraytune search --space gan_ratio.yaml --data chest_xray
    """
    options = locals()
    from xraytune.cli.results import follow_trials

    run("search", options, follow_trials())


def plan(
    space: options.PlannedSpace = None,
    data: options.Data = None,
    weights_dir: options.WeightsDir = None,
    overrides: options.Overrides = None,
    auroc: Annotated[
        float | None,
        Option(metavar="AUROC", help="AUROC to assume of the arms; default: 0.95."),
    ] = None,
    sd: Annotated[
        float | None,
        Option(
            metavar="SD",
            min=0.0,
            help="SD of an arm's AUROC over replicates to assume; default: 0.006.",
        ),
    ] = None,
    gpus: Annotated[
        int | None,
        Option(metavar="N", min=0, help="GPUs to assume; default: those of this machine."),
    ] = None,
    cache: options.Cache = None,
    skip_broken: options.SkipBroken = False,
    as_json: options.AsJson = False,
) -> None:
    """Say, before a search, what a verdict could tell, and how long it takes to get it.

    Shows the expected half-width of the verdict's interval, the smallest gain that it would find,
    the time of search and confirmation, and what this machine lacks. Nothing is trained. Without
    `--space`, it only checks this machine: versions, GPUs, disk and Ray.

    Example: xraytune plan --space gan_ratio.yaml --data chest_xray
    """
    outlook = run("plan", locals())
    if not outlook.is_ready:
        raise Exit(MachineError.exit_code)


def headroom(
    space: options.SpaceFile,
    data: options.Data = None,
    weights_dir: options.WeightsDir = None,
    overrides: options.Overrides = None,
    cache: options.Cache = None,
    skip_broken: options.SkipBroken = False,
    as_json: options.AsJson = False,
) -> None:
    """Measure, before a search, how much even perfect images could gain.

    Takes two minutes with a frozen backbone.

    Real images of other patients stand in for synthetic ones, at each ratio of the space. If they
    gain less than the margin of `confirm`, no generator can help. The test folder stays sealed.

    Example: xraytune headroom --space gan_ratio.yaml --data chest_xray
    """
    run("headroom", locals())
