"""Whom of a folder a study knows: images of its patients there would make a figure on them memory.

A patient goes by several names. A table of patients is read without the spaces around a name; patients who share an image,
bit for bit, were joined under one of their names, and the file still tells the other; and a file says who it is of by its
bytes, whatever it is called.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable, Sequence
from pathlib import Path

from xraytune.data.index import ImageFile, ImageIndex
from xraytune.data.patients import PATIENTS_CSV, found_by, name_patients, patient_of
from xraytune.errors import DataError, Problem, listed
from xraytune.pipeline.prepare import PreparedImage


def known_patients(
    found: Sequence[ImageFile],
    root: Path,
    known: Iterable[ImageFile | PreparedImage],
    *,
    group_regex: str | None = None,
    known_as: Iterable[str] = (),
) -> set[str]:
    """The patients of a folder, by the names that they have there, of whom there are images among the known ones.

    All who go by one name in the folder are one person: if one of their images is known, all are of a known patient.

    Args:
        found: The folder's images.
        root: The folder.
        known: The images to compare with.
        group_regex: The study's expression; see `told_names`.
        known_as: Further names of the known patients, such as those that they had before they were joined.
    """
    images = list(known)
    contents = {image.sha256 for image in images}
    names = {image.patient.strip() for image in images} | {patient_of(image.file) for image in images}
    names |= {name.strip() for name in known_as}
    told = told_names([image.file for image in found], root, group_regex)
    return {
        image.patient
        for image in found
        if image.sha256 in contents or not names.isdisjoint({image.patient.strip(), *told[image.file]})
    }


def all_names(images: Iterable[ImageFile | PreparedImage], root: Path, group_regex: str | None) -> set[str]:
    """All that a folder calls the patients of some of its images; see `told_names`."""
    return set().union(*told_names([image.file for image in images], root, group_regex).values())


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
    known_as = all_names(images, root, group_regex)
    known = known_patients(index.test, index.root, images, group_regex=group_regex, known_as=known_as)
    if of_both := [image.file for image in index.test if image.patient in known]:
        what = f"patients of {len(of_both)} sealed test images are among these extra images: {listed(of_both)}"
        fix = "remove their images, or rename those of others: a test on patients seen in training proves nothing"
        raise DataError(Problem(what, root, fix))


def told_names(files: Collection[str], root: Path, group_regex: str | None) -> dict[str, set[str]]:
    """What a folder calls the patient of each file, before those who share an image are joined under one name.

    Its table says, or else the name of the file, and the study's expression where it finds something in the path: a copy of
    a patient's image is often named after it. Where nothing says, there is no name.

    Raises:
        DataError: The table is malformed or lacks files.
    """
    named = name_patients(root, list(files)).by_file
    has_table = (root / PATIENTS_CSV).is_file()
    found = found_by(group_regex, files) if group_regex and not has_table else {}
    return {file: {name.strip() for name in (named[file], found.get(file, file)) if name != file} for file in files}
