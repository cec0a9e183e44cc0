"""Inspect a data folder before training: counts, patients, duplicates, broken files, and shortcuts.

The shortcut baseline is a logistic regression on width, height, aspect ratio and mean grey. It
shows which AUROC a classifier can reach without looking at a lung.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from statistics import median

import numpy as np
from sklearn.linear_model import LogisticRegression
from sklearn.model_selection import StratifiedGroupKFold, cross_val_score
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler

from xraytune.base.records import Progress, ignore_progress
from xraytune.data.decoding import BrokenImage, decode_files
from xraytune.data.findings import ABSENT, PRESENT, UNKNOWN
from xraytune.data.images import ImageIndex, Images
from xraytune.data.index import identical_images, read_folder
from xraytune.data.masks import connected_parts, map_masks
from xraytune.data.near_duplicates import (
    HASH_SIZE_PX,
    Hashes,
    NearDuplicates,
    find_near_duplicates,
    perceptual_hash,
)
from xraytune.data.pixels import odd_depth_warnings
from xraytune.space.load import data_settings
from xraytune.space.settings import DataSettings


@dataclass(frozen=True, slots=True, kw_only=True)
class MaskSummary:
    """The masks of training images, without broken ones. Several masks of one image are merged.

    Attributes:
        files_per_image: Minimum and maximum.
        area_share: Minimum (in the image `smallest`), median and maximum (`largest`) share that a
            mask covers.
        connected_parts: Number of connected components -> number of masks that have as many.
    """

    files_per_image: tuple[int, int]
    area_share: tuple[float, float, float]
    smallest: str
    largest: str
    connected_parts: dict[int, int]


@dataclass(frozen=True, slots=True, kw_only=True)
class Inspection:
    """The result of `inspect_folder`.

    Test images are only counted and compared with training images.

    Attributes:
        positive: The positive class of two, for `positive_reason`; None with more classes.
        images: Part (train, val, test) -> class -> images; a folder without parts is all train.
        patients: Training patients of each class.
        images_per_patient: Minimum, median and maximum in the training part.
        width_px: Minimum and maximum, like `height_px`, of training images.
        duplicates: Groups of identical files, also of test/, sorted.
        formats: Training images of each format and depth, such as `PNG 16-bit`, without broken
            ones.
        broken: Training files that cannot be decoded, and unusable masks.
        shortcut_auroc: Cross-validated by patient; with three or more classes, macro one-vs-rest.
        shortcut: What `shortcut_auroc` means, in a sentence; empty for pairs.
        masks: None for class folders.
        findings: Finding -> `present`, `absent`, `unknown` -> training images, or all images of the
            table with classes.
    """

    class_names: tuple[str, ...]
    positive: str | None
    positive_reason: str
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
    shortcut: str
    warnings: tuple[str, ...]
    masks: MaskSummary | None = None
    findings: dict[str, dict[str, int]] = field(default_factory=dict)


def inspect_folder(
    folder: Path | DataSettings, *, on_progress: Progress = ignore_progress
) -> Inspection:
    """Inspect a data folder of classes or pairs; every image is decoded once, at a small size.

    Broken images are listed.

    Args:
        folder: The folder, a YAML file with a `data:` block, or settings with its path, classes and
            patients.
        on_progress: Called with the number of images read.

    Raises DataError if the folder is invalid; see `read_index`.
    """
    settings = (
        data_settings(folder, DataSettings(path=folder)) if isinstance(folder, Path) else folder
    )
    return inspect_index(read_folder(settings, on_progress=on_progress), on_progress=on_progress)


def inspect_index(index: ImageIndex, *, on_progress: Progress = ignore_progress) -> Inspection:
    """Inspect a folder whose index has been read."""
    images = [*index.images, *index.test]
    hashes: dict[str, Hashes] = {}
    mean_greys: dict[str, float] = {}
    kinds: dict[str, str] = {}
    broken: list[BrokenImage] = []
    decoded = decode_files(
        index.root, [image.file for image in images], HASH_SIZE_PX, on_progress=on_progress
    )
    for image, square in zip(images, decoded, strict=True):
        is_training = image.part != "test"  # of test images, only the hashes are used
        if not isinstance(square, BrokenImage):
            hashes[image.file] = perceptual_hash(square.pixels)
            if is_training:
                mean_greys[image.file] = float(square.pixels.mean())
                kinds[image.file] = square.kind
        elif is_training:
            broken.append(square)
    readable = Images(image for image in index.images if image.file in mean_greys)
    auroc = _shortcut_auroc(readable, [*mean_greys.values()])
    sized = [image for image in index.images if image.width_px] or list(index.images)
    widths = [image.width_px for image in sized]
    heights = [image.height_px for image in sized]
    per_patient = Counter(index.images.patients).values()
    masks, bad_masks = _summarise_masks(index, on_progress)
    has_classes = len(index.class_names) > 1
    return Inspection(
        class_names=index.class_names,
        positive=index.class_names[index.positive] if len(index.class_names) == 2 else None,
        positive_reason=index.positive_reason,
        images=_count_images(index),
        patients={
            name: len({image.patient for image in index.images if image.label == label})
            for label, name in enumerate(index.class_names)
        },
        images_per_patient=(min(per_patient), float(median(per_patient)), max(per_patient)),
        width_px=(min(widths), max(widths)),
        height_px=(min(heights), max(heights)),
        duplicates=tuple(
            sorted(tuple(image.file for image in same) for same in identical_images(images))
        ),
        near_duplicates=find_near_duplicates(
            [image for image in images if image.file in hashes],
            [*hashes.values()],
            on_progress=on_progress,
        ),
        formats=dict(sorted(Counter(kinds.values()).items())),
        broken=(*broken, *bad_masks),
        shortcut_auroc=auroc,
        shortcut=_describe_shortcut(auroc) if has_classes else "",
        warnings=(*index.warnings, *odd_depth_warnings(kinds)),
        masks=masks,
        findings=_count_findings(index),
    )


def _count_findings(index: ImageIndex) -> dict[str, dict[str, int]]:
    """Return in how many training images each finding is present, absent or unknown."""
    words = {PRESENT: "present", ABSENT: "absent", UNKNOWN: "unknown"}
    counts = {}
    for place, name in enumerate(index.findings):
        states = Counter(image.findings[place] for image in index.images)
        counts[name] = {word: states[state] for state, word in words.items()}
    return counts


def _summarise_masks(
    index: ImageIndex, on_progress: Progress
) -> tuple[MaskSummary | None, list[BrokenImage]]:
    """Return a summary of the training masks, None if none is usable, and the broken ones."""
    images = [image for image in index.images if image.masks]
    measured: list[tuple[float, int, str]] = []
    broken: list[BrokenImage] = []
    read = map_masks(index.root, images, lambda mask: (float(mask.mean()), connected_parts(mask)))
    for done, (image, mask) in enumerate(zip(images, read, strict=True), start=1):
        if isinstance(mask, list):
            broken += mask
        else:
            measured.append((*mask, image.file))
        on_progress("reading masks", done, len(images))
    if not measured:
        return None, broken
    shares, parts, files = zip(*sorted(measured), strict=True)
    counts = [len(image.masks) for image in images]
    summary = MaskSummary(
        files_per_image=(min(counts), max(counts)),
        area_share=(shares[0], float(median(shares)), shares[-1]),
        smallest=files[0],
        largest=files[-1],
        connected_parts=dict(sorted(Counter(parts).items())),
    )
    return summary, broken


def _shortcut_auroc(images: Images, mean_greys: Sequence[float]) -> float | None:
    """Return the mean AUROC over up to five folds, split by patient.

    None if a class has fewer than two patients.
    """
    labels = images.labels
    patients = np.array(images.patients)
    fewest = min((len(set(patients[labels == label])) for label in set(labels)), default=0)
    if len(set(labels)) < 2 or fewest < 2:
        return None
    features = np.array(
        [
            (image.width_px, image.height_px, image.width_px / image.height_px, grey)
            for image, grey in zip(images, mean_greys, strict=True)
        ]
    )
    splitter = StratifiedGroupKFold(min(5, fewest), shuffle=True, random_state=0)
    folds = [  # with few patients, a class may be missing on a side
        (train, held_out)
        for train, held_out in splitter.split(features, labels, patients)
        if set(labels) == set(labels[train]) == set(labels[held_out])
    ]
    if not folds:
        return None
    model = make_pipeline(StandardScaler(), LogisticRegression(max_iter=1000))
    return float(np.mean(cross_val_score(model, features, labels, cv=folds, scoring="roc_auc_ovr")))


def _describe_shortcut(auroc: float | None) -> str:
    if auroc is None:
        return (
            "Too few patients to measure how well image size and mean grey alone separate "
            "the classes."
        )
    meaning = "a classifier can reach this without looking at a lung"
    if auroc < 0.6:
        meaning = "no relevant shortcut"
    return f"Image size and mean grey alone reach an AUROC of {auroc:.2f}: {meaning}."


def _count_images(index: ImageIndex) -> dict[str, dict[str, int]]:
    counts: dict[str, dict[str, int]] = {}
    for image in (*index.images, *index.test):
        of_part = counts.setdefault(image.part, dict.fromkeys(index.class_names, 0))
        of_part[index.class_names[image.label]] += 1
    return counts
