"""Compare a data folder with the images that a study recorded when it began.

Each command that reads the folder again does so. With other patients, one person could be both
trained on and tested on; with other labels, a verdict would answer another question.
"""

from __future__ import annotations

from collections.abc import Collection
from pathlib import Path

from xraytune.base.errors import Problem, StudyError, join_names
from xraytune.data.images import ImageFile, ImageIndex
from xraytune.data.prepare import Prepared

RESTORE = (
    "restore images, patients.csv or label table, or start a study with another name: "
    "--set name=..."
)
_SHOWN = 3


def require_same_data(
    recorded: Prepared, now: Prepared | ImageIndex, where: Path, *, is_complete: bool = True
) -> None:
    """Refuse (StudyError) images of a study that have another patient or another label now.

    With `is_complete`, also refuse images that were changed or removed. New images may be there.
    """
    recorded_images = all_images(recorded)
    recorded_files = {image.file for image in recorded_images}
    by_file = {image.file: image for image in all_images(now)}
    moved = {image.sha256: image for image in by_file.values() if image.file not in recorded_files}
    gone: list[str] = []
    patients: list[str] = []
    labels: list[str] = []
    for image in recorded_images:
        found = by_file.get(image.file)
        if found is None or found.sha256 != image.sha256:
            if is_complete:
                gone.append(image.file)
            found = moved.get(image.sha256)  # in another class folder, it has another label
            if found is None:
                continue
        before = _patient_of(image, recorded_files)
        after = _patient_of(found, by_file)
        if before != after:
            patients.append(f"{image.file} ({before}, now {after})")
        if change := _label_change(_label_of(image, recorded), _label_of(found, now)):
            labels.append(f"{image.file} ({change})")
    changes: list[str] = []
    if gone:
        changes.append(f"{len(gone)} changed or gone: {join_names(gone)}")
    if patients:
        changes.append(f"{len(patients)} with another patient: {join_names(patients, _SHOWN)}")
    if labels:
        changes.append(f"{len(labels)} with another label: {join_names(labels, _SHOWN)}")
    if changes:
        what = f"the images changed since the study began: {'; '.join(changes)}"
        raise StudyError(Problem(what, where, RESTORE))


def all_images(data: Prepared | ImageIndex) -> tuple[ImageFile, ...]:
    """Return the images of a data folder without its test folder, or all that a study recorded."""
    return (*data.images, *data.unused) if isinstance(data, Prepared) else data.images


def _patient_of(image: ImageFile, files: Collection[str]) -> str:
    """Return the name of an image's patient.

    "unnamed" if that is only the path of a file, which may move.
    """
    return "unnamed" if image.patient in files else image.patient


def _label_of(image: ImageFile, data: Prepared | ImageIndex) -> dict[str, str]:
    label = dict(zip(data.findings, image.findings, strict=True)) or {
        "class": data.class_names[image.label]
    }
    return label | {"mask": image.masks_sha256[:8]}


def _label_change(before: dict[str, str], after: dict[str, str]) -> str:
    for name in before | after:
        if before.get(name) != after.get(name):
            return f"{name} {before.get(name)}, now {after.get(name)}"
    return ""
