"""Thickness maps of simple bodies: how much of a body a ray from the front goes through.

World units: the image spans x and y from -1 to 1 (x to the viewer's right, y down), so one unit is about 15 cm of a
child's chest. A `Canvas` is the pixel grid with a margin, so that a chest can be shifted and turned before the image
is cut out. Every function gives a float32 map over the canvas.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import TypeAlias

import numpy as np
from numpy.typing import NDArray
from PIL import Image

Field: TypeAlias = NDArray[np.float32]
"""One number for each pixel of the canvas, [H, W] float32."""
Points: TypeAlias = NDArray[np.float64]
"""World coordinates, [N, 2] (x, y) or [N, 3] (x, y, depth)."""

_HALF_SPAN = 1.25


@dataclass(frozen=True, slots=True, kw_only=True)
class Canvas:
    """The grid that maps are drawn on.

    Attributes:
        x: World x of each column, [1, W].
        y: World y of each row, [H, 1].
        pixel: Side of a pixel in world units.
        wave_number: Angular frequency of each coefficient of `numpy.fft.rfft2`, in radians per world unit.
    """

    x: Field
    y: Field
    pixel: float
    wave_number: Field

    @property
    def side_px(self) -> int:
        """Rows, and columns."""
        return self.x.size


def canvas_for(image_size_px: int) -> Canvas:
    """The canvas of square images of this side; its pixels are the image's."""
    side = 2 * round(_HALF_SPAN * image_size_px / 2)
    pixel = 2 / image_size_px
    axis = ((np.arange(side) - (side - 1) / 2) * pixel).astype(np.float32)
    rows, columns = np.fft.fftfreq(side, pixel), np.fft.rfftfreq(side, pixel)
    return Canvas(
        x=axis[None, :],
        y=axis[:, None],
        pixel=pixel,
        wave_number=(2 * np.pi * np.hypot(rows[:, None], columns[None, :])).astype(np.float32),
    )


def soft_step(distance: Field, softness: float) -> Field:
    """0 far below zero, 1 far above, passing .5 at zero over about four times `softness`."""
    step: Field = 0.5 + 0.5 * np.tanh(distance / np.float32(2 * softness))
    return step


def clamp(field: Field, low: float, high: float) -> Field:
    """`numpy.clip` that stays float32."""
    return np.clip(field, np.float32(low), np.float32(high))


def ellipsoid(
    canvas: Canvas, centre: tuple[float, float], half_axes: tuple[float, float], depth: float, tilt: float = 0.0
) -> Field:
    """Chord lengths through an ellipsoid, `depth` in the middle; `tilt` turns its axes clockwise, in radians."""
    x, y = canvas.x - np.float32(centre[0]), canvas.y - np.float32(centre[1])
    cosine, sine = np.float32(np.cos(tilt)), np.float32(np.sin(tilt))
    along, across = (cosine * x + sine * y) / half_axes[0], (cosine * y - sine * x) / half_axes[1]
    return np.float32(depth) * np.sqrt(np.maximum(0, 1 - along * along - across * across))


def capsule(canvas: Canvas, start: tuple[float, float], end: tuple[float, float], radius: float) -> Field:
    """Chord lengths through a straight round bar with round ends, `2 * radius` in the middle."""
    along = np.subtract(end, start).astype(np.float32)
    x, y = canvas.x - np.float32(start[0]), canvas.y - np.float32(start[1])
    position = np.clip((x * along[0] + y * along[1]) / max(float(along @ along), 1e-6), 0, 1)
    squared = (x - position * along[0]) ** 2 + (y - position * along[1]) ** 2
    chord: Field = 2 * np.sqrt(np.maximum(0, np.float32(radius**2) - squared))
    return chord


def noise(canvas: Canvas, rng: np.random.Generator, cells: int) -> Field:
    """A smooth random field of about unit standard deviation, with `cells` bumps along a side."""
    coarse = Image.fromarray(rng.standard_normal((cells, cells), dtype=np.float32))
    smooth = np.asarray(coarse.resize((canvas.side_px, canvas.side_px), Image.Resampling.BICUBIC))
    return smooth * np.float32(1.4)


@dataclass(frozen=True, slots=True, kw_only=True)
class Tube:
    """Round tubes of one width: ribs, vessels, or airways when `density` is negative.

    Attributes:
        points: Places along the curves, [N, 2].
        lengths: Length of curve that each point stands for, [N]; seen from the front, a stretch that runs along the
            ray piles up on few pixels, as the side of a rib does.
        radius: Of the tube.
        density: Multiplies the thickness.
        hollow: Density that is missing inside .7 of the radius: the marrow between two lines of cortical bone.
    """

    points: Points
    lengths: NDArray[np.float64]
    radius: float
    density: float = 1.0
    hollow: float = 0.0


def tube_along(curves: Sequence[Points], radius: float, density: float = 1.0, hollow: float = 0.0) -> Tube:
    """The tube around curves that are given by close points, each [N, 2] or [N, 3]; together they cost as one."""
    return Tube(
        points=np.concatenate([(curve[1:, :2] + curve[:-1, :2]) / 2 for curve in curves]),
        lengths=np.concatenate([np.linalg.norm(np.diff(curve, axis=0), axis=1) for curve in curves]),
        radius=radius,
        density=density,
        hollow=hollow,
    )


def draw_tubes(canvas: Canvas, tubes: Iterable[Tube]) -> Field:
    """Sum of the tubes' thickness; in the middle of a straight one it is `2 * radius * density`.

    A tube is a row of balls. The shadow of a ball has the ball's own Fourier transform (projection-slice theorem),
    4 pi (sin q - q cos q) / k^3 with q = k * radius, so tubes of any width cost one multiplication.
    """
    spectrum = np.zeros(canvas.wave_number.shape, dtype=np.complex64)
    for tube in tubes:
        shadow = _ball_spectrum(canvas.wave_number, tube.radius)
        if tube.hollow:
            shadow -= np.float32(tube.hollow) * _ball_spectrum(canvas.wave_number, 0.7 * tube.radius)
        scale = 2 * tube.density / (np.pi * tube.radius * canvas.pixel**2)
        spectrum += np.fft.rfft2(_splat(canvas, tube)) * (np.float32(scale) * shadow)
    # Half a pixel of blur keeps the sharpest edges from ringing.
    spectrum *= np.exp(np.float32(-0.125 * canvas.pixel**2) * np.square(canvas.wave_number))
    thickness: Field = np.fft.irfft2(spectrum, s=(canvas.side_px, canvas.side_px)).astype(np.float32, copy=False)
    return thickness


def _ball_spectrum(wave_number: Field, radius: float) -> Field:
    # Below .05 float32 loses the difference, and the limit for q -> 0 is right to 3e-4.
    q = np.maximum(wave_number * np.float32(radius), np.float32(0.05))
    spectrum: Field = np.float32(4 * np.pi * radius**3) * (np.sin(q) - q * np.cos(q)) / (q * q * q)
    return spectrum


def _splat(canvas: Canvas, tube: Tube) -> Field:
    """Each point's length on the four pixels around it; what lies off the canvas is dropped."""
    side = canvas.side_px
    position = tube.points / canvas.pixel + (side - 1) / 2
    is_inside = np.all((position >= 0) & (position < side - 1), axis=1)
    position, lengths = position[is_inside], tube.lengths[is_inside]
    corner = position.astype(np.int64)
    right, down = (position - corner).T
    first = corner[:, 1] * side + corner[:, 0]
    places = np.concatenate([first, first + 1, first + side, first + side + 1])
    shares = np.concatenate([(1 - right) * (1 - down), right * (1 - down), (1 - right) * down, right * down])
    flat = np.bincount(places, shares * np.tile(lengths, 4), minlength=side * side)
    return flat.reshape(side, side).astype(np.float32)
