"""The figures of a data folder: sample images of each class, and the class frequencies; or sample pairs with their masks.

Samples are training images; of the held-out test images only the counts are shown.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterator, Sequence
from itertools import islice
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from xraytune.base import drawing
from xraytune.base.drawing import SampleRow
from xraytune.base.errors import ConfigError, Problem, counted, join_names
from xraytune.base.files import require_writable
from xraytune.base.seeding import numpy_generator
from xraytune.data.decoding import BrokenImage
from xraytune.data.index import ImageFile, ImageIndex
from xraytune.data.masks import map_masks, outlined, square_mask
from xraytune.data.pixels import decode_images

_IMAGES_PER_ROW = 8
_SAMPLE_PX = 224
"""Squeezed to a square, the default of the classifiers: cropping would cut off the lungs in a wide image."""


def require_no_figures(out: Path, data: Path) -> None:
    """Check, before any work, that the figures of the folder `data` can be written to the folder `out`.

    Raises:
        ConfigError: `out` contains one of them already, is inside `data`, or is a file.
        MachineError: No write access.
    """
    require_writable(out)
    if out.resolve().is_relative_to(data.resolve()):
        what = "figures in the image folder would be mistaken for X-rays"
        raise ConfigError(Problem(what, out, "give a folder outside of it"))
    files = [*drawing.figure_files(out, drawing.SAMPLES), *drawing.figure_files(out, drawing.CLASS_FREQUENCY)]
    if there := [file.name for file in files if file.exists()]:
        what = f"figures are here already: {join_names(there)}"
        raise ConfigError(Problem(what, out, "remove them, or give another folder"))


def draw_data_figures(index: ImageIndex, out: Path) -> tuple[Path, ...]:
    """Write `samples` and, with classes, `class_frequency`, as PNG and SVG, to the folder `out`, and return the files."""
    require_no_figures(out, index.root)
    if any(image.masks for image in index.images):
        return drawing.draw_sample_grid(pair_rows(index, seed=0), out)
    samples = drawing.draw_sample_grid(sample_rows(index, seed=0), out)
    return (*samples, *drawing.draw_class_bars(index.class_names, count_panels(index), out))


def sample_rows(index: ImageIndex, seed: int) -> tuple[SampleRow, ...]:
    """Choose, for each class, one training image of each of up to eight patients; broken images are skipped."""
    rows = []
    for label, name in enumerate(index.class_names):
        class_images = [image for image in index.images if image.label == label]
        chosen = [image.file for image in _one_of_each_patient(class_images, seed, name)]
        decoded = decode_images(index.root, chosen, _SAMPLE_PX)
        pixels = [*islice((image for image in decoded if not isinstance(image, BrokenImage)), _IMAGES_PER_ROW)]
        rows.append(SampleRow(name=name, note=counted(len(class_images), "image"), images=_stacked(pixels)))
    return tuple(rows)


def pair_rows(index: ImageIndex, seed: int) -> tuple[SampleRow, SampleRow]:
    """Choose one pair from each of up to eight patients; return the X-rays without and with the outline of their mask.

    Broken images and masks are skipped.
    """
    grey, outlines = [], []
    for image in _one_of_each_patient(index.images, seed, index.class_names[0]):
        (pixels,) = decode_images(index.root, [image.file], _SAMPLE_PX)
        (mask,) = map_masks(index.root, [image], lambda mask: square_mask(mask, _SAMPLE_PX, "squash"))
        if isinstance(pixels, np.ndarray) and isinstance(mask, np.ndarray):
            grey.append(pixels)
            outlines.append(outlined(pixels, mask))
        if len(grey) == _IMAGES_PER_ROW:
            break
    return (
        SampleRow(name="X-rays", note=f"{len(index.images):,} pairs", images=_stacked(grey)),
        SampleRow(name="masks", note="outlined", images=_stacked(outlines)),
    )


def _stacked(images: Sequence[NDArray[np.uint8]]) -> NDArray[np.uint8]:
    return np.stack(images) if images else np.empty((0, _SAMPLE_PX, _SAMPLE_PX), dtype=np.uint8)


def _one_of_each_patient(images: Sequence[ImageFile], seed: int, class_name: str) -> Iterator[ImageFile]:
    """Yield one image of each patient, in a seeded order."""
    by_patient: dict[str, list[ImageFile]] = defaultdict(list)
    for image in images:
        by_patient[image.patient].append(image)
    random = numpy_generator(seed, "samples", class_name)
    for position in random.permutation(len(by_patient)).tolist():
        patient_images = by_patient[sorted(by_patient)[position]]
        yield patient_images[int(random.integers(len(patient_images)))]


def count_panels(index: ImageIndex) -> dict[str, dict[str, tuple[int, ...]]]:
    """Count the `images` and the `patients` of each class, in the training and the test part."""
    parts = {"training": index.images} | ({"test": index.test} if index.test else {})
    images, patients = {}, {}
    for name, part in parts.items():
        by_class = [[image.patient for image in part if image.label == n] for n in range(len(index.class_names))]
        images[name] = tuple(map(len, by_class))
        patients[name] = tuple(len(set(owners)) for owners in by_class)
    return {"images": images, "patients": patients}
