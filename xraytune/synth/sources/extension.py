"""Images of an extension: a generator of the user's, trained on the study's training images.

It is trained once for all trials with its settings, and makes blocks of images from then on. An
error of its code ends the trial, and names the line.
"""

from collections.abc import Iterator
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np

from xraytune.base.arrays import UInt8Array
from xraytune.base.errors import TrialError
from xraytune.base.seeding import derive_seed
from xraytune.data.image_set import ImageSet
from xraytune.data.prepare import RunContext, SplitData, side_image_set
from xraytune.nets.compute import seeded
from xraytune.space.extensions import EXTENSIONS, settings_of
from xraytune.space.settings import Settings
from xraytune.synth.generator_inputs import EXTENSION_STAGE, extension_training, inputs_of
from xraytune.synth.saved_generator import with_binary_masks
from xraytune.synth.sources.source import BLOCK, Source
from xraytune.synth.trained import train_once


class ExtensionImages(Source):
    """Images of an extension, at the size at which it makes them."""

    colour = "#56b4e9"

    def seen_images_sha256(self) -> frozenset[str] | None:
        """Return the images that the extension declares to have seen before its training."""
        seen = EXTENSIONS.declared[self.name].seen
        return None if seen is None else frozenset(seen)

    def trained(self, settings: Settings, context: RunContext) -> Path:
        """Return the artifact of the trained generator, as its `fit` left it in a folder.

        Raises TrialError if the code of the extension raises an error.
        """
        prepared = context.prepared
        training = extension_training(self.parameters, settings)
        inputs = inputs_of(training, prepared, context.compute)
        what = f"training {self.name} (steps)"

        def train(folder: Path) -> None:
            images = side_image_set("train", prepared, context.cache)
            with self._calling("fit", training.seed) as fit:
                fit(
                    images.read(),
                    images.targets.copy(),
                    masks=None if images.masks is None else images.read_channels()[:, 1],
                    progress=partial(context.on_progress, what),
                    folder=folder,
                    **self._shared_arguments(context),
                )

        waits_for = f"waiting for {self.name}, which another process trains"
        waiting = partial(context.on_progress, waits_for, 0, 1)
        return train_once(context.cache, EXTENSION_STAGE, inputs, train, waiting=waiting)

    def block(self, settings: Settings, context: RunContext, label: int, number: int) -> ImageSet:
        """Return a block that the extension makes."""
        findings = self.block_findings(context.prepared, number, settings.seed)
        inputs = {
            "generator": self.trained(settings, context).name,
            "label": label,
            "block": number,
            "findings": None if findings is None else findings.tolist(),
            "seed": settings.seed,
        }
        make = partial(self.make_block, settings, context, label, number)
        return self.store_block(context, inputs, make, findings)

    def make_block(
        self, settings: Settings, context: RunContext, label: int, number: int
    ) -> UInt8Array:
        """Make the images of a block anew, uint8 [256, C, S, S]."""
        prepared = context.prepared
        seed = derive_seed(settings.seed, "extension", self.name, label, number) % 2**31
        findings = self.block_findings(prepared, number, settings.seed)
        with self._calling("sample", seed) as sample:
            images = sample(
                np.full(BLOCK, label) if findings is None else findings,
                size=prepared.image_size_px,
                folder=self.trained(settings, context),
                **self._shared_arguments(context),
            )
        return self._planes(images, prepared)

    def _shared_arguments(self, context: RunContext) -> dict[str, Any]:
        return {
            "classes": context.prepared.outputs,
            "settings": settings_of(self.name, self.parameters.settings_of(self.name)),
            "device": context.compute.device,
        }

    @contextmanager
    def _calling(self, method: str, seed: int) -> Iterator[Any]:
        """Give a method of the extension, with its seed; explain the errors of its code."""
        code = EXTENSIONS.load(self.name)
        with EXTENSIONS.calling(self.name, method), seeded(seed, method):
            yield partial(getattr(code(), method), seed=seed)

    def _planes(self, images: object, prepared: SplitData) -> UInt8Array:
        """Return what `sample` returned as [256, C, S, S]; raise TrialError if it is not that."""
        array = np.array(images)  # a copy, since its masks are changed, and it may be read-only
        channels = (2,) if prepared.has_masks else ()
        side_px = array.shape[-1] if array.ndim > 2 else 0
        expected = (BLOCK, *channels, side_px, side_px)
        if array.dtype != np.uint8 or array.shape != expected or side_px > prepared.image_size_px:
            what = f"sample of {self.name} returned {array.dtype} {list(array.shape)}"
            shape = ", ".join(map(str, (BLOCK, *channels, "S", "S")))
            raise TrialError(
                what,
                EXTENSIONS.declared[self.name].place,
                f"return uint8 [{shape}], where S is at most {prepared.image_size_px}",
            )
        return with_binary_masks(array.reshape(BLOCK, -1, side_px, side_px))
