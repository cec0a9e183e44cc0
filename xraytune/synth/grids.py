"""Image grids, images with the outline of their mask, and an animation of the grids of a training run (GIF)."""

from __future__ import annotations

from collections.abc import Sequence
from io import BytesIO
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageDraw, ImageFont

from xraytune.data.formats import read_picture
from xraytune.data.masks import outlined

PROGRESS_FILE = "progress.gif"
_GAP_PX, _OUTLINED_PX = 2, 128
_FRAME_COLOURS = 64
_DURATION_MS, _LAST_FRAME_MS = 6000, 2500
_CAPTION_PX = 30
_CAPTION_FONT = ImageFont.load_default(16)


def image_grid(images: NDArray[np.uint8], columns: int) -> Image.Image:
    """Arrange images [n, S, S] or [n, S, S, 3] in rows of `columns` on white; the last row may be short."""
    gap, colours = (_GAP_PX, 0), [(0, 0)] * (images.ndim - 3)
    cells = np.pad(images, ((0, -len(images) % columns), gap, gap, *colours), constant_values=255)
    _, height, width, *rest = cells.shape
    sheet = cells.reshape(-1, columns, height, width, *rest).swapaxes(1, 2).reshape(-1, columns * width, *rest)
    return Image.fromarray(np.pad(sheet, ((0, _GAP_PX), (0, _GAP_PX), *colours), constant_values=255))


def with_outlines(pixels: NDArray[np.uint8], masks: NDArray[np.uint8] | None) -> NDArray[np.uint8]:
    """Draw a line around each mask [n, S, S] on its image [n, S, S]: uint8 [n, T, T, 3]; without masks, return the images.

    Images below 128 px are enlarged by a whole factor, so that the line covers little of them.
    """
    if masks is None:
        return pixels
    factor = max(1, _OUTLINED_PX // pixels.shape[1])
    return outlined(*(planes.repeat(factor, axis=1).repeat(factor, axis=2) for planes in (pixels, masks)))


def png_bytes(image: Image.Image) -> bytes:
    """Encode an image as PNG."""
    stream = BytesIO()
    image.save(stream, format="PNG")
    return stream.getvalue()


def encoded_again(file: Path) -> bytes:
    """Read a picture that xraytune drew, and encode it again as PNG; raise DataError if it is anything else."""
    return png_bytes(read_picture(file))


def progress_gif(grids: Sequence[Path], *, most_frames: int = 40, side_px: int = 640) -> bytes:
    """Return the grids `step_000500.png` ... as an animation, evenly spaced; b"" if there are none."""
    if not grids:
        return b""
    shown = np.unique(np.linspace(0, len(grids) - 1, most_frames).round().astype(int))
    first, *others = [_frame(grids[place], side_px) for place in shown.tolist()]
    durations = [_DURATION_MS // max(most_frames, len(shown))] * len(others) + [_LAST_FRAME_MS]
    stream = BytesIO()
    first.save(stream, format="GIF", save_all=True, append_images=others, duration=durations, loop=0)
    return stream.getvalue()


def _frame(grid: Path, side_px: int) -> Image.Image:
    """Return a grid with its step as a caption above."""
    picture = read_picture(grid)
    picture.thumbnail((side_px, side_px), Image.Resampling.LANCZOS)
    frame = Image.new(picture.mode, (picture.width, picture.height + _CAPTION_PX), "white")
    frame.paste(picture, (0, _CAPTION_PX))
    caption = f"step {int(grid.stem.removeprefix('step_')):,}"
    ImageDraw.Draw(frame).text((_GAP_PX + 4, _CAPTION_PX / 2), caption, fill="black", font=_CAPTION_FONT, anchor="lm")
    return frame.quantize(_FRAME_COLOURS, dither=Image.Dither.NONE)
