"""Inspect a data folder before training: counts, patients, duplicates, broken files, and shortcuts.

The shortcut baseline is a logistic regression on width, height, aspect ratio and mean grey. It
shows which AUROC a classifier can reach without looking at a lung.
"""

from __future__ import annotations

from collections import Counter
from pathlib import Path
from statistics import median
from typing import Literal

import numpy as np
from sklearn.linear_model import LogisticRegression
from sklearn.model_selection import StratifiedGroupKFold, cross_val_score
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler

from xraytune.base.arrays import Float64Array
from xraytune.base.cores import map_on_cores
from xraytune.base.records import Progress, frozen, ignore_progress
from xraytune.data.copies import NearDuplicates, find_near_duplicates, perceptual_hash
from xraytune.data.decoding import BrokenImage, decode_files
from xraytune.data.findings import ABSENT, PRESENT, UNKNOWN
from xraytune.data.images import ImageTable
from xraytune.data.index import identical_images, read_folder
from xraytune.data.masks import connected_parts, use_mask
from xraytune.data.sides import SideSize, sizes_of_index
from xraytune.data.split import part_notes
from xraytune.space.load import data_settings
from xraytune.space.settings import DataSettings, SplitSettings

_SIZE_PX = 64
"""Side of the squares that images are decoded to."""


@frozen
class Inspection:
    """The result of `inspect_folder`.

    Test images are only counted and compared with training images.

    Attributes:
        positive: The positive class of two; None with more classes.
        images: Part (train, val, test) -> class -> number of images; all images of a folder without
            parts are train.
        patients: Number of training patients of each class.
        images_per_patient: Minimum, median and maximum in the training part.
        width_px: Minimum and maximum of the training images; `height_px` likewise.
        duplicates: Sorted groups of identical files, including those of test/.
        formats: Number of training images of each format and depth, such as `PNG 16-bit`, without
            broken ones.
        broken: Training files that cannot be decoded, and unusable masks.
        shortcut_auroc: AUROC of the shortcut baseline, cross-validated by patient; with three or
            more classes, macro one-vs-rest.
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
    images_per_patient: tuple[int, float, int]
    width_px: tuple[int, int]
    height_px: tuple[int, int]
    duplicates: tuple[tuple[str, ...], ...]
    near_duplicates: NearDuplicates
    formats: dict[str, int]
    broken: tuple[BrokenImage, ...]
    shortcut_auroc: float | None
    warnings: tuple[str, ...]
    mask_areas: dict[str, float]
    mask_parts: dict[int, int]
    findings: dict[str, dict[str, int]]
    parts: tuple[str, ...]
    sides: dict[str, SideSize]


def inspect_folder(
    source: Path,
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
    split = SplitSettings(group_regex=group_regex)
    base = DataSettings(path=source, classes=classes, positive=positive, split=split)
    settings = data_settings(source, base)
    index = read_folder(settings, on_progress=on_progress)
    sizes = sizes_of_index(index, settings)
    names = index.class_names
    hashed = []
    readable = []
    hashes = []
    features = []
    formats: Counter[str] = Counter()
    broken = []
    files = [image.file for image in index.all_images]
    decoded = decode_files(index.root, files, _SIZE_PX, on_progress=on_progress)
    for image, square in zip(index.all_images, decoded, strict=True):
        is_training = image.part != "test"  # of test images, only the hashes are used
        if isinstance(square, BrokenImage):
            if is_training:
                broken.append(square)
            continue
        hashed.append(image)
        hashes.append(perceptual_hash(square.pixels))
        if is_training:
            readable.append(image)
            width_px, height_px = square.whole_px
            features.append([width_px, height_px, width_px / height_px, square.pixels.mean()])
            formats[square.kind] += 1

    with_masks = [image for image in index.images if image.masks]
    areas = {}
    parts: Counter[int] = Counter()
    masks = map_on_cores(lambda image: use_mask(index.root, image, np.copy), with_masks)
    for image, mask in zip(with_masks, masks, strict=True):
        if isinstance(mask, BrokenImage):
            broken.append(mask)
        else:
            areas[image.file] = float(mask.mean())
            parts[connected_parts(mask)] += 1
        on_progress("reading masks", len(areas), len(with_masks))

    counts: dict[str, dict[str, int]] = {}
    for image in index.all_images:
        of_part = counts.setdefault(image.part, dict.fromkeys(names, 0))
        of_part[names[image.label]] += 1
    states = {"present": PRESENT, "absent": ABSENT, "unknown": UNKNOWN}
    findings = {}
    for place, name in enumerate(index.findings):
        letters = [image.findings[place] for image in index.images]
        findings[name] = {state: letters.count(letter) for state, letter in states.items()}
    sized = [image for image in index.images if image.width_px] or index.images
    widths = [image.width_px for image in sized]
    heights = [image.height_px for image in sized]
    per_patient = Counter(index.images.patients).values()
    duplicates = identical_images(index.all_images)
    return Inspection(
        class_names=names,
        positive=names[index.positive] if len(names) == 2 else None,
        images=counts,
        patients={
            name: len({image.patient for image in index.images if image.label == label})
            for label, name in enumerate(names)
        },
        images_per_patient=(min(per_patient), float(median(per_patient)), max(per_patient)),
        width_px=(min(widths), max(widths)),
        height_px=(min(heights), max(heights)),
        duplicates=tuple(sorted(tuple(image.file for image in same) for same in duplicates)),
        near_duplicates=find_near_duplicates(hashed, hashes, on_progress=on_progress),
        formats=dict(sorted(formats.items())),
        broken=tuple(broken),
        shortcut_auroc=_shortcut_auroc(ImageTable(readable), np.array(features)),
        warnings=index.warnings,
        mask_areas=dict(sorted(areas.items(), key=lambda item: item[1])),
        mask_parts=dict(sorted(parts.items())),
        findings=findings,
        parts=part_notes(index),
        sides={size.name: size for size in sizes},
    )


def _shortcut_auroc(images: ImageTable, features: Float64Array) -> float | None:
    """Return the mean AUROC of the features, [N, F], over up to five folds, split by patient.

    Returns None if a class has fewer than two patients.
    """
    labels = images.labels
    patients = np.array(images.patients)
    classes = set(labels.tolist())
    fewest = min((len(np.unique(patients[labels == label])) for label in classes), default=0)
    if len(classes) < 2 or fewest < 2:
        return None
    splitter = StratifiedGroupKFold(min(5, fewest), shuffle=True, random_state=0)
    folds = [  # with few patients, a class may be missing on a side
        (train, held_out)
        for train, held_out in splitter.split(features, labels, patients)
        if classes == set(labels[train].tolist()) == set(labels[held_out].tolist())
    ]
    if not folds:
        return None
    model = make_pipeline(StandardScaler(), LogisticRegression(max_iter=1000))
    return float(np.mean(cross_val_score(model, features, labels, cv=folds, scoring="roc_auc_ovr")))
