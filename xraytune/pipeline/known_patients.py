"""Whom of a folder a study knows: images of its patients there would make a figure on them memory.

A patient goes by several names. A table of patients is read without the spaces around a name; patients who share an image,
bit for bit, were joined under one of their names, and the file still tells the other; and a file says who it is of by its
bytes, whatever it is called. Where nothing else tells who is on a file from elsewhere, it is of the patient whose image in
the study has its name: a processed copy often keeps that name (`docs/decisions/0016-whose-extra-images.md`).
The path of an image that nothing explains stands for its patient in the study alone; elsewhere another image may have it.
"""

from __future__ import annotations

import re
from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path, PurePosixPath
from types import MappingProxyType

from xraytune.data.index import ImageFile, ImageIndex
from xraytune.data.layout import DICOM_SUFFIXES, NAMING_SUFFIXES
from xraytune.data.patients import PATIENTS_CSV, found_by, name_patients, patient_of
from xraytune.errors import DataError, Problem, listed
from xraytune.pipeline.prepare import PreparedImage

_NOBODY: Mapping[str, str] = MappingProxyType({})


def known_patients(
    found: Sequence[ImageFile],
    root: Path,
    known: Iterable[ImageFile | PreparedImage],
    *,
    group_regex: str | None = None,
    known_as: Iterable[str] = (),
    owners: Mapping[str, str] | None = None,
) -> set[str]:
    """The patients of a folder, by the names that they have there, of whom there are images among the known ones.

    All who go by one name in the folder are one person: if one of their images is known, all are of a known patient.

    Args:
        found: The folder's images.
        root: The folder.
        known: The images to compare with.
        group_regex: The study's expression; see `told_names`.
        known_as: Further names of the known patients, such as those that they had before they were joined.
        owners: Whose the study's images are, where `found` come from elsewhere and may be copies of them; see
            `owners_by_name`. None where it is the known images that come from elsewhere.
    """
    images = list(known)
    contents = {image.sha256 for image in images}
    told = told_names(found, root, group_regex, owners or _NOBODY)
    is_elsewhere = owners is not None
    own_paths = {image.file for image in (found if is_elsewhere else images)}
    names = {image.patient.strip() for image in images} | {patient_of(image.file) for image in images}
    names = (names if is_elsewhere else names - own_paths) | {name.strip() for name in known_as}

    def goes_by(image: ImageFile) -> set[str]:
        patient = {image.patient.strip()}
        return told[image.file] | (patient - own_paths if is_elsewhere else patient)

    return {image.patient for image in found if image.sha256 in contents or not names.isdisjoint(goes_by(image))}


def all_names(
    images: Sequence[ImageFile | PreparedImage],
    root: Path,
    group_regex: str | None,
    owners: Mapping[str, str] = _NOBODY,
) -> set[str]:
    """All that a folder calls the patients of some of its images; see `told_names`."""
    return set().union(*told_names(images, root, group_regex, owners).values())


def require_no_test_patients(
    images: Sequence[ImageFile], root: Path, index: ImageIndex, group_regex: str | None
) -> None:
    """Refuse extra images of patients of the sealed test folder, before any of them is trained on.

    Names and hashes tell, as for `confirm`, which would refuse them at the very end; the test folder stays closed.

    Args:
        images: The extra images.
        root: Their folder.
        index: The study's data folder.
        group_regex: The study's expression.

    Raises:
        DataError: There are such images.
    """
    known_as = all_names(images, root, group_regex, owners_by_name([*index.images, *index.test]))
    known = known_patients(index.test, index.root, images, group_regex=group_regex, known_as=known_as)
    if of_both := [image.file for image in index.test if image.patient in known]:
        what = f"patients of {len(of_both)} sealed test images are among these extra images: {listed(of_both)}"
        fix = "remove their images, or rename those of others: a test on patients seen in training proves nothing"
        raise DataError(Problem(what, root, fix))


def told_names(
    images: Sequence[ImageFile | PreparedImage],
    root: Path,
    group_regex: str | None,
    owners: Mapping[str, str] = _NOBODY,
) -> dict[str, set[str]]:
    """What a folder calls the patient of each file, before those who share an image are joined under one name.

    Its table says, or else the name of the file, and the study's expression where it finds something in the path: a copy of
    a patient's image is often named after it. What none of them explains, nor a DICOM header, is the owner's of the study's
    image of that name. Where nothing says, there is no name.

    Raises:
        DataError: The table is malformed or lacks files.
    """
    files = [image.file for image in images]
    named = name_patients(root, files).by_file
    if (root / PATIENTS_CSV).is_file():
        return {file: {named[file].strip()} for file in files}
    found = found_by(group_regex, files) if group_regex else {}
    told = {file: {name.strip() for name in (named[file], found.get(file, file)) if name != file} for file in files}
    for image in images:
        owner = owners.get(_bare_name(image.file))
        if owner is not None and not told[image.file] and image.patient in told:  # it counts as a patient of its own
            told[image.file] = {owner.strip()}
    return told


def owners_by_name(images: Iterable[ImageFile | PreparedImage]) -> dict[str, str]:
    """Whose image it is that has a name, for all names that say so.

    Folders and suffixes are no part of the name. One that several patients' images have (a scanner's IM000001, a number to
    which each class folder counts) does not say whose copy a file of that name is, nor does any name that differs from it
    in its numbers alone: where NORMAL has 1.png to 90.png and PNEUMONIA 1.png to 200.png, no number tells a patient.
    """
    patients: dict[str, set[str]] = defaultdict(set)
    for image in images:
        patients[_bare_name(image.file)].add(image.patient)
    numbered_anew = {_series(name) for name, owners in patients.items() if len(owners) > 1}
    return {
        name: owners.pop()
        for name, owners in patients.items()
        if len(owners) == 1 and _series(name) not in numbered_anew
    }


def ambiguous_files(
    found: Sequence[ImageFile],
    root: Path,
    images: Iterable[ImageFile | PreparedImage],
    group_regex: str | None,
    owners: Mapping[str, str],
) -> list[str]:
    """Files of a folder that have the name of images of the study, though neither it nor anything else tells the patient."""
    names = {_bare_name(image.file) for image in images}
    told = told_names(found, root, group_regex, owners)
    return [
        image.file
        for image in found
        if not told[image.file] and image.patient in told and _bare_name(image.file) in names
    ]


def _series(name: str) -> str:
    """What the names of numbered images have in common."""
    return re.sub(r"\d+", "#", name)


def _bare_name(file: str) -> str:
    path = PurePosixPath(file)
    is_image_suffix = path.suffix.lower() in NAMING_SUFFIXES | DICOM_SUFFIXES
    return (path.stem if is_image_suffix else path.name).casefold()
