"""Split the training images by patient into train, val-A and val-B; no patient is on two sides.

The split is stratified by class and depends only on the seed and the patients' names, not on the order of the images.
`train_patients` keeps the first patients of a fixed order of the train side, so 50 patients are a subset of 100, and the
validation sides do not change.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from xraytune.config.settings import SplitSettings
from xraytune.data.index import ImageFile
from xraytune.errors import DataError, Problem
from xraytune.seeding import derive_seed


@dataclass(frozen=True, slots=True, kw_only=True)
class Split:
    """Three sides, as ascending positions in the sequence of images."""

    train: tuple[int, ...]
    val_a: tuple[int, ...]
    val_b: tuple[int, ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class _Patient:
    name: str
    labels: frozenset[int]
    positions: tuple[int, ...]


def split_by_patient(images: Sequence[ImageFile], settings: SplitSettings, train_patients: int | None = None) -> Split:
    """Split `images`; fractions are of images, met in each class as closely as whole patients allow.

    Raises:
        DataError: A class would be missing on a side, or the train side has fewer patients than `train_patients`.
    """
    patients = _patients(images)
    train: list[list[_Patient]] = []
    val_a: list[_Patient] = []
    val_b: list[_Patient] = []
    for stratum in _strata(patients):
        image_count = _image_count(stratum)
        ordered = _shuffled(stratum, settings.seed, "split")
        in_a, rest = _take(ordered, settings.val_a * image_count, spare=2)
        in_b, rest = _take(rest, settings.val_b * image_count, spare=1 if in_a else len(rest))
        val_a += in_a
        val_b += in_b
        train.append(rest)
    in_train = _nested_order(train, settings.seed)
    _refuse_missing_classes(images, patients, {"train": in_train, "val-A": val_a, "val-B": val_b})
    if train_patients is not None:
        in_train = _first_patients(in_train, train_patients)
    return Split(train=_positions(in_train), val_a=_positions(val_a), val_b=_positions(val_b))


def _patients(images: Sequence[ImageFile]) -> list[_Patient]:
    positions: dict[str, list[int]] = defaultdict(list)
    for position, image in enumerate(images):
        positions[image.patient].append(position)
    return [
        _Patient(name=name, labels=frozenset(images[i].label for i in own), positions=tuple(own))
        for name, own in positions.items()
    ]


def _strata(patients: Iterable[_Patient]) -> list[list[_Patient]]:
    """Return patients with the same class, or the same classes: some sets have healthy and ill images of one person."""
    strata: dict[tuple[int, ...], list[_Patient]] = defaultdict(list)
    for patient in patients:
        strata[tuple(sorted(patient.labels))].append(patient)
    return [strata[labels] for labels in sorted(strata)]


def _shuffled(patients: Iterable[_Patient], seed: int, purpose: str) -> list[_Patient]:
    return sorted(patients, key=lambda patient: (derive_seed(seed, purpose, patient.name), patient.name))


def _take(patients: list[_Patient], target: float, spare: int) -> tuple[list[_Patient], list[_Patient]]:
    """Take about `target` images and at least one patient, but leave at least `spare` patients; return both groups.

    First fit in the given order, then one more patient if that comes closer.
    """
    limit = len(patients) - spare
    if limit <= 0:
        return [], patients
    taken: list[_Patient] = []
    rest: list[_Patient] = []
    image_count = 0
    for patient in patients:
        if len(taken) < limit and image_count + len(patient.positions) <= round(target):
            taken.append(patient)
            image_count += len(patient.positions)
        else:
            rest.append(patient)
    smallest = min(rest, key=lambda patient: len(patient.positions))
    overshoot = image_count + len(smallest.positions) - target
    if not taken or (len(taken) < limit and overshoot < target - image_count):
        taken.append(smallest)
        rest.remove(smallest)
    return taken, rest


def _nested_order(strata: Iterable[list[_Patient]], seed: int) -> list[_Patient]:
    """Order all patients so that every prefix has about the class shares of the whole."""
    ranked = [
        ((rank + 0.5) / len(stratum), patient.name, patient)
        for stratum in strata
        for rank, patient in enumerate(_shuffled(stratum, seed, "train_patients"))
    ]
    return [patient for _, _, patient in sorted(ranked, key=lambda entry: entry[:2])]


def _first_patients(patients: list[_Patient], count: int) -> list[_Patient]:
    where = "data.train_patients"
    if count > len(patients):
        what = f"the train side has only {len(patients)} patients, not {count}"
        raise DataError(Problem(what, where, f"set at most {len(patients)}, or remove the line to use all"))
    labels: frozenset[int] = frozenset().union(*(patient.labels for patient in patients))
    seen: frozenset[int] = frozenset()
    enough = 0
    while seen != labels:
        seen |= patients[enough].labels
        enough += 1
    if count < enough:
        raise DataError(Problem(f"{count} patients do not cover every class", where, f"set at least {enough}"))
    return patients[:count]


def _refuse_missing_classes(
    images: Sequence[ImageFile], patients: Sequence[_Patient], sides: dict[str, list[_Patient]]
) -> None:
    problems = []
    for label in sorted({image.label for image in images}):
        missing = [side for side, members in sides.items() if not any(label in member.labels for member in members)]
        if missing:
            count = sum(label in patient.labels for patient in patients)
            example = next(image.file for image in images if image.label == label)
            what = f"the class of {example} has {count} patient{'s' * (count != 1)}: none for {' and '.join(missing)}"
            fix = "add patients: every class needs at least 3, one each for train, val-A and val-B"
            problems.append(Problem(what, "data.split", fix))
    if problems:
        raise DataError(*problems)


def _image_count(patients: Iterable[_Patient]) -> int:
    return sum(len(patient.positions) for patient in patients)


def _positions(patients: Iterable[_Patient]) -> tuple[int, ...]:
    return tuple(sorted(position for patient in patients for position in patient.positions))
