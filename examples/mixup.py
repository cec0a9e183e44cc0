"""A source, `source: mixup`: extra images of a class, each a mix of two of its training images."""

from typing import Any

import numpy as np
from numpy.typing import NDArray


def mixup(pixels: NDArray[np.uint8], *, seed: int, **_: Any) -> NDArray[np.uint8]:
    """A block of 256 images.

    Args:
        pixels: The training images of one class, uint8 [n, S, S]; nothing else is ever shown to a source.
        seed: Of this class and this block; the same seed has to give the same images.
        **_: `label` and `block`, the numbers of the class and of the block, which a mix does not need.

    Source: Zhang et al. 2018, "mixup: Beyond Empirical Risk Minimization", within one class.
    """
    random = np.random.default_rng(seed)
    first, second = random.integers(len(pixels), size=(2, 256))
    share = random.uniform(0.2, 0.8, size=(256, 1, 1))
    mixes: NDArray[np.uint8] = (share * pixels[first] + (1 - share) * pixels[second]).round().astype(np.uint8)
    return mixes
