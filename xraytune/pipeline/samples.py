"""Sample grids: real training images of each class beside extra ones, as one labelled picture.

`save_gan_grid` shows what a GAN has learned, next to the images that it was trained on. `training_grid` shows what a trial
trains on. Only training images are shown, never those of val-A, val-B or the test folder.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TypeAlias

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageDraw, ImageFont

from xraytune.config.settings import GanSettings
from xraytune.files import write_bytes
from xraytune.gan.pool import png_bytes
from xraytune.gan.train import resize_pixels
from xraytune.pipeline.artifacts import fingerprint
from xraytune.pipeline.prepare import Prepared, training_pixels
from xraytune.pipeline.synthesize import GAN_STAGE, gan_inputs, network_labels, pool_block
from xraytune.pipeline.training_set import TrainingSet
from xraytune.records import Compute

Pixels: TypeAlias = NDArray[np.uint8]

COLUMNS, LINES = 5, 2
"""Images of a class side by side and one above the other, in each block."""
_SHOWN = COLUMNS * LINES
CELL_PX, GAP_PX = 112, 6
_BLOCK_GAP_PX, _CLASS_GAP_PX, _MARGIN_PX, _HEADING_PX = 36, 22, 24, 34
_TITLE, _TEXT, _NOTE = (ImageFont.load_default(size) for size in (20, 16, 14))
_BLACK, _GREY, _WHITE = 32, 112, 255
_LONGEST_NAME = 24


@dataclass(frozen=True, slots=True, kw_only=True)
class ClassSamples:
    """The images of a class to show, each uint8 [S, S], and how many real ones it has."""

    name: str
    real_count: int
    real: Sequence[Pixels]
    extra: Sequence[Pixels]


def sample_grid(classes: Sequence[ClassSamples], *, title: str, extra: str) -> Image.Image:
    """Draw a band for each class: real images on the left, extra ones on the right, all in cells of one size.

    Args:
        classes: At most `COLUMNS * LINES` images of each kind are shown; cells without an image stay white.
        title: First line of the picture.
        extra: Heading of the right block.
    """
    names = [_printable(one.name) for one in classes]
    notes = [f"{one.real_count:,} real images" for one in classes]
    left = _MARGIN_PX + round(max(*map(_TEXT.getlength, names), *map(_NOTE.getlength, notes))) + _MARGIN_PX
    block = COLUMNS * (CELL_PX + GAP_PX) - GAP_PX
    band = LINES * (CELL_PX + GAP_PX) - GAP_PX + _CLASS_GAP_PX
    top = _MARGIN_PX + 2 * _HEADING_PX
    size = (left + 2 * block + _BLOCK_GAP_PX + _MARGIN_PX, top + len(classes) * band - _CLASS_GAP_PX + _MARGIN_PX)
    sheet = Image.new("L", size, _WHITE)
    draw = ImageDraw.Draw(sheet)
    draw.text((_MARGIN_PX, _MARGIN_PX), title, fill=_BLACK, font=_TITLE)
    blocks = {"real training images": left, extra: left + block + _BLOCK_GAP_PX}
    for heading, x in blocks.items():
        draw.text((x, top - 10), heading, fill=_GREY, font=_TEXT, anchor="ls")
    for number, one in enumerate(classes):
        y = top + number * band
        draw.text((_MARGIN_PX, y - 4), names[number], fill=_BLACK, font=_TEXT)
        draw.text((_MARGIN_PX, y + 20), notes[number], fill=_GREY, font=_NOTE)
        for x, images in zip(blocks.values(), (one.real, one.extra), strict=True):
            for place, pixels in enumerate(images[:_SHOWN]):
                line, column = divmod(place, COLUMNS)
                cell = Image.fromarray(pixels).resize((CELL_PX, CELL_PX), Image.Resampling.BICUBIC)
                sheet.paste(cell, (x + column * (CELL_PX + GAP_PX), y + line * (CELL_PX + GAP_PX)))
    return sheet


def training_grid(training_set: TrainingSet, class_names: Sequence[str], title: str) -> Image.Image:
    """Draw real images of each class, and the first extra ones of a trial."""
    real_labels = training_set.labels[: training_set.real_count]
    extra_labels = training_set.labels[training_set.extra]
    classes = []
    for label, name in enumerate(class_names):
        real = np.flatnonzero(real_labels == label)
        extra = training_set.extra[extra_labels == label][:_SHOWN]
        shown = [[_image(training_set, number) for number in numbers.tolist()] for numbers in (_spread(real), extra)]
        classes.append(ClassSamples(name=name, real_count=len(real), real=shown[0], extra=shown[1]))
    return sample_grid(classes, title=title, extra="extra images")


def save_gan_grid(settings: GanSettings, prepared: Prepared, folder: Path, *, compute: Compute, cache: Path) -> Path:
    """Draw the first images of a trained GAN beside the images that it was trained on, unless `folder` has the picture.

    All images have the size of the GAN's, so that its images can be compared with what it has seen.
    """
    gans = [gan_inputs(settings, label, prepared, compute) for label in network_labels(settings, prepared)]
    name = fingerprint(GAN_STAGE, {"gans": gans})[:8]
    file = folder / f"gan-{name}.png"
    if file.exists():
        return file
    pixels, train = training_pixels(prepared, cache), prepared.side("train")
    classes = []
    for label, class_name in enumerate(prepared.class_names):
        rows = train.rows[train.labels == label]
        drawn, _ = pool_block(settings, label, 0, prepared, compute=compute, cache=cache)
        real = resize_pixels(pixels[_spread(rows)], settings.image_size)
        classes.append(ClassSamples(name=class_name, real_count=len(rows), real=[*real], extra=[*drawn[:_SHOWN]]))
    title = (
        f"GAN {name}: {settings.image_size} px, {settings.steps:,} steps, width {settings.width}, seed {settings.seed}"
    )
    write_bytes(file, png_bytes(sample_grid(classes, title=title, extra="generated images")))
    return file


def _spread(numbers: NDArray[np.int64]) -> NDArray[np.int64]:
    """Return evenly spaced ones: neighbours are often of one patient."""
    places = np.linspace(0, len(numbers) - 1, min(_SHOWN, len(numbers))).round().astype(np.int64)
    return numbers[places]


def _image(training_set: TrainingSet, number: int) -> Pixels:
    ((source, _, places),) = training_set.by_source(np.array([number]))
    pixels: Pixels = training_set.sources[source].read(places)[0]
    return pixels


def _printable(name: str) -> str:
    name = re.sub(r"[\0-\x1f\x7f-\x9f]", "\ufffd", name)
    return name if len(name) <= _LONGEST_NAME else f"{name[: _LONGEST_NAME - 1]}…"
