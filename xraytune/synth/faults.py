"""Find plain defects of synthetic images: blank, repeated or much too small ones."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence

from xraytune.base.arrays import UInt8Array
from xraytune.data.images import ImageFile

_SHARE_OF_FAULTS = 0.05


def find_faults(images: Sequence[ImageFile], pixels: Iterable[UInt8Array]) -> Iterator[str]:
    """Yield what is wrong with more than `_SHARE_OF_FAULTS` of the images themselves.

    The most elementary fault comes first.
    """
    count = len(images)
    fewest = _SHARE_OF_FAULTS * count
    blank = sum(int(image.min() == image.max()) for image in pixels)
    if blank > fewest:
        yield f"{blank:,} of {count:,} images are blank: all their pixels have the same value."
    repeated = count - len({image.sha256 for image in images})
    if repeated > fewest:
        yield f"{repeated:,} of {count:,} images repeat another one: the files are identical."
    sides = [min(image.width_px, image.height_px) for image in images]
    small = sum(2 * side < max(sides) for side in sides)
    if small > fewest:
        yield (
            f"{small:,} of {count:,} images are less than half as large as the largest one: "
            f"{min(sides)} to {max(sides)} px."
        )
