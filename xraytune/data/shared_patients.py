"""Record linkage between two folders: find the patients who have images in both.

One person may have several names. Patients who share an identical image were merged under one name,
but each file may still carry its own name; and identical bytes mean the same patient whatever the
name of the file. If nothing else identifies the patient of an external image, it belongs to the
patient of the study whose image has the same file name, since processed copies often keep this
name. Excluding too many images costs a few, which a warning counts; keeping too many would inflate
the metrics unnoticed. The path of an image without any patient name identifies a patient within its
own folder only.
"""

import re
from collections import defaultdict
from collections.abc import Collection, Iterable, Mapping, Sequence

from xraytune.data.file_names import patient_of
from xraytune.data.folders import bare_name
from xraytune.data.images import ImageFile
from xraytune.data.patients import match_patients, patient_key


def shared_patients(
    images: Mapping[str, Collection[str]], other_images: Mapping[str, Collection[str]]
) -> set[str]:
    """Return the patients of a folder who also have images in another one.

    Both folders are given as results of `patients_by_key`.
    """
    return {patient for key in images.keys() & other_images.keys() for patient in images[key]}


def patients_by_key(
    images: Sequence[ImageFile],
    group_regex: str | None = None,
    *,
    owners: Mapping[str, str] | None = None,
) -> dict[str, set[str]]:
    """Return the patients of a folder by everything that identifies them.

    A patient is identified by the content of a file and by each name that the patient had before
    patients who share an image were merged. These are the name in the file name of a public set
    and the name in the folder's table or else the match of an expression in the path. Images with
    the same patient in the folder belong to one person.

    For an external folder, `owners` are the `patients_by_file_name` of the study. An external image
    without a patient's name and without a DICOM header belongs to the owner of its file name, and
    its path names nobody.
    """
    files = {image.file for image in images}
    matches = match_patients(group_regex, files) if group_regex else {}
    patients = defaultdict(set)
    for image in images:
        file = image.file
        match = matches.get(file)
        names = {patient_of(file), image.in_table.patient or (match if match != file else None)}
        if owners is None or image.patient not in files:
            names.add(image.patient)
        elif not any(names):  # an external image that names nobody
            names.add(owners.get(bare_name(file)))
        for name in filter(None, names):
            patients[patient_key(name)].add(image.patient)
        if image.sha256:
            patients[image.sha256].add(image.patient)
    return patients


def patients_by_file_name(images: Iterable[ImageFile]) -> dict[str, str]:
    """Return the patient of each file name, without suffix, that identifies one.

    A name that images of several patients share (a scanner's IM000001, numbers that restart in each
    class folder) identifies nobody. Neither does any name that differs from such a name only in its
    numbers: if NORMAL has 1.png to 90.png and PNEUMONIA has 1.png to 200.png, no number identifies
    a patient.
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
    patients: Mapping[str, Collection[str]],
    other_images: Iterable[ImageFile],
) -> list[str]:
    """Return files of patients without a name that share their file name with known images.

    `patients` is the result of `patients_by_key` for the images.
    """
    contents = {image.sha256 for image in images}
    named_patients = {
        patient for key, same in patients.items() if key not in contents for patient in same
    }
    known_names = {bare_name(image.file) for image in other_images}
    return [
        image.file
        for image in images
        if image.patient not in named_patients and bare_name(image.file) in known_names
    ]
