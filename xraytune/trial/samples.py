"""Sample grids: what a generator has learned, next to training images of each class.

Masks are drawn as outlines. Only training images are shown, never those of val-A, val-B or the test
folder.
"""

from __future__ import annotations

from pathlib import Path

import numpy as np
from PIL import Image, ImageDraw, ImageFont, ImageOps

from xraytune.base.drawing import drawable
from xraytune.base.files import write_bytes
from xraytune.data.prepare import RunContext, side_images
from xraytune.space.settings import Experiment
from xraytune.synth.grids import image_grid, png_bytes, with_outlines
from xraytune.synth.quality import sample_evenly
from xraytune.synth.sources.gan import Gan
from xraytune.synth.synthesize import generator_path
from xraytune.synth.train import resize_planes

COLUMNS = 5
LINES = 2
"""Images of a class side by side and one above the other, in each block."""
BLOCK_PX = (592, 240)
MARGIN_PX = 24
CAPTION_PX = 28
_FONT = ImageFont.load_default(16)


def save_generator_grid(experiment: Experiment, context: RunContext, folder: Path) -> Path:
    """Draw the first images of a generator next to its training images, unless `folder` has that.

    All images have the size of the generated ones, so that these can be compared with what the
    generator has seen.
    """
    gan = Gan(experiment.parameters)
    settings = gan.settings
    prepared = context.prepared
    name = generator_path(settings, prepared, context.compute, context.cache).name[:8]
    file = folder / f"gan-{name}.png"
    if file.exists():
        return file
    real = side_images("train", prepared, context.cache)
    width_px, height_px = BLOCK_PX
    pitch_px = CAPTION_PX + height_px + MARGIN_PX
    size = (
        2 * width_px + 3 * MARGIN_PX,
        CAPTION_PX + MARGIN_PX + len(prepared.class_names) * pitch_px,
    )
    sheet = Image.new("RGB", size, "white")
    draw = ImageDraw.Draw(sheet)
    title = (
        f"GAN {name}: {settings.image_size} px, {settings.steps:,} steps, width {settings.width}"
    )
    draw.text((MARGIN_PX, MARGIN_PX), f"{title}, seed {settings.seed}", fill="black", font=_FONT)
    for label, class_name in enumerate(prepared.class_names):
        places = np.flatnonzero(real.labels == label)
        shown = sample_evenly(places, COLUMNS * LINES)
        masks = real.read_masks(shown) if prepared.has_masks else None
        blocks = {
            f"{drawable(class_name)}: {len(places):,} real training images": resize_planes(
                real.read(shown), masks, settings.image_size
            ),
            "generated images": gan.block(experiment.settings, context, label, 0).planes(
                np.arange(COLUMNS * LINES)
            ),
        }
        x = MARGIN_PX
        y = CAPTION_PX + MARGIN_PX + label * pitch_px
        for caption, planes in blocks.items():
            draw.text((x, y), caption, fill="black", font=_FONT)
            outlined = with_outlines(planes[:, 0], planes[:, 1] if prepared.has_masks else None)
            sheet.paste(
                ImageOps.contain(image_grid(outlined, COLUMNS), BLOCK_PX), (x, y + CAPTION_PX)
            )
            x += width_px + MARGIN_PX
    write_bytes(file, png_bytes(sheet))
    return file
