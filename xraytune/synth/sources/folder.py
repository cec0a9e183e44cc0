"""`source: folder`: extra images from a folder, of whatever origin.

Validation and test scores measure generalisation only if the extra images show none of their
patients, and if no generator of the extra images was trained on them. A folder of `xraytune
generator sample` lists the training images of its generator in `provenance.json`.
"""

from __future__ import annotations

import logging
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np

from xraytune.base.errors import DataError, Problem, join_names
from xraytune.base.files import read_bytes, read_json, sha256_of
from xraytune.data.folders import PROVENANCE_FILE, list_images
from xraytune.data.images import ImageFile, ImageIndex, content_fingerprint
from xraytune.data.index import read_labelled_folder, require_apart
from xraytune.data.patients import PATIENTS_CSV
from xraytune.data.prepare import (
    HELD_OUT,
    ImageSource,
    Prepared,
    RunContext,
    require_unbroken,
    store_images,
    stored_images,
)
from xraytune.data.shared_patients import (
    ambiguous_files,
    patient_aliases,
    patients_by_file_name,
    shared_patients,
)
from xraytune.data.table import find_table
from xraytune.space.load import data_settings
from xraytune.space.settings import DataSettings, FolderSettings, Parameters, Settings
from xraytune.synth.sources.source import BLOCK, Source

_logger = logging.getLogger(__name__)


class Folder(Source):
    """Images of a folder; a list of them is read once for each of these."""

    name = "folder"
    colour = "#009e73"
    noun = "extra"

    def __init__(self, parameters: Parameters) -> None:
        super().__init__(parameters)
        self._images: ImageSource | None = None

    @property
    def _folder(self) -> FolderSettings:
        assert self.parameters.folder is not None, "source: folder has a path"
        return self.parameters.folder

    def seen_images(self) -> frozenset[str] | None:
        """Return what `folder.seen` or the provenance file says."""
        seen = self._folder.seen
        provenance = self._folder.path / PROVENANCE_FILE
        if seen is not None and seen.is_dir():
            return frozenset(map(sha256_of, list_images(seen)))
        try:
            if seen is not None:
                return frozenset(read_bytes(seen, DataError).decode().split())
            recorded = read_json(provenance).get("train_images") if provenance.is_file() else None
            return None if recorded is None else frozenset(map(str, recorded))
        except (ValueError, OSError, AttributeError, TypeError) as error:
            fix = (
                "write one SHA-256 per line"
                if seen
                else "draw the images again; or remove the file"
            )
            what = "the record of the images that these were made from cannot be read"
            raise DataError(Problem(what, seen or provenance, fix)) from error

    @classmethod
    def read_input(
        cls,
        setting: str,
        path: Path,
        settings: Settings,
        prepared: Prepared,
        cache: Path,
        index: ImageIndex | None,
    ) -> str | None:
        """Return a fingerprint of the usable images; decoding them finds broken ones."""
        if setting == "seen":
            return None
        images, _ = store_folder(path, prepared, settings.data, index=index, cache=cache)
        return content_fingerprint(images)

    def count_available(self, settings: Settings, prepared: Prepared, cache: Path) -> list[int]:
        """Return the number of usable images of each class."""
        images, _ = store_folder(self._folder.path, prepared, settings.data, cache=cache)
        labels = [image.label for image in images]
        counts = np.bincount(labels, minlength=len(prepared.class_names))
        return [*map(int, counts)]

    def block(
        self, settings: Settings, context: RunContext, label: int, number: int
    ) -> ImageSource:
        """Return up to 256 images of a class."""
        (images,) = self.images(settings, context)
        places = np.flatnonzero(images.labels == label)[number * BLOCK : (number + 1) * BLOCK]
        return replace(
            images,
            rows=images.rows[places],
            labels=images.labels[places],
            inputs={**images.inputs, "rows": places.tolist()},
            findings=None if images.findings is None else images.findings[places],
        )

    def images(
        self, settings: Settings, context: RunContext, counts: Sequence[int] = ()
    ) -> tuple[ImageSource, ...]:
        """Return all usable images."""
        if self._images is None:
            images, store = store_folder(
                self._folder.path, context.prepared, settings.data, cache=context.cache
            )
            title = "images of the extra folder"
            self._images = stored_images(store, images, name="folder", title=title)
        return (self._images,)


def store_folder(
    root: Path,
    prepared: Prepared,
    data: DataSettings,
    *,
    index: ImageIndex | None = None,
    cache: Path,
) -> tuple[tuple[ImageFile, ...], Path]:
    """Return the usable images of a folder, and the artifact of their pixels in the same order.

    Images of patients in val-A or val-B, and identical copies of images there, are left out with a
    warning. The study's `group_regex` may also match the names of extra images. Patients of the
    held-out test folder are refused if `index`, the study's data folder, is given.

    Raises:
        DataError: The folder is malformed, has a broken image, no usable image, or an image of a
            test patient.
    """
    listed = read_labelled_folder(
        root, prepared.class_names, pairs=prepared.has_masks, findings=prepared.findings
    )
    folder = data_settings(root, DataSettings(path=root)).path
    if index is not None:
        require_apart(index, folder, listed)
        _require_no_test_patients(listed, root, index, data.split.group_regex)
    usable = _without_validation(listed, root, prepared, data.split.group_regex)
    # Sorted by content, so that the first images are a fair sample whatever the files are called.
    images = tuple(sorted(usable, key=lambda image: (image.sha256, image.file)))
    data = data.model_copy(update={"shift": None})  # theirs, not those of the study's hospital
    store = store_images(folder, images, data, cache=cache)
    require_unbroken(store, root, "repair or remove them")
    return images, store


def _require_no_test_patients(
    images: Sequence[ImageFile], root: Path, index: ImageIndex, group_regex: str | None
) -> None:
    """Refuse patients of the test folder; of it, only names and hashes are read."""
    aliases = patient_aliases(
        images, find_table(root), group_regex, patients_by_file_name([*index.images, *index.test])
    )
    known = shared_patients(
        index.test, index.table, images, group_regex=group_regex, aliases=aliases
    )
    shared = [image.file for image in index.test if image.patient in known]
    if shared:
        names = join_names(shared)
        what = f"{len(shared)} held-out test images are of patients of these extra images: {names}"
        fix = "remove the images of these patients, or rename files of other patients"
        raise DataError(Problem(what, root, fix))


def _without_validation(
    listed: tuple[ImageFile, ...], root: Path, prepared: Prepared, group_regex: str | None
) -> tuple[ImageFile, ...]:
    validation = [image for image in prepared.images if image.side in HELD_OUT]
    owners = patients_by_file_name(prepared.images)
    table = find_table(root)
    ambiguous = ambiguous_files(listed, table, prepared.images, group_regex, owners)
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
    held_out = shared_patients(listed, table, validation, group_regex=group_regex, owners=owners)
    usable = tuple(image for image in listed if image.patient not in held_out)
    if len(usable) == len(listed):
        return usable
    count = len(listed) - len(usable)
    of_all = f"{count} of {len(listed)} extra images"
    what = f"{of_all} are left out: their patients are in val-A or val-B"
    if not usable:
        fix = "use images of other patients, such as those of the train side, with distinct names"
        raise DataError(Problem(what, root, fix))
    _logger.warning("%s: %s", root, what)
    return usable
