"""Find plain defects of synthetic images, by comparing them with real ones."""

from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from statistics import median

import numpy as np

from xraytune.base.arrays import Float64Array, UInt8Array
from xraytune.data.images import ImageFile

_SHARE_OF_FAULTS = 0.05
_LEAST_CONTRAST = 8
"""The least difference between the darkest and the brightest pixel, of 255."""
_SHARE_CLIPPED = 0.25
"""The largest share of an image's pixels that are black or white."""
_MOST_TILES = 8
_LEAST_REPETITION = 0.3
"""The largest difference between the repetition of synthetic and of real images.

With 300 X-rays of Kermany and contact sheets of 1 x 2 to 8 x 8, the difference is .2 to .7 if half
of the images are contact sheets, and .6 to 1.3 if all are.
"""


def find_faults(
    images: Sequence[ImageFile],
    pixels: Iterable[UInt8Array],
    real_images: Sequence[ImageFile],
    real_pixels: Iterable[UInt8Array],
) -> Iterator[str]:
    """Yield the faults of synthetic images, the most elementary one first.

    A fault of single images counts if more than `_SHARE_OF_FAULTS` of the images have it.
    """
    count = len(images)
    tolerated_count = _SHARE_OF_FAULTS * count
    counts, mean = _summarise(pixels)
    real_counts, real_mean = _summarise(real_pixels)
    sentences = {
        "blank": "are blank: all their pixels are of nearly one grey",
        "half": "use only the dark or only the bright half of all greys, unlike real ones",
        "clipped": "are clipped: over a quarter of their pixels are black or white, unlike in "
        "real ones",
    }
    for fault, sentence in sentences.items():
        usual = real_counts[fault] / len(real_images) * count
        if counts[fault] > max(tolerated_count, 2 * usual):
            yield f"{counts[fault]:,} of {count:,} images {sentence}."
    shape, real_shape = (
        median(image.width_px / image.height_px for image in files)
        for files in (images, real_images)
    )
    if not 2 / 3 < shape / real_shape < 1.5:
        yield (
            f"Most images are {shape:.1f} times as wide as high, but real ones {real_shape:.1f} "
            "times: are they pairs, side by side?"
        )
    elif _repetition(mean) > _repetition(real_mean) + _LEAST_REPETITION:
        yield "Most images repeat a pattern: they seem to be contact sheets of several X-rays."
    repeated = count - counts["different"]
    if repeated > tolerated_count:
        yield f"{repeated:,} of {count:,} images repeat another one: their pixels are identical."
    sides = sorted(min(image.width_px, image.height_px) for image in images)
    large = sides[int((1 - _SHARE_OF_FAULTS) * (count - 1))]  # a few may be larger
    small = sum(2 * side < large for side in sides)
    if small > tolerated_count:
        yield (
            f"{small:,} of {count:,} images are less than half as large as the large ones: "
            f"{sides[0]} to {sides[-1]} px."
        )


def _summarise(pixels: Iterable[UInt8Array]) -> tuple[Counter[str], Float64Array]:
    """Return the number of images by fault and of `different` ones, and the sum of all, [S, S]."""
    counts: Counter[str] = Counter()
    different = set()
    total = np.zeros(())
    for image in pixels:
        darkest = int(image.min())
        brightest = int(image.max())
        if brightest - darkest < _LEAST_CONTRAST:
            counts["blank"] += 1
        elif brightest <= 128 or darkest >= 127:
            counts["half"] += 1
        elif np.isin(image, (0, 255)).mean() > _SHARE_CLIPPED:
            counts["clipped"] += 1
        different.add(hash(image.tobytes()))
        total = total + image
    counts["different"] = len(different)
    return counts, total


def _repetition(mean: Float64Array) -> float:
    """Return how much more an image, [S, S], resembles itself shifted by a tile than by half a one.

    This is the largest difference of the two correlations, over 2 to `_MOST_TILES` tiles in a row
    or column.
    """
    differences = []
    for image in (mean, mean.T):
        for tiles in range(2, _MOST_TILES + 1):
            width = len(image) // tiles
            with np.errstate(invalid="ignore"):  # NaN if all images are blank
                whole_shift, half_shift = (
                    np.corrcoef(image[shift:].ravel(), image[: len(image) - shift].ravel())[0, 1]
                    for shift in (width, width // 2)
                )
            differences.append(whole_shift - half_shift)
    return float(max(differences))
