"""Sample grids: what a generator has learned, next to training images of each class.

Masks are shown as outlines. The real images are only training images, never images of val-A, val-B
or the test folder.
"""

from io import BytesIO
from pathlib import Path

import numpy as np
from PIL import Image, ImageDraw, ImageFont

from xraytune.base.figures import figure_text
from xraytune.base.files import write_bytes
from xraytune.data.prepare import RunContext, side_image_set
from xraytune.space.settings import Experiment
from xraytune.synth.grids import image_grid, with_outlines
from xraytune.synth.memorisation import sample_evenly
from xraytune.synth.saved_generator import resize_images
from xraytune.synth.sources.registry import source_of

COLUMNS = 8
CAPTION_PX = 28
_FONT = ImageFont.load_default(16)


def save_generator_grid(experiment: Experiment, context: RunContext, folder: Path) -> Path:
    """Show a generator's first images below its training images, and return the file.

    If `folder` already has the file, it is not made again. All images have the size of the
    generated ones, so that these can be compared with what the generator has seen.
    """
    source = source_of(experiment.parameters)
    prepared = context.prepared
    generator = source.trained(experiment.settings, context)
    file = folder / f"{source.name}-{generator.name[:8]}.png"
    if file.exists():
        return file
    real = side_image_set("train", prepared, context.cache)
    grids = []
    for label, class_name in enumerate(prepared.class_names):
        indices = np.flatnonzero(real.labels == label)
        block = source.block(experiment.settings, context, label, 0)
        real_planes = resize_images(
            real.read_channels(sample_evenly(indices, COLUMNS)), block.pixels.shape[-1]
        )
        caption = f"{figure_text(class_name)}: {len(indices):,} real training images"
        grids.append((caption, image_grid(with_outlines(real_planes), COLUMNS)))
        generated = with_outlines(block.read_channels(np.arange(2 * COLUMNS)))
        grids.append(("generated images", image_grid(generated, COLUMNS)))
    width_px = max(grid.width for _, grid in grids)
    height_px = sum(CAPTION_PX + grid.height for _, grid in grids)
    sheet = Image.new("RGB", (width_px, height_px), "white")
    y = 0
    for caption, grid in grids:
        ImageDraw.Draw(sheet).text((4, y + 4), caption, fill="black", font=_FONT)
        sheet.paste(grid, (0, y + CAPTION_PX))
        y += CAPTION_PX + grid.height
    content = BytesIO()
    sheet.save(content, format="PNG")
    write_bytes(file, content.getvalue())
    return file
