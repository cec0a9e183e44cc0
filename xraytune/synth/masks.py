"""Which generated masks are plausible: with area and components as in training masks."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from xraytune.base.arrays import Float64Array, Int64Array, UInt8Array
from xraytune.base.errors import counted

_MIN_PART = 0.002
"""Smallest component that counts, as a share of the image: 8 pixels of 64 x 64.

Smaller ones are specks at a mask's edge.
"""


@dataclass(frozen=True, slots=True, kw_only=True)
class MaskRange:
    """The smallest and largest values of some masks.

    Attributes:
        area: Shares of the image.
        parts: Numbers of connected components of at least `_MIN_PART` of the image.
    """

    area: tuple[float, float]
    parts: tuple[int, int]

    def includes(self, masks: UInt8Array) -> NDArray[np.bool_]:
        """Return whether area and components of each mask [n, S, S] are in range, bool [n]."""
        areas, parts = _measure(masks)
        has_area = (self.area[0] <= areas) & (areas <= self.area[1])
        return has_area & (self.parts[0] <= parts) & (parts <= self.parts[1])

    def __str__(self) -> str:
        """Describe the ranges: "18.5 to 45.8 % of the image in 2 components"."""
        smallest, largest = self.area
        fewest, most = self.parts
        parts = counted(most, "component") if fewest == most else f"{fewest} to {most} components"
        return f"{100 * smallest:.3g} to {100 * largest:.3g} % of the image in {parts}"


def mask_range(masks: UInt8Array) -> MaskRange:
    """Return the ranges of training masks [n, S, S], n >= 1, at the size of the GAN."""
    areas, parts = _measure(masks)
    return MaskRange(
        area=(float(areas.min()), float(areas.max())), parts=(int(parts.min()), int(parts.max()))
    )


def _measure(masks: UInt8Array) -> tuple[Float64Array, Int64Array]:
    """Return the area and the number of components of each mask [n, S, S].

    Pixels that touch only at a corner are not connected.
    """
    # Trials without masks do not need it.
    from scipy.ndimage import label  # type: ignore[import-untyped]

    areas = (masks > 0).mean(axis=(1, 2))
    sizes = [np.bincount(label(mask)[0].ravel())[1:] for mask in masks]
    parts = [int((of_mask >= _MIN_PART * masks[0].size).sum()) for of_mask in sizes]
    return areas, np.array(parts, dtype=np.int64)
