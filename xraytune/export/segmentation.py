"""Predict masks of image files with a segmenter.

A mask has the size of its image: the network's probabilities, S x S, are resized bilinearly and compared with the
threshold. With `resize: crop`, everything outside the crop is background.

`predict` writes a folder:

    masks/NAME.png         0 or 255
    overlays/NAME.png      the image with the outline of its mask
    predictions.csv        file, mask, area (share of the image), parts (number of connected components)
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import TypeVar

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from xraytune.data.decoding import BrokenImage, Resize, read_image, square_box
from xraytune.data.formats import DICOM_SUFFIXES, LARGEST_SIDE_PX, NAMING_SUFFIXES
from xraytune.data.masks import connected_parts, outlined
from xraytune.export.outputs import ImageFiles, map_outputs
from xraytune.files import csv_table, new_folder, write_text
from xraytune.metrics.segmentation import Masks
from xraytune.pipeline.predictor import Predictor

Result = TypeVar("Result")
_PNG_LEVEL = 3


def whole_mask(
    probabilities: NDArray[np.float32], width_px: int, height_px: int, *, resize: Resize, threshold: float
) -> Masks:
    """Return the mask of an image of any size, [H, W], from the network's probabilities, [S, S]."""
    side_px, size = len(probabilities), (width_px, height_px)
    left, upper, right, lower = square_box(size, size, side_px, resize) or (0, 0, *size)
    x, y = side_px / (right - left), side_px / (lower - upper)
    extent = (-left * x, -upper * y, (width_px - left) * x, (height_px - upper) * y)
    square = Image.fromarray(probabilities)
    resized = square.transform(size, Image.Transform.EXTENT, extent, Image.Resampling.BILINEAR)
    mask: Masks = np.asarray(resized) >= threshold
    return mask


@dataclass(frozen=True, slots=True, kw_only=True)
class PredictedMasks:
    """Summary of a prediction.

    Attributes:
        path: The folder of masks, overlays and `predictions.csv`.
        empty: Images whose mask is empty.
        area: Mean share of the image that a mask covers.
        broken: Images that were left out.
    """

    path: Path
    images: int
    empty: int
    area: float
    broken: tuple[BrokenImage, ...]


def predict_masks(model: Predictor, images: ImageFiles, out: Path, *, threshold: float) -> PredictedMasks:
    """Write the folder described above."""
    names = picture_names(images.files)
    with new_folder(out) as folder:

        def write(file: str, image: NDArray[np.uint8], mask: Masks) -> tuple[PurePosixPath, PurePosixPath, float, int]:
            for kind, pixels in (("masks", mask.astype(np.uint8) * 255), ("overlays", outlined(image, mask))):
                target = folder / kind / names[file]
                target.parent.mkdir(parents=True, exist_ok=True)
                Image.fromarray(pixels).save(target, compress_level=_PNG_LEVEL)
            where = PurePosixPath("masks", names[file])
            return PurePosixPath(file), where, float(mask.mean()), connected_parts(mask)

        rows, broken = map_predicted(model, images, write, threshold=threshold)
        write_text(folder / "predictions.csv", csv_table(["file", "mask", "area", "parts"], rows))
    areas = [area for _, _, area, _ in rows]
    return PredictedMasks(path=out, images=len(rows), empty=areas.count(0.0), area=float(np.mean(areas)), broken=broken)


def map_predicted(
    model: Predictor, images: ImageFiles, use: Callable[[str, NDArray[np.uint8], Masks], Result], *, threshold: float
) -> tuple[list[Result], tuple[BrokenImage, ...]]:
    """Apply `use` to each file, its image in its own size, [H, W], and the predicted mask, [H, W].

    Return the results in order, and the broken images; raises what `map_outputs` does.
    """
    form = model.record.input_format

    def use_one(file: str, probabilities: NDArray[np.float32]) -> Result:
        image = np.asarray(read_image(images.root / file, LARGEST_SIDE_PX).image)
        return use(file, image, whole_mask(probabilities, *image.shape[::-1], resize=form.resize, threshold=threshold))

    return map_outputs(model.run, form, images, use_one, title="segmenting images")


def picture_names(files: Sequence[str], suffix: str = ".png") -> dict[str, str]:
    """Return the name of each file's picture: without the file's suffix, unless two files would then share a name."""
    suffixes = NAMING_SUFFIXES | DICOM_SUFFIXES
    stems = {file: str(PurePosixPath(file).with_suffix("")) for file in files}
    stems = {file: stem if PurePosixPath(file).suffix.lower() in suffixes else file for file, stem in stems.items()}
    times = Counter(stem.casefold() for stem in stems.values())
    return {file: f"{stem if times[stem.casefold()] == 1 else file}{suffix}" for file, stem in stems.items()}
