"""Decide how many extra images a trial adds to the real ones, and of which classes. Exact counts, no randomness.

Two trials with the same mix train on the same extra images, and a smaller ratio uses the first ones of a larger ratio:
a search over ratios compares amounts, not different images.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from xraytune.base.errors import ConfigError, DataError, Problem
from xraytune.data.prepare import Prepared
from xraytune.space.settings import Objective, Parameters


def plan_mix(real_counts: Sequence[int], parameters: Parameters) -> NDArray[np.int64]:
    """Return the class of each extra image, int64 [E] with E = round(r·N), half up.

    `balance: natural` keeps the real class shares, exactly so at whole ratios. `balance: equal` adds to the smallest class
    until it is level with the next.

    Args:
        real_counts: Real training images of each class, each >= 1.
        parameters: `synthetic_ratio` r (0 without a source) and `balance` are read.
    """
    total = _extra_count(parameters.synthetic_ratio, sum(real_counts))
    if parameters.balance == "natural":
        return apportion(real_counts, total)
    return _in_order([np.arange(total) + float(count) for count in real_counts], total)


def apportion(weights: Sequence[int], total: int) -> NDArray[np.int64]:
    """Divide `total` images among classes in proportion to their weights; int64 [total], the class of each image.

    The first images of a larger total are those of a smaller one. This is Webster's method: image k of a class of
    weight w ranks at (k + 1/2) / w.

    Source: Balinski and Young 1982, "Fair Representation".
    """
    return _in_order(
        [(np.arange(total) + 0.5) / weight if weight else np.full(total, np.inf) for weight in weights], total
    )


def require_extra_images(ratios: Iterable[float], real_count: int) -> None:
    """Refuse (ConfigError) a ratio that rounds to no extra image: such trials would be real-only ones under another name.

    `ratios` are the `synthetic_ratio` of trials with a source.
    """
    smallest = min(ratios, default=None)
    if smallest is not None and _extra_count(smallest, real_count) == 0:
        what = f"{smallest:g} of {real_count} training images rounds to zero extra images"
        raise ConfigError(Problem(what, "synthetic_ratio", f"use {1 / real_count:.2g} or more"))


def require_both_phases(ratios: Iterable[float], total_steps: int) -> None:
    """Raise ConfigError if `mixing: pretrain`, at one of the ratios, leaves no step for extra images or for real ones."""
    for ratio in ratios:
        first = Parameters(source="duplicate", synthetic_ratio=ratio, mixing="pretrain").pretraining_steps(total_steps)
        if not 0 < first < total_steps:
            what = (
                f"pretrain at synthetic_ratio: {ratio:g} divides {total_steps} steps into {first} with extra images "
                f"and {total_steps - first} with real ones"
            )
            raise ConfigError(Problem(what, "mixing", "use a synthetic_ratio closer to 1, or more steps"))


def require_enough(labels: Sequence[int], parameters: Parameters, prepared: Prepared) -> None:
    """Refuse a `source: folder` mix (DataError) that needs more images of a class than the folder has."""
    assert parameters.folder is not None, "source: folder has a path"
    needed = plan_mix(prepared.train_counts, parameters)
    for label, name in enumerate(prepared.class_names):
        there, used = labels.count(label), int(np.count_nonzero(needed == label))
        if there < used:
            images = f"images of {name}" if len(prepared.class_names) > 1 else "pairs"
            what = f"{there} {images}, but the mix needs {used}"
            raise DataError(Problem(what, parameters.folder.path, "add images or lower synthetic_ratio"))


def mix_label(parameters: Parameters, objective: Objective) -> str:
    """Return a label of a trial's mix: `real_only`, `classical 2`, `gan r=1 pretrain (500 steps) +classical 2`.

    In a search for a generator, nothing is mixed: `gan (500 steps)`.
    """
    if objective.is_of_generator and parameters.generator:
        return f"{parameters.source} ({parameters.generator.steps} steps)"
    if parameters.source == "none":
        return f"classical {parameters.classical}" if parameters.classical else "real_only"
    mix = f"{parameters.source} r={parameters.synthetic_ratio:g}"
    if parameters.mixing != "additive":
        mix += f" {parameters.mixing}"
    if parameters.generator:
        mix += f" ({parameters.generator.steps} steps)"
    return f"{mix} +classical {parameters.classical}" if parameters.classical else mix


def _extra_count(synthetic_ratio: float, real_count: int) -> int:
    return int(synthetic_ratio * real_count + 0.5)


def _in_order(ranks: Sequence[NDArray[np.floating[Any]]], total: int) -> NDArray[np.int64]:
    """Return the classes of the `total` lowest ranks; `ranks` has, for each class, those of its 1st, 2nd ... extra image."""
    return np.argsort(np.concatenate(ranks), kind="stable")[:total] // max(total, 1)
