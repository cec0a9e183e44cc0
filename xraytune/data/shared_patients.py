"""Record linkage between two folders: find the patients who have images in both.

One person may have several names. Patients who share an identical image were merged under one name,
but each file may still carry its own; and identical bytes mean the same patient whatever the file
is called. If nothing else identifies the patient of an external image, it belongs to the patient of
the study whose image has the same file name, since processed copies often keep it: excluding too
many images costs a few, which a warning counts; keeping too many inflates the metrics unnoticed.
The path of an image without any patient name identifies a patient within its own folder only.
"""

from __future__ import annotations

import re
from collections import defaultdict
from collections.abc import Collection, Iterable, Mapping, Sequence

from xraytune.data.folders import bare_name
from xraytune.data.guesses import patient_of
from xraytune.data.images import ImageFile
from xraytune.data.patients import match_patients, patient_key
from xraytune.data.table import LabelTable


def shared_patients(
    images: Sequence[ImageFile],
    table: LabelTable | None,
    known: Iterable[ImageFile],
    *,
    group_regex: str | None = None,
    aliases: Iterable[str] = (),
    owners: Mapping[str, str] | None = None,
) -> set[str]:
    """Return the patients of a folder who also have images among the known ones.

    Images with the same patient name in the folder belong to one person: if one is known, so are
    all. `aliases` are further names of the known patients, such as those from before they were
    merged. `owners` are `patients_by_file_name` of the study for an external folder, and None if
    the known images are external.
    """
    known = list(known)
    contents = {image.sha256 for image in known}
    names_of = names_by_file(images, table, group_regex, owners)
    # The path of an external image identifies no patient of the study.
    paths = {image.file for image in images} if owners is not None else set()
    known_paths = {image.file for image in known} if owners is None else set()
    known_names = {image.patient for image in known} | {
        patient_of(image.file) or image.patient for image in known
    }
    known_keys = {patient_key(name) for name in (*(known_names - known_paths), *aliases)}

    def is_known(image: ImageFile) -> bool:
        names = names_of[image.file] | ({image.patient} - paths)
        return image.sha256 in contents or not known_keys.isdisjoint(map(patient_key, names))

    return {image.patient for image in images if is_known(image)}


def patient_aliases(
    images: Collection[ImageFile],
    table: LabelTable | None,
    group_regex: str | None,
    owners: Mapping[str, str] | None = None,
) -> set[str]:
    """Return all names that a folder gives to the patients of some of its images.

    See `names_by_file`.
    """
    return set().union(*names_by_file(images, table, group_regex, owners).values())


def names_by_file(
    images: Collection[ImageFile],
    table: LabelTable | None,
    group_regex: str | None,
    owners: Mapping[str, str] | None = None,
) -> dict[str, set[str]]:
    """Return the names of each file's patient before patients who share an image are merged.

    They come from the folder's table, if it has a column of patients; else from the file name and
    from the study's expression where it matches the path. An image without such a name and without
    a DICOM header belongs to the owner of its file name. A file whose patient nothing identifies
    has no name.

    Raises DataError if the table lacks files, or a row of it belongs to several.
    """
    files = [image.file for image in images]
    if table is not None and (in_table := table.patients_of(files)) is not None:
        return {file: {in_table[file].strip()} for file in files}
    matched = match_patients(group_regex, files) if group_regex else {}
    names = {
        file: {
            name.strip() for name in (patient_of(file), matched.get(file)) if name and name != file
        }
        for file in files
    }
    for image in images:
        owner = (owners or {}).get(bare_name(image.file))
        if owner is not None and _is_anonymous(image, names):
            names[image.file] = {owner.strip()}
    return names


def patients_by_file_name(images: Iterable[ImageFile]) -> dict[str, str]:
    """Return the patient of each file name, without suffix, that identifies one.

    A name that images of several patients share (a scanner's IM000001, numbers that restart in each
    class folder) identifies nobody. Neither does any name that differs from it only in its numbers:
    if NORMAL has 1.png to 90.png and PNEUMONIA
    1.png to 200.png, no number identifies a patient.
    """
    patients: dict[str, set[str]] = defaultdict(set)
    for image in images:
        patients[bare_name(image.file)].add(image.patient)
    restarted = {_series(name) for name, owners in patients.items() if len(owners) > 1}
    return {
        name: owners.pop() for name, owners in patients.items() if _series(name) not in restarted
    }


def ambiguous_files(
    images: Sequence[ImageFile],
    table: LabelTable | None,
    known: Iterable[ImageFile],
    group_regex: str | None,
    owners: Mapping[str, str],
) -> list[str]:
    """Return files of unknown patients that share their name with images of the study."""
    study_names = {bare_name(image.file) for image in known}
    names = names_by_file(images, table, group_regex, owners)
    return [
        image.file
        for image in images
        if _is_anonymous(image, names) and bare_name(image.file) in study_names
    ]


def _is_anonymous(image: ImageFile, names: Mapping[str, set[str]]) -> bool:
    """Return whether neither name nor header identifies an image, a patient of its own."""
    return not names[image.file] and image.patient in names


def _series(name: str) -> str:
    """Return what the names of numbered images have in common."""
    return re.sub(r"\d+", "#", name)
