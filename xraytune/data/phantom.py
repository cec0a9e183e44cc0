"""Draw phantom chest X-rays: images with known answers, for the demo, the tests and the benchmarks.

A patient depends only on the seed and the patient's number, so a larger set contains the smaller
one. A chest is a map of water-equivalent thickness: soft tissue and bone add to it, air subtracts
from it, and disease replaces air by fluid. Coordinates run from -1 to 1 (x to the viewer's right, y
down; one unit is about 15 cm of a child's chest).
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeAlias

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageDraw
from scipy.ndimage import gaussian_filter  # type: ignore[import-untyped]

from xraytune.base.cores import map_on_cores
from xraytune.base.files import csv_table, new_folder, require_new, write_text
from xraytune.base.records import Progress, ignore_progress
from xraytune.base.seeding import derive_seed, numpy_generator

Field: TypeAlias = NDArray[Any]
"""One number per pixel of the canvas, [H, W] float32."""

FINDINGS = ("lobar", "diffuse", "effusion")
_CYCLE = ("normal", "bacteria", "virus", "normal", "bacteria")
_FINDINGS_OF: dict[str, tuple[str, ...]] = {
    "normal": (),
    "bacteria": ("lobar",),
    "virus": ("diffuse",),
}
_DATA_FILE = """\
data:
  path: .
  table: {file: labels.csv, image: file, patient: patient, side: side}
  findings: [lobar, diffuse, effusion]
"""


@dataclass(frozen=True, slots=True, kw_only=True)
class PhantomSet:
    """A folder of phantoms."""

    path: Path
    patient_count: int
    image_count: int


@dataclass(frozen=True, slots=True, kw_only=True)
class PhantomImage:
    """One image, uint8 [S, S], with the mask of visible lung, bool [S, S].

    `part` is train or test. With findings, the diagnosis means nothing.
    """

    stem: str
    part: str
    diagnosis: str
    findings: tuple[str, ...]
    pixels: NDArray[np.uint8]
    lungs: NDArray[np.bool_]


def draw_phantoms(
    out: Path,
    *,
    patients: int,
    seed: int,
    image_size_px: int = 256,
    difficulty: float = 0.3,
    pairs: bool = False,
    findings: bool = False,
    on_progress: Progress = ignore_progress,
) -> PhantomSet:
    """Draw a phantom set into a new folder; the same arguments give the same bytes.

    Args:
        out: The folder, with the layout and the file names of the Kermany set; it appears only when
            it is complete.
        patients: At least 10, with 1 to 4 images each; two in five are normal, one in five is in
            `test/`.
        seed: Seed of everything.
        image_size_px: Side of the square images, at least 32.
        difficulty: From 0 (obvious lesions) to 1 (invisible lesions).
        pairs: Use the layout for segmentation, with masks of the lungs; the images are the same.
        findings: Draw up to three findings in one image instead of one pneumonia; add their table
            and a data file.
        on_progress: Called after each patient.

    Raises ConfigError if `out` exists.
    """
    require_new(out)
    rows: list[list[str]] = []
    with new_folder(out.resolve()) as folder:

        def save(pixels: NDArray[Any], name: str) -> None:
            (folder / name).parent.mkdir(parents=True, exist_ok=True)
            Image.fromarray(pixels).save(folder / name, quality=92)

        def draw(patient: int) -> list[list[str]]:
            drawn = []
            images = draw_patient(seed, patient, image_size_px, difficulty, has_findings=findings)
            for image in images:
                kind = "NORMAL" if image.diagnosis == "normal" else "PNEUMONIA"
                kind = "images" if pairs or findings else kind
                save(image.pixels, f"{image.part}/{kind}/{image.stem}.jpeg")
                if pairs:
                    save(image.lungs, f"{image.part}/masks/{image.stem}.png")
                reader = numpy_generator(seed, "reader", image.stem)
                read = [
                    reader.choice(["-1", "", str(int(name in image.findings))], p=(0.05, 0.05, 0.9))
                    for name in FINDINGS
                ]
                file = f"{image.part}/images/{image.stem}.jpeg"
                drawn.append([file, f"{seed}-{patient + 1}", image.part, *read])
            return drawn

        for done, drawn in enumerate(map_on_cores(draw, range(patients)), start=1):
            rows += drawn
            on_progress("drawing phantoms (patients)", done, patients)
        if findings:
            table = csv_table(["file", "patient", "side", *FINDINGS], rows)
            write_text(folder / "labels.csv", table)
            write_text(folder / "data.yaml", _DATA_FILE)
    return PhantomSet(path=out, patient_count=patients, image_count=len(rows))


def draw_patient(
    seed: int, patient: int, image_size_px: int, difficulty: float, *, has_findings: bool = False
) -> Iterator[PhantomImage]:
    """Draw all images of one patient; patients are numbered from 0."""
    patient_seed = derive_seed(seed, "phantom", patient)
    cycle, place = divmod(patient, len(_CYCLE))
    diagnosis = _CYCLE[place]
    findings = _FINDINGS_OF[diagnosis]
    if has_findings:  # each of the first two makes an effusion more frequent
        lobar, diffuse, effusion = numpy_generator(patient_seed, "findings").random(3)
        others = int(lobar < 0.35) + int(diffuse < 0.30)
        has = (lobar < 0.35, diffuse < 0.30, effusion < 0.10 + 0.35 * others)
        findings = tuple(name for name, is_there in zip(FINDINGS, has, strict=True) if is_there)
    chest = _Chest(image_size_px, numpy_generator(patient_seed, "anatomy"))
    rng = numpy_generator(patient_seed, "disease")
    fluid = chest.draw_lesions(findings, rng)
    severity = rng.uniform(0.6, 1.3)
    for number in range(1 + rng.choice(4, p=(0.45, 0.30, 0.15, 0.10))):
        image_rng = numpy_generator(patient_seed, "image", number)
        contrast = (1 - difficulty) * severity * image_rng.uniform(0.85, 1.15)
        top, left = (chest.margin_px * image_rng.uniform(0.3, 0.7, 2)).astype(int)
        field = np.s_[top : top + image_size_px, left : left + image_size_px]
        stem = f"person{patient + 1}_{diagnosis}_{4 * patient + number + 1}"
        if has_findings:
            stem = f"{seed}-{patient + 1}_{number + 1}"
        elif diagnosis == "normal":
            series = "IM" if patient % 2 else "NORMAL2-IM"
            stem = f"{series}-{patient + 1:04d}-0001" + (f"-{number:04d}" if number else "")
        yield PhantomImage(
            stem=stem,
            part="test" if place == cycle % len(_CYCLE) else "train",  # each diagnosis in turn
            diagnosis=diagnosis,
            findings=findings if has_findings else (),
            pixels=_expose((chest.thickness + contrast * fluid)[field], image_rng),
            lungs=chest.lungs[field] > 0.5,
        )


class _Chest:
    """One patient: maps of thickness, air and visible lung, and where lesions lie."""

    def __init__(self, image_size_px: int, rng: np.random.Generator) -> None:
        side = 2 * round(1.1 * image_size_px / 2)  # an image is cut out of the canvas
        axis = ((np.arange(side) - (side - 1) / 2) * (2 / image_size_px)).astype(np.float32)
        self.margin_px = side - image_size_px
        self.pixel = 2 / image_size_px
        self.x = axis[None, :]
        self.y = axis[:, None]
        self.apex = rng.uniform(-0.76, -0.56)
        self.base = rng.uniform(0.30, 0.65)
        self.dome = rng.uniform(0.32, 0.62)  # of the diaphragm
        self.centre = rng.uniform(0.34, 0.42)
        self.hila = ((-0.18, 0.0), (0.21, -0.04))
        self.half_width = rng.uniform(0.34, 0.44)

        rise = (self.base - self.y) / (self.base - self.apex)
        across = np.abs(np.abs(self.x) - self.centre + 0.1 * np.clip(rise, 0, 1)) / self.half_width
        cavity = (
            rng.uniform(0.62, 0.86)
            * np.maximum(1 - across**2.3 - np.maximum(rise, 0) ** 2.3, 0) ** 0.4
        )
        heart_x = rng.uniform(0.12, 0.18)
        heart_y = self.dome - rng.uniform(0.20, 0.28)
        organs = np.maximum.reduce(  # heart, great vessels and spine
            [
                0.58
                * self._ellipsoid(
                    heart_x, heart_y, rng.uniform(0.26, 0.40), rng.uniform(0.28, 0.40)
                ),
                0.46 * self._ellipsoid(0.01, -0.20, 0.13, 0.70),
                0.34 * self._ellipsoid(0, 0.1, 0.115, 1.6),
            ]
        )
        above_dome = (
            self.dome
            + rng.uniform(0.6, 1.6) * np.maximum(np.abs(self.x) - self.centre, 0) ** 2
            - self.y
        )
        self.air = np.maximum(cavity - organs, 0) * _step(above_dome, 0.006)
        edge = 1 / image_size_px
        self.lungs = (
            _step((cavity - 0.16) / 2, edge)
            * _step((0.20 - organs) / 3, edge)
            * _step(above_dome, edge)
        )

        texture = rng.uniform(0.7, 1.6) + 0.10 * self._noise(rng, 40) + 0.07 * self._noise(rng, 110)
        vessels = self._draw_branches(rng, 0.036, 5) * _step(self.air - 0.12, 0.03)
        self.thickness = np.maximum(
            self._draw_body(rng) * (1 + 0.03 * self._noise(rng, 6))
            - self.air * (1 - 0.26 * texture)
            + rng.uniform(0.9, 1.7) * vessels
            + rng.uniform(0.8, 1.7) * self._draw_bones(rng),
            0,
        )

    def draw_lesions(self, findings: tuple[str, ...], rng: np.random.Generator) -> Field:
        """Return the thickness that findings add, at most that of the air."""
        draw = {
            "lobar": self._draw_lobar,
            "diffuse": self._draw_diffuse,
            "effusion": self._draw_effusion,
        }
        extent = sum((draw[name](rng) for name in findings), np.zeros_like(self.air))
        return np.asarray(0.74 * self.air * np.minimum(extent, 1.3))

    def _draw_lobar(self, rng: np.random.Generator) -> Field:
        """Return one or two consolidated areas, in which the airways stay dark."""
        extent: Field = np.zeros_like(self.air)
        for _ in range(1 + (rng.random() < 0.35)):
            side = -1 if rng.random() < 0.55 else 1
            y = rng.uniform(self.apex + 0.25, self.dome - 0.12)
            x = side * rng.uniform(0.55, 0.85) * self._wall(y)
            distance = np.hypot(
                (self.x - x) / rng.uniform(0.20, 0.33), (self.y - y) / rng.uniform(0.18, 0.35)
            )
            area = _step(1 - distance + 0.22 * self._noise(rng, 9), 0.10) * (self.x * side > 0)
            extent = np.maximum(extent, area)
        patches = np.clip(0.85 + 0.22 * self._noise(rng, 14) + 0.12 * self._noise(rng, 40), 0, 1.4)
        airways = np.clip(1 - 0.5 * self._draw_branches(rng, 0.024, 4) / 0.02, 0.5, 1)
        return np.asarray(extent * patches * airways)

    def _draw_diffuse(self, rng: np.random.Generator) -> Field:
        """Return haze and fine lines in both lungs, strongest around the hila."""
        extent: Field = np.zeros_like(self.air)
        for x, y in self.hila:
            across = (self.x - x) / rng.uniform(0.30, 0.47)
            down = (self.y - y - 0.1) / rng.uniform(0.38, 0.62)
            extent = extent + rng.uniform(0.75, 1.0) * np.exp(-np.square(across) - np.square(down))
        extent = np.clip(extent * (1 + 0.35 * self._noise(rng, 7)), 0, 1)
        lines = np.exp(-np.abs(self._noise(rng, 44)) / 0.25) + np.exp(
            -np.abs(self._noise(rng, 80)) / 0.25
        )
        return np.asarray(0.7 * extent * (0.55 + 0.55 * lines))

    def _draw_effusion(self, rng: np.random.Generator) -> Field:
        """Return fluid at the bottom of one lung, whose surface rises towards the ribs."""
        side = -1 if rng.random() < 0.5 else 1
        climb = np.clip(np.abs(self.x) / self._wall(self.dome), 0, 1.2) ** 3
        surface = self.dome + 0.06 - rng.uniform(0.10, 0.28) - rng.uniform(0.08, 0.20) * climb
        return _step(self.y - surface, 0.02) * (self.x * side > 0)

    def _wall(self, y: float) -> float:
        """Return the distance of the lungs' outer edge from the midline."""
        rise = min(max((self.base - y) / (self.base - self.apex), 0.0), 0.98)
        return float(self.centre - 0.1 * rise + self.half_width * (1 - rise**2.3) ** (1 / 2.3))

    def _draw_body(self, rng: np.random.Generator) -> Field:
        """Return torso, shoulders and neck, as if all were soft tissue."""
        chest = self.centre + self.half_width + rng.uniform(0.07, 0.16)
        width = chest + (1.0 - chest) * _step(-0.42 - self.y, 0.06)
        torso = np.sqrt(np.maximum(1 - (np.abs(self.x) / width) ** 2.6, 0))
        shoulders = self.apex - 0.4 + 0.3 * np.clip(np.abs(self.x) - 0.3, 0, 1)
        trunk = torso * np.sqrt(np.clip((self.y - shoulders) / 0.65, 0, 1))
        neck = 0.62 * self._ellipsoid(0, -1, rng.uniform(0.26, 0.38), 0.75)
        return np.asarray(np.maximum(rng.uniform(0.92, 1.10) * trunk, neck))

    def _draw_bones(self, rng: np.random.Generator) -> Field:
        """Return the extra thickness of ribs and clavicles."""
        pitch = rng.uniform(0.135, 0.170)
        drop = rng.uniform(0.26, 0.60)
        radius = rng.uniform(0.019, 0.029)
        bones: Field = np.zeros_like(self.air)
        for number in range(
            1, 12
        ):  # half an ellipse: out from the spine, and back lower down in front
            height = drop * (0.20 + 0.045 * min(number, 8))
            middle = self.apex - 0.07 + pitch * number + height
            wall = self._wall(middle) + 0.015
            across = self.x / wall
            down = (self.y - middle) / height
            q = np.hypot(across, down)
            distance = (q - 1) * q / np.maximum(np.hypot(across / wall, down / height), 1e-3)
            is_cartilage = _step(down, 0.1) * _step(0.8 - np.abs(across), 0.03)
            bones += 1.8 * (1 - is_cartilage) * _tube(distance, radius)
        along = (np.abs(self.x) - 0.12) / 0.65
        line = self.apex + 0.05 - rng.uniform(0.02, 0.20) * np.abs(along) ** 1.5
        return np.asarray(
            bones
            + 2.5 * _tube(self.y - line, 1.3 * radius) * _step(0.5 - np.abs(along - 0.5), 0.005)
        )

    def _draw_branches(self, rng: np.random.Generator, width: float, levels: int) -> Field:
        """Return vessels or airways that fork from the hila outwards, with soft edges."""
        size_px = self.x.size
        fan = np.linspace(-1.35, 1.35, 8)
        starts = np.repeat(np.array(self.hila), 8, axis=0)
        angles = np.concatenate([np.pi - fan, fan]) + rng.normal(0, 0.12, 16)
        tree: Field = np.zeros_like(self.air)
        for level in range(levels):
            angles = angles + rng.normal(0, 0.25, len(angles)) / 2
            ends = starts + 0.17 * 0.80**level * np.stack([np.cos(angles), np.sin(angles)], axis=-1)
            image = Image.new("L", (2 * size_px, 2 * size_px))
            draw = ImageDraw.Draw(image)
            for corners in ((np.hstack([starts, ends]) / self.pixel + size_px / 2) * 2).tolist():
                draw.line(corners, 255, max(1, round(2 * width / self.pixel)))
            drawn = np.asarray(image.reduce(2), dtype=np.float32) / 255
            tree += 0.8 * width * gaussian_filter(drawn, 0.2 * width / self.pixel + 0.3)
            spread = rng.uniform(0.15, 0.55, len(angles))
            angles = np.concatenate([angles + spread, angles - spread])
            starts = np.concatenate([ends, ends])
            width *= 0.72
        return tree

    def _ellipsoid(self, x: float, y: float, a: float, b: float) -> Field:
        """Return the depth of an ellipsoid seen from the front, 1 in the middle."""
        return np.sqrt(np.maximum(0, 1 - ((self.x - x) / a) ** 2 - ((self.y - y) / b) ** 2))

    def _noise(self, rng: np.random.Generator, cells: int) -> Field:
        """Return a smooth random field of about unit standard deviation, `cells` bumps wide."""
        coarse = Image.fromarray(rng.standard_normal((cells, cells), dtype=np.float32))
        return 1.4 * np.asarray(coarse.resize((self.x.size, self.x.size), Image.Resampling.BICUBIC))


def _step(distance: Field, softness: float) -> Field:
    """Return 0 far below zero and 1 far above; it rises over about four times `softness`."""
    return 0.5 + 0.5 * np.tanh(distance / (2 * softness))


def _tube(distance: Field, radius: float) -> Field:
    """Return the depth of a round tube by distance from its axis."""
    return 2 * np.sqrt(np.maximum(radius**2 - np.square(distance), 0))


def _expose(thickness: Field, rng: np.random.Generator) -> NDArray[np.uint8]:
    """Return the radiograph of a map of thickness; bone is bright, air dark.

    Beer-Lambert gives the direct radiation exp(-attenuation), to which scatter adds. Photons are
    counted with noise (Gaussian: there are hundreds) and shown on the logarithmic scale of computed
    radiography.
    """
    direct = gaussian_filter(np.exp(-3.2 * thickness), rng.uniform(0.4, 0.8) * len(thickness) / 256)
    exposure = direct + rng.uniform(0.15, 0.45) * direct.mean()
    photons = math.exp(rng.uniform(math.log(2e4), math.log(1e5))) * exposure
    counted = photons + np.sqrt(photons) * rng.standard_normal(photons.shape, dtype=np.float32)
    attenuation = -np.log(np.maximum(counted, 1))
    black, white = np.percentile(attenuation, (rng.uniform(0, 8), rng.uniform(97, 99.8)))
    level = np.clip((attenuation - black) / (white - black), 0, 1.1)
    shoulder = rng.uniform(0.2, 1.4)
    return np.asarray(
        np.round(225 * np.expm1(-shoulder * level) / np.expm1(-shoulder)), dtype=np.uint8
    )
