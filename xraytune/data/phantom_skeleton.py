"""The bones of a chest as extra thickness: ribs, spine, collar bones, shoulder blades, upper arms."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
from numpy.typing import NDArray

from xraytune.data.phantom_anatomy import Anatomy, lateral_wall, spine_line
from xraytune.data.phantom_shapes import Canvas, Field, Points, Tube, capsule, draw_tubes, soft_step, tube_along

_RIB_PAIRS = 11
_CHEST_DEPTH = 0.42


def draw_skeleton(canvas: Canvas, anatomy: Anatomy) -> Field:
    """Water-equivalent thickness that the bones add."""
    tubes = [*_ribs(anatomy), *_clavicles(anatomy), *_scapulae(anatomy), *_vertebral_arches(anatomy)]
    thickness = draw_tubes(canvas, tubes) + _vertebrae(canvas, anatomy) + _arms(canvas, anatomy)
    extra: Field = np.float32(anatomy.bone) * np.maximum(thickness, 0)
    return extra


def _ribs(anatomy: Anatomy) -> Iterator[Tube]:
    """All ribs as one tube per width: each goes round the chest in a plane that is tilted down in front."""
    curves = [_rib(anatomy, number, side) for number in range(1, _RIB_PAIRS + 1) for side in (-1, 1)]
    yield tube_along(curves, anatomy.rib_radius, density=3.6, hollow=1.4)


def _rib(anatomy: Anatomy, number: int, side: int) -> Points:
    start = anatomy.apex - 0.07 + anatomy.rib_pitch * number
    drop = anatomy.rib_drop * (0.40 + 0.09 * min(number, 8))
    reach = anatomy.rib_reach if number < 10 else 0.5 * anatomy.rib_reach
    angle = np.linspace(0.12, np.pi * reach, 160)
    y = start + drop * ((1 - np.cos(angle)) / 2) ** 1.15
    wall = lateral_wall(anatomy, start + drop / 2) + 0.015
    spine = spine_line(anatomy, y)
    x = spine + side * (wall - side * spine) * np.sin(angle) ** 0.8
    return np.stack([x, y, -_CHEST_DEPTH * np.cos(angle)], axis=1)


def _clavicles(anatomy: Anatomy) -> Iterator[Tube]:
    along = np.linspace(0, 1, 120)
    inner, outer = 0.12, anatomy.shoulder[0] - 0.08
    curves = []
    for side in (-1, 1):
        x = side * (inner + (outer - inner) * along)
        y = anatomy.apex + 0.05 - anatomy.clavicle_rise * along**1.5 + 0.035 * np.sin(2 * np.pi * along)
        curves.append(np.stack([x, y], axis=1))
    yield tube_along(curves, 1.3 * anatomy.rib_radius, density=4.0, hollow=1.2)


def _scapulae(anatomy: Anatomy) -> Iterator[Tube]:
    """The outer border of each blade, from the joint down, and its spine."""
    along = np.linspace(0, 1, 100)
    joint_x, joint_y = anatomy.shoulder[0] - 0.10, anatomy.shoulder[1] + 0.10
    borders, spines = [], []
    for side in (-1, 1):
        border_x = joint_x + 0.03 * np.sin(np.pi * along) + 0.02 * along
        borders.append(np.stack([side * border_x, joint_y + 0.52 * along], axis=1))
        spines.append(np.stack([side * (joint_x - 0.30 * along), joint_y - 0.06 + 0.05 * along**2], axis=1))
    yield tube_along(borders, 0.014, density=3.0, hollow=0.6)
    yield tube_along(spines, 0.020, density=1.6, hollow=0.6)


def _arms(canvas: Canvas, anatomy: Anatomy) -> Field:
    """Upper arm bones: a shaft with a marrow and a round head."""
    right, left = (_arm(canvas, start, end) for start, end in arm_lines(anatomy))
    return right + left


def _arm(canvas: Canvas, start: tuple[float, float], end: tuple[float, float]) -> Field:
    shaft = capsule(canvas, start, end, 0.042) - 0.75 * capsule(canvas, start, end, 0.026)
    bone: Field = np.float32(1.6) * np.maximum(shaft, 0.5 * capsule(canvas, start, start, 0.085))
    return bone


def arm_lines(anatomy: Anatomy) -> list[tuple[tuple[float, float], tuple[float, float]]]:
    """From shoulder to elbow, for the two sides."""
    x, y = anatomy.shoulder
    across, down = 0.75 * np.cos(anatomy.arm_angle), 0.75 * np.sin(anatomy.arm_angle)
    return [((side * x, y), (side * (x + float(across)), y + float(down))) for side in (-1, 1)]


def _vertebrae(canvas: Canvas, anatomy: Anatomy) -> Field:
    """Vertebral bodies with bright end plates, and the discs between them."""
    half_width = anatomy.spine_half_width * (1 + 0.12 * np.clip(canvas.y, -1.2, 1.2))
    across = np.abs(canvas.x - spine_line(anatomy, canvas.y))
    phase = (canvas.y / np.float32(anatomy.vertebra_pitch) + np.float32(anatomy.vertebra_phase)) % 1
    to_plate = np.minimum(phase, 1 - phase)
    body = soft_step(to_plate - 0.09, 0.02)
    plate = np.exp(-(((to_plate - 0.13) / 0.035) ** 2))
    rim = np.exp(-(((across - half_width) / 0.012) ** 2))
    waist = half_width - 0.012 * np.sin(np.pi * phase)
    column: Field = soft_step(waist - across, 0.008) * (0.01 + 0.04 * body + 0.035 * plate) + 0.025 * rim * body
    return column


def _vertebral_arches(anatomy: Anatomy) -> Iterator[Tube]:
    """Pedicles as pairs of rings and spinous processes as dots on the spine."""
    pitch = anatomy.vertebra_pitch
    centre = (np.arange(-9, 10) + 0.42 - anatomy.vertebra_phase) * pitch
    spine = spine_line(anatomy, centre)
    sideways = 0.62 * anatomy.spine_half_width
    pedicles = np.concatenate([np.stack([spine + side * sideways, centre], axis=1) for side in (-1, 1)])
    processes = np.stack([spine, centre + 0.42 * pitch], axis=1)
    yield Tube(points=pedicles, lengths=_lengths(pedicles, 0.03), radius=0.022, density=2.2, hollow=1.3)
    yield Tube(points=processes, lengths=_lengths(processes, 0.02), radius=0.018, density=1.8)


def _lengths(points: Points, length: float) -> NDArray[np.float64]:
    return np.full(len(points), length)
