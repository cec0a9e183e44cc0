"""One transformed copy of an X-ray: which numbers are drawn for it, and what they do to its pixels.

Takes strengths and a seed, gives numbers; takes pixels and numbers, gives pixels. The numbers are written down beside
every copy, so that it can be made again from its original.
"""

from __future__ import annotations

from dataclasses import asdict, dataclass

import numpy as np
from numpy.typing import NDArray

from xraytune.errors import Problem
from xraytune.seeding import numpy_generator

_ELASTIC_NODES = 6
"""Of the coarse field of displacements, along the shorter side: bends are about as wide as half a lung."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Strengths:
    """How far each transformation may go; every number is drawn uniformly up to it, in both directions.

    Attributes:
        flip: Whether half of the copies, by chance, are mirror images, left for right.
        rotate: Degrees, 0 to 180.
        shift: Share of width and of height, 0 to 0.5.
        zoom: Share of the size, 0 to 0.5: at 0.1 an image is scaled by 0.9 to 1.1.
        shear: Degrees, 0 to 45, along both axes.
        contrast: Share, 0 to 0.9: at 0.2 the differences to the mean grey are multiplied by 0.8 to 1.2.
        elastic: Root mean square displacement of a pixel, in per cent of the shorter side, 0 to 5.
    """

    flip: bool = True
    rotate: float = 10.0
    shift: float = 0.05
    zoom: float = 0.1
    shear: float = 5.0
    contrast: float = 0.2
    elastic: float = 1.0


_LARGEST = Strengths(rotate=180, shift=0.5, zoom=0.5, shear=45, contrast=0.9, elastic=5)


@dataclass(frozen=True, slots=True, kw_only=True)
class Drawn:
    """The numbers of one copy.

    Attributes:
        flip: Whether it is a mirror image.
        rotate_degrees: Clockwise.
        shift_x: To the right, as a share of the width.
        shift_y: Down, as a share of the height.
        zoom: Above 1 everything is larger.
        shear_x_degrees: Of the verticals.
        shear_y_degrees: Of the horizontals.
        contrast: Differences to the mean grey are multiplied by it.
        elastic_percent: Root mean square displacement, of the shorter side.
        elastic_seed: Of the field of displacements.
    """

    flip: bool
    rotate_degrees: float
    shift_x: float
    shift_y: float
    zoom: float
    shear_x_degrees: float
    shear_y_degrees: float
    contrast: float
    elastic_percent: float
    elastic_seed: int


def draw_numbers(strengths: Strengths, file: str, copy: int, seed: int) -> Drawn:
    """The numbers of a copy of `file`, a path below the data folder; copies are counted from 1.

    A strength of 0 draws like any other and changes nothing, so that the strengths scale the same draws.
    """
    random = numpy_generator(seed, "transform", file, copy)
    flipped = bool(random.random() < 0.5)
    rotate, shift_x, shift_y, zoom, shear_x, shear_y, contrast = random.uniform(-1, 1, 7).tolist()
    return Drawn(
        flip=strengths.flip and flipped,
        rotate_degrees=strengths.rotate * rotate,
        shift_x=strengths.shift * shift_x,
        shift_y=strengths.shift * shift_y,
        zoom=1 + strengths.zoom * zoom,
        shear_x_degrees=strengths.shear * shear_x,
        shear_y_degrees=strengths.shear * shear_y,
        contrast=1 + strengths.contrast * contrast,
        elastic_percent=strengths.elastic * float(random.random()),
        elastic_seed=int(random.integers(2**32)),
    )


def transform_image(pixels: NDArray[np.uint8], drawn: Drawn) -> NDArray[np.uint8]:
    """One copy of an image; what moves in from outside of it is black, before the contrast changes.

    Args:
        pixels: uint8 [H, W].
        drawn: Its numbers.

    Returns:
        uint8 [H, W].
    """
    import torch
    from torchvision.transforms import InterpolationMode
    from torchvision.transforms.v2 import functional

    height, width = pixels.shape
    image = torch.from_numpy(pixels.astype(np.float32))[None]
    if drawn.flip:
        image = functional.horizontal_flip(image)
    image = functional.affine(
        image,
        angle=drawn.rotate_degrees,
        translate=[drawn.shift_x * width, drawn.shift_y * height],
        scale=drawn.zoom,
        shear=[drawn.shear_x_degrees, drawn.shear_y_degrees],
        interpolation=InterpolationMode.BILINEAR,
    )
    if drawn.elastic_percent:
        image = functional.elastic(image, torch.from_numpy(_displacements(drawn, height, width)))
    moved: NDArray[np.float32] = image[0].numpy()
    # In double precision and by NumPy, whose sum does not depend on the number of threads.
    grey = moved.mean(dtype=np.float64)
    changed: NDArray[np.uint8] = np.clip(np.rint((moved - grey) * drawn.contrast + grey), 0, 255).astype(np.uint8)
    return changed


def _displacements(drawn: Drawn, height: int, width: int) -> NDArray[np.float32]:
    """A smooth random field for torchvision's `elastic`: [1, H, W, 2], where a side is 2 long; it shifts nothing on average.

    Independent normal numbers on a coarse lattice, bicubic in between. Source: Simard et al. 2003, "Best Practices for
    Convolutional Neural Networks Applied to Visual Document Analysis"; they smooth white noise by a Gaussian instead.
    """
    import torch
    from torch.nn.functional import interpolate

    shorter = min(height, width)
    lattice = (2, *(max(2, round(_ELASTIC_NODES * side / shorter)) for side in (height, width)))
    noise = np.random.default_rng(drawn.elastic_seed).standard_normal(lattice)
    smooth = interpolate(torch.from_numpy(noise)[None], size=(height, width), mode="bicubic", align_corners=True)
    field: NDArray[np.float64] = smooth[0].numpy()
    field = field - field.mean(axis=(1, 2), keepdims=True)
    root_mean_square = max(1e-9, float(np.sqrt((field**2).sum(axis=0).mean())))  # 0 where there is a single pixel
    pixels = field * (drawn.elastic_percent / 100 * shorter / root_mean_square)
    return np.stack([pixels[0] * 2 / width, pixels[1] * 2 / height], axis=-1)[None].astype(np.float32)


def strength_problems(strengths: Strengths) -> list[Problem]:
    """One problem for each strength out of its bounds, or a single one when none does anything."""
    given, largest = asdict(strengths), asdict(_LARGEST)
    del given["flip"]
    problems = [
        Problem(f"{name} out of bounds: {value:g}", fix=f"give 0 to {largest[name]:g}")
        for name, value in given.items()
        if not 0 <= value <= largest[name]
    ]
    if not strengths.flip and not any(given.values()):
        fix = "raise one of them; for more of the same images, use source: duplicate"
        problems.append(Problem("every transformation is off", fix=fix))
    return problems
