"""Decide which extra images join the real ones, and how many of each in a step: exact counts, no randomness.

Takes the real images of each class and a trial's mix, gives a `MixPlan`. Two trials with the same mix train on the same
extra images; a smaller ratio's are the first ones of a larger ratio's, so a search over ratios compares amounts, not
different images.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from xraytune.config.settings import Parameters
from xraytune.errors import ConfigError, Problem


@dataclass(frozen=True, slots=True, kw_only=True)
class MixPlan:
    """The extra images of a training mix.

    Attributes:
        real_per_step: Real images in each optimiser step.
        extra_per_step: Extra images in each optimiser step.
        extra_labels: int64 [E], the class of each extra image.
        extra_ordinals: int64 [E], which one of its class's extra images it is: 0, 1, 2 ...
    """

    real_per_step: int
    extra_per_step: int
    extra_labels: NDArray[np.int64]
    extra_ordinals: NDArray[np.int64]

    def extra_counts(self, class_count: int) -> tuple[int, ...]:
        """Extra images of each class."""
        return tuple(np.bincount(self.extra_labels, minlength=class_count).tolist())


def plan_mix(real_counts: Sequence[int], parameters: Parameters) -> MixPlan:
    """The plan of one trial: round(r·N) extra images (half up), each given to a class in an order that never changes.

    Each class has quotas, one for each extra image it may get, and the first round(r·N) quotas are taken. `natural` orders
    seat k of a class of n real images by (k + 1/2) / n, which is Webster's method of apportionment: the shares are the
    real ones, exact at whole ratios, and a larger ratio only adds quotas. `equal` orders by n + k: the smallest class
    first, until it is level with the next.

    Args:
        real_counts: Real training images of each class, each >= 1.
        parameters: The trial's; `synthetic_ratio` (0 without a source), `balance`, `mixing` and `batch_size` are read.

    Source: Balinski and Young 1982, "Fair Representation", on Webster's method and its monotony.
    """
    extra_total = _extra_total(parameters.synthetic_ratio, sum(real_counts))
    ordinals = np.arange(extra_total)
    quotas: list[NDArray[np.floating[Any]]]
    if parameters.balance == "natural":
        quotas = [(ordinals + 0.5) / count for count in real_counts]
    else:
        quotas = [ordinals + float(count) for count in real_counts]
    order = np.argsort(np.concatenate(quotas), kind="stable")[:extra_total]
    return MixPlan(
        real_per_step=parameters.real_per_step,
        extra_per_step=parameters.extra_per_step if extra_total else 0,
        extra_labels=order // max(extra_total, 1),
        extra_ordinals=order % max(extra_total, 1),
    )


def require_extra_images(ratios: Iterable[float], real_count: int) -> None:
    """Refuse a ratio that rounds to no extra image: its trials would count as an arm that they are not.

    Args:
        ratios: The `synthetic_ratio` of trials with a source.
        real_count: Real training images.

    Raises:
        ConfigError: Names the smallest ratio.
    """
    smallest = min(ratios, default=None)
    if smallest is not None and _extra_total(smallest, real_count) == 0:
        what = f"synthetic_ratio: {smallest:g} of {real_count} training images rounds to no extra image"
        raise ConfigError(Problem(what, "synthetic_ratio", f"give {1 / real_count:.2g} or more"))


def _extra_total(synthetic_ratio: float, real_count: int) -> int:
    return int(synthetic_ratio * real_count + 0.5)
