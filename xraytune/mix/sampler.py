"""Draw the images of each optimiser step from two seeded streams: the real ones, and the extra ones.

A stream is an endless line of shuffled passes over its images; step t takes the next stretch of it. A batch is a function
of the seed and the step alone, so a resumed trial needs no state. The real stream knows nothing of the extra images: two
arms of one seed see the same real images, in the same views, in the same order.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import lru_cache

import numpy as np
from numpy.typing import NDArray

from xraytune.seeding import numpy_generator


@dataclass(frozen=True, slots=True, kw_only=True)
class Drawn:
    """Images of one step: int64 [n] positions, and int64 [n] which of its views each one shows."""

    positions: NDArray[np.int64]
    views: NDArray[np.int64]


Stream = Callable[[int], Drawn]
"""From a step, 0-based, to the images it draws."""


def image_stream(seed: int, purpose: str, *, image_count: int, per_step: int, view_count: int) -> Stream:
    """A stream over `image_count` images that gives `per_step` of them each step; every pass shows each image once.

    Args:
        seed: The study's seed.
        purpose: Tells one stream from another: "real" or "extra".
        image_count: Images in the stream; 0 only with `per_step` 0.
        per_step: Images drawn in a step.
        view_count: Views of each image; a pass draws one of them for each.
    """

    @lru_cache(maxsize=2)
    def shuffled_pass(number: int) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
        generator = numpy_generator(seed, "stream", purpose, number)
        return generator.permutation(image_count), generator.integers(view_count, size=image_count)

    def draw(step: int) -> Drawn:
        if per_step == 0:
            nothing = np.empty(0, dtype=np.int64)
            return Drawn(positions=nothing, views=nothing)
        places = np.arange(step * per_step, (step + 1) * per_step)
        positions, views = [], []
        for number in np.unique(places // image_count).tolist():
            order, shown = shuffled_pass(number)
            chosen = order[places[places // image_count == number] % image_count]
            positions.append(chosen)
            views.append(shown[chosen])
        return Drawn(positions=np.concatenate(positions), views=np.concatenate(views))

    return draw
