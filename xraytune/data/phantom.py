"""Draw phantom chest X-rays: images with known answers, for the demo, the tests and the benchmarks.

A patient depends only on the seed and the patient's number, so a larger set contains the smaller
one. A chest is a map of water-equivalent thickness: soft tissue and bone add to it, air subtracts
from it, and disease replaces air by fluid. Coordinates run from -1 to 1 (x to the viewer's right, y
down).
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeAlias

import numpy as np
from numpy.typing import NDArray
from PIL import Image
from scipy.ndimage import gaussian_filter  # type: ignore[import-untyped]
from scipy.special import expit  # type: ignore[import-untyped]

from xraytune.base.cores import map_on_cores
from xraytune.base.files import csv_table, new_folder, require_new, write_text
from xraytune.base.records import Progress, ignore_progress
from xraytune.base.seeding import derive_seed, numpy_generator

Map: TypeAlias = NDArray[Any]
"""One number per pixel, float32 [H, W]."""

FINDINGS = ("lobar", "diffuse", "effusion")
_CYCLE = ("normal", "bacteria", "virus", "normal", "bacteria")
_FINDINGS_OF = {"normal": (), "bacteria": ("lobar",), "virus": ("diffuse",)}
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
                file = f"{image.part}/{kind}/{image.stem}.jpeg"
                save(image.pixels, file)
                if pairs:
                    save(image.lungs, f"{image.part}/masks/{image.stem}.png")
                reader = numpy_generator(seed, "reader", image.stem)
                read = [
                    reader.choice(["-1", "", str(int(name in image.findings))], p=(0.05, 0.05, 0.9))
                    for name in FINDINGS
                ]
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
    rng = numpy_generator(patient_seed, "disease")
    if has_findings:
        shares = (0.35, 0.30, 0.30)
        findings = tuple(np.array(FINDINGS)[rng.random(3) < shares].tolist())
    image_count = rng.choice([1, 2, 3, 4], p=(0.45, 0.30, 0.15, 0.10))
    severity = rng.uniform(0.6, 1.3)
    thickness, fluid, lungs = _draw_chest(findings, image_size_px, patient_seed)
    for number in range(image_count):
        rng = numpy_generator(patient_seed, "image", number)
        contrast = (1 - difficulty) * severity * rng.uniform(0.85, 1.15)
        top, left = rng.integers(0, len(lungs) - image_size_px, 2, endpoint=True)
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
            pixels=_expose((thickness + contrast * fluid)[field], rng),
            lungs=lungs[field],
        )


def _draw_chest(
    findings: tuple[str, ...], image_size_px: int, seed: int
) -> tuple[Map, Map, NDArray[np.bool_]]:
    """Return the thickness of a chest, that of the findings' fluid, and where lung is visible.

    The maps are larger than an image, which is cut out of them.
    """
    rng = numpy_generator(seed, "anatomy")
    uniform = rng.uniform
    size_px = image_size_px + image_size_px // 25
    axis = (np.arange(size_px, dtype=np.float32) - size_px / 2) * (2 / image_size_px)
    x = axis[None, :]
    y = axis[:, None]
    aside = np.abs(x)

    def noise(cells: int) -> Map:
        """A smooth map of about unit standard deviation, `cells` bumps wide."""
        coarse = Image.fromarray(rng.standard_normal((cells, cells), dtype=np.float32))
        return 1.4 * np.asarray(coarse.resize((size_px, size_px), Image.Resampling.BICUBIC))

    def ellipsoid(at_x: float, at_y: float, width: float, height: float) -> Map:
        """The depth of an ellipsoid seen from the front, 1 in the middle."""
        return np.sqrt(np.maximum(1 - ((x - at_x) / width) ** 2 - ((y - at_y) / height) ** 2, 0))

    apex = uniform(-0.76, -0.56)
    dome = uniform(0.32, 0.62)  # of the diaphragm
    centre = uniform(0.34, 0.42)
    half_width = uniform(0.34, 0.44)
    rise = np.maximum((0.5 - y) / (0.5 - apex), 0)
    across = np.abs(aside - centre + 0.1 * np.minimum(rise, 1)) / half_width
    cavity = 0.74 * np.maximum(1 - across**2.3 - rise**2.3, 0) ** 0.4
    heart = 0.58 * ellipsoid(uniform(0.12, 0.18), dome - 0.24, uniform(0.26, 0.40), 0.34)
    organs = heart + 0.40 * ellipsoid(0, 0, 0.125, 1.2) * (1 - heart)  # and the spine
    is_above_dome = y < dome + 1.1 * np.maximum(aside - centre, 0) ** 2
    air = np.maximum(cavity - organs, 0) * is_above_dome
    hila = np.exp(-(((aside - 0.2) / 0.4) ** 2) - ((y - 0.06) / 0.5) ** 2)
    vessels = hila * np.exp(-5 * np.abs(noise(20)))
    density = uniform(0.18, 0.40) + 0.1 * vessels + 0.03 * noise(40) + 0.02 * noise(110)

    width = centre + half_width + 0.11 + 0.2 * expit(-16 * (y + 0.42))  # and the shoulders
    torso = np.maximum(1 - (aside / width) ** 2.6, 0) * np.clip(
        (y - apex + 0.5 - aside / 3) / 0.65, 0, 1
    )
    body = np.maximum(np.sqrt(torso), 0.62 * ellipsoid(0, -1, 0.32, 0.75)) * (1 + 0.03 * noise(6))
    pitch = uniform(0.135, 0.170)
    radius = uniform(0.019, 0.029)
    wall = np.maximum(1 - (aside / (centre + half_width)) ** 2, 0)
    for slope in (0.35, -0.25):  # ribs fall from the spine outwards, and inwards in front
        distance = (y + slope * np.sqrt(wall)) / pitch
        distance = (distance - np.round(distance)) * pitch
        rib = np.sqrt(np.maximum(radius**2 - distance**2, 0))
        body = body + uniform(2, 4) * rib * (wall > 0) * (y > apex)
    thickness = np.maximum(body - air * (1 - density), 0)

    extent = np.zeros_like(air)
    side = rng.choice([-1, 1])
    if "lobar" in findings:  # a consolidated area
        down = (y - uniform(apex + 0.25, dome - 0.12)) / uniform(0.18, 0.34)
        distance = np.hypot(down, (side * x - uniform(0.30, 0.60)) / uniform(0.18, 0.34))
        extent += expit(10 * (1 - distance + 0.22 * noise(9))) * (0.85 + 0.25 * noise(14))
    if "diffuse" in findings:  # haze and fine lines in both lungs
        lines = np.exp(-4 * np.abs(noise(44))) + np.exp(-4 * np.abs(noise(80)))
        extent += 0.35 * hila * (1 + 0.35 * noise(7)) * (1 + lines)
    if "effusion" in findings:  # fluid at the bottom, whose surface rises towards the ribs
        surface = dome - uniform(0.04, 0.22) - uniform(0.20, 0.50) * aside**3
        extent += (y > surface) * (x * side < 0)
    fluid = 0.75 * air * np.clip(extent, 0, 1.3)
    return thickness, fluid, (cavity > 0.16) & (organs < 0.20) & is_above_dome


def _expose(thickness: Map, rng: np.random.Generator) -> NDArray[np.uint8]:
    """Return the radiograph of a map of thickness; bone is bright, air dark.

    Scatter adds to the direct radiation, and photons are counted with noise. The logarithm is shown
    between percentiles that differ from image to image, so that the mean grey tells nothing.
    """
    direct = gaussian_filter(np.exp(-3.2 * thickness), len(thickness) / 400)
    exposure = direct + rng.uniform(0.15, 0.45) * direct.mean()
    exposure = exposure + 0.005 * np.sqrt(exposure) * rng.standard_normal(exposure.shape)
    level = -np.log(np.maximum(exposure, 1e-5))
    black, white = np.percentile(level, (rng.uniform(0, 8), rng.uniform(97, 99.8)))
    level = np.clip((level - black) / (white - black), 0, 1.1)
    return np.asarray(np.round(225 * level ** rng.uniform(0.6, 1.0)), dtype=np.uint8)
