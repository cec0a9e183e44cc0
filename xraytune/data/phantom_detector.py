"""From a chest to a radiograph: pose, Beer-Lambert, scatter, quantum noise, and the reader's grey scale."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from PIL import Image
from scipy.ndimage import gaussian_filter  # type: ignore[import-untyped]

from xraytune.data.phantom_shapes import Field

_ATTENUATION = 3.2
"""Of one world unit (15 cm) of soft tissue: about 0.21 per cm, as at 60 keV."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Exposure:
    """How one image of a patient was taken.

    Attributes:
        scale: Size of the chest in the image.
        turn: Rotation in the image plane, in radians.
        shift: Of the chest, in world units (x, y).
        photons: Reaching a pixel where nothing is in the way.
        scatter: Scattered radiation at the detector, as a share of the direct one.
        blur_px: Standard deviation of the detector's blur at 256 px.
        window: Percentiles of the attenuation that become black and white.
        shoulder: How much the grey scale flattens towards white.
    """

    scale: float
    turn: float
    shift: tuple[float, float]
    photons: float
    scatter: float
    blur_px: float
    window: tuple[float, float]
    shoulder: float


def sample_exposure(rng: np.random.Generator) -> Exposure:
    """Draw the small differences between two images of one patient."""
    return Exposure(
        scale=float(rng.uniform(0.95, 1.08)),
        turn=float(rng.normal(0, 0.03)),
        shift=(float(rng.normal(0, 0.03)), float(rng.normal(0, 0.03))),
        photons=float(np.exp(rng.uniform(np.log(2e4), np.log(1e5)))),
        scatter=float(rng.uniform(0.15, 0.45)),
        blur_px=float(rng.uniform(0.4, 0.8)),
        window=(float(rng.uniform(0.0, 5.0)), float(rng.uniform(98.8, 99.8))),
        shoulder=float(rng.uniform(0.2, 1.1)),
    )


def cut_out(field: Field, exposure: Exposure, image_size_px: int) -> Field:
    """The image's view of a map: [image_size_px, image_size_px] float32, resampled bilinearly."""
    zoom = 1 / exposure.scale
    cosine, sine = zoom * np.cos(exposure.turn), zoom * np.sin(exposure.turn)
    centre, middle = (field.shape[0] - 1) / 2, (image_size_px - 1) / 2
    x, y = (middle + component * image_size_px / 2 for component in exposure.shift)
    # Pillow maps output to input coordinates and adds half a pixel to both.
    matrix = (cosine, sine, centre - cosine * x - sine * y, -sine, cosine, centre + sine * x - cosine * y)
    offset = 0.5 - 0.5 * (cosine + sine), 0.5 - 0.5 * (cosine - sine)
    matrix = (*matrix[:2], matrix[2] + offset[0], *matrix[3:5], matrix[5] + offset[1])
    image = Image.fromarray(field).transform(
        (image_size_px, image_size_px), Image.Transform.AFFINE, matrix, Image.Resampling.BILINEAR
    )
    return np.asarray(image)


def radiograph(thickness: Field, exposure: Exposure, rng: np.random.Generator) -> NDArray[np.uint8]:
    """The grey image of a thickness map, uint8 [H, W]: bone bright, air dark.

    Beer-Lambert gives the direct radiation exp(-attenuation); scatter is its wide blur. Photons are counted with
    Poisson noise (Gaussian here: there are hundreds) and shown on the logarithmic scale of computed radiography.
    """
    side = thickness.shape[0]
    direct = np.exp(np.float32(-_ATTENUATION) * thickness)
    direct = gaussian_filter(direct, exposure.blur_px * side / 256)
    scattered = np.float32(exposure.scatter) * _wide_blur(direct)
    expected = np.float32(exposure.photons) * (direct + scattered)
    counted = expected + np.sqrt(expected) * rng.standard_normal(expected.shape, dtype=np.float32)
    attenuation = -np.log(np.maximum(counted, 1))
    black, white = np.percentile(attenuation, exposure.window)
    level = np.clip((attenuation - black) / (white - black), 0, 1.1)
    grey = np.expm1(-exposure.shoulder * level) / np.expm1(-exposure.shoulder)
    pixels: NDArray[np.uint8] = np.round(225 * grey).astype(np.uint8)
    return pixels


def _wide_blur(field: Field) -> Field:
    """Scatter spreads over centimetres, so a coarse grid is enough."""
    coarse = Image.fromarray(field).reduce(max(1, field.shape[0] // 32))
    wide = Image.fromarray(gaussian_filter(np.asarray(coarse), 0.06 * coarse.size[0], mode="nearest"))
    return np.asarray(wide.resize(field.shape[::-1], Image.Resampling.BICUBIC))
