"""Whom of a folder a study knows: images of its patients there would make a figure on them memory.

A patient goes by several names. A table of patients is read without the spaces around a name; patients who share an image,
bit for bit, were joined under one of their names, and the file still tells the other; and a file says who it is of by its
bytes, whatever it is called.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable, Sequence
from pathlib import Path

from xraytune.data.index import ImageFile
from xraytune.data.patients import PATIENTS_CSV, found_by, name_patients, patient_of
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
