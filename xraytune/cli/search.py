"""`xraytune headroom` measures what a search could gain; `xraytune search` runs it."""

from pathlib import Path

import xraytune
from xraytune.cli import options
from xraytune.cli.command import results, run


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
    """Search a space of augmentation mixes. Run the same command again to resume."""
    run(xraytune.run_search, locals(), results.show_search, results.follow_trials())


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
    """
    run(xraytune.measure_headroom, locals(), results.show_headroom)
