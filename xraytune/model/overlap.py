"""Find what a model and the images it is evaluated on have in common: its sealed test folder, its images, its patients."""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import suppress
from functools import partial
from typing import TYPE_CHECKING, Any

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

if TYPE_CHECKING:
    pass

_GONE = (ArtifactError, ConfigError, DataError, MachineError, OSError)


def overlap_of(
    bundle: Bundle, labelled: LabelledImages, used: Sequence[str], *, reason: str
) -> dict[str, Any]:
    """Log the access if these are the test images of the model's study; count used files and patients known to the model.

    Call this before any metric can be seen. Returns the fields of `Evaluated` with these counts.
    """
    fingerprint, files = content_fingerprint(labelled.images), {*used}
    images = [image for image in labelled.images if image.file in files]
    is_test = fingerprint == bundle.record.test_fingerprint
    test_access = 0
    if is_test:
        model = bundle.path.resolve()
        logs, about = [model], {}
        study = StudyFolder(bundle.study.resolve()) if bundle.study else None
        if (
            study
            and study.space_path.is_file()
            and study.prepared().test_fingerprint == fingerprint
        ):  # else it was moved
            logs += study_logs(study.path)
            about = {"study": study.path.name}
        log_test_access(
            *logs,
            command="evaluate",
            fingerprint=fingerprint,
            reason=reason,
            image_count=len(used),
            model=model,
            model_sha256=bundle.model_sha256,
            **about,
        )
        test_access = sum(
            row["fingerprint"] == fingerprint for row in read_jsonl(model / TEST_ACCESS_FILE)
        )
        if study and about:
            test_access = max(test_access, len(accesses(study.path, fingerprint)))
    contents, patients = _known(bundle, labelled, images, is_test=is_test)
    return {
        "known_images": sum(image.sha256 in contents for image in images),
        "known_patients": len(patients),
        "images_of_known_patients": sum(image.patient in patients for image in images),
        "opened_test": is_test,
        "test_access": test_access,
    }


def _known(
    bundle: Bundle, labelled: LabelledImages, images: Sequence[ImageFile], *, is_test: bool
) -> tuple[set[str], set[str]]:
    """Return the hashes of images that the model or its generator has seen, and the patients of `images` among theirs.

    Folders that the training used may be gone by now, and then add nothing.
    """
    record, known = bundle.record, bundle.prepared().images
    known_in = partial(
        shared_patients, images, labelled.table, group_regex=labelled.data.split.group_regex
    )
    experiment = None
    seen: frozenset[str] = frozenset()
    extra: tuple[ImageFile, ...] = ()
    patients: set[str] = set()
    further_names: set[str] = set()
    with suppress(*_GONE):
        experiment = bundle.experiment()
        seen = seen_by([experiment.parameters])
        patients |= patients_seen(images, seen)
    folder = experiment.parameters.folder if experiment else None
    if folder:
        with suppress(*_GONE):
            extra = TASKS[record.task].read_labelled_folder(folder.path, record.class_names)
            owners = patients_by_file_name([*known, *images])
            names = patient_aliases(extra, find_table(folder.path), record.group_regex, owners)
            patients |= known_in(extra, aliases=names)
    if (
        not is_test
    ):  # the search has checked that the sealed test folder shares no patient with training
        if experiment:
            data = experiment.settings.data
            with suppress(*_GONE):
                further_names = patient_aliases(
                    known, find_table(data.path, data), record.group_regex
                )
        patients |= known_in(known, aliases=further_names, owners=patients_by_file_name(known))
    return {image.sha256 for image in (*known, *extra)} | seen, patients
