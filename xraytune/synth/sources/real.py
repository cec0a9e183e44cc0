"""Real images of other patients, in the place of a perfect generator's, for `confirm`."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np

from xraytune.data.prepare import ImageSource, Prepared, RunContext, side_images
from xraytune.space.settings import Settings
from xraytune.synth.sources.source import Source


class RealImages(Source):
    """Images of patients outside the train side and all validation sides."""

    name = "real"
    is_shuffled = True

    def count_available(
        self,
        settings: Settings,
        prepared: Prepared,
        cache: Path,
    ) -> list[int]:
        """Return the number of images of each class."""
        labels = prepared.side("others").labels
        counts = np.bincount(labels, minlength=len(prepared.class_names))
        return [*map(int, counts)]

    def images(
        self,
        settings: Settings,
        context: RunContext,
        counts: Sequence[int],
    ) -> tuple[ImageSource, ...]:
        """Return all of them."""
        return (side_images("others", context.prepared, context.cache),)
