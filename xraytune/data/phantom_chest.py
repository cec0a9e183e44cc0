"""One patient's healthy chest as maps: thickness of tissue, depth of air, and which pixels show lung."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from functools import reduce

import numpy as np

from xraytune.data.phantom_anatomy import Anatomy, diaphragm_depth, lung_pair, spine_line
from xraytune.data.phantom_shapes import (
    Canvas,
    Field,
    Tube,
    capsule,
    clamp,
    draw_tubes,
    ellipsoid,
    noise,
    soft_step,
    tube_along,
)
from xraytune.data.phantom_skeleton import arm_lines, draw_skeleton

_LUNG_DENSITY = 0.26
"""Of inflated lung, relative to water."""
_BRANCH_LEVELS = 5


@dataclass(frozen=True, slots=True, kw_only=True)
class Chest:
    """Maps over the canvas.

    Attributes:
        anatomy: The measures they were drawn from.
        thickness: Water-equivalent thickness in world units: bone counts more than its depth, air nothing.
        air: Depth of aerated lung.
        lungs: 1 where the image shows lung, 0 elsewhere, with an edge of about a pixel.
    """

    anatomy: Anatomy
    thickness: Field
    air: Field
    lungs: Field


def draw_chest(canvas: Canvas, anatomy: Anatomy, rng: np.random.Generator) -> Chest:
    """Draw a chest; `rng` gives what measures do not tell: vessels and textures."""
    mediastinum = _mediastinum(canvas, anatomy)
    below = diaphragm_depth(canvas, anatomy)
    cavity = lung_pair(canvas, anatomy)
    air = np.maximum(cavity - mediastinum, 0) * _above_diaphragm(below)
    lungs = _silhouette(canvas, cavity, mediastinum, below)
    vessels = draw_tubes(canvas, bronchial_tree(anatomy, rng, radius=0.018, levels=_BRANCH_LEVELS)) * soft_step(
        air - 0.12, 0.03
    )
    parenchyma = 1 + 0.10 * noise(canvas, rng, 40) + 0.07 * noise(canvas, rng, 110)
    thickness = (
        _body(canvas, anatomy) * (1 + 0.03 * noise(canvas, rng, 6))
        - air * (1 - _LUNG_DENSITY * parenchyma)
        + np.float32(anatomy.vessel_density) * vessels
        + draw_skeleton(canvas, anatomy)
        + _marker(canvas, rng)
        + _airways(canvas, anatomy)
        - _stomach_gas(canvas, anatomy, rng)
    )
    return Chest(anatomy=anatomy, thickness=np.maximum(thickness, 0), air=air, lungs=lungs)


def _body(canvas: Canvas, anatomy: Anatomy) -> Field:
    """Torso, neck, chin and arms, as if all were soft tissue."""
    half_width = anatomy.lung_centre + anatomy.lung_half_width + anatomy.wall
    shoulder_width = anatomy.shoulder[0] + 0.10
    is_shoulder = soft_step(np.float32(-0.42) - canvas.y, 0.06)
    across = np.abs(canvas.x) / (half_width + (shoulder_width - half_width) * is_shoulder)
    torso = np.maximum(1 - across**2.6, 0) ** np.float32(0.5) * (1 + 0.10 * soft_step(canvas.y - 0.55, 0.10))
    below_shoulder = canvas.y - _shoulder_line(canvas, anatomy)
    taper = np.sqrt(clamp(below_shoulder / 0.65, 0, 1))
    neck = ellipsoid(canvas, (0, -1.0), (anatomy.neck_half_width, 0.75), 0.62)
    chin = ellipsoid(canvas, (0, anatomy.jaw - 0.4), (0.34, 0.4), 1.1)
    trunk = np.float32(anatomy.body_depth) * torso * taper
    arms = [0.9 * capsule(canvas, *line, anatomy.arm_radius) for line in arm_lines(anatomy)]
    return _merged(trunk, neck, *arms) + np.float32(0.6) * chin


def _shoulder_line(canvas: Canvas, anatomy: Anatomy) -> Field:
    """The upper outline of trunk and shoulders: from the neck it slopes down to the arms."""
    x, y = anatomy.shoulder
    slope: Field = (np.abs(canvas.x) - np.float32(anatomy.neck_half_width)) / np.float32(x - anatomy.neck_half_width)
    line: Field = np.float32(y - 0.36) + np.float32(0.24) * clamp(slope, 0, 2) ** np.float32(1.5)
    return line


def _mediastinum(canvas: Canvas, anatomy: Anatomy) -> Field:
    """Heart, great vessels and spine: what stands between the lungs and takes their place."""
    size = anatomy.heart_size
    x, y = anatomy.heart_centre
    width = anatomy.mediastinum_half_width
    return _merged(
        ellipsoid(canvas, (x, y), (0.44 * size, 0.28 * size), 0.58, anatomy.heart_tilt),
        ellipsoid(canvas, (-0.06, y + 0.05), (0.17 * size, 0.33 * size), 0.52),
        ellipsoid(canvas, (0.07, y - 0.25), (0.15 * size, 0.30), 0.46, -0.3),
        ellipsoid(canvas, (0.5 * x, y + 0.35), (0.33 * size, 0.18), 0.52),
        ellipsoid(canvas, (0.01, -0.30), (width, 0.70), 0.46),
        ellipsoid(canvas, (0.09, -0.26), (0.05 + anatomy.aortic_knob, 0.13), 0.30),
        ellipsoid(canvas, (0.0, 0.1), (1.15 * anatomy.spine_half_width, 1.6), 0.34),
    )


def _merged(*depths: Field) -> Field:
    """About the largest of the depths, without creases where they cross: their 4-norm."""
    fourth_powers = (np.square(np.square(depth)) for depth in depths)
    together: Field = np.sqrt(np.sqrt(reduce(np.add, fourth_powers)))
    return together


def _above_diaphragm(below: Field) -> Field:
    """Share of the lung's depth that is above the diaphragm; behind the dome a thin wedge of lung goes on."""
    wedge = np.float32(0.25) * np.exp(-np.maximum(below, 0) / np.float32(0.12))
    return 1 - soft_step(below, 0.006) * (1 - wedge)


def _silhouette(canvas: Canvas, cavity: Field, mediastinum: Field, below: Field) -> Field:
    edge = canvas.pixel / 2
    return (
        soft_step((cavity - 0.16) * np.float32(0.5), edge)
        * soft_step((0.20 - mediastinum) * np.float32(0.3), edge)
        * soft_step(-below, edge)
    )


def hila(anatomy: Anatomy) -> tuple[tuple[float, float], tuple[float, float]]:
    """Where vessels and airways enter the right and the left lung."""
    out = anatomy.mediastinum_half_width + 0.03
    return (-out, anatomy.hilum_height), (out + 0.03, anatomy.hilum_height - 0.04)


def bronchial_tree(anatomy: Anatomy, rng: np.random.Generator, radius: float, levels: int) -> Iterator[Tube]:
    """Vessels or airways: two trees that fork from the hila outwards; every level is one tube width."""
    starts = np.repeat(np.array(hila(anatomy)), 8, axis=0)
    fan = np.linspace(-1.35, 1.35, 8)
    angles = np.concatenate([np.pi - fan, fan]) + rng.normal(0, 0.12, 16)
    length = 0.17
    for _ in range(levels):
        points, ends, angles = _branches(starts, angles, length, rng)
        steps = np.full(len(points), length / 24)
        yield Tube(points=points, lengths=steps, radius=radius)
        starts = np.repeat(ends, 2, axis=0)
        spread = rng.uniform(0.15, 0.55, len(angles))
        angles = np.stack([angles + spread, angles - spread], axis=1).ravel()
        length, radius = 0.80 * length, 0.72 * radius


def _branches(
    starts: np.ndarray, angles: np.ndarray, length: float, rng: np.random.Generator
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Bent branches of one level: their points, their ends and the directions there."""
    bend = rng.normal(0, 0.25, len(angles))
    along = (np.arange(24) + 0.5) / 24
    heading = angles[:, None] + bend[:, None] * along
    steps = np.stack([np.cos(heading), np.sin(heading)], axis=-1) * (length / 24)
    path = starts[:, None, :] + np.cumsum(steps, axis=1)
    return path.reshape(-1, 2), path[:, -1], angles + bend


def _airways(canvas: Canvas, anatomy: Anatomy) -> Field:
    """Windpipe and main bronchi: air within the mediastinum, so thickness that is missing."""
    (right_x, right_y), (left_x, left_y) = hila(anatomy)
    fork = anatomy.hilum_height - 0.20
    height = np.linspace(-1.25, fork, 120)
    trachea = np.stack([spine_line(anatomy, height) - 0.01, height], axis=1)
    along = np.linspace(0, 1, 40)[:, None]
    bronchi = [
        trachea[-1] + along * (np.array(end) - trachea[-1]) for end in ((right_x, right_y - 0.04), (left_x, left_y))
    ]
    return draw_tubes(canvas, [tube_along([trachea], 0.040, -0.9), tube_along(bronchi, 0.026, -0.8)])


def _marker(canvas: Canvas, rng: np.random.Generator) -> Field:
    """The lead letter R that tells the patient's right side."""
    along = np.linspace(0, 1, 40)
    turn = np.pi * (along - 0.5)
    stem = np.stack([0 * along, 2 * along - 1], axis=1)
    bowl = np.stack([0.9 * np.cos(turn), 0.5 * np.sin(turn) - 0.5], axis=1)
    leg = np.stack([0.3 + 0.6 * along, along], axis=1)
    place = np.array([rng.uniform(-0.93, -0.80), rng.uniform(-0.85, 0.0)])
    return draw_tubes(canvas, [tube_along([place + 0.04 * stroke for stroke in (stem, bowl, leg)], 0.008, density=60)])


def _stomach_gas(canvas: Canvas, anatomy: Anatomy, rng: np.random.Generator) -> Field:
    """Gas under the left dome, uneven as the stomach's folds."""
    x, down, radius = anatomy.stomach
    centre = (x, anatomy.diaphragm[1] + down)
    folds = clamp(0.7 + 0.5 * noise(canvas, rng, 22), 0, 1.5)
    gas: Field = 0.9 * folds * ellipsoid(canvas, centre, (1.5 * radius + 0.01, radius + 0.01), 1.6 * radius)
    return gas
