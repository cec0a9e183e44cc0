"""A source (`source: mixup`): each extra image is a weighted mean of two training images of its class."""

from typing import Any

import numpy as np
from numpy.typing import NDArray


def mixup(pixels: NDArray[np.uint8], *, seed: int, **_: Any) -> NDArray[np.uint8]:
    """Return a block of 256 images.

    Args:
        pixels: The training images of one class, uint8 [n, S, S]. A source sees no other images.
        seed: Seed of this class and block. The same seed must return the same images.
        **_: `label` and `block`, the indices of the class and the block, unused here.

    From: Zhang et al. 2018, "mixup: Beyond Empirical Risk Minimization", within one class.
    """
    random = np.random.default_rng(seed)
    first, second = random.integers(len(pixels), size=(2, 256))
    share = random.uniform(0.2, 0.8, size=(256, 1, 1))
    mixes: NDArray[np.uint8] = (
        (share * pixels[first] + (1 - share) * pixels[second]).round().astype(np.uint8)
    )
    return mixes
