"""A source of another package: a function that makes images from training images of a class.

`extension(pixels, *, label, block, seed)` gets uint8 [n, S, S] and returns uint8 [256, S, S].
"""

from __future__ import annotations

import numpy as np

from xraytune.base.arrays import UInt8Array
from xraytune.base.errors import MachineError
from xraytune.base.seeding import derive_seed
from xraytune.data.prepare import ImageSource, RunContext, side_images
from xraytune.space.settings import SOURCES, Parameters, Settings
from xraytune.synth.sources.source import BLOCK, Source


class Extension(Source):
    """Images of the function behind an entry point."""

    colour = "#56b4e9"

    def __init__(self, parameters: Parameters) -> None:
        super().__init__(parameters)
        self.name = parameters.source

    def block(
        self, settings: Settings, context: RunContext, label: int, number: int
    ) -> ImageSource:
        """Return a block that the function makes."""
        train = side_images("train", context.prepared, context.cache)
        places = np.flatnonzero(train.labels == label)
        inputs = {
            "source": SOURCES.identity(self.name),
            **train.inputs,
            "rows": train.rows[places].tolist(),
            "label": label,
            "block": number,
            "seed": settings.seed,
        }

        def draw() -> UInt8Array:
            seen = train.read(places)
            seed = derive_seed(settings.seed, "source", self.name, label, number)
            draw_block = SOURCES.load(self.name)
            pixels = np.asarray(draw_block(seen, label=label, block=number, seed=seed))
            shape = (BLOCK, *seen.shape[1:])
            if pixels.dtype != np.uint8 or pixels.shape != shape:
                what = f"source {self.name} returned {pixels.dtype} {list(pixels.shape)}"
                raise MachineError(what, fix=f"it must return uint8 {list(shape)}")
            return pixels[:, None]

        return self.store_block(context, inputs, draw)
