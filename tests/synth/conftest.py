"""The smallest GAN that trains: 32 px, a few feature maps, one thread."""

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from numpy.typing import NDArray

from tests.in_process import CPU, one_thread
from xraytune.base.seeding import numpy_generator
from xraytune.space.source_settings import GanSettings
from xraytune.synth.gan import train_generator
from xraytune.synth.gan_networks import Generator
from xraytune.synth.generator_inputs import NETWORK_FILE
from xraytune.synth.saved_generator import generate_block, load_generator

ImageTable = tuple[NDArray[np.uint8], NDArray[np.int64]]


@pytest.fixture(autouse=True)
def _one_thread_and_fixed_seed() -> Iterator[None]:
    """Networks that a test builds have the same weights in any order of tests."""
    with one_thread(), torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        yield


def tiny(**changes: object) -> GanSettings:
    """The settings of a tiny GAN, with changes."""
    small = {"image_size": 32, "width": 4, "batch_size": 8, "z_dim": 8, "steps": 6}
    return GanSettings.model_validate(small | changes)


def draw_blobs() -> ImageTable:
    """24 images of two classes: a bright disc on a dark background, on the left or on the right."""
    random = numpy_generator(0, "blobs")
    labels = np.arange(24, dtype=np.int64) % 2
    rows, columns = np.mgrid[0:32, 0:32]
    images = np.empty((24, 32, 32), dtype=np.uint8)
    for image, label in zip(images, labels, strict=True):
        disc = np.hypot(rows - 16, columns - (8 if label == 0 else 24)) < 6
        image[:] = np.where(disc, 200, 40) + random.integers(0, 20, size=(32, 32))
    return images, labels


BLOBS = draw_blobs()
DISCS = np.where(BLOBS[0] > 128, 255, 0).astype(np.uint8)
"""Their masks."""


def train(
    settings: GanSettings,
    folder: Path,
    images: ImageTable = BLOBS,
    *,
    masks: NDArray[np.uint8] | None = None,
    stop_after: int | None = None,
    **options: Any,
) -> list[int]:
    """Train a generator in a folder, up to its end or a step; return the steps that it reports."""
    defaults: dict[str, Any] = {
        "class_count": 2,
        "compute": CPU,
        "report_every_steps": 2,
        "checkpoint_every_steps": 2,
    }
    pixels, labels = images
    channels = np.stack([pixels] if masks is None else [pixels, masks], axis=1)
    steps = []
    for step in train_generator(settings, channels, labels, folder=folder, **defaults | options):
        steps.append(step)
        if step == stop_after:
            break
    return steps


def trained_in(folder: Path) -> Generator:
    """The generator of a finished training."""
    return load_generator(folder / NETWORK_FILE)


def draw(
    file: Path, label: int = 0, number: int = 0, seed: int = 0, **options: Any
) -> NDArray[np.uint8]:
    """The images of a block."""
    return generate_block(file, label, number, seed=seed, compute=CPU, **options)[:, 0]


def full_range_generator(class_count: int, channels: int = 1) -> Generator:
    """An untrained generator with all grey values and batch norm statistics, as after training."""
    network = Generator(tiny(), class_count, channels=channels)
    with torch.no_grad():
        for parameter in network.upsamples.parameters():
            parameter.mul_(20)
        network(torch.randn(32, 8), torch.arange(32) % class_count)
    return network.eval()


def assert_same_bits(one: Path, other: Path) -> None:
    """The average of all steps is the same."""
    files = [folder / NETWORK_FILE for folder in (one, other)]
    assert files[0].read_bytes() == files[1].read_bytes()


def assert_learned_blobs(left: NDArray[np.uint8], right: NDArray[np.uint8]) -> None:
    """Untrained, it draws middle grey; blobs are dark, with a disc on the left or right."""
    samples = np.concatenate([left, right])
    assert abs(samples.mean() - BLOBS[0].mean()) < 25  # from 127 to 67
    assert left[:, :, :16].mean() > left[:, :, 16:].mean() + 10
    assert right[:, :, 16:].mean() > right[:, :, :16].mean() + 10
