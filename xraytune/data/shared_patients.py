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
    contents = set()
    known_keys = {patient_key(name) for name in aliases}
    known_paths = set()
    known_names = set()
    for image in known:
        contents.add(image.sha256)
        known_names |= {image.patient, patient_of(image.file) or image.patient}
        known_paths.add(image.file)
    # The path of an external image identifies no patient of the study.
    known_names -= known_paths if owners is None else set()
    known_keys |= {patient_key(name) for name in known_names}
    paths = set() if owners is None else {image.file for image in images}
    names_of = names_by_file(images, table, group_regex, owners)
    shared = set()
    for image in images:
        keys = {patient_key(name) for name in names_of[image.file] | ({image.patient} - paths)}
        if image.sha256 in contents or keys & known_keys:
            shared.add(image.patient)
    return shared


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
    in_table = table.patients_of(files) if table is not None else None
    if in_table is not None:
        return {file: {patient.strip()} for file, patient in in_table.items()}
    matched = match_patients(group_regex, files) if group_regex else {}
    names = {}
    for image in images:
        file = image.file
        its_names = {patient_of(file), matched.get(file)} - {None, file}
        if not its_names and image.patient in {*files}:
            its_names = {(owners or {}).get(bare_name(file))} - {None}
        names[file] = {str(name).strip() for name in its_names}
    return names


def patients_by_file_name(images: Iterable[ImageFile]) -> dict[str, str]:
    """Return the patient of each file name, without suffix, that identifies one.

    A name that images of several patients share (a scanner's IM000001, numbers that restart in each
    class folder) identifies nobody. Neither does any name that differs from it only in its numbers:
    if NORMAL has 1.png to 90.png and PNEUMONIA
    1.png to 200.png, no number identifies a patient.
    """
    patients = defaultdict(set)
    for image in images:
        patients[bare_name(image.file)].add(image.patient)
    series = {name: re.sub(r"\d+", "#", name) for name in patients}
    restarted = {series[name] for name, owners in patients.items() if len(owners) > 1}
    return {
        name: owners.pop() for name, owners in patients.items() if series[name] not in restarted
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
        if not names[image.file] and image.patient in names and bare_name(image.file) in study_names
    ]
