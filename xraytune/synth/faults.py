"""Find plain defects of synthetic images: blank, repeated or much too small ones."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence

from xraytune.base.arrays import UInt8Array
from xraytune.data.images import ImageFile

_SHARE_OF_FAULTS = 0.05
_LEAST_CONTRAST = 8
"""Between the darkest and the brightest pixel, of 255."""


def find_faults(images: Sequence[ImageFile], pixels: Iterable[UInt8Array]) -> Iterator[str]:
    """Yield what is wrong with more than `_SHARE_OF_FAULTS` of the images themselves.

    The most elementary fault comes first.
    """
    count = len(images)
    fewest = _SHARE_OF_FAULTS * count
    blank = 0
    different: set[int] = set()
    for image in pixels:
        blank += int(image.max()) - int(image.min()) < _LEAST_CONTRAST
        different.add(hash(image.tobytes()))
    if blank > fewest:
        yield f"{blank:,} of {count:,} images are blank: all their pixels are of nearly one grey."
    repeated = count - len(different)
    if repeated > fewest:
        yield f"{repeated:,} of {count:,} images repeat another one: their pixels are identical."
    sides = sorted(min(image.width_px, image.height_px) for image in images)
    large = sides[int((1 - _SHARE_OF_FAULTS) * (count - 1))]  # a few may be larger
    small = sum(2 * side < large for side in sides)
    if small > fewest:
        yield (
            f"{small:,} of {count:,} images are less than half as large as the large ones: "
            f"{sides[0]} to {sides[-1]} px."
        )
