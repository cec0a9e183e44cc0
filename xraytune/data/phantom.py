"""Draw phantom chest X-rays: images with known answers, for the demo, the tests and the benchmarks.

`draw_phantoms` writes a folder with the layout and file names of the Kermany set; or, with `pairs`, the layout for
segmentation, with exact masks of the lungs; or, with `findings`, images with up to three findings at once, a table of them,
and a data file.

A patient's anatomy, disease and side of the split depend only on the seed and the patient's number, so a larger set contains
the smaller one. A chest is a map of water-equivalent thickness: soft tissue and bone add to it, air subtracts from it, and
pneumonia replaces air by fluid. World coordinates run from -1 to 1 (x to the viewer's right, y down; one unit is about 15 cm
of a child's chest). The patient's right is on the left of the image.
"""

from __future__ import annotations

import math
from collections.abc import Collection, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal, TypeAlias

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageDraw
from scipy.ndimage import affine_transform, gaussian_filter  # type: ignore[import-untyped]

from xraytune.base.cores import map_on_cores
from xraytune.base.errors import ConfigError, Problem
from xraytune.base.files import csv_table, new_folder, require_new, write_json, write_text
from xraytune.base.records import Progress, ignore_progress
from xraytune.base.seeding import derive_seed, numpy_generator

Part: TypeAlias = Literal["train", "test"]
Diagnosis: TypeAlias = Literal["normal", "bacteria", "virus"]
Finding: TypeAlias = Literal["lobar", "diffuse", "effusion"]
Position: TypeAlias = tuple[float, float]
Field: TypeAlias = NDArray[Any]
"""One number per pixel of the canvas, [H, W] float32."""

DEFAULT_DIFFICULTY = 0.3
_CYCLE: tuple[Diagnosis, ...] = ("normal", "bacteria", "virus", "normal", "bacteria")
FINDINGS: tuple[Finding, ...] = ("lobar", "diffuse", "effusion")
_FINDING_SHARES = (0.35, 0.30, 0.10)
_WITH_PNEUMONIA = 0.35
"""An effusion is so much more frequent with each of the other two."""
_UNKNOWN_SHARES = (0.05, 0.05, 0.9)
"""Of findings that the table calls uncertain (-1), does not mention, and states."""
_DATA_FILE = """\
data:
  path: .
  table: {file: labels.csv, image: file, patient: patient, side: side}
  findings: [lobar, diffuse, effusion]
"""
_PATIENTS = (2 * len(_CYCLE), 100_000)
_IMAGE_SIZES_PX = (32, 1024)
_IMAGE_COUNT_SHARES = (0.45, 0.30, 0.15, 0.10)
_MARGIN = 1.25
"""Side of the canvas in images, so that a chest can be shifted and turned before cropping."""
_LUNG_DENSITY = 0.26
"""Density of inflated lung, relative to water."""
_ATTENUATION = 3.2
"""Attenuation per world unit of soft tissue: about 0.21 per cm, as at 60 keV."""
_LETTER_R = np.array([(0, 1), (0, -1), (0.9, -0.8), (0.9, -0.2), (0, 0), (0.9, 1)])
"""The lead marker on the patient's right."""


@dataclass(frozen=True, slots=True, kw_only=True)
class PhantomSet:
    """A folder of phantoms."""

    path: Path
    patient_count: int
    image_count: int


@dataclass(frozen=True, slots=True, kw_only=True)
class PhantomImage:
    """One image, uint8 [S, S], with the mask of visible lung, bool [S, S]; with findings, the diagnosis means nothing."""

    stem: str
    part: Part
    diagnosis: Diagnosis
    findings: tuple[Finding, ...]
    pixels: NDArray[np.uint8]
    lungs: NDArray[np.bool_]


def draw_phantoms(
    out: Path,
    *,
    patients: int,
    seed: int,
    image_size_px: int = 256,
    difficulty: float = DEFAULT_DIFFICULTY,
    pairs: bool = False,
    findings: bool = False,
    on_progress: Progress = ignore_progress,
) -> PhantomSet:
    """Draw a phantom set into a new folder; the same arguments give the same bytes.

    Args:
        out: The folder; it appears only when it is complete.
        patients: 10 to 100,000, with 1 to 4 images each; two in five are normal, one in five is in `test/`.
        seed: Seed of everything.
        image_size_px: Side of the square images, 32 to 1024.
        difficulty: From 0 (obvious lesions) to 1 (invisible lesions).
        pairs: Use the layout for segmentation. The images are the same.
        findings: Draw lobar and diffuse opacities and effusions, which may be in one image, instead of one pneumonia.
        on_progress: Called after each patient.

    Raises:
        ConfigError: An argument is out of bounds, or `out` exists.
    """
    require_new(out)
    bounds = (
        ("patients", patients, _PATIENTS),
        ("image size", image_size_px, _IMAGE_SIZES_PX),
        ("difficulty", difficulty, (0, 1)),
    )
    for name, value, (least, most) in bounds:
        if not least <= value <= most:
            raise ConfigError(Problem(f"{name} out of bounds: {value:g}", fix=f"give {least} to {most}"))
    image_count, rows = 0, list[list[str]]()
    with new_folder(out.resolve()) as folder:

        def draw(patient: int) -> list[list[str]]:
            images = list(draw_patient(seed, patient, image_size_px, difficulty, has_findings=findings))
            for image in images:
                inner = "NORMAL" if image.diagnosis == "normal" else "PNEUMONIA"
                if pairs or findings:
                    inner = "images"
                masks = {f"{image.part}/masks/{image.stem}.png": image.lungs} if pairs else {}
                for name, pixels in {f"{image.part}/{inner}/{image.stem}.jpeg": image.pixels, **masks}.items():
                    (folder / name).parent.mkdir(parents=True, exist_ok=True)
                    Image.fromarray(pixels).save(folder / name, quality=92)
            return [_table_row(seed, patient, image) for image in images]

        for done, drawn in enumerate(map_on_cores(draw, range(patients)), start=1):
            image_count += len(drawn)
            rows += drawn
            on_progress("drawing phantoms (patients)", done, patients)
        settings = {"seed": seed, "patients": patients, "image_size_px": image_size_px, "difficulty": difficulty}
        write_json(folder / "phantom.json", {"version": 1, **settings})
        if findings:
            write_text(folder / "labels.csv", csv_table(["file", "patient", "side", *FINDINGS], rows))
            write_text(folder / "data.yaml", _DATA_FILE)
    return PhantomSet(path=out, patient_count=patients, image_count=image_count)


def _table_row(seed: int, patient: int, image: PhantomImage) -> list[str]:
    """Return the row of an image: its path, patient, side and findings, some of them unknown."""
    rng = numpy_generator(seed, "reader", image.stem)
    said = [rng.choice(["-1", "", str(int(name in image.findings))], p=_UNKNOWN_SHARES) for name in FINDINGS]
    return [f"{image.part}/images/{image.stem}.jpeg", f"{seed}-{patient + 1}", image.part, *said]


def draw_patient(
    seed: int, patient: int, image_size_px: int, difficulty: float, *, has_findings: bool = False
) -> Iterator[PhantomImage]:
    """Draw all images of one patient; patients are numbered from 0."""
    patient_seed = derive_seed(seed, "phantom", patient)
    cycle, place = divmod(patient, len(_CYCLE))
    diagnosis = _CYCLE[place]
    chest = _Chest(image_size_px, numpy_generator(patient_seed, "anatomy"))
    rng = numpy_generator(patient_seed, "disease")
    findings = _findings(patient_seed) if has_findings else ()
    fluid = chest.lesions(findings, rng) if has_findings else chest.lesion(diagnosis, rng)
    severity = rng.uniform(0.6, 1.3)
    for number in range(1 + rng.choice(len(_IMAGE_COUNT_SHARES), p=_IMAGE_COUNT_SHARES)):
        image_rng = numpy_generator(patient_seed, "image", number)
        contrast = (1 - difficulty) * severity * image_rng.uniform(0.85, 1.15)
        thickness, lungs = _posed([chest.thickness + contrast * fluid, chest.lungs], image_size_px, image_rng)
        yield PhantomImage(
            stem=f"{seed}-{patient + 1}_{number + 1}" if has_findings else _stem(diagnosis, patient, number),
            part="test" if place == cycle % len(_CYCLE) else "train",  # each diagnosis in turn
            diagnosis=diagnosis,
            findings=findings,
            pixels=_radiograph(thickness, image_rng),
            lungs=lungs > 0.5,
        )


def _findings(patient_seed: int) -> tuple[Finding, ...]:
    """Draw the findings of a patient."""
    chances = numpy_generator(patient_seed, "findings").random(len(FINDINGS))
    *pneumonia, effusion = (chance < share for chance, share in zip(chances, _FINDING_SHARES, strict=True))
    effusion |= chances[-1] < _FINDING_SHARES[-1] + _WITH_PNEUMONIA * sum(pneumonia)
    return tuple(name for name, is_there in zip(FINDINGS, (*pneumonia, effusion), strict=True) if is_there)


def _stem(diagnosis: Diagnosis, patient: int, number: int) -> str:
    """Return a file name like those of the Kermany set: normal in two series, pneumonia with a running number."""
    if diagnosis != "normal":
        return f"person{patient + 1}_{diagnosis}_{len(_IMAGE_COUNT_SHARES) * patient + number + 1}"
    first = f"{'IM' if patient % 2 else 'NORMAL2-IM'}-{patient + 1:04d}-0001"
    return first if number == 0 else f"{first}-{number:04d}"


class _Chest:
    """One patient: maps of thickness, aerated lung and visible lung, and the measures that a lesion needs."""

    def __init__(self, image_size_px: int, rng: np.random.Generator) -> None:
        side = 2 * round(_MARGIN * image_size_px / 2)
        axis = ((np.arange(side) - (side - 1) / 2) * (2 / image_size_px)).astype(np.float32)
        self.x, self.y, self.pixel, u = axis[None, :], axis[:, None], 2 / image_size_px, rng.uniform
        self.apex, self.domes = u(-0.76, -0.56), (right := u(0.32, 0.60), right + u(0.01, 0.09))
        self.centre, self.half_width, self.base = u(0.34, 0.42), u(0.34, 0.44), u(0.30, 0.65)
        self.spine = np.abs(self.x - u(-0.05, 0.05) * np.sin(1.8 * self.y))
        hilum_x, hilum_y = u(0.14, 0.21), u(-0.08, 0.06)
        self.hila = ((-hilum_x, hilum_y), (hilum_x + 0.03, hilum_y - 0.04))
        shoulder, angle = (u(0.80, 0.94), self.apex - u(0, 0.15)), u(-1.3, -0.5) if u() < 0.6 else u(1.0, 1.4)
        elbow = (shoulder[0] + 0.75 * math.cos(angle), shoulder[1] + 0.75 * math.sin(angle))

        rise = (self.base - self.y) / (self.base - self.apex)
        across = np.abs(np.abs(self.x) - self.centre + 0.1 * np.clip(rise, 0, 1)) / self.half_width
        cavity = u(0.72, 0.86) * np.maximum(1 - across**2.3 - np.maximum(rise, 0) ** 2.3, 0) ** 0.4
        sideways = (np.abs(self.x) - 0.8 * self.centre) / self.half_width
        fall = u(0.12, 0.32) * np.where(sideways > 0, np.float32(1), np.float32(0.35)) * sideways**2
        below = self.y - np.where(self.x < 0, np.float32(self.domes[0]), np.float32(self.domes[1])) - fall
        organs = self._organs(rng)
        behind = 0.25 * np.exp(-np.maximum(below, 0) / 0.12)  # lung behind the diaphragm's domes
        self.air = np.maximum(cavity - organs, 0) * (1 - _step(below, 0.006) * (1 - behind))
        edge = self.pixel / 2
        self.lungs = _step((cavity - 0.16) / 2, edge) * _step((0.20 - organs) / 3, edge) * _step(-below, edge)

        radius = u(0.01, 0.16)
        gas = 1.4 * radius * self._ellipsoid((u(0.30, 0.48), self.domes[1] + u(0.12, 0.30)), 1.5 * radius, radius)
        marker = np.array((u(-0.93, -0.80), u(-0.85, 0.0))) + 0.04 * _LETTER_R
        thickness = (
            self._body(rng, shoulder, elbow) * (1 + 0.03 * self._noise(rng, 6))
            - self.air * (1 - _LUNG_DENSITY * (1 + 0.10 * self._noise(rng, 40) + 0.07 * self._noise(rng, 110)))
            + u(0.9, 1.7) * self._branches(rng, 0.036, 5) * _step(self.air - 0.12, 0.03)
            + u(0.8, 1.7) * self._bones(rng, shoulder, elbow)
            - 0.06 * _step(0.04 - self.spine, 0.012) * _step(hilum_y - 0.2 - self.y, 0.02)  # windpipe
            - gas * np.clip(0.7 + 0.5 * self._noise(rng, 22), 0, 1.5)  # in the stomach
            + 0.8 * self._strokes(marker[None], 0.016)
        )
        self.thickness = np.maximum(thickness, 0)

    def lesion(self, diagnosis: Diagnosis, rng: np.random.Generator) -> Field:
        """Return the thickness that the disease adds."""
        fluid = (1 - _LUNG_DENSITY) * self.air
        extent: Field = np.zeros_like(self.air)
        if diagnosis == "normal":
            return extent
        if diagnosis == "bacteria":  # one or two consolidated areas in which the airways stay dark
            for _ in range(1 + (rng.random() < 0.35)):
                extent = np.maximum(extent, self._lobar_area(rng) * self.lungs)
            patches = np.clip(0.85 + 0.22 * self._noise(rng, 14) + 0.12 * self._noise(rng, 40), 0, 1.4)
            airways = np.clip(1 - 0.5 * self._branches(rng, 0.024, 4) / 0.02, 0.5, 1)
            return np.asarray(fluid * extent * patches * airways)
        for x, y in self.hila:  # haze and fine lines in both lungs, strongest around the hila
            across, down = (self.x - x) / rng.uniform(0.30, 0.47), (self.y - y - 0.1) / rng.uniform(0.38, 0.62)
            extent = extent + rng.uniform(0.75, 1.0) * np.exp(-np.square(across) - np.square(down))
        extent = np.clip(extent * (1 + 0.35 * self._noise(rng, 7)), 0, 1) * self.lungs
        lines = np.exp(-np.abs(self._noise(rng, 44)) / 0.25) + np.exp(-np.abs(self._noise(rng, 80)) / 0.25)
        return np.asarray(0.7 * fluid * extent * (0.55 + 0.55 * lines))

    def lesions(self, findings: Collection[Finding], rng: np.random.Generator) -> Field:
        """Return the thickness that several findings add, at most that of the air."""
        parts = [self.lesion("bacteria", rng)] if "lobar" in findings else []
        parts += [self.lesion("virus", rng)] if "diffuse" in findings else []
        parts += [self._effusion(rng)] if "effusion" in findings else []
        return np.asarray(np.minimum(sum(parts, np.zeros_like(self.air)), self.air))

    def _effusion(self, rng: np.random.Generator) -> Field:
        """Return fluid at the bottom of one lung, whose surface rises towards the ribs."""
        side, depth = -1 if rng.random() < 0.5 else 1, rng.uniform(0.10, 0.28)
        dome = self.domes[0 if side < 0 else 1]
        surface = (
            dome + 0.06 - depth - rng.uniform(0.08, 0.20) * np.clip(np.abs(self.x) / self._wall(dome), 0, 1.2) ** 3
        )
        extent = _step(self.y - surface, 0.02) * (self.x * side > 0)
        return np.asarray((1 - _LUNG_DENSITY) * self.air * extent)

    def _lobar_area(self, rng: np.random.Generator) -> Field:
        """Return a blob with an uneven, soft border in one lung, between heart and ribs."""
        side, y = -1 if rng.random() < 0.55 else 1, rng.uniform(self.apex + 0.25, self.domes[0] - 0.12)
        x = side * rng.uniform(0.55, 0.85) * self._wall(y)
        distance = np.hypot((self.x - x) / rng.uniform(0.20, 0.33), (self.y - y) / rng.uniform(0.18, 0.35))
        return _step(1 - distance + 0.22 * self._noise(rng, 9), 0.10) * (self.x * side > 0)

    def _wall(self, y: float) -> float:
        """Return the distance of the lungs' outer edge from the midline."""
        rise = min(max((self.base - y) / (self.base - self.apex), 0.0), 0.98)
        return float(self.centre - 0.1 * rise + self.half_width * (1 - rise**2.3) ** (1 / 2.3))

    def _organs(self, rng: np.random.Generator) -> Field:
        """Return heart, great vessels and spine, which take the place of lung."""
        size, x, y = rng.uniform(0.80, 1.18), rng.uniform(0.12, 0.18), self.domes[0] - rng.uniform(0.20, 0.28)
        return _merged(
            0.58 * self._ellipsoid((x, y), 0.44 * size, 0.28 * size, rng.uniform(0.65, 1.05)),
            0.52 * self._ellipsoid((-0.06, y + 0.05), 0.17 * size, 0.33 * size),
            0.46 * self._ellipsoid((0.07, y - 0.25), 0.15 * size, 0.30, -0.3),
            0.52 * self._ellipsoid((0.5 * x, y + 0.35), 0.33 * size, 0.18),
            0.46 * self._ellipsoid((0.01, -0.30), self.hila[1][0] - 0.06, 0.70),
            0.30 * self._ellipsoid((0.09, -0.26), rng.uniform(0.10, 0.15), 0.13),
            0.34 * self._ellipsoid((0, 0.1), 0.115, 1.6),
        )

    def _body(self, rng: np.random.Generator, shoulder: Position, elbow: Position) -> Field:
        """Return torso, neck, chin and arms, as if all were soft tissue."""
        neck, chest = rng.uniform(0.26, 0.38), self.centre + self.half_width + rng.uniform(0.07, 0.16)
        width = chest + (shoulder[0] + 0.10 - chest) * _step(-0.42 - self.y, 0.06)
        torso = np.sqrt(np.maximum(1 - (np.abs(self.x) / width) ** 2.6, 0)) * (1 + 0.10 * _step(self.y - 0.55, 0.10))
        slope = 0.24 * np.clip((np.abs(self.x) - neck) / (shoulder[0] - neck), 0, 2) ** 1.5
        trunk = rng.uniform(0.92, 1.10) * torso * np.sqrt(np.clip((self.y - shoulder[1] + 0.36 - slope) / 0.65, 0, 1))
        arms = 0.9 * self._bars(shoulder, elbow, rng.uniform(0.13, 0.19))
        chin = self._ellipsoid((0, rng.uniform(-1.65, -1.26)), 0.34, 0.4)
        return _merged(trunk, 0.62 * self._ellipsoid((0, -1), neck, 0.75), arms) + 0.66 * chin

    def _bones(self, rng: np.random.Generator, shoulder: Position, elbow: Position) -> Field:
        """Return the extra thickness of ribs, clavicles, scapulae, arms and vertebrae."""
        pitch, drop, radius = rng.uniform(0.135, 0.170), rng.uniform(0.26, 0.60), rng.uniform(0.019, 0.029)
        bones: Field = np.zeros_like(self.air)
        for number in range(1, 12):  # each rib is half an ellipse: out from the spine, and back lower down in front
            height = drop * (0.20 + 0.045 * min(number, 8))
            y = self.y - self.apex + 0.07 - pitch * number - height
            wall = self._wall(self.apex - 0.07 + pitch * number + height) + 0.015
            q = np.hypot(self.spine / wall, y / height)
            distance = (q - 1) * q / np.maximum(np.hypot(self.spine / wall**2, y / height**2), 1e-3)
            cartilage = _step(y, 0.02) * _step((0.8 if number < 10 else 0.97) * wall - self.spine, 0.02)
            seen_edge_on = 1 + 0.6 * _step(self.spine - 0.93 * wall, 0.01)
            bones += 1.8 * (1 - cartilage) * seen_edge_on * _tube(distance, radius, marrow=0.4)
        along = (np.abs(self.x) - 0.12) / (shoulder[0] - 0.20)
        line = self.apex + 0.05 - rng.uniform(0.02, 0.20) * np.abs(along) ** 1.5 + 0.035 * np.sin(2 * np.pi * along)
        clavicles = _tube(self.y - line, 1.3 * radius, marrow=0.3) * _step(0.5 - np.abs(along - 0.5), 0.005)
        joint_x, joint_y = shoulder[0] - 0.10, shoulder[1] + 0.10
        scapulae = self._bars((joint_x, joint_y), (joint_x + 0.02, joint_y + 0.52), 0.014)
        arms = self._bars(shoulder, elbow, 0.042, marrow=0.7) + 0.4 * self._bars(shoulder, shoulder, 0.085)
        to_disc = 0.5 - np.abs((self.y / rng.uniform(0.145, 0.18) + rng.uniform()) % 1 - 0.5)
        plates = np.exp(-np.square((to_disc - 0.13) / 0.035))
        column = _step(rng.uniform(0.085, 0.115) * (1 + 0.12 * self.y) - self.spine, 0.008)
        vertebrae = column * (0.01 + 0.04 * _step(to_disc - 0.09, 0.02) + 0.035 * plates)
        return np.asarray(bones + 3.0 * clavicles + 2.0 * scapulae + 1.6 * arms + vertebrae)

    def _branches(self, rng: np.random.Generator, width: float, levels: int) -> Field:
        """Return vessels or airways that fork from the hila outwards."""
        starts, fan, length = np.repeat(np.array(self.hila), 8, axis=0), np.linspace(-1.35, 1.35, 8), 0.17
        angles = np.concatenate([np.pi - fan, fan]) + rng.normal(0, 0.12, 16)
        tree: Field = np.zeros_like(self.air)
        for _ in range(levels):
            heading = angles[:, None] + rng.normal(0, 0.25, (len(angles), 1)) * np.linspace(0, 1, 9)
            steps = np.stack([np.cos(heading), np.sin(heading)], axis=-1) * (length / 8)
            steps[:, 0] = starts
            paths = np.cumsum(steps, axis=1)
            tree += 0.8 * width * self._strokes(paths, width)
            spread = rng.uniform(0.15, 0.55, (len(angles), 1))
            angles = (heading[:, -1:] + np.hstack([spread, -spread])).ravel()
            starts, length, width = np.repeat(paths[:, -1], 2, axis=0), 0.80 * length, 0.72 * width
        return tree

    def _ellipsoid(self, centre: Position, a: float, b: float, tilt: float = 0.0) -> Field:
        """Return the depth of an ellipsoid seen from the front, 1 in the middle; `tilt` turns it clockwise, in radians."""
        x, y, cosine, sine = self.x - centre[0], self.y - centre[1], math.cos(tilt), math.sin(tilt)
        along, across = np.square((cosine * x + sine * y) / a), np.square((cosine * y - sine * x) / b)
        return np.asarray(np.sqrt(np.maximum(0, 1 - along - across)))

    def _bars(self, start: Position, end: Position, radius: float, marrow: float = 0.0) -> Field:
        """Return the depth of a straight bar with round ends, on each side of the body."""
        x, y, dx, dy = np.abs(self.x) - start[0], self.y - start[1], end[0] - start[0], end[1] - start[1]
        along = np.clip((x * dx + y * dy) / max(dx**2 + dy**2, 1e-6), 0, 1)
        return _tube(np.hypot(x - along * dx, y - along * dy), radius, marrow)

    def _strokes(self, paths: NDArray[np.float64], width: float) -> Field:
        """Return lines with soft edges through the points of each path, [paths, N, 2]."""
        side = self.x.size
        image = Image.new("L", (2 * side, 2 * side))
        draw, width_px = ImageDraw.Draw(image), max(1, round(2 * width / self.pixel))
        for corners in (2 * paths / self.pixel + side).reshape(len(paths), -1).tolist():
            draw.line(corners, 255, width_px)
        drawn = np.asarray(image.reduce(2), dtype=np.float32) / 255
        return np.asarray(gaussian_filter(drawn, 0.2 * width / self.pixel + 0.3))

    def _noise(self, rng: np.random.Generator, cells: int) -> Field:
        """Return a smooth random field of about unit standard deviation, with `cells` bumps along a side."""
        coarse = Image.fromarray(rng.standard_normal((cells, cells), dtype=np.float32))
        return 1.4 * np.asarray(coarse.resize((self.x.size, self.x.size), Image.Resampling.BICUBIC))


def _step(distance: Field, softness: float) -> Field:
    """Return 0 far below zero and 1 far above; it rises over about four times `softness`."""
    return 0.5 + 0.5 * np.tanh(distance / (2 * softness))


def _tube(distance: Field, radius: float, marrow: float = 0.0) -> Field:
    """Return the depth of a round tube by distance from its axis; `marrow` is the share missing inside 0.7 of the radius."""
    outer, inner = (np.sqrt(np.maximum(r**2 - np.square(distance), 0)) for r in (radius, 0.7 * radius))
    return 2 * (outer - marrow * inner)


def _merged(*depths: Field) -> Field:
    """Return roughly the largest of the depths, without creases where they cross: their 4-norm."""
    return np.sqrt(np.sqrt(sum(np.square(np.square(depth)) for depth in depths)))


def _posed(maps: list[Field], image_size_px: int, rng: np.random.Generator) -> list[Field]:
    """Cut the image out of maps over the canvas, scaled, turned and shifted a little."""
    scale, turn, shift = rng.uniform(0.95, 1.08), rng.normal(0, 0.03), rng.normal(0, 0.03, 2)
    matrix = np.array([[np.cos(turn), -np.sin(turn)], [np.sin(turn), np.cos(turn)]]) / scale
    offset = (maps[0].shape[0] - 1) / 2 - matrix @ ((image_size_px - 1) / 2 + shift * image_size_px / 2)
    return [affine_transform(each, matrix, offset, (image_size_px, image_size_px), order=1) for each in maps]


def _radiograph(thickness: Field, rng: np.random.Generator) -> NDArray[np.uint8]:
    """Expose a map of thickness; bone is bright, air dark.

    Beer-Lambert gives the direct radiation exp(-attenuation), and scatter is its wide blur. Photons are counted with Poisson
    noise (Gaussian here: there are hundreds) and shown on the logarithmic scale of computed radiography.
    """
    side = thickness.shape[0]
    direct = gaussian_filter(np.exp(-_ATTENUATION * thickness), rng.uniform(0.4, 0.8) * side / 256)
    coarse = gaussian_filter(direct[::8, ::8], 0.06 * side / 8, mode="nearest")
    scattered = np.asarray(Image.fromarray(coarse).resize((side, side), Image.Resampling.BILINEAR))
    photons = math.exp(rng.uniform(math.log(2e4), math.log(1e5))) * (direct + rng.uniform(0.15, 0.45) * scattered)
    counted = photons + np.sqrt(photons) * rng.standard_normal(photons.shape, dtype=np.float32)
    attenuation = -np.log(np.maximum(counted, 1))
    black, white = np.percentile(attenuation, (rng.uniform(0, 5), rng.uniform(98.8, 99.8)))
    level, shoulder = np.clip((attenuation - black) / (white - black), 0, 1.1), rng.uniform(0.2, 1.1)
    return np.asarray(np.round(225 * np.expm1(-shoulder * level) / np.expm1(-shoulder)), dtype=np.uint8)
