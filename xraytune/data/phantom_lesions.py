"""Pneumonia: lung whose air is partly replaced by fluid, lobar (bacterial) or diffuse (viral)."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal, TypeAlias

import numpy as np

from xraytune.data.phantom_anatomy import lateral_wall
from xraytune.data.phantom_chest import Chest, bronchial_tree, hila
from xraytune.data.phantom_shapes import Canvas, Field, clamp, draw_tubes, noise, soft_step

Diagnosis: TypeAlias = Literal["normal", "bacteria", "virus"]

_LUNG_DENSITY_GAIN = 0.74
"""What lung gains when fluid takes the place of its air."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Lesion:
    """Maps over the canvas.

    Attributes:
        thickness: Water-equivalent thickness that the disease adds at full contrast.
        extent: 1 where the image shows the disease, 0 elsewhere, with a soft edge.
    """

    thickness: Field
    extent: Field


def draw_lesion(canvas: Canvas, chest: Chest, diagnosis: Diagnosis, rng: np.random.Generator) -> Lesion:
    """The disease of one patient; nothing when the chest is normal."""
    if diagnosis == "bacteria":
        return _lobar_lesion(canvas, chest, rng)
    if diagnosis == "virus":
        return _diffuse_lesion(canvas, chest, rng)
    return Lesion(thickness=np.zeros_like(chest.air), extent=np.zeros_like(chest.air))


def _lobar_lesion(canvas: Canvas, chest: Chest, rng: np.random.Generator) -> Lesion:
    """One or two consolidated areas with soft borders, in which the airways stay dark."""
    extent = _lobar_area(canvas, chest, rng)
    if rng.random() < 0.35:
        extent = np.maximum(extent, _lobar_area(canvas, chest, rng))
    patches = clamp(0.85 + 0.22 * noise(canvas, rng, 14) + 0.12 * noise(canvas, rng, 40), 0, 1.4)
    bronchograms = clamp(
        1 - draw_tubes(canvas, bronchial_tree(chest.anatomy, rng, radius=0.012, levels=4)) / 0.04, 0.5, 1
    )
    extent = extent * chest.lungs
    return Lesion(thickness=_LUNG_DENSITY_GAIN * chest.air * extent * patches * bronchograms, extent=extent)


def _diffuse_lesion(canvas: Canvas, chest: Chest, rng: np.random.Generator) -> Lesion:
    """Haze and fine lines in both lungs, strongest around the hila."""
    right, left = (_around(canvas, hilum, rng) for hilum in hila(chest.anatomy))
    patchy = 1 + np.float32(0.35) * noise(canvas, rng, 7)
    strength = clamp((right + left) * patchy, 0, 1) * chest.lungs
    texture = np.float32(0.55) + np.float32(0.55) * (_lines(canvas, rng, 44) + _lines(canvas, rng, 80))
    fluid = np.float32(0.6 * _LUNG_DENSITY_GAIN) * chest.air * strength * texture
    return Lesion(thickness=fluid, extent=soft_step(strength - np.float32(0.35), 0.04))


def _around(canvas: Canvas, hilum: tuple[float, float], rng: np.random.Generator) -> Field:
    """A Gaussian hill of haze, a little below the hilum."""
    across = (canvas.x - hilum[0]) / rng.uniform(0.28, 0.45)
    down = (canvas.y - hilum[1] - 0.1) / rng.uniform(0.35, 0.60)
    hill: Field = np.float32(rng.uniform(0.75, 1.0)) * np.exp(-np.square(across) - np.square(down))
    return hill


def _lines(canvas: Canvas, rng: np.random.Generator, cells: int) -> Field:
    """A net of thin lines: where a random field passes zero."""
    net: Field = np.exp(-np.abs(noise(canvas, rng, cells)) / np.float32(0.25))
    return net


def _lobar_area(canvas: Canvas, chest: Chest, rng: np.random.Generator) -> Field:
    """A blob with an uneven, soft border around a random place in one lung."""
    anatomy = chest.anatomy
    side = -1 if rng.random() < 0.55 else 1
    y = rng.uniform(anatomy.apex + 0.25, anatomy.diaphragm[0] - 0.12)
    # Between heart and ribs, so that the heart never hides all of it.
    x = side * rng.uniform(0.55, 0.85) * lateral_wall(anatomy, y)
    half_axes = (rng.uniform(0.18, 0.30), rng.uniform(0.16, 0.32))
    distance = np.hypot((canvas.x - x) / half_axes[0], (canvas.y - y) / half_axes[1])
    return soft_step(1 - distance + 0.22 * noise(canvas, rng, 9), 0.10) * (canvas.x * side > 0)
