"""Decide how many extra images a trial adds to the real ones, and of which classes.

The counts are exact, and nothing is random.

Two trials with the same mix train on the same extra images, and a smaller ratio uses the first ones
of a larger ratio: a search over ratios compares amounts, not different images.
"""

from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from xraytune.base.arrays import Int64Array
from xraytune.base.errors import DataError, counted
from xraytune.data.prepare import SplitData
from xraytune.space.extensions import EXTENSIONS, SOURCES
from xraytune.space.parameters import Parameters, extra_image_count


def plan_mix(
    real_counts: Sequence[int], parameters: Parameters, real_pool_size: int | None = None
) -> Int64Array:
    """Return the class of each extra image, int64 [E].

    E is r·N, rounded half up, or the size of the pool. `balance: natural` keeps the shares of the
    real classes, exactly so at whole ratios. `balance: equal` adds to the smallest class until it
    is level with the next.

    Args:
        real_counts: Real training images of each class, each >= 1.
        parameters: The parameters of a trial; `synthetic_ratio` r (0 without a source), `pool_size`
            and `balance` are read.
        real_pool_size: As in `Experiment`.
    """
    total = real_pool_size or parameters.pool_size
    if total is None:
        total = extra_image_count(parameters.synthetic_ratio, sum(real_counts))
    if parameters.balance == "natural":
        return apportion(real_counts, total)
    return _classes_of_lowest_ranks(np.arange(total) + np.array(real_counts)[:, None])


def apportion(weights: Sequence[int], total: int) -> Int64Array:
    """Divide `total` images among classes in proportion to their weights.

    Returns the class of each image, int64 [total].

    The first images of a larger total are those of a smaller one. This is Webster's method: image k
    of a class of weight w ranks at (k + 1/2) / w.

    From: Balinski and Young 1982, "Fair Representation".
    """
    with np.errstate(divide="ignore"):
        return _classes_of_lowest_ranks((np.arange(total) + 0.5) / np.array(weights)[:, None])


def require_enough(
    available: Sequence[int] | None,
    parameters: Parameters,
    prepared: SplitData,
    real_pool_size: int | None = None,
) -> None:
    """Refuse a mix (DataError) that needs more images of a class than there are."""
    if available is None:
        return
    folder = parameters.folder.path if parameters.folder else ""
    planned = plan_mix(prepared.train_counts, parameters, real_pool_size)
    needed = np.bincount(planned, minlength=len(available))
    for name, available_count, count in zip(prepared.class_names, available, needed, strict=True):
        if available_count < count:
            suffix = f" of {name}" if len(prepared.class_names) > 1 else ""
            what = f"only {counted(available_count, 'image')}{suffix}, but the mix needs {count}"
            name = "pool_size" if parameters.pool_size else "synthetic_ratio"
            raise DataError(what, folder, f"add images or lower {name}")


def mix_label(parameters: Parameters) -> str:
    """Return a label of a trial's mix, such as `gan r=1 pretrain (500 steps) +affine`."""
    methods = " +".join(parameters.classical_methods)
    if parameters.source == "none":
        return methods or "real_only"
    where = f" {parameters.folder.path.name}" if parameters.folder else ""
    mix = f"{parameters.source}{where} r={parameters.synthetic_ratio:g}"
    if parameters.pool_size:
        mix += f" of {parameters.pool_size:,}"
    if parameters.synthetic_weight != 1:
        mix += f" weight={parameters.synthetic_weight:g}"
    if parameters.labels == "donor":
        mix += " donor's labels"
    if parameters.mixing != "additive":
        mix += f" {parameters.mixing}"
    if parameters.gan:
        mix += f" ({parameters.gan.steps} steps)"
    if SOURCES.has(parameters.source):
        defaults = EXTENSIONS.declared[parameters.source].settings
        settings = parameters.settings_of(parameters.source).items()
        changes = [f"{name} {value}" for name, value in settings if value != defaults[name]]
        mix += f" ({', '.join(changes)})" if changes else ""
    return f"{mix} +{methods}" if methods else mix


def _classes_of_lowest_ranks(ranks: NDArray[Any]) -> Int64Array:
    """Return the classes of the `total` lowest ranks, in the order of the ranks.

    `ranks`, [C, total], has a row for each class, with the ranks of its 1st, 2nd ... extra image.
    """
    order = np.argsort(ranks, axis=None, kind="stable")[: ranks.shape[1]]
    return np.unravel_index(order, ranks.shape)[0].astype(np.int64)
