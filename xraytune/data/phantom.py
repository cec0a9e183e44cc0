"""Paint phantom chest X-rays: images with known answers, for demo, tests and benchmarks.

A patient depends only on the seed and the patient's number, so a larger set contains the smaller
one. A chest is a map of water-equivalent thickness: soft tissue and bone add to it, air subtracts
from it, and disease replaces air by fluid. Coordinates run from -1 to 1 (x to the viewer's right, y
down; one unit is about 15 cm of a child's chest).
"""

import math
from collections.abc import Iterator
from itertools import compress
from pathlib import Path
from string import ascii_lowercase
from typing import TypeAlias

import numpy as np
from PIL import Image, ImageDraw
from scipy.ndimage import gaussian_filter  # type: ignore[import-untyped]

from xraytune.base.arrays import AnyArray, BoolArray, UInt8Array
from xraytune.base.cores import map_on_cores
from xraytune.base.errors import ConfigError
from xraytune.base.files import StrPath, csv_table, new_folder, require_new, write_text
from xraytune.base.records import Progress, frozen, ignore_progress
from xraytune.base.seeding import derive_seed, numpy_generator
from xraytune.data.patients import PATIENTS_CSV
from xraytune.data.pixels import shift_image
from xraytune.space.data_settings import ShiftSettings

Field: TypeAlias = AnyArray
"""One number per pixel of the canvas, float32 [H, W]."""

FINDINGS = ("lobar", "diffuse", "effusion")
_CYCLE = ("normal", "bacteria", "virus", "normal", "bacteria")
_FINDINGS_OF: dict[str, tuple[str, ...]] = {
    "normal": (),
    "bacteria": ("lobar",),
    "virus": ("diffuse",),
}
_HILA = ((-0.18, 0.0), (0.21, -0.04))
"""The places where vessels and airways enter the lungs."""
_DATA_FILE = """\
data:
  path: .
  table: {file: labels.csv, image: file, patient: patient, side: side}
  findings: [lobar, diffuse, effusion]
"""


@frozen
class PhantomSet:
    """A folder of phantoms.

    Attributes:
        path: The folder.
        patient_count: Number of patients.
        image_count: Number of images of all patients.
    """

    path: Path
    patient_count: int
    image_count: int


@frozen
class PhantomImage:
    """One image, uint8 [S, S], with the mask of visible lung, bool [S, S].

    `part` is train or test. With findings, the diagnosis means nothing.
    """

    stem: str
    part: str
    diagnosis: str
    findings: tuple[str, ...]
    pixels: UInt8Array
    lungs: BoolArray


def paint_phantoms(
    out: StrPath,
    *,
    patients: int,
    seed: int,
    image_size_px: int = 256,
    difficulty: float = 0.3,
    pairs: bool = False,
    findings: bool = False,
    sites: int = 0,
    on_progress: Progress = ignore_progress,
) -> PhantomSet:
    """Paint a phantom set into a new folder; the same arguments give the same bytes.

    Args:
        out: The folder, with the layout and the file names of the Kermany set; it appears only when
            it is complete.
        patients: Number of patients, at least 10, with 1 to 4 images each. Two in five are normal,
            and one in five is in `test/`.
        seed: Seed of everything.
        image_size_px: Side of the square images, at least 32.
        difficulty: Difficulty from 0 (obvious lesions) to 1 (invisible lesions).
        pairs: Use the layout for segmentation, with masks of the lungs; the images are the same.
        findings: Paint up to three findings in one image instead of one pneumonia; add their table
            and a data file.
        sites: Number of hospitals, each with a scanner of its own. If it is not 0, images are in
            folders such as `hospital_a/NORMAL/`, without `test/`, and `patients.csv` has sex and
            age.
        on_progress: Called after each patient.

    Raises ConfigError if `out` exists, or `sites` are given with `pairs` or `findings`.
    """
    out = Path(out)
    require_new(out)
    if sites and (pairs or findings):
        raise ConfigError(
            "phantoms of several sites are in class folders, without masks and findings",
            "--sites",
            "omit the other options, or --sites",
        )
    rows = []
    with new_folder(out.resolve()) as folder:

        def save(pixels: AnyArray, name: str) -> None:
            (folder / name).parent.mkdir(parents=True, exist_ok=True)
            Image.fromarray(pixels).save(folder / name, quality=92)

        def paint(patient: int) -> list[list[str]]:
            patient_rows = []
            person = numpy_generator(seed, "person", patient + 1)
            cells = [person.choice(["female", "male"]), str(person.integers(1, 6))]
            images = paint_patient(seed, patient, image_size_px, difficulty, has_findings=findings)
            for image in images:
                kind = "NORMAL" if image.diagnosis == "normal" else "PNEUMONIA"
                if pairs or findings:
                    kind = "images"
                file = f"{image.part}/{kind}/{image.stem}.jpeg"
                pixels = image.pixels
                if sites:  # whole cycles of diagnoses in turn
                    site = patient // len(_CYCLE) % sites
                    file = f"hospital_{ascii_lowercase[site]}/{kind}/{image.stem}.jpeg"
                    pixels = shift_image(pixels, file, _scanner(seed, site))
                save(pixels, file)
                if pairs:
                    save(image.lungs, f"{image.part}/masks/{image.stem}.png")
                if findings:
                    reader = numpy_generator(seed, "reader", image.stem)
                    states = (["-1", "", str(int(name in image.findings))] for name in FINDINGS)
                    chosen = [reader.choice(state, p=(0.05, 0.05, 0.9)) for state in states]
                    cells = [image.part, *chosen]
                patient_rows.append([file, f"{seed}-{patient + 1}", *cells])
            return patient_rows

        for done, patient_rows in enumerate(map_on_cores(paint, range(patients)), start=1):
            rows += patient_rows
            on_progress("drawing phantoms (patients)", done, patients)
        if findings:
            table = csv_table(["file", "patient", "side", *FINDINGS], rows)
            write_text(folder / "labels.csv", table)
            write_text(folder / "data.yaml", _DATA_FILE)
        if sites:
            table = csv_table(["file", "patient", "sex", "age"], rows)
            write_text(folder / PATIENTS_CSV, table)
    return PhantomSet(path=out, patient_count=patients, image_count=len(rows))


def _scanner(seed: int, site: int) -> ShiftSettings:
    """Return how a site's scanner changes images; the first one does not."""
    if site == 0:
        return ShiftSettings()
    scanner = numpy_generator(seed, "scanner", site)
    return ShiftSettings(
        blur_px=scanner.uniform(0.2, 1.0),
        gamma=scanner.uniform(0.6, 1.6),
        contrast=scanner.uniform(0.6, 0.9),
        noise=scanner.uniform(0.01, 0.06),
    )


def paint_patient(
    seed: int, patient: int, image_size_px: int, difficulty: float, *, has_findings: bool = False
) -> Iterator[PhantomImage]:
    """Paint all images of one patient; patients are numbered from 0."""
    patient_seed = derive_seed(seed, "phantom", patient)
    cycle, place = divmod(patient, len(_CYCLE))
    diagnosis = _CYCLE[place]
    findings = _FINDINGS_OF[diagnosis]
    if has_findings:  # each of the first two makes an effusion more frequent
        lobar, diffuse, effusion = numpy_generator(patient_seed, "findings").random(3)
        has_finding = [lobar < 0.35, diffuse < 0.30]
        has_finding.append(effusion < 0.10 + 0.35 * sum(has_finding))
        findings = tuple(compress(FINDINGS, has_finding))
    rng = numpy_generator(patient_seed, "disease")
    thickness, fluid, lungs = _paint_chest(
        findings, image_size_px, numpy_generator(patient_seed, "anatomy"), rng
    )
    severity = rng.uniform(0.6, 1.3)
    for number in range(1 + rng.choice(4, p=(0.45, 0.30, 0.15, 0.10))):
        image_rng = numpy_generator(patient_seed, "image", number)
        contrast = (1 - difficulty) * severity * image_rng.uniform(0.85, 1.15)
        margin_px = len(lungs) - image_size_px
        top, left = (margin_px * image_rng.uniform(0.3, 0.7, 2)).astype(int)
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
            pixels=_expose((thickness + contrast * fluid)[field], image_rng),
            lungs=lungs[field],
        )


class _Chest:
    """The canvas of a patient, and the outline of the lungs on it.

    Attributes:
        size_px: Side of the canvas, which is larger than the images that are cut out of it.
        edge: Half the width of a pixel.
        x, y, off_axis: Coordinates, float32 [1, W] and [H, 1], and the distance from the midline.
        apex, base: Upper and lower end of the lungs.
        dome: Height of the diaphragm.
        centre, half_width: Distance of the middle of a lung from the midline, and from its sides.
    """

    def __init__(self, image_size_px: int, rng: np.random.Generator) -> None:
        self.size_px = 2 * round(1.1 * image_size_px / 2)
        self.edge = 1 / image_size_px
        steps = np.arange(self.size_px) - (self.size_px - 1) / 2
        axis = (steps * (2 / image_size_px)).astype(np.float32)
        self.x = axis[None, :]
        self.y = axis[:, None]
        self.off_axis = np.abs(self.x)
        uniform = rng.uniform
        self.apex = uniform(-0.76, -0.56)
        self.base = uniform(0.30, 0.65)
        self.dome = uniform(0.32, 0.62)
        self.centre = uniform(0.34, 0.42)
        self.half_width = uniform(0.34, 0.44)

    def wall(self, at_y: float) -> float:
        """Return the distance of the lungs' outer edge from the midline."""
        height = min(max((self.base - at_y) / (self.base - self.apex), 0.0), 0.98)
        return float(self.centre - 0.1 * height + self.half_width * (1 - height**2.3) ** (1 / 2.3))

    def noise(self, rng: np.random.Generator, cells: int) -> Field:
        """Return a smooth random field of about unit standard deviation, `cells` bumps wide."""
        coarse = Image.fromarray(rng.standard_normal((cells, cells), dtype=np.float32))
        size = (self.size_px, self.size_px)
        return 1.4 * np.asarray(coarse.resize(size, Image.Resampling.BICUBIC))

    def ellipsoid(self, at_x: float, at_y: float, width: float, height: float) -> Field:
        """Return the depth of an ellipsoid seen from the front, 1 in the middle."""
        out = (self.x - at_x) / width
        down = (self.y - at_y) / height
        return np.sqrt(np.maximum(0, 1 - out**2 - down**2))


def _paint_chest(
    findings: tuple[str, ...],
    image_size_px: int,
    anatomy: np.random.Generator,
    disease: np.random.Generator,
) -> tuple[Field, Field, BoolArray]:
    """Return maps of a chest's thickness, of the thickness of fluid, and of visible lung.

    The fluid is due to the findings. The maps are larger than an image, which is cut out of them.
    """
    chest = _Chest(image_size_px, anatomy)
    air, lungs = _paint_lungs(chest, anatomy)
    body = _paint_body(chest, air, anatomy)
    thickness = np.maximum(body + _paint_bones(chest, anatomy), 0)
    extent: Field = np.zeros_like(air)
    for finding in findings:
        extent = extent + _PAINTERS[finding](chest, disease)
    return thickness, 0.74 * air * np.minimum(extent, 1.3), lungs


def _paint_lungs(chest: _Chest, rng: np.random.Generator) -> tuple[Field, BoolArray]:
    """Return the air in the lungs, and where they are visible.

    The lungs are between the heart, great vessels and spine, above the diaphragm.
    """
    off_axis = chest.off_axis
    uniform = rng.uniform
    rise = (chest.base - chest.y) / (chest.base - chest.apex)
    across = np.abs(off_axis - chest.centre + 0.1 * np.clip(rise, 0, 1)) / chest.half_width
    outline = np.maximum(1 - across**2.3 - np.maximum(rise, 0) ** 2.3, 0)
    cavity = uniform(0.62, 0.86) * outline**0.4
    heart_x = uniform(0.12, 0.18)
    heart_y = chest.dome - uniform(0.20, 0.28)
    heart = 0.58 * chest.ellipsoid(heart_x, heart_y, uniform(0.26, 0.40), uniform(0.28, 0.40))
    great_vessels = 0.46 * chest.ellipsoid(0.01, -0.20, 0.13, 0.70)
    spine = 0.34 * chest.ellipsoid(0, 0.1, 0.115, 1.6)
    organs = np.maximum.reduce([heart, great_vessels, spine])
    slope = uniform(0.6, 1.6)
    above_dome = chest.dome + slope * np.maximum(off_axis - chest.centre, 0) ** 2 - chest.y
    air = np.maximum(cavity - organs, 0) * _step(above_dome, 0.006)
    lungs = _step((cavity - 0.16) / 2, chest.edge) * _step((0.20 - organs) / 3, chest.edge)
    return air, lungs * _step(above_dome, chest.edge) > 0.5


def _paint_body(chest: _Chest, air: Field, rng: np.random.Generator) -> Field:
    """Return torso, shoulders and neck, as if all were soft tissue, with the lungs in them."""
    uniform = rng.uniform
    texture = uniform(0.7, 1.6) + 0.10 * chest.noise(rng, 40) + 0.07 * chest.noise(rng, 110)
    vessels = _paint_branches(chest, rng, 0.036, 5) * _step(air - 0.12, 0.03)
    half_width = chest.centre + chest.half_width + uniform(0.07, 0.16)
    width = half_width + (1.0 - half_width) * _step(-0.42 - chest.y, 0.06)
    torso = np.sqrt(np.maximum(1 - (chest.off_axis / width) ** 2.6, 0))
    shoulders = chest.apex - 0.4 + 0.3 * np.clip(chest.off_axis - 0.3, 0, 1)
    trunk = torso * np.sqrt(np.clip((chest.y - shoulders) / 0.65, 0, 1))
    neck = 0.62 * chest.ellipsoid(0, -1, uniform(0.26, 0.38), 0.75)
    body = np.maximum(uniform(0.92, 1.10) * trunk, neck) * (1 + 0.03 * chest.noise(rng, 6))
    return body - air * (1 - 0.26 * texture) + uniform(0.9, 1.7) * vessels


def _paint_bones(chest: _Chest, rng: np.random.Generator) -> Field:
    """Return ribs and clavicles.

    Ribs are half an ellipse: out from the spine, and back lower down in front.
    """
    uniform = rng.uniform
    density = uniform(0.8, 1.7)
    pitch = uniform(0.135, 0.170)
    drop = uniform(0.26, 0.60)
    radius = uniform(0.019, 0.029)
    ribs: Field = np.zeros((chest.size_px, chest.size_px), dtype=np.float32)
    for number in range(1, 12):
        height = drop * (0.20 + 0.045 * min(number, 8))
        middle = chest.apex - 0.07 + pitch * number + height
        reach = chest.wall(middle) + 0.015
        out = chest.x / reach
        down = (chest.y - middle) / height
        q = np.hypot(out, down)
        distance = (q - 1) * q / np.maximum(np.hypot(out / reach, down / height), 1e-3)
        is_cartilage = _step(down, 0.1) * _step(0.8 - np.abs(out), 0.03)
        ribs += 1.8 * (1 - is_cartilage) * _tube(distance, radius)
    along = (chest.off_axis - 0.12) / 0.65
    axis = chest.apex + 0.05 - uniform(0.02, 0.20) * np.abs(along) ** 1.5
    clavicle = _tube(chest.y - axis, 1.3 * radius) * _step(0.5 - np.abs(along - 0.5), 0.005)
    return density * (ribs + 2.5 * clavicle)


def _paint_lobar(chest: _Chest, rng: np.random.Generator) -> Field:
    """Return one or two consolidated areas, in which the airways stay dark."""
    uniform = rng.uniform
    areas = []
    for _ in range(1 + (rng.random() < 0.35)):
        side = -1 if rng.random() < 0.55 else 1
        at_y = uniform(chest.apex + 0.25, chest.dome - 0.12)
        at_x = side * uniform(0.55, 0.85) * chest.wall(at_y)
        out = (chest.x - at_x) / uniform(0.20, 0.33)
        down = (chest.y - at_y) / uniform(0.18, 0.35)
        filled = _step(1 - np.hypot(out, down) + 0.22 * chest.noise(rng, 9), 0.10)
        areas.append(filled * (chest.x * side > 0))
    patches = np.clip(0.85 + 0.22 * chest.noise(rng, 14) + 0.12 * chest.noise(rng, 40), 0, 1.4)
    airways = _paint_branches(chest, rng, 0.024, 4)
    area: Field = np.maximum.reduce(areas)
    return area * patches * np.clip(1 - 0.5 * airways / 0.02, 0.5, 1)


def _paint_diffuse(chest: _Chest, rng: np.random.Generator) -> Field:
    """Return haze and fine lines in both lungs, strongest around the hila."""
    haze: Field = np.zeros((chest.size_px, chest.size_px), dtype=np.float32)
    for at_x, at_y in _HILA:
        out = (chest.x - at_x) / rng.uniform(0.30, 0.47)
        down = (chest.y - at_y - 0.1) / rng.uniform(0.38, 0.62)
        haze = haze + rng.uniform(0.75, 1.0) * np.exp(-np.square(out) - np.square(down))
    haze = np.clip(haze * (1 + 0.35 * chest.noise(rng, 7)), 0, 1)
    lines = np.exp(-np.abs(chest.noise(rng, 44)) / 0.25)
    lines = lines + np.exp(-np.abs(chest.noise(rng, 80)) / 0.25)
    return 0.7 * haze * (0.55 + 0.55 * lines)


def _paint_effusion(chest: _Chest, rng: np.random.Generator) -> Field:
    """Return fluid at the bottom of a lung, whose surface rises towards the ribs."""
    side = -1 if rng.random() < 0.5 else 1
    climb = np.clip(chest.off_axis / chest.wall(chest.dome), 0, 1.2) ** 3
    surface = chest.dome + 0.06 - rng.uniform(0.10, 0.28) - rng.uniform(0.08, 0.20) * climb
    return _step(chest.y - surface, 0.02) * (chest.x * side > 0)


_PAINTERS = {"lobar": _paint_lobar, "diffuse": _paint_diffuse, "effusion": _paint_effusion}


def _paint_branches(chest: _Chest, rng: np.random.Generator, width: float, levels: int) -> Field:
    """Return vessels or airways that fork from the hila outwards, with soft edges."""
    size_px = chest.size_px
    pixel = 2 * chest.edge
    fan = np.linspace(-1.35, 1.35, 8)
    starts = np.repeat(np.array(_HILA), 8, axis=0)
    angles = np.concatenate([np.pi - fan, fan]) + rng.normal(0, 0.12, 16)
    tree: Field = np.zeros((size_px, size_px), dtype=np.float32)
    for level in range(levels):
        angles = angles + rng.normal(0, 0.25, len(angles)) / 2
        ends = starts + 0.17 * 0.80**level * np.stack([np.cos(angles), np.sin(angles)], axis=-1)
        image = Image.new("L", (2 * size_px, 2 * size_px))
        draw = ImageDraw.Draw(image)
        for corners in ((np.hstack([starts, ends]) / pixel + size_px / 2) * 2).tolist():
            draw.line(corners, 255, max(1, round(2 * width / pixel)))
        lines = np.asarray(image.reduce(2), dtype=np.float32) / 255
        tree += 0.8 * width * gaussian_filter(lines, 0.2 * width / pixel + 0.3)
        spread = rng.uniform(0.15, 0.55, len(angles))
        angles = np.concatenate([angles + spread, angles - spread])
        starts = np.concatenate([ends, ends])
        width *= 0.72
    return tree


def _step(distance: Field, softness: float) -> Field:
    """Return 0 far below zero and 1 far above; it rises over about four times `softness`."""
    return 0.5 + 0.5 * np.tanh(distance / (2 * softness))


def _tube(distance: Field, radius: float) -> Field:
    """Return the depth of a round tube by distance from its axis."""
    return 2 * np.sqrt(np.maximum(radius**2 - np.square(distance), 0))


def _expose(thickness: Field, rng: np.random.Generator) -> UInt8Array:
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
