"""The measures of one patient's chest, and the curves that several organs share.

The patient's right is on the image's left: side -1 is the image's left, +1 its right. Lengths are in world units
(`phantom_shapes`), angles in radians.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TypeVar

import numpy as np
from numpy.typing import NDArray

from xraytune.data.phantom_shapes import Canvas, Field

FloatArray = TypeVar("FloatArray", bound=NDArray[np.floating])

_APEX_ROUNDNESS = 2.3
_MEDIAL_LEAN = 0.1


@dataclass(frozen=True, slots=True, kw_only=True)
class Anatomy:
    """What makes one patient's chest differ from another's."""

    lung_centre: float
    lung_half_width: float
    apex: float
    lung_base: float
    """Where the lungs are widest."""
    lung_depth: float
    diaphragm: tuple[float, float]
    """Top of the right and the left dome."""
    dome_height: float
    heart_size: float
    heart_tilt: float
    heart_centre: tuple[float, float]
    aortic_knob: float
    mediastinum_half_width: float
    body_depth: float
    wall: float
    """From the ribs to the skin, at the side."""
    neck_half_width: float
    shoulder: tuple[float, float]
    arm_angle: float
    """Direction of the upper arm from the shoulder: 0 points sideways, positive hangs down."""
    arm_radius: float
    jaw: float
    """Lower border of the chin; above the image's edge when it is below -1."""
    spine_half_width: float
    spine_bend: float
    vertebra_pitch: float
    vertebra_phase: float
    rib_pitch: float
    rib_drop: float
    rib_radius: float
    rib_reach: float
    """Where the bony ribs end, as a share of the way round to the breastbone."""
    bone: float
    """Extra density of bone over soft tissue."""
    clavicle_rise: float
    vessel_density: float
    hilum_height: float
    stomach: tuple[float, float, float]
    """Centre and radius of the gas under the left dome."""


def sample_anatomy(rng: np.random.Generator) -> Anatomy:
    """Draw a patient, from a small child to a slender adult."""

    def between(low: float, high: float) -> float:
        return float(rng.uniform(low, high))

    right_dome = between(0.32, 0.60)
    apex = between(-0.76, -0.56)
    return Anatomy(
        lung_centre=between(0.34, 0.42),
        lung_half_width=between(0.34, 0.44),
        apex=apex,
        lung_base=between(0.30, 0.65),
        lung_depth=between(0.72, 0.86),
        diaphragm=(right_dome, right_dome + between(0.01, 0.09)),
        dome_height=between(0.12, 0.32),
        heart_size=between(0.80, 1.18),
        heart_tilt=between(0.65, 1.05),
        heart_centre=(between(0.12, 0.18), right_dome - between(0.20, 0.28)),
        aortic_knob=between(0.05, 0.10),
        mediastinum_half_width=between(0.11, 0.18),
        body_depth=between(0.92, 1.10),
        wall=between(0.07, 0.16),
        neck_half_width=between(0.26, 0.38),
        shoulder=(between(0.80, 0.94), apex - between(0.0, 0.15)),
        arm_angle=between(-1.3, -0.5) if rng.random() < 0.6 else between(1.0, 1.4),
        arm_radius=between(0.13, 0.19),
        jaw=between(-1.25, -0.86),
        spine_half_width=between(0.085, 0.115),
        spine_bend=between(-0.05, 0.05),
        vertebra_pitch=between(0.145, 0.18),
        vertebra_phase=between(0.0, 1.0),
        rib_pitch=between(0.135, 0.170),
        rib_drop=between(0.26, 0.60),
        rib_radius=between(0.019, 0.029),
        rib_reach=between(0.70, 0.84),
        bone=between(0.8, 1.7),
        clavicle_rise=between(0.02, 0.20),
        vessel_density=between(0.9, 1.7),
        hilum_height=between(-0.08, 0.06),
        stomach=(between(0.30, 0.48), between(0.12, 0.30), between(0.0, 0.16)),
    )


def lateral_wall(anatomy: Anatomy, height: float) -> float:
    """Distance of the lungs' outer edge from the midline at a height (world y)."""
    rise = min(max((anatomy.lung_base - height) / (anatomy.lung_base - anatomy.apex), 0.0), 0.995)
    half_width: float = anatomy.lung_half_width * (1 - rise**_APEX_ROUNDNESS) ** (1 / _APEX_ROUNDNESS)
    return anatomy.lung_centre - _MEDIAL_LEAN * rise + half_width


def lung_pair(canvas: Canvas, anatomy: Anatomy) -> Field:
    """Depth of the two lungs before heart, spine and diaphragm take their part of it."""
    rise = (anatomy.lung_base - canvas.y) / (anatomy.lung_base - anatomy.apex)
    centre = anatomy.lung_centre - _MEDIAL_LEAN * np.clip(rise, 0, 1)
    across = np.abs(np.abs(canvas.x) - centre) / anatomy.lung_half_width
    inside = 1 - across**_APEX_ROUNDNESS - np.clip(rise, 0, None) ** _APEX_ROUNDNESS
    # A power below one half makes the chest flat in front and steep at its sides.
    depth: Field = np.float32(anatomy.lung_depth) * np.maximum(inside, 0) ** np.float32(0.4)
    return depth


def diaphragm_depth(canvas: Canvas, anatomy: Anatomy) -> Field:
    """How far each pixel lies below the diaphragm's domes; negative above them."""
    right, left = anatomy.diaphragm
    top = np.where(canvas.x < 0, np.float32(right), np.float32(left))
    sideways = (np.abs(canvas.x) - np.float32(0.8 * anatomy.lung_centre)) / np.float32(anatomy.lung_half_width)
    fall = np.where(sideways > 0, np.float32(1), np.float32(0.35)) * np.square(sideways)
    below: Field = canvas.y - top - np.float32(anatomy.dome_height) * fall
    return below


def spine_line(anatomy: Anatomy, height: FloatArray) -> FloatArray:
    """World x of the spine's middle at each height."""
    line: FloatArray = anatomy.spine_bend * np.sin(1.8 * height)
    return line
