"""The figures of a data folder: what its images look like, and how many there are of each class.

Takes the index of the folder, decodes a few training images, and hands rows and counts to `figures.py`. Of the sealed
test part nothing is shown but its counts.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterator, Sequence
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from xraytune.cores import cpu_count
from xraytune.data.decoding import BrokenImage
from xraytune.data.index import ImageFile, ImageIndex
from xraytune.data.pixels import decode_images
from xraytune.errors import ConfigError, Problem, listed
from xraytune.files import require_writable
from xraytune.report.figures import BarPanel, SampleRow, draw_class_bars, draw_sample_grid, figure_files
from xraytune.seeding import numpy_generator

_NAMES = ("samples", "class_frequency")
_IMAGES_PER_ROW = 8
_SEED = 0
"""Chooses whose images are shown: the same folder always gives the same picture."""
_SAMPLE_PX = 224
"""Squashed to a square, as a classifier sees them by default: cropping would cut off the lungs of a wide image."""


def require_no_figures(out: Path, data: Path) -> None:
    """Refuse a folder in which such figures lie already or must not lie, before any work.

    Args:
        out: Where they are to be drawn.
        data: The folder of the images.

    Raises:
        ConfigError: It holds one of them, it lies among the images, or it is a file.
        MachineError: Nothing can be written there.
    """
    require_writable(out)
    if out.resolve().is_relative_to(data.resolve()):
        what = "figures in the image folder would be taken for X-rays"
        raise ConfigError(Problem(what, out, "name a folder outside of it"))
    there = [file.name for name in _NAMES for file in figure_files(out, name) if file.exists()]
    if there:
        raise ConfigError(
            Problem(f"figures are here already: {listed(there)}", out, "remove them, or name another folder")
        )


def draw_data_figures(index: ImageIndex, out: Path) -> tuple[Path, ...]:
    """Write `samples` and `class_frequency`, each as PNG and SVG, into the folder `out`.

    Args:
        index: Of the data folder.
        out: The folder, there already or not.

    Returns:
        The files.

    Raises:
        ConfigError: Such figures lie there already, or it is in the image folder.
        MachineError: The disk is full.
    """
    require_no_figures(out, index.root)
    samples = draw_sample_grid(sample_rows(index, _SEED), out, _NAMES[0])
    return (*samples, *draw_class_bars(index.class_names, count_panels(index), out, _NAMES[1]))


def sample_rows(index: ImageIndex, seed: int) -> tuple[SampleRow, ...]:
    """For each class, training images of up to eight patients, one of each; broken images are passed over."""
    return tuple(_sample_row(index, label, seed) for label in range(len(index.class_names)))


def _sample_row(index: ImageIndex, label: int, seed: int) -> SampleRow:
    of_class = [image for image in index.images if image.label == label]
    name = index.class_names[label]
    chosen = [image.file for image in _one_of_each_patient(of_class, seed, name)]
    pixels: list[NDArray[np.uint8]] = []
    for image in decode_images(index.root, chosen, _SAMPLE_PX, workers=cpu_count()):
        pixels += [] if isinstance(image, BrokenImage) else [image]
        if len(pixels) == _IMAGES_PER_ROW:
            break
    images = np.stack(pixels) if pixels else np.empty((0, _SAMPLE_PX, _SAMPLE_PX), dtype=np.uint8)
    return SampleRow(name=name, note=_counted(len(of_class), "image"), images=images)


def _one_of_each_patient(images: Sequence[ImageFile], seed: int, class_name: str) -> Iterator[ImageFile]:
    """Patients in a seeded order, each with one of their images."""
    by_patient: dict[str, list[ImageFile]] = defaultdict(list)
    for image in images:
        by_patient[image.patient].append(image)
    random = numpy_generator(seed, "samples", class_name)
    for position in random.permutation(len(by_patient)).tolist():
        of_patient = by_patient[sorted(by_patient)[position]]
        yield of_patient[int(random.integers(len(of_patient)))]


def count_panels(index: ImageIndex) -> tuple[BarPanel, BarPanel]:
    """Images and patients of each class, in training and, where there is one, in the test part."""
    parts = {"training": index.images} | ({"test": index.test} if index.test else {})
    labels = range(len(index.class_names))
    return (
        BarPanel(
            title="images",
            counts={
                name: tuple(sum(image.label == label for image in images) for label in labels)
                for name, images in parts.items()
            },
        ),
        BarPanel(
            title="patients",
            counts={
                name: tuple(len({image.patient for image in images if image.label == label}) for label in labels)
                for name, images in parts.items()
            },
        ),
    )


def _counted(count: int, what: str) -> str:
    return f"{count:,} {what}{'s' * (count != 1)}"
