"""Find the sealed images, known images and known patients that a model shares with a folder."""

from collections.abc import Iterable, Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any

from xraytune.base.errors import XraytuneError
from xraytune.base.files import require_writable, sha256_of
from xraytune.data.images import ImageFile
from xraytune.data.index import LabelledImages, read_labelled
from xraytune.data.prepare import patients_seen
from xraytune.data.shared_patients import patients_by_file_name, patients_by_key, shared_patients
from xraytune.data.table import add_rows, find_table
from xraytune.space.encoders import MODEL_FILE
from xraytune.study.access_log import accesses, folders_with_logs, log_test_access
from xraytune.study.folder import StudyFolder
from xraytune.synth.sources.registry import seen_by
from xraytune.trial.saved_model import Bundle


def overlap_of(
    bundle: Bundle, labelled: LabelledImages, scored_files: Sequence[str], *, reason: str
) -> dict[str, Any]:
    """Log the access if any images are sealed, and count the images that the model knows.

    The model knows the files and patients of its training, of its generator, and of its folder of
    extra images. Call this before any metric can be seen. Returns the fields of `Evaluation` with
    these counts.
    """
    record = bundle.record
    prepared = bundle.prepared()
    files = {*scored_files}
    images = [image for image in labelled.images if image.file in files]
    test_access = log_sealed(bundle, images, command="evaluate", reason=reason)
    study_images = prepared.images
    contents = {image.sha256 for image in study_images}
    patients: set[str] = set()
    regex = labelled.data.split.group_regex
    errors = (XraytuneError, OSError)  # folders of the training may be gone, and then add nothing
    with suppress(*errors):
        seen_sha256 = seen_by([bundle.experiment().parameters])
        contents |= seen_sha256
        patients |= patients_seen(images, seen_sha256)
    with suppress(*errors):
        folder = bundle.experiment().parameters.folder
        if folder:
            extra = read_labelled(
                folder.path, record.class_names, record.task, all_parts=True
            ).images
            contents |= {image.sha256 for image in extra}
            owners = patients_by_file_name([*study_images, *images])
            keys_of_extra = patients_by_key(extra, record.group_regex, owners=owners)
            patients |= shared_patients(patients_by_key(images, regex), keys_of_extra)
    is_test = {image.short_sha256 for image in images} <= {*prepared.test_contents}
    if not is_test:  # a search has checked that its test folder shares no patient with training
        with suppress(*errors):
            study_images = add_rows(study_images, find_table(bundle.experiment().settings.data))
        keys = patients_by_key(images, regex, owners=patients_by_file_name(study_images))
        patients |= shared_patients(keys, patients_by_key(study_images, record.group_regex))
    return {
        "known_images": sum(image.sha256 in contents for image in images),
        "known_patients": len(patients),
        "images_of_known_patients": sum(image.patient in patients for image in images),
        "test_access": test_access,
    }


def log_sealed(bundle: Bundle, images: Iterable[ImageFile], *, command: str, reason: str) -> int:
    """Log that images are scored, before any result can be seen, if some of them are sealed.

    The logs are those of the model and, if its study is there, of the study. Returns how often
    these sealed images have been scored, or 0 if there are none.

    Raises:
        MachineError: The log cannot be written.
    """
    contents, folders = sealed_among(bundle, images)
    if not contents:
        return 0
    model = bundle.path.resolve()
    log_test_access(
        *folders,
        command=command,
        contents=contents,
        reason=reason,
        model=model,
        model_sha256=sha256_of(model / MODEL_FILE),
        **({"study": folders[1].name} if len(folders) > 1 else {}),
    )
    return max(len(accesses(folder, contents)) for folder in folders[:2])


def sealed_among(bundle: Bundle, images: Iterable[ImageFile]) -> tuple[set[str], tuple[Path, ...]]:
    """Return which images `confirm` may score, by `short_sha256`, and the folders of their logs.

    These are the images of the test folder. If the model's study is there, they are all images
    except those that its search trained or validated on, since they may show unused patients, or
    come from another hospital.

    Raises:
        MachineError: A log cannot be written.
    """
    folders: tuple[Path, ...] = (bundle.path.resolve(),)
    tested = {image.short_sha256 for image in images}
    sealed = {*bundle.prepared().test_contents}
    study_folder = StudyFolder(bundle.study.resolve()) if bundle.study else None
    if study_folder and study_folder.space_path.is_file():
        folders += folders_with_logs(study_folder.path)
        prepared = study_folder.prepared()
        sealed |= {*prepared.test_contents}
        # These are images of unused patients, or any others, which `confirm --test` may score.
        sealed |= tested - {image.short_sha256 for image in prepared.images}
    contents = tested & sealed
    if contents:
        for folder in folders:
            require_writable(folder)
    return contents, folders
