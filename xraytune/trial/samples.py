"""Sample grids: what a generator has learned, next to training images of each class, as one labelled picture.

Masks are drawn as outlines. Only training images are shown, never those of val-A, val-B or the test folder.
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
from xraytune.data.prepare import RunContext, side_images
from xraytune.space.settings import Experiment
from xraytune.synth.grids import png_bytes
from xraytune.synth.pool import binarise
from xraytune.synth.quality import spread
from xraytune.synth.sources import generator_of, pool_reader
from xraytune.synth.synthesize import generator_paths
from xraytune.synth.train import resize_planes

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
    generated: Sequence[Shown]


def sample_grid(classes: Sequence[ClassSamples], title: str) -> Image.Image:
    """Draw a band for each class, in cells of one size: real images on the left, generated ones on the right.

    At most `COLUMNS * LINES` images of each kind are shown.
    """
    names = [drawable(samples.name) for samples in classes]
    notes = [f"{samples.real_count:,} real images" for samples in classes]
    left = _MARGIN_PX + round(max(*map(_TEXT.getlength, names), *map(_NOTE.getlength, notes))) + _MARGIN_PX
    block = COLUMNS * (CELL_PX + GAP_PX) - GAP_PX
    band = LINES * (CELL_PX + GAP_PX) - GAP_PX + _CLASS_GAP_PX
    top = _MARGIN_PX + 2 * _HEADING_PX
    size = (left + 2 * block + _BLOCK_GAP_PX + _MARGIN_PX, top + len(classes) * band - _CLASS_GAP_PX + _MARGIN_PX)
    has_masks = any(mask is not None for samples in classes for _, mask in (*samples.real, *samples.generated))
    sheet = Image.new("RGB" if has_masks else "L", size, "white")
    draw = ImageDraw.Draw(sheet)
    draw.text((_MARGIN_PX, _MARGIN_PX), title, fill=_BLACK, font=_TITLE)
    blocks = {"real training images": left, "generated images": left + block + _BLOCK_GAP_PX}
    for heading, x in blocks.items():
        draw.text((x, top - 10), heading, fill=_GREY, font=_TEXT, anchor="ls")
    for number, samples in enumerate(classes):
        y = top + number * band
        draw.text((_MARGIN_PX, y - 4), names[number], fill=_BLACK, font=_TEXT)
        draw.text((_MARGIN_PX, y + 20), notes[number], fill=_GREY, font=_NOTE)
        for x, images in zip(blocks.values(), (samples.real, samples.generated), strict=True):
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
        block = read(label, 0)
        generated = block.read(slice(0, _SHOWN))
        masks = [None] * len(generated) if block.masks is None else block.read_masks(slice(0, _SHOWN))
        drawn = [*zip(generated, masks, strict=True)]
        classes.append(ClassSamples(name=class_name, real_count=len(places), real=images, generated=drawn))
    noun = f"{settings.noun[0].upper()}{settings.noun[1:]}"
    title = f"{noun} {name}: {size_px} px, {settings.steps:,} steps, width {settings.width}, seed {settings.seed}"
    write_bytes(file, png_bytes(sample_grid(classes, title)))
    return file
