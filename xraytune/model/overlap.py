"""Find what a model and images have in common: its sealed test folder, images, patients."""

from collections.abc import Sequence
from contextlib import suppress
from typing import Any

from xraytune.base.errors import XraytuneError
from xraytune.base.files import sha256_of
from xraytune.confirm.test_access import accesses, log_test_access, study_logs
from xraytune.data.images import content_fingerprint
from xraytune.data.index import LabelledImages
from xraytune.data.prepare import patients_seen
from xraytune.data.shared_patients import patients_by_file_name, patients_by_key, shared_patients
from xraytune.data.table import add_rows, find_table
from xraytune.model.load import MODEL_FILE, Bundle
from xraytune.study.folder import StudyFolder
from xraytune.synth.sources.which import seen_by
from xraytune.tasks import TASKS


def overlap_of(
    bundle: Bundle, labelled: LabelledImages, used: Sequence[str], *, reason: str
) -> dict[str, Any]:
    """Log the access if these are the test images of the model's study.

    Count used files and patients known to the model, its generator or its folder of extra images.
    Call this before any metric can be seen. Returns the fields of `Evaluation` with these counts.
    """
    record = bundle.record
    fingerprint = content_fingerprint(labelled.images)
    is_test = fingerprint == record.test_fingerprint
    test_access = _log_access(bundle, fingerprint, len(used), reason) if is_test else 0
    files = {*used}
    images = [image for image in labelled.images if image.file in files]
    known = bundle.prepared().images
    contents = {image.sha256 for image in known}
    patients: set[str] = set()
    regex = labelled.data.split.group_regex
    gone = (XraytuneError, OSError)  # folders of the training may be gone, and then add nothing
    with suppress(*gone):
        parameters = bundle.experiment().parameters
        seen = seen_by([parameters])
        contents |= seen
        patients |= patients_seen(images, seen)
        if parameters.folder:
            folder = parameters.folder.path
            task = TASKS[record.task]
            extra = task.read_labelled(folder, record.class_names, all_parts=True).images
            contents |= {image.sha256 for image in extra}
            owners = patients_by_file_name([*known, *images])
            others = patients_by_key(extra, record.group_regex, owners=owners)
            patients |= shared_patients(patients_by_key(images, regex), others)
    if not is_test:  # a search has checked that its test folder shares no patient with training
        with suppress(*gone):
            known = add_rows(known, find_table(bundle.experiment().settings.data))
        keys = patients_by_key(images, regex, owners=patients_by_file_name(known))
        patients |= shared_patients(keys, patients_by_key(known, record.group_regex))
    return {
        "known_images": sum(image.sha256 in contents for image in images),
        "known_patients": len(patients),
        "images_of_known_patients": sum(image.patient in patients for image in images),
        "test_access": test_access,
    }


def _log_access(bundle: Bundle, fingerprint: str, image_count: int, reason: str) -> int:
    """Log that the test images are scored, with the model and its study.

    Return how often that has happened.
    """
    model = bundle.path.resolve()
    folders = [model]
    about = {}
    study = StudyFolder(bundle.study.resolve()) if bundle.study else None
    if study and study.space_path.is_file():
        if study.prepared().test_fingerprint == fingerprint:
            folders += study_logs(study.path)
            about["study"] = study.path.name
    log_test_access(
        *folders,
        command="evaluate",
        fingerprint=fingerprint,
        reason=reason,
        image_count=image_count,
        model=model,
        model_sha256=sha256_of(model / MODEL_FILE),
        **about,
    )
    return max(len(accesses(folder, fingerprint)) for folder in folders[:2])
