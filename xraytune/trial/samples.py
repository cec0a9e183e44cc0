"""Sample grids: real training images of each class beside extra ones, as one labelled picture; masks as outlines.

`save_generator_grid` shows what a generator has learned, next to the images that it was trained on. `training_grid` shows
what a trial trains on. Only training images are shown, never those of val-A, val-B or the test folder.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TypeAlias

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageDraw, ImageFont

from xraytune.base.artifacts import fingerprint
from xraytune.base.drawing import drawable
from xraytune.base.files import write_bytes
from xraytune.data.masks import outlined
from xraytune.data.prepare import ImageSource, RunContext, side_images
from xraytune.space.settings import Experiment
from xraytune.synth.grids import png_bytes
from xraytune.synth.pool import binarise
from xraytune.synth.quality import spread
from xraytune.synth.sources import generator_of, pool_reader
from xraytune.synth.synthesize import generator_paths
from xraytune.synth.train import resize_planes
from xraytune.trial.training_set import TrainingSet

Pixels: TypeAlias = NDArray[np.uint8]
Shown: TypeAlias = tuple[Pixels, Pixels | None]
"""An image, uint8 [S, S], and its mask, if it has one."""

COLUMNS, LINES = 5, 2
"""Images of a class side by side and one above the other, in each block."""
_SHOWN = COLUMNS * LINES
CELL_PX, GAP_PX = 112, 6
_BLOCK_GAP_PX, _CLASS_GAP_PX, _MARGIN_PX, _HEADING_PX = 36, 22, 24, 34
_TITLE, _TEXT, _NOTE = (ImageFont.load_default(size) for size in (20, 16, 14))
_BLACK, _GREY = "#202020", "#707070"


@dataclass(frozen=True, slots=True, kw_only=True)
class ClassSamples:
    """The images of a class to show, and how many real ones it has."""

    name: str
    real_count: int
    real: Sequence[Shown]
    extra: Sequence[Shown]


def sample_grid(classes: Sequence[ClassSamples], *, title: str, extra: str) -> Image.Image:
    """Draw a band for each class, in cells of one size: real images on the left; on the right, with a heading, extra ones.

    At most `COLUMNS * LINES` images of each kind are shown.
    """
    names = [drawable(samples.name) for samples in classes]
    notes = [f"{samples.real_count:,} real images" for samples in classes]
    left = _MARGIN_PX + round(max(*map(_TEXT.getlength, names), *map(_NOTE.getlength, notes))) + _MARGIN_PX
    block = COLUMNS * (CELL_PX + GAP_PX) - GAP_PX
    band = LINES * (CELL_PX + GAP_PX) - GAP_PX + _CLASS_GAP_PX
    top = _MARGIN_PX + 2 * _HEADING_PX
    size = (left + 2 * block + _BLOCK_GAP_PX + _MARGIN_PX, top + len(classes) * band - _CLASS_GAP_PX + _MARGIN_PX)
    has_masks = any(mask is not None for samples in classes for _, mask in (*samples.real, *samples.extra))
    sheet = Image.new("RGB" if has_masks else "L", size, "white")
    draw = ImageDraw.Draw(sheet)
    draw.text((_MARGIN_PX, _MARGIN_PX), title, fill=_BLACK, font=_TITLE)
    blocks = {"real training images": left, extra: left + block + _BLOCK_GAP_PX}
    for heading, x in blocks.items():
        draw.text((x, top - 10), heading, fill=_GREY, font=_TEXT, anchor="ls")
    for number, samples in enumerate(classes):
        y = top + number * band
        draw.text((_MARGIN_PX, y - 4), names[number], fill=_BLACK, font=_TEXT)
        draw.text((_MARGIN_PX, y + 20), notes[number], fill=_GREY, font=_NOTE)
        for x, images in zip(blocks.values(), (samples.real, samples.extra), strict=True):
            for place, image in enumerate(images[:_SHOWN]):
                line, column = divmod(place, COLUMNS)
                sheet.paste(_cell(*image), (x + column * (CELL_PX + GAP_PX), y + line * (CELL_PX + GAP_PX)))
    return sheet


def _cell(pixels: Pixels, mask: Pixels | None) -> Image.Image:
    size = (CELL_PX, CELL_PX)
    image = Image.fromarray(pixels).resize(size, Image.Resampling.BICUBIC)
    if mask is None:
        return image
    enlarged = binarise(np.asarray(Image.fromarray(mask).resize(size, Image.Resampling.BICUBIC)))
    return Image.fromarray(outlined(np.asarray(image), enlarged))


def training_grid(training_set: TrainingSet, class_names: Sequence[str], title: str) -> Image.Image:
    """Draw real images of each class, and the first extra ones of a trial."""
    real_labels = training_set.labels[training_set.real]
    extra_labels = training_set.labels[training_set.extra]
    classes = []
    for label, name in enumerate(class_names):
        real = np.flatnonzero(real_labels == label)
        shown = _numbered(training_set, spread(real, _SHOWN))
        extra = _numbered(training_set, training_set.extra[extra_labels == label][:_SHOWN])
        classes.append(ClassSamples(name=name, real_count=len(real), real=shown, extra=extra))
    return sample_grid(classes, title=title, extra="extra images")


def save_generator_grid(experiment: Experiment, context: RunContext, folder: Path) -> Path:
    """Draw the first images of an experiment's generator next to its training images, unless `folder` has the picture.

    All images have the size of the generated ones, so that these can be compared with what the generator has seen.
    """
    settings = generator_of(experiment)
    paths = generator_paths(settings, context.prepared, context.compute, context.cache)
    name = fingerprint("networks", {"artifacts": [path.name for path in paths.values()]})[:8]
    file = folder / f"{settings.block}-{name}.png"
    if file.exists():
        return file
    prepared, read, size_px, classes = context.prepared, pool_reader(experiment, context), settings.image_size, []
    real = side_images("train", prepared, context.cache)
    for label, class_name in enumerate(prepared.class_names):
        places = np.flatnonzero(real.labels == label)
        shown = spread(places, _SHOWN)
        planes = resize_planes(real.read(shown), real.read_masks(shown) if prepared.has_masks else None, size_px)
        images = [(image, *mask) if mask else (image, None) for image, *mask in planes]
        extra = _images(read(label, 0), slice(0, _SHOWN))
        classes.append(ClassSamples(name=class_name, real_count=len(places), real=images, extra=extra))
    noun = f"{settings.noun[0].upper()}{settings.noun[1:]}"
    title = f"{noun} {name}: {size_px} px, {settings.steps:,} steps, width {settings.width}, seed {settings.seed}"
    write_bytes(file, png_bytes(sample_grid(classes, title=title, extra="generated images")))
    return file


def _numbered(training_set: TrainingSet, numbers: NDArray[np.int64]) -> list[Shown]:
    """Return the images with these numbers, in order."""
    sources = (next(training_set.by_source(numbers[place : place + 1])) for place in range(len(numbers)))
    return [_images(training_set.sources[source], places)[0] for source, _, places in sources]


def _images(source: ImageSource, places: NDArray[np.int64] | slice) -> list[Shown]:
    pixels = source.read(places)
    masks = [None] * len(pixels) if source.masks is None else source.read_masks(places)
    return [*zip(pixels, masks, strict=True)]
