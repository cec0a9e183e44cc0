"""Inspect a data folder before training: counts, patients, duplicates, broken files, and checks."""

from collections import Counter
from pathlib import Path
from statistics import median
from typing import Literal

import numpy as np

from xraytune.base.arrays import UInt8Array
from xraytune.base.cores import map_on_cores
from xraytune.base.files import StrPath
from xraytune.base.records import Progress, frozen, ignore_progress
from xraytune.data.checks import check_content
from xraytune.data.copies import NearDuplicates
from xraytune.data.decoding import BrokenImage, GreyImage, decode_files
from xraytune.data.findings import ABSENT, PRESENT, UNKNOWN
from xraytune.data.images import ImageFile, ImageIndex
from xraytune.data.index import identical_images, read_folder
from xraytune.data.masks import connected_parts, use_mask
from xraytune.data.sides import SideSize, sizes_of_index
from xraytune.data.split import part_notes
from xraytune.space.data_settings import DataSettings, SplitSettings
from xraytune.space.load import data_settings

_SIZE_PX = 64
"""Side of the squares that images are decoded to."""


@frozen
class Inspection:
    """The result of `inspect_folder`.

    Test images are only counted and compared with training images.

    Attributes:
        class_names: The classes, in the order of their labels.
        positive: The positive class of two; None with more classes.
        images: Part (train, val, test) -> class -> number of images; all images of a folder without
            parts are train.
        patients: Number of training patients with images of each class.
        patient_count: Number of training patients.
        patients_of_several_classes: Number of them who count in several classes.
        images_per_patient: Minimum, median and maximum in the training part.
        width_px: Minimum and maximum of the training images; `height_px` likewise.
        duplicates: Sorted groups of identical files, including those of test/.
        near_duplicates: Images that look the same in spite of different bytes.
        formats: Number of training images of each format and depth, such as `PNG 16-bit`, without
            broken ones.
        broken: Training files that cannot be decoded, and unusable masks.
        shortcuts: See `data.checks.Checks`.
        warnings: Sentences on what is unusual in the folder.
        mask_areas: File -> the share of a training image that its masks cover, smallest first.
        mask_parts: Number of connected components -> number of masks that have as many.
        findings: Finding -> `present`, `absent`, `unknown` -> training images, or all images of the
            table with classes.
        parts: A sentence on each part of the folder: its images, and how a search uses them.
        sides: Side of the split, such as val-A, or test -> its size.
    """

    class_names: tuple[str, ...]
    positive: str | None
    images: dict[str, dict[str, int]]
    patients: dict[str, int]
    patient_count: int
    patients_of_several_classes: int
    images_per_patient: tuple[int, float, int]
    width_px: tuple[int, int]
    height_px: tuple[int, int]
    duplicates: tuple[tuple[str, ...], ...]
    near_duplicates: NearDuplicates
    formats: dict[str, int]
    broken: tuple[BrokenImage, ...]
    shortcuts: dict[str, float]
    warnings: tuple[str, ...]
    mask_areas: dict[str, float]
    mask_parts: dict[int, int]
    findings: dict[str, dict[str, int]]
    parts: tuple[str, ...]
    sides: dict[str, SideSize]


def inspect_folder(
    source: StrPath,
    *,
    classes: Literal["binary", "three", "auto"] = "auto",
    positive: str | None = None,
    group_regex: str | None = None,
    on_progress: Progress = ignore_progress,
) -> Inspection:
    """Inspect a data folder of classes or pairs; every image is decoded once, at a small size.

    Broken images are listed.

    Args:
        source: The folder, or a YAML file with a `data:` block, whose settings override these.
        classes: See `data.classes`.
        positive: The positive class of two; by default, it is recognised by name.
        group_regex: A regular expression for file paths, whose first group is the patient.
        on_progress: Called with the number of images read.

    Raises DataError if the folder is invalid; see `read_index`.
    """
    source = Path(source)
    split = SplitSettings(group_regex=group_regex)
    base = DataSettings(path=source, classes=classes, positive=positive, split=split)
    settings = data_settings(source, base)
    index = read_folder(settings, on_progress=on_progress)
    sizes = sizes_of_index(index, settings)
    names = index.class_names
    readable, pixels, formats, broken = _decode(index, on_progress)
    checks = check_content(
        readable,
        pixels,
        names,
        group_regex=settings.split.group_regex,
        on_progress=on_progress,
    )
    areas, parts, broken_masks = _measure_masks(index, on_progress)

    counts: dict[str, dict[str, int]] = {}
    for image in index.all_images:
        part_counts = counts.setdefault(image.part, dict.fromkeys(names, 0))
        part_counts[names[image.label]] += 1
    states = {"present": PRESENT, "absent": ABSENT, "unknown": UNKNOWN}
    findings = {}
    for column, name in enumerate(index.findings):
        letters = [image.findings[column] for image in index.images]
        findings[name] = {state: letters.count(letter) for state, letter in states.items()}
    sized = [image for image in index.images if image.width_px] or index.images
    widths = [image.width_px for image in sized]
    heights = [image.height_px for image in sized]
    per_patient = Counter(index.images.patients).values()
    classes_of_patients = {(image.patient, image.label) for image in index.images}
    patients_of_class = Counter(label for _, label in classes_of_patients)
    classes_per_patient = Counter(patient for patient, _ in classes_of_patients).values()
    duplicates = identical_images(index.all_images)
    return Inspection(
        class_names=names,
        positive=names[index.positive] if len(names) == 2 else None,
        images=counts,
        patients={name: patients_of_class[label] for label, name in enumerate(names)},
        patient_count=len(per_patient),
        patients_of_several_classes=sum(count > 1 for count in classes_per_patient),
        images_per_patient=(min(per_patient), float(median(per_patient)), max(per_patient)),
        width_px=(min(widths), max(widths)),
        height_px=(min(heights), max(heights)),
        duplicates=tuple(sorted(tuple(image.file for image in same) for same in duplicates)),
        near_duplicates=checks.near_duplicates,
        formats=dict(sorted(formats.items())),
        broken=(*broken, *broken_masks),
        shortcuts=checks.shortcuts,
        warnings=(*index.warnings, *checks.notes),
        mask_areas=dict(sorted(areas.items(), key=lambda item: item[1])),
        mask_parts=dict(sorted(parts.items())),
        findings=findings,
        parts=part_notes(index),
        sides={size.name: size for size in sizes},
    )


def _decode(
    index: ImageIndex, on_progress: Progress
) -> tuple[list[ImageFile], list[UInt8Array], Counter[str], list[BrokenImage]]:
    """Return all intact images, their pixels, and the formats and broken files of the training."""
    readable = []
    pixels = []
    formats: Counter[str] = Counter()
    broken = []
    files = [image.file for image in index.all_images]
    decoded = decode_files(index.root, files, _SIZE_PX, on_progress=on_progress)
    for image, square in zip(index.all_images, decoded, strict=True):
        is_training = image.part != "test"
        if isinstance(square, GreyImage):
            readable.append(image)
            pixels.append(square.pixels)
            if is_training:
                formats[square.kind] += 1
        elif is_training:
            broken.append(square)
    return readable, pixels, formats, broken


def _measure_masks(
    index: ImageIndex, on_progress: Progress
) -> tuple[dict[str, float], Counter[int], list[BrokenImage]]:
    """Return the share of each training image that its masks cover, numbers of parts, and flaws."""
    with_masks = [image for image in index.images if image.masks]
    areas = {}
    parts: Counter[int] = Counter()
    broken = []
    masks = map_on_cores(lambda image: use_mask(index.root, image, np.copy), with_masks)
    for image, mask in zip(with_masks, masks, strict=True):
        if isinstance(mask, BrokenImage):
            broken.append(mask)
        else:
            areas[image.file] = float(mask.mean())
            parts[connected_parts(mask)] += 1
        on_progress("reading masks", len(areas), len(with_masks))
    return areas, parts, broken
