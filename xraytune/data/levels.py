"""Grey levels of more than 8 bits to 8: 0 to 65535 become 0 to 255, where Pillow's own conversion would clip at 255.

Programs also store levels of 8 or 12 bits in files of 16 as they are, and such an image would come out black. So one
whose largest level is below 256 is read at 8 bits, and one whose largest is below 4096 at 12. A true 16-bit radiograph
reaches higher, for some of its pixels lie beside the body.
"""

from __future__ import annotations

import numpy as np
from PIL import Image


def range_of_levels(image: Image.Image) -> tuple[int, int]:
    """The lowest and the highest level of an image in one of Pillow's integer modes."""
    levels = np.asarray(image)
    return int(levels.min()), int(levels.max())


def grey_of_levels(
    image: Image.Image, *, stated_bits: int = 16, inverted: bool = False, transparent: int | None = None
) -> tuple[Image.Image, int | None]:
    """8-bit grey, and the depth of the content where that is not the file's.

    Args:
        image: In one of Pillow's integer modes, levels 0 to 65535.
        stated_bits: The file's depth, below 16 only where it is certain.
        inverted: Whether level 0 is white.
        transparent: A level that stands for nothing, and becomes black.
    """
    levels = np.asarray(image)
    if transparent is not None:
        levels = np.where(levels == transparent, 0, levels)
    highest = int(levels.max())
    bits = stated_bits if stated_bits < 16 else 8 if highest < 256 else 12 if highest < 4096 else 16
    largest = 2**bits - 1
    grey = ((levels.astype(np.uint32) * 255 + largest // 2) // largest).astype(np.uint8)
    return Image.fromarray(255 - grey if inverted else grey), bits if bits < min(stated_bits, 16) else None
