"""Draw phantom chest X-rays: images with known answers, for the demo and for tests.

Takes a number of patients and a seed, gives a folder in the layout and with the file names of the Kermany set, and
beside it the exact masks of lungs and lesions:

    OUT/phantom.json
    OUT/{train,test}/{NORMAL,PNEUMONIA}/*.jpeg     grey
    OUT/masks/{lungs,lesions}/*.png                1-bit, one for each image, by the same stem

A patient's anatomy, disease and side of the split depend on the seed and the patient's number alone, so a larger set
contains the smaller one.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from xraytune.cores import core_threads
from xraytune.data.phantom_anatomy import sample_anatomy
from xraytune.data.phantom_chest import draw_chest
from xraytune.data.phantom_detector import cut_out, radiograph, sample_exposure
from xraytune.data.phantom_lesions import Diagnosis, draw_lesion
from xraytune.data.phantom_shapes import Canvas, canvas_for
from xraytune.errors import ConfigError, Problem
from xraytune.files import new_folder, require_writable, write_json
from xraytune.records import Progress, ignore_progress
from xraytune.seeding import derive_seed, numpy_generator

Part = Literal["train", "test"]

PHANTOM_VERSION = 1
"""Goes up when the same seed no longer gives the same pixels."""
DEFAULT_DIFFICULTY = 0.3
"""A small CNN trained on 100 patients reaches an AUROC of about .88, frozen MobileNetV2 features .90."""
_CYCLE: tuple[Diagnosis, ...] = ("normal", "bacteria", "virus", "normal", "bacteria")
_FEWEST_PATIENTS = 2 * len(_CYCLE)
_MOST_PATIENTS = 100_000
_IMAGE_COUNT_SHARES = (0.45, 0.30, 0.15, 0.10)
_SMALLEST_IMAGE_PX = 32
_LARGEST_IMAGE_PX = 1024
_JPEG_QUALITY = 92
_FULL_CONTRAST = 1.0
_SEVERITY = (0.6, 1.3)
"""How much the contrast differs between patients; it differs a little between images of one patient too."""


@dataclass(frozen=True, slots=True, kw_only=True)
class PhantomSet:
    """What was drawn.

    Attributes:
        path: The folder.
        patient_count: Patients; each has 1 to 4 images, all on one side of the split.
        image_count: All images.
        train_image_count: Of these, below `train/`.
        test_image_count: Of these, below `test/`.
        normal_image_count: Of these, without pneumonia.
    """

    path: Path
    patient_count: int
    image_count: int
    train_image_count: int
    test_image_count: int
    normal_image_count: int


@dataclass(frozen=True, slots=True, kw_only=True)
class PhantomImage:
    """One image with its masks.

    Attributes:
        stem: File name without its ending; tells patient and diagnosis.
        part: Side of the split.
        diagnosis: What the patient has.
        pixels: uint8 [S, S].
        lungs: Where lung shows, bool [S, S].
        lesion: Where the disease shows, bool [S, S]; a part of `lungs`, empty in a normal image.
    """

    stem: str
    part: Part
    diagnosis: Diagnosis
    pixels: NDArray[np.uint8]
    lungs: NDArray[np.bool_]
    lesion: NDArray[np.bool_]


def draw_phantoms(
    out: Path,
    *,
    patients: int,
    seed: int,
    image_size_px: int = 256,
    difficulty: float = DEFAULT_DIFFICULTY,
    on_progress: Progress = ignore_progress,
) -> PhantomSet:
    """Draw a phantom set into a folder that is new or empty.

    Args:
        out: Where the set appears, whole.
        patients: How many to draw, 10 to 100,000: two in five are normal, a fifth of them is for `test/`.
        seed: Of everything; the same arguments give the same bytes.
        image_size_px: Side of the square images.
        difficulty: From 0, where the disease is plain, to 1, where it leaves no trace in the images.
        on_progress: Told the patients that are done.

    Raises:
        ConfigError: An argument out of its bounds, or `out` holds something already.
        MachineError: The disk is full.
    """
    _check_arguments(out, patients, image_size_px, difficulty)
    canvas = canvas_for(image_size_px)
    normal = train = test = 0
    with new_folder(out.resolve()) as folder, core_threads() as threads:
        _make_folders(folder)

        def draw(patient: int) -> list[tuple[Part, Diagnosis]]:
            images = list(draw_patient(canvas, seed, patient, image_size_px, difficulty))
            for image in images:
                _write_image(folder, image)
            return [(image.part, image.diagnosis) for image in images]

        for done, drawn in enumerate(threads.map(draw, range(patients)), start=1):
            train += sum(part == "train" for part, _ in drawn)
            test += sum(part == "test" for part, _ in drawn)
            normal += sum(diagnosis == "normal" for _, diagnosis in drawn)
            on_progress("drawing phantoms", done, patients)
        settings = {"seed": seed, "patients": patients, "image_size_px": image_size_px, "difficulty": difficulty}
        write_json(folder / "phantom.json", {"version": PHANTOM_VERSION, **settings})
    return PhantomSet(
        path=out,
        patient_count=patients,
        image_count=train + test,
        train_image_count=train,
        test_image_count=test,
        normal_image_count=normal,
    )


def draw_patient(
    canvas: Canvas, seed: int, patient: int, image_size_px: int, difficulty: float
) -> Iterator[PhantomImage]:
    """All images of one patient, who has a number from 0; `canvas` is that of the image size."""
    patient_seed = derive_seed(seed, "phantom", patient)
    diagnosis = _CYCLE[patient % len(_CYCLE)]
    chest = draw_chest(
        canvas, sample_anatomy(numpy_generator(patient_seed, "anatomy")), numpy_generator(patient_seed, "texture")
    )
    disease_rng = numpy_generator(patient_seed, "disease")
    lesion = draw_lesion(canvas, chest, diagnosis, disease_rng)
    severity = disease_rng.uniform(*_SEVERITY)
    image_count = 1 + disease_rng.choice(len(_IMAGE_COUNT_SHARES), p=_IMAGE_COUNT_SHARES)
    for number in range(image_count):
        rng = numpy_generator(patient_seed, "image", number)
        exposure = sample_exposure(rng)
        contrast = np.float32(_FULL_CONTRAST * (1 - difficulty) * severity * rng.uniform(0.85, 1.15))
        lungs = cut_out(chest.lungs, exposure, image_size_px) > 0.5
        yield PhantomImage(
            stem=_stem(diagnosis, patient, number),
            part=_part(patient),
            diagnosis=diagnosis,
            pixels=radiograph(
                cut_out(chest.thickness + contrast * lesion.thickness, exposure, image_size_px), exposure, rng
            ),
            lungs=lungs,
            lesion=lungs & (cut_out(lesion.extent, exposure, image_size_px) > 0.5),
        )


def _part(patient: int) -> Part:
    """Every fifth patient is for the test, and walks through the diagnoses."""
    cycle, place = divmod(patient, len(_CYCLE))
    return "test" if place == cycle % len(_CYCLE) else "train"


def _stem(diagnosis: Diagnosis, patient: int, number: int) -> str:
    """A file name like those of the Kermany set: normal in two series, pneumonia with a running number."""
    if diagnosis != "normal":
        return f"person{patient + 1}_{diagnosis}_{len(_IMAGE_COUNT_SHARES) * patient + number + 1}"
    series = "IM" if patient % 2 else "NORMAL2-IM"
    first = f"{series}-{patient + 1:04d}-0001"
    return first if number == 0 else f"{first}-{number:04d}"


def _make_folders(folder: Path) -> None:
    for part in ("train", "test"):
        for name in ("NORMAL", "PNEUMONIA"):
            (folder / part / name).mkdir(parents=True)
    for kind in ("lungs", "lesions"):
        (folder / "masks" / kind).mkdir(parents=True)


def _write_image(folder: Path, image: PhantomImage) -> None:
    class_name = "NORMAL" if image.diagnosis == "normal" else "PNEUMONIA"
    Image.fromarray(image.pixels).save(folder / image.part / class_name / f"{image.stem}.jpeg", quality=_JPEG_QUALITY)
    Image.fromarray(image.lungs).save(folder / "masks" / "lungs" / f"{image.stem}.png")
    Image.fromarray(image.lesion).save(folder / "masks" / "lesions" / f"{image.stem}.png")


def _check_arguments(out: Path, patients: int, image_size_px: int, difficulty: float) -> None:
    require_writable(out.parent)
    problems = []
    if out.exists() and (not out.is_dir() or any(out.iterdir())):
        problems.append(Problem("there is something here already", out, "give a folder that is new or empty"))
    if patients < _FEWEST_PATIENTS:
        fix = f"give at least {_FEWEST_PATIENTS}, so that both parts have both classes"
        problems.append(Problem(f"too few patients: {patients}", fix=fix))
    if patients > _MOST_PATIENTS:
        problems.append(Problem(f"too many patients: {patients}", fix=f"give at most {_MOST_PATIENTS}"))
    if not _SMALLEST_IMAGE_PX <= image_size_px <= _LARGEST_IMAGE_PX:
        fix = f"give {_SMALLEST_IMAGE_PX} to {_LARGEST_IMAGE_PX}"
        problems.append(Problem(f"image size out of bounds: {image_size_px} px", fix=fix))
    if not 0 <= difficulty <= 1:
        problems.append(Problem(f"difficulty out of bounds: {difficulty:g}", fix="give 0 (plain) to 1 (no trace)"))
    if problems:
        raise ConfigError(*problems)
