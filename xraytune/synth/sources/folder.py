"""`source: folder`: extra images from a folder, of whatever origin.

Validation and test scores measure generalisation only if the extra images show no patient of the
validation or test images, and if no generator of the extra images was trained on such patients. A
folder of `xraytune generator sample` lists the training images of its generator in
`provenance.json`.
"""

import logging
from collections.abc import Sequence
from dataclasses import replace
from operator import attrgetter
from pathlib import Path

import numpy as np

from xraytune.base.errors import DataError, join_names
from xraytune.base.files import read_json, sha256_of
from xraytune.base.sha256_lists import DECLARED_IMAGES, read_sha256_list
from xraytune.base.tensors import explain_unreadable
from xraytune.data.folders import PROVENANCE_FILE, list_images
from xraytune.data.image_set import ImageSet, stored_image_set
from xraytune.data.images import NO_ROW, ImageFile, ImageIndex, ImageTable
from xraytune.data.index import LabelledImages
from xraytune.data.patients import EQUAL_IDS, PATIENTS_CSV
from xraytune.data.pixels import require_unbroken, store_images
from xraytune.data.prepare import HELD_OUT, RunContext
from xraytune.data.shared_patients import (
    ambiguous_files,
    patients_by_file_name,
    patients_by_key,
    shared_patients,
)
from xraytune.space.data_settings import DataSettings
from xraytune.space.load import data_settings
from xraytune.space.settings import Settings
from xraytune.space.source_settings import FolderSettings
from xraytune.synth.sources.source import BLOCK, Source, StudyImages, subset

_logger = logging.getLogger(__name__)


class Folder(Source):
    """Images of a folder; the folder is decoded once."""

    colour = "#009e73"
    settings: FolderSettings

    def seen_images_sha256(self) -> frozenset[str] | None:
        """Return the images that `folder.seen` or the provenance file lists."""
        path = self.settings.seen
        if path is not None:
            return list_seen(path)
        provenance = provenance_of(self.settings.path)
        if not provenance.is_file():
            return None
        what = "the record of the images that these were made from cannot be read"
        with explain_unreadable(what, provenance, "draw the images again"):
            return DECLARED_IMAGES.validate_python(read_json(provenance).get("train_images"))

    def count_available(self, study_images: StudyImages) -> list[int]:
        """Return the number of usable images of each class."""
        images, _ = store_folder(self.settings.path, study_images)
        return study_images.count_classes(images)

    def block(self, settings: Settings, context: RunContext, label: int, number: int) -> ImageSet:
        """Return up to 256 images of a class."""
        (images,) = self.image_sets(settings, context)
        indices = np.flatnonzero(images.labels == label)
        return subset(images, indices[number * BLOCK : (number + 1) * BLOCK])

    def image_sets(
        self, settings: Settings, context: RunContext, counts: Sequence[int] = ()
    ) -> tuple[ImageSet, ...]:
        """Return all usable images."""
        if self.settings not in context.opened:
            study = StudyImages(settings.data, context.prepared, context.cache)
            images, store = store_folder(self.settings.path, study)
            context.opened[self.settings] = stored_image_set(store, images, name="folder")
        return (context.opened[self.settings],)


def provenance_of(path: Path) -> Path:
    """Return where a folder, or the folder of a data file, has its provenance file, if any."""
    return data_settings(path, DataSettings(path=path)).path / PROVENANCE_FILE


def list_seen(path: Path) -> frozenset[str]:
    """Return the SHA-256 of the images in a folder, or of those that a file lists."""
    if path.is_dir():
        return frozenset(sha256_of(path / file) for file in list_images(path))
    return read_sha256_list(path)


def store_folder(root: Path, study_images: StudyImages) -> tuple[ImageTable, Path]:
    """Return the usable images of a folder, and the artifact of their pixels in the same order.

    Images of patients in val-A or val-B, and identical copies of images there, are left out with a
    warning. The study's `group_regex` may also match the names of extra images.

    Raises:
        DataError: The folder is malformed, has a broken image, no usable image, or an image of a
            test patient.
    """
    labelled = study_images.read_extra(root)
    group_regex = study_images.data.split.group_regex
    if study_images.data_index is not None:
        _refuse_images_of_study(root, labelled, study_images.data_index, group_regex)
    images = _without_validation_patients(
        root, labelled.images, study_images.prepared.images, group_regex
    )
    # The images are not of the study's hospital, so that they are not shifted.
    data = study_images.data.model_copy(update={"shift": None})
    store = store_images(labelled.data.path, images, data, cache=study_images.cache)
    require_unbroken(store, root, "repair or remove them")
    return images, store


def _refuse_images_of_study(
    root: Path, labelled: LabelledImages, index: ImageIndex, group_regex: str | None
) -> None:
    """Refuse (DataError) files of the study's data folder, and images of its test patients.

    Of the test folder, only names and hashes are read.
    """
    folder = labelled.data.path.resolve()
    study_files = {index.root.resolve() / image.file for image in index.images}
    known_files = [image.file for image in labelled.images if folder / image.file in study_files]
    if known_files:
        what = f"{len(known_files)} of these extra images are among the images of {index.root}"
        raise DataError(
            f"{what}: {join_names(known_files, 3)}",
            root,
            "move the extra images out of the data folder: they would count as real",
        )
    owners = patients_by_file_name(index.all_images)
    extra = patients_by_key(labelled.images, group_regex, owners=owners)
    test_patients = shared_patients(patients_by_key(index.test, group_regex), extra)
    shared = [image.file for image in index.test if image.patient in test_patients]
    if shared:
        raise DataError(
            f"{len(shared)} held-out test images have the ID, name or content of patients of "
            f"these extra images: {join_names(shared)}",
            root,
            f"remove the images of these patients, or rename files of others; {EQUAL_IDS}",
        )


def _without_validation_patients(
    root: Path, images: ImageTable, study_images: Sequence[ImageFile], group_regex: str | None
) -> ImageTable:
    """Return the images of a folder whose patients are not in val-A or val-B, with warnings.

    They are sorted by content, so that the first ones are a fair sample whatever their names.

    Raises DataError if no image is left.
    """
    owners = patients_by_file_name(study_images)
    extra = patients_by_key(images, group_regex, owners=owners)
    ambiguous = ambiguous_files(images, extra, study_images)
    if ambiguous:
        _logger.warning(
            "%s: %d extra images, such as %s, have a file name that several patients of the study "
            "share. They count as other patients; if they are copies of the study's images, list "
            "their patients in %s there",
            root,
            len(ambiguous),
            ambiguous[0],
            PATIENTS_CSV,
        )
    validation = [  # without rows of a table, as trials read them from `split.json`
        replace(image, in_table=NO_ROW) for image in study_images if image.side in HELD_OUT
    ]
    held_out = shared_patients(extra, patients_by_key(validation, group_regex))
    usable = [image for image in images if image.patient not in held_out]
    if len(usable) < len(images):
        count = f"{len(images) - len(usable)} of {len(images)} extra images"
        what = (
            f"{count} are left out: they have the ID, name or content of patients in val-A or val-B"
        )
        if not usable:
            raise DataError(
                what,
                root,
                "use images of other patients, with distinct names, such as of the train side",
            )
        _logger.warning("%s: %s; %s", root, what, EQUAL_IDS)
    return ImageTable(sorted(usable, key=attrgetter("sha256", "file")))
