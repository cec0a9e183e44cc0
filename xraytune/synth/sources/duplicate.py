"""`source: duplicate`: real training images once more, the control for more images per step."""

from __future__ import annotations

from collections.abc import Sequence

from xraytune.data.prepare import ImageSource, RunContext
from xraytune.space.settings import Settings
from xraytune.synth.sources.source import Source


class Duplicates(Source):
    """Images of the train side, repeated in a random order."""

    name = "duplicate"
    colour = "#e69f00"
    repeats_real = True
    is_shuffled = True

    def images(
        self,
        settings: Settings,
        context: RunContext,
        counts: Sequence[int],
    ) -> tuple[ImageSource, ...]:
        """Return none: the training set has the images already."""
        return ()
