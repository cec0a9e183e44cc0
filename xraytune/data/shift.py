"""Make images look as if another hospital had taken them: another detector, another style (`data.shift`)."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from xraytune.base.seeding import numpy_generator
from xraytune.data.decoding import BrokenImage
from xraytune.space.settings import ShiftSettings


def shift_images(
    images: Iterable[NDArray[np.uint8] | BrokenImage], files: Sequence[str], shift: ShiftSettings
) -> Iterator[NDArray[np.uint8] | BrokenImage]:
    """Yield images, [S, S] each, with a shift; the noise depends on its seed and on the file's name."""
    for file, image in zip(files, images, strict=True):
        yield image if isinstance(image, BrokenImage) else shift_image(image, file, shift)


def shift_image(pixels: NDArray[np.uint8], file: str, shift: ShiftSettings) -> NDArray[np.uint8]:
    """Return an image, [S, S], with a shift: resolution, blur, gamma, contrast, noise, inversion, in this order."""
    from scipy.ndimage import gaussian_filter  # type: ignore[import-untyped]

    if shift.resolution_px:
        size = (shift.resolution_px, shift.resolution_px)
        small = Image.fromarray(pixels).resize(size, Image.Resampling.BILINEAR)
        pixels = np.asarray(small.resize(pixels.shape[::-1], Image.Resampling.BILINEAR))
    grey = gaussian_filter(pixels / 255, shift.blur_px)
    grey = 0.5 + shift.contrast * (grey**shift.gamma - 0.5)
    if shift.noise:
        generator = numpy_generator(shift.seed, "shift", file)
        grey = grey + shift.noise * generator.standard_normal(grey.shape)
    if shift.invert:
        grey = 1 - grey
    return np.asarray((grey.clip(0, 1) * 255).round(), dtype=np.uint8)
