"""An extension (`source: blend`): each extra image is a weighted mean of two training images of its class."""

from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray


class Blend:
    """From: Zhang et al. 2018, "mixup: Beyond Empirical Risk Minimization", within one class."""

    pretrained_on = ()

    def fit(
        self, images: NDArray[np.uint8], targets: NDArray[np.int64], *, folder: Path, **_: Any
    ) -> None:
        """Keep the training images, uint8 [N, S, S], with their classes, [N]."""
        np.save(folder / "images.npy", images)
        np.save(folder / "targets.npy", targets)

    def sample(
        self, targets: NDArray[np.int64], *, folder: Path, seed: int, **_: Any
    ) -> NDArray[np.uint8]:
        """Return an image of each class in `targets`; the same seed returns the same images."""
        random = np.random.default_rng(seed)
        images = np.load(folder / "images.npy")
        labels = np.load(folder / "targets.npy")
        of_class = [np.flatnonzero(labels == target) for target in targets]
        pairs = np.array([random.choice(places, size=2) for places in of_class])
        share = random.uniform(0.2, 0.8, size=(len(targets), 1, 1))
        first, second = images[pairs.T]
        mixes: NDArray[np.uint8] = (share * first + (1 - share) * second).round().astype(np.uint8)
        return mixes
