"""Split the training images by patient into train, val-A and val-B; no patient is on two sides.

The split is stratified by class, or by each patient's rarest finding, and depends only on the seed
and the patients' names, not on the order of the images. `train_patients` keeps the first patients
of a fixed order of the train side, so 50 patients are a subset of 100, and the validation sides do
not change.
"""

from collections import defaultdict
from collections.abc import Collection, Iterable, Mapping, Sequence
from typing import TypeAlias

import numpy as np

from xraytune.base.arrays import Int64Array
from xraytune.base.errors import DataError, counted, join_names
from xraytune.base.records import frozen
from xraytune.base.seeding import derive_seed
from xraytune.data.guesses import PARTS, PartName, part_named
from xraytune.data.images import ImageFile, ImageIndex, ImageTable, SideName
from xraytune.space.data_settings import SplitSettings
from xraytune.stats.classification import rarest_findings

_USES: Mapping[PartName, str] = {
    "train": "split by patient into train, val-A and val-B",
    "val": "merged into the training images and split again",
    "test": "sealed until `confirm` or `evaluate` scores them",
}


@frozen
class _Patient:
    """A patient, with the classes or the rarest finding of their images, and their positions."""

    name: str
    labels: tuple[int, ...]
    positions: tuple[int, ...]


_Strata: TypeAlias = list[list[_Patient]]
"""Patients grouped by their classes; some sets have healthy and ill images of one person."""


def split_by_patient(
    images: Sequence[ImageFile],
    settings: SplitSettings,
    train_patients: int | None = None,
    *,
    seen_patients: Collection[str] = (),
) -> tuple[SideName, ...]:
    """Return the side of each image.

    Fractions are of images, met in each class as closely as whole patients allow. A stratum with
    too few patients for all sides stays on the train side.

    `train_patients` is the number of patients to keep on the train side, by default all.
    `seen_patients` are on no validation side, and are the last to be kept.

    Raises DataError if a class would be missing on a side, or the train side has fewer patients
    than `train_patients`.
    """
    table = ImageTable(images)
    seed = settings.seed
    val_a = []
    val_b = []
    rests = []
    for stratum in _stratify(table.patients, table.targets):
        image_count = sum(len(patient.positions) for patient in stratum)
        unseen = [patient for patient in stratum if patient.name not in seen_patients]
        remaining = _shuffle(unseen, seed, "split")
        in_a, remaining = _take_about(remaining, settings.val_a * image_count, spare=2)
        val_a += in_a
        if in_a:
            in_b, remaining = _take_about(remaining, settings.val_b * image_count, spare=1)
            val_b += in_b
        rests.append(
            [*remaining, *(patient for patient in stratum if patient.name in seen_patients)]
        )
    train = _interleave_strata(rests, seed)
    has_findings = table.targets.ndim == 2
    if not has_findings:  # a finding without positives on a side has no score there
        _refuse_missing_classes(table, {"train": train, "val-A": val_a, "val-B": val_b})

    if train_patients is not None:
        train.sort(key=lambda patient: patient.name in seen_patients)
        where = "data.train_patients"
        if train_patients > len(train):
            raise DataError(
                f"the train side has only {len(train)} patients, fewer than {train_patients}",
                where,
                f"use at most {len(train)}, or all of them (null)",
            )
        first_of_class = {
            label: number
            for number, patient in reversed([*enumerate(train, start=1)])
            for label in patient.labels
        }
        enough = max(first_of_class.values())
        if train_patients < enough and not has_findings:
            raise DataError(
                f"{train_patients} patients do not cover every class",
                where,
                f"set at least {enough}",
            )
        train = train[:train_patients]
    sides: dict[str, Sequence[_Patient]] = {"train": train, "val_a": val_a, "val_b": val_b}
    side_of = {patient.name: side for side, members in sides.items() for patient in members}
    return tuple(side_of.get(name, "unused") for name in table.patients)


def split_into_folds(
    images: Sequence[ImageFile], folds: int, seed: int, *, seen_patients: Collection[str] = ()
) -> list[tuple[SideName, ...]]:
    """Return the side of each image in each fold.

    Each patient, except `seen_patients`, is on val-A or val-B of one fold, and on train in the
    others. The patients of each class are divided evenly.
    """
    table = ImageTable(images)
    patients = [
        patient.name
        for stratum in _stratify(table.patients, table.targets)
        for patient in _shuffle(stratum, seed, "folds")
        if patient.name not in seen_patients
    ]
    sides = []
    for fold in range(folds):
        side_of = dict.fromkeys(patients[fold :: 2 * folds], "val_a")
        side_of |= dict.fromkeys(patients[fold + folds :: 2 * folds], "val_b")
        sides.append(tuple(side_of.get(name, "train") for name in table.patients))
    return sides


def nested_order(patients: Sequence[str], targets: Int64Array, seed: int) -> list[tuple[int, ...]]:
    """Return the positions of each patient's images, in a fixed order of patients.

    However many first patients are kept, they have about the class shares of all patients.
    `targets` are classes, [N], or findings, [N, C]. `train_patients` keeps patients in this order.
    """
    return [patient.positions for patient in _interleave_strata(_stratify(patients, targets), seed)]


def part_notes(index: ImageIndex) -> tuple[str, ...]:
    """Return a line for each part of a data folder: its images, and how a search uses them.

    If the sites of the images are known, the first line names them.
    """
    notes = []
    sites = index.all_images.sites
    if sites:
        classes = f"; {len(index.class_names)} classes" if len(index.class_names) > 1 else ""
        notes.append(f"{counted(len(sites), 'site')}: {join_names(sites, 10)}{classes}")
    files = defaultdict(list)
    for image in index.all_images:
        files[image.part].append(image.file)
    if files.keys() == {"train"}:
        return (
            *notes,
            f"all {len(index.images):,} images are {_USES['train']}; none are held out for a test",
        )
    for part in PARTS:
        if part in files:
            folder, slash, _ = files[part][0].partition("/")
            name = folder + slash if part_named(folder) == part else part
            notes.append(f"{name}: {len(files[part]):,} images, {_USES[part]}")
    return tuple(notes)


def _stratify(patients: Sequence[str], targets: Int64Array) -> _Strata:
    """Group patients by the classes of their images, or by their rarest finding.

    With findings, the label of a patient is the finding of theirs that is rarest among all
    patients, or the number of findings if the patient has none. Such strata divide rare findings
    evenly, like iterative stratification, which starts with the rarest finding.

    From: Sechidis, Tsoumakas & Vlahavas 2011, "On the stratification of multi-label data".
    """
    positions = defaultdict(list)
    for position, patient in enumerate(patients):
        positions[patient].append(position)
    if targets.ndim == 1:
        labels = [np.unique(targets[indices]).tolist() for indices in positions.values()]
    else:
        has_finding = np.array(
            [(targets[indices] == 1).any(axis=0) for indices in positions.values()]
        )
        labels = rarest_findings(has_finding)[:, None].tolist()
    strata = defaultdict(list)
    for (name, indices), patient_labels in zip(positions.items(), labels, strict=True):
        key = tuple(patient_labels)
        strata[key].append(_Patient(name=name, labels=key, positions=tuple(indices)))
    return [strata[key] for key in sorted(strata)]


def _shuffle(patients: Iterable[_Patient], seed: int, purpose: str) -> list[_Patient]:
    return sorted(
        patients, key=lambda patient: (derive_seed(seed, purpose, patient.name), patient.name)
    )


def _take_about(
    patients: list[_Patient], target: float, spare: int
) -> tuple[list[_Patient], list[_Patient]]:
    """Take about `target` images and at least one patient, but leave at least `spare` patients.

    Patients are taken in the given order as long as they fit, and then one more if this comes
    closer. Returns the patients who were taken, and the others.
    """
    limit = len(patients) - spare
    if limit <= 0:
        return [], patients
    chosen: list[_Patient] = []
    remaining = []
    image_count = 0
    for patient in patients:
        if len(chosen) < limit and image_count + len(patient.positions) <= round(target):
            chosen.append(patient)
            image_count += len(patient.positions)
        else:
            remaining.append(patient)
    smallest = min(remaining, key=lambda patient: len(patient.positions))
    overshoot = image_count + len(smallest.positions) - target
    if not chosen or (len(chosen) < limit and overshoot < target - image_count):
        chosen.append(smallest)
        remaining.remove(smallest)
    return chosen, remaining


def _interleave_strata(strata: _Strata, seed: int) -> list[_Patient]:
    """Order all patients so that every prefix has about the class shares of the whole."""
    ranked = [
        ((rank + 0.5) / len(stratum), patient.name, patient)
        for stratum in strata
        for rank, patient in enumerate(_shuffle(stratum, seed, "train_patients"))
    ]
    return [patient for _, _, patient in sorted(ranked)]  # names are unique


def _refuse_missing_classes(images: ImageTable, sides: Mapping[str, Sequence[_Patient]]) -> None:
    problems = []
    for label in np.unique(images.labels).tolist():
        counts = {
            side: sum(label in patient.labels for patient in patients)
            for side, patients in sides.items()
        }
        missing_sides = [side for side, count in counts.items() if not count]
        if missing_sides:
            file = next(image.file for image in images if image.label == label)
            patients = counted(sum(counts.values()), "patient")
            problems.append(
                f"the class of {file} has {patients}: none for {' and '.join(missing_sides)}"
            )
    if problems:
        raise DataError(
            join_names(problems, 3),
            "data.split",
            "add patients: every class needs one for each side train/ and val/ make",
        )
