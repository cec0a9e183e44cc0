"""Images of one origin, such as a side of the split or a folder, with their decoded pixels."""

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from xraytune.base.arrays import AnyArray, Float32Array, Int64Array, UInt8Array
from xraytune.base.records import frozen
from xraytune.data.images import ImageFile, ImageTable
from xraytune.data.pixels import open_masks, open_pixels, store_sha256


@frozen
class ImageSet:
    """Images of one origin, such as a side of the split.

    Attributes:
        name: Name of the set, which seeds the views of its images; the same in every trial.
        pixels: Pixels, uint8 [N, S, S], memory-mapped.
        rows: The row of each image in `pixels`, int64 [n].
        targets: Labels, int64 [n], or findings, [n, C]: 1, 0, or -1 if unknown. A network learns
            them unless there are masks.
        inputs: Everything that the pixels depend on, for fingerprints of what is computed from
            them.
        masks: Masks, uint8 [N, S, S], 0 or 255, in the rows of `pixels`; None in classification.
        file_size_px: The typical shorter side of the files that the pixels were decoded from; 0 if
            it is not known.
        features: Features, float32 [n, D], of images without pixels; otherwise None.
        show: Changes the pixels of the images at some indices; None if they are shown as they are.
    """

    name: str
    pixels: UInt8Array
    rows: Int64Array
    targets: Int64Array
    inputs: dict[str, Any]
    masks: UInt8Array | None = None
    file_size_px: int = 0
    features: Float32Array | None = None
    show: Callable[[UInt8Array, AnyArray | slice], UInt8Array] | None = None

    @property
    def labels(self) -> Int64Array:
        """The class of each image, int64 [n]; images with findings are of a single class."""
        return self.targets if self.targets.ndim == 1 else np.zeros_like(self.rows)

    def read(self, indices: AnyArray | slice = slice(None)) -> UInt8Array:
        """Return the pixels of some images, by default of all, [n, S, S]."""
        pixels = np.asarray(self.pixels[self.rows[indices]])
        return self.show(pixels, indices) if self.show else pixels

    def read_masks(self, indices: AnyArray | slice = slice(None)) -> UInt8Array:
        """Return the masks of some images, [n, S, S], 0 or 255."""
        assert self.masks is not None, "images of a segmentation study have masks"
        return np.asarray(self.masks[self.rows[indices]])

    def read_channels(self, indices: AnyArray | slice = slice(None)) -> UInt8Array:
        """Return some images, by default all, with their masks if they have any, [n, C, S, S]."""
        channels = [self.read(indices)]
        if self.masks is not None:
            channels.append(self.read_masks(indices))
        return np.stack(channels, axis=1)


def stored_image_set(store: Path, images: Sequence[ImageFile], *, name: str) -> ImageSet:
    """Return the images of an artifact of `store_images`; none may be broken."""
    table = ImageTable(images)
    return ImageSet(
        name=name,
        pixels=open_pixels(store),
        rows=np.arange(len(table)),
        targets=table.targets,
        inputs={"pixels": store.name, "content": store_sha256(store)},
        masks=open_masks(store),
        file_size_px=int(np.median([min(image.width_px, image.height_px) for image in table])),
    )
