"""Find what a model and images have in common: its sealed test folder, images, patients."""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import suppress
from functools import partial
from typing import Any

from xraytune.base.errors import ArtifactError, ConfigError, DataError, MachineError
from xraytune.base.files import read_jsonl
from xraytune.confirm.test_access import TEST_ACCESS_FILE, accesses, log_test_access, study_logs
from xraytune.data.images import ImageFile, content_fingerprint
from xraytune.data.index import LabelledImages
from xraytune.data.prepare import patients_seen
from xraytune.data.shared_patients import patient_aliases, patients_by_file_name, shared_patients
from xraytune.data.table import find_table
from xraytune.model.load import Bundle
from xraytune.study.folder import StudyFolder
from xraytune.synth.sources.which import seen_by
from xraytune.tasks import TASKS

_GONE = (ArtifactError, ConfigError, DataError, MachineError, OSError)


def overlap_of(
    bundle: Bundle, labelled: LabelledImages, used: Sequence[str], *, reason: str
) -> dict[str, Any]:
    """Log the access if these are the test images of the model's study.

    Count used files and patients known to the model.

    Call this before any metric can be seen. Returns the fields of `Evaluated` with these counts.
    """
    fingerprint = content_fingerprint(labelled.images)
    is_test = fingerprint == bundle.record.test_fingerprint
    test_access = _log_access(bundle, fingerprint, len(used), reason) if is_test else 0
    files = {*used}
    images = [image for image in labelled.images if image.file in files]
    contents, patients = _find_known(bundle, labelled, images, is_test=is_test)
    return {
        "known_images": sum(image.sha256 in contents for image in images),
        "known_patients": len(patients),
        "images_of_known_patients": sum(image.patient in patients for image in images),
        "opened_test": is_test,
        "test_access": test_access,
    }


def _log_access(bundle: Bundle, fingerprint: str, image_count: int, reason: str) -> int:
    """Log that the test images are scored, with the model and its study.

    Return how often that has happened.
    """
    model = bundle.path.resolve()
    logs = [model]
    about = {}
    study = StudyFolder(bundle.study.resolve()) if bundle.study else None
    if study and not (
        study.space_path.is_file() and study.prepared().test_fingerprint == fingerprint
    ):
        study = None  # it was moved
    if study:
        logs += study_logs(study.path)
        about["study"] = study.path.name
    log_test_access(
        *logs,
        command="evaluate",
        fingerprint=fingerprint,
        reason=reason,
        image_count=image_count,
        model=model,
        model_sha256=bundle.model_sha256,
        **about,
    )
    rows = read_jsonl(model / TEST_ACCESS_FILE)
    by_model = len([row for row in rows if row["fingerprint"] == fingerprint])
    return max(by_model, len(accesses(study.path, fingerprint)) if study else 0)


def _find_known(
    bundle: Bundle, labelled: LabelledImages, images: Sequence[ImageFile], *, is_test: bool
) -> tuple[set[str], set[str]]:
    """Return hashes of images that the model or its generator has seen, and patients of `images`.

    Folders that the training used may be gone by now, and then add nothing.
    """
    record = bundle.record
    known = bundle.prepared().images
    find_shared = partial(
        shared_patients, images, labelled.table, group_regex=labelled.data.split.group_regex
    )
    contents = {image.sha256 for image in known}
    patients: set[str] = set()
    further_names: set[str] = set()
    with suppress(*_GONE):
        experiment = bundle.experiment()
        parameters = experiment.parameters
        data = experiment.settings.data
        with suppress(*_GONE):
            seen = seen_by([parameters])
            contents |= seen
            patients |= patients_seen(images, seen)
        if parameters.folder:
            with suppress(*_GONE):
                folder = parameters.folder.path
                extra = TASKS[record.task].read_labelled_folder(folder, record.class_names)
                contents |= {image.sha256 for image in extra}
                owners = patients_by_file_name([*known, *images])
                names = patient_aliases(extra, find_table(folder), record.group_regex, owners)
                patients |= find_shared(extra, aliases=names)
        if not is_test:
            table = find_table(data.path, data)
            further_names = patient_aliases(known, table, record.group_regex)
    if not is_test:  # a search has checked that its test folder shares no patient with training
        owners = patients_by_file_name(known)
        patients |= find_shared(known, aliases=further_names, owners=owners)
    return contents, patients
