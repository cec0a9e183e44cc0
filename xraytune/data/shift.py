"""Make images look as if another hospital had taken them (`data.shift`).

With another detector, in another style.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from xraytune.base.seeding import numpy_generator
from xraytune.space.settings import ShiftSettings


def shift_image(pixels: NDArray[np.uint8], file: str, shift: ShiftSettings) -> NDArray[np.uint8]:
    """Return an image, [S, S], with a shift: blur, gamma, contrast and noise, in this order.

    The noise depends on the file's name.
    """
    from scipy.ndimage import gaussian_filter  # type: ignore[import-untyped]

    grey = gaussian_filter(pixels / 255, shift.blur_px)
    grey = 0.5 + shift.contrast * (grey**shift.gamma - 0.5)
    if shift.noise:
        generator = numpy_generator(0, "shift", file)
        grey = grey + shift.noise * generator.standard_normal(grey.shape)
    return np.asarray((grey.clip(0, 1) * 255).round(), dtype=np.uint8)
