"""The smallest GAN that trains: 32 px, a few feature maps, one thread."""

from __future__ import annotations

from collections.abc import Callable, Iterator

import numpy as np
import pytest
import torch
from numpy.typing import NDArray

from xraytune.base.records import Compute
from xraytune.base.seeding import numpy_generator
from xraytune.space.settings import GanSettings

Images = tuple[NDArray[np.uint8], NDArray[np.int64]]


@pytest.fixture(autouse=True)
def _one_thread_and_fixed_seed() -> Iterator[None]:
    """Networks that a test builds have the same weights in any order of tests."""
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        yield
    torch.set_num_threads(before)


@pytest.fixture
def cpu() -> Compute:
    return Compute(device="cpu", threads=1, precision="float32")


@pytest.fixture
def tiny() -> Callable[..., GanSettings]:
    """Build the settings of a tiny GAN, with changes."""

    def settings(**changes: object) -> GanSettings:
        return GanSettings.model_validate(
            {"image_size": 32, "width": 4, "batch_size": 8, "z_dim": 8, "steps": 6, **changes}
        )

    return settings


@pytest.fixture
def blobs() -> Images:
    """24 images of two classes: a bright disc on a dark background, on the left or on the right."""
    random = numpy_generator(0, "blobs")
    labels = np.arange(24, dtype=np.int64) % 2
    rows, columns = np.mgrid[0:32, 0:32]
    images = np.empty((24, 32, 32), dtype=np.uint8)
    for image, label in zip(images, labels, strict=True):
        disc = np.hypot(rows - 16, columns - (8 if label == 0 else 24)) < 6
        image[:] = np.where(disc, 200, 40) + random.integers(0, 20, size=(32, 32))
    return images, labels
