"""The images that a confirmation is judged on, the test folder or a second hospital's, checked before they are scored."""

from __future__ import annotations

import hashlib
from collections.abc import Collection, Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from xraytune.base.errors import DataError, Problem, StudyError, join_names
from xraytune.base.records import Progress, ignore_progress
from xraytune.confirm.test_access import last_access
from xraytune.data.index import (
    ImageFile,
    LabelledImages,
    content_fingerprint,
    read_index,
    read_labelled,
    read_labelled_folder,
)
from xraytune.data.patients import PATIENTS_CSV
from xraytune.data.prepare import (
    ImageSource,
    Prepared,
    PreparedImage,
    missing_images,
    require_unbroken,
    store_images,
    stored_images,
)
from xraytune.data.shared_patients import patient_aliases, patients_by_file_name, shared_patients
from xraytune.data.table import find_table
from xraytune.space.settings import DataSettings, Settings
from xraytune.stats.classification import Labels
from xraytune.trial.task import task_of

TEST = "test"
_FEWEST_PATIENTS = 5
"""The fewest patients for an interval: of each class, or in total for segmentation."""
_REMOVE = f"remove them, or list them in {PATIENTS_CSV} there as other patients"


@dataclass(frozen=True, slots=True, kw_only=True)
class SealedTest(LabelledImages):
    """Images that no network was trained or selected on: the test folder or (`is_external`) a second hospital's."""

    is_external: bool = False

    @property
    def command(self) -> str:
        """The command that scores them, in the test-set access log."""
        return "confirm --external" if self.is_external else "confirm"

    @property
    def side(self) -> str:
        """The name of the scores on them."""
        return f"external_{self.fingerprint}" if self.is_external else TEST

    @property
    def fingerprint(self) -> str:
        """The fingerprint of their content; a copied or renamed folder has the same one."""
        return content_fingerprint(self.images)

    @property
    def labels(self) -> Labels:
        """Class numbers, int64 [N]."""
        return np.array([image.label for image in self.images], dtype=np.int64)

    @property
    def patients(self) -> tuple[str, ...]:
        """The patient of each image."""
        return tuple(image.patient for image in self.images)

    @property
    def order(self) -> str:
        """A hash (32 hex digits) of the content in the order of the file names, which is also the order of the scores."""
        content = "\n".join(f"{image.label} {image.sha256}{image.masks_sha256}" for image in self.images)
        return hashlib.sha256(content.encode()).hexdigest()[:32]


def find_test(
    settings: Settings,
    prepared: Prepared,
    source: Path | None,
    *,
    sealed: SealedTest | None = None,
    extra: Collection[Path] = (),
    on_progress: Progress = ignore_progress,
) -> SealedTest:
    """Return the study's test folder or, if it has none, `source`: class folders or a data file (`read_labelled`).

    With `sealed`, the study's test folder, `source` is a second hospital, none of whose images is in it. No patient may be
    in `extra`, the folders of extra images that finalists are trained on.

    Raises:
        DataError: There is no test folder, it shares patients or files with the training images, or a class is missing or
            has too few patients.
        StudyError: The images changed since the search, or `source` was given for a study with a test folder.
    """
    if sealed is None and prepared.test_fingerprint is not None and source is not None:
        raise StudyError(Problem("the study has its own test folder", source, "omit --test to use the study's own"))
    if prepared.test_fingerprint is None and source is None:
        fix = "give images of other patients: xraytune confirm STUDY --test DIR"
        raise DataError(Problem("the study has no test/ folder", settings.data.path, fix))
    task, group_regex = task_of(settings), settings.data.split.group_regex
    index = read_index(settings.data, pairs=task.has_pairs, on_progress=on_progress)
    if missing := missing_images(prepared, index.images):
        what = f"{len(missing)} images were changed or removed since the search: {join_names(missing)}"
        raise StudyError(Problem(what, settings.data.path, "restore them, or start a new study"))
    if source is None:
        images = SealedTest(data=settings.data, table=index.table, images=index.test)
        if images.fingerprint != prepared.test_fingerprint:
            fix = "restore the test images, or start a new study"
            raise StudyError(Problem("the test folder changed since the search", settings.data.path, fix))
    else:
        aliases = patient_aliases(prepared.images, index.table, group_regex)
        labelled = read_labelled(
            source, prepared.class_names, pairs=task.has_pairs, group_regex=group_regex, on_progress=on_progress
        )
        images = SealedTest(
            data=labelled.data, table=labelled.table, images=labelled.images, is_external=sealed is not None
        )
        _refuse_patients_of(prepared.images, aliases, images, _REMOVE, owners=patients_by_file_name(index.images))
        shared = {image.sha256 for image in sealed.images} if sealed else set()
        if known := [image.file for image in images.images if image.sha256 in shared]:
            what = f"{len(known)} images are in the study's test folder too: {join_names(known)}"
            raise DataError(Problem(what, source, "give images of another hospital"))
    owners = patients_by_file_name([*index.images, *images.images])
    for folder in extra:
        extra_images = read_labelled_folder(folder, prepared.class_names, pairs=task.has_pairs)
        aliases = patient_aliases(extra_images, find_table(folder), group_regex, owners)
        # The study's own test folder must not change.
        fix = f"start a new search without them in {folder}" if source is None else _REMOVE
        _refuse_patients_of(extra_images, aliases, images, fix)
    _require_patients(prepared, images)
    return images


def _refuse_patients_of(
    known: Iterable[ImageFile | PreparedImage],
    aliases: Collection[str],
    images: SealedTest,
    fix: str,
    *,
    owners: Mapping[str, str] | None = None,
) -> None:
    """Refuse (DataError) patients who also have `known` images; `aliases` and `owners` as for `shared_patients`."""
    group_regex = images.data.split.group_regex
    patients = shared_patients(
        images.images, images.table, known, group_regex=group_regex, aliases=aliases, owners=owners
    )
    if shared := [image.file for image in images.images if image.patient in patients]:
        what = f"{len(shared)} test images belong to patients used for training or validation: {join_names(shared)}"
        raise DataError(Problem(what, images.data.path, f"{fix}: results on patients seen in training are biased"))


def _require_patients(prepared: Prepared, images: SealedTest) -> None:
    problems = []
    for label, name in enumerate(prepared.class_names):
        count = len({image.patient for image in images.images if image.label == label})
        if count < _FEWEST_PATIENTS:
            of_class = f" of class {name}" if len(prepared.class_names) > 1 else ""
            what = f"patients{of_class} in the test folder: {count}; an interval needs {_FEWEST_PATIENTS} or more"
            problems.append(Problem(what, images.data.path, "add test images of other patients"))
    if problems:
        raise DataError(*problems)


def require_scored_test(sealed: SealedTest, log: Path) -> None:
    """Refuse (StudyError) another folder than that of the log's last confirmation, or images in another order."""
    access = last_access(log, "confirm")
    if access is None:
        return
    if access["fingerprint"] != sealed.fingerprint:
        fix = "use that folder, or move confirm/ away to start from scratch"
        raise StudyError(Problem("this confirmation was scored on another test folder", sealed.data.path, fix))
    if access["order"] != sealed.order:
        what = "test images were renamed since this confirmation scored them, which changed their order"
        fix = "restore their names, or move confirm/ away to start from scratch"
        raise StudyError(Problem(what, sealed.data.path, fix))


def load_test_images(
    sealed: SealedTest,
    data: DataSettings,
    cache: Path,
    *,
    on_progress: Progress = ignore_progress,
) -> ImageSource:
    """Decode sealed images, none of them broken, with the study's `data` settings. Callers must log the access first."""
    root = sealed.data.path
    store = store_images(root, sealed.images, data, cache=cache, on_progress=on_progress)
    require_unbroken(store, root, "repair them: a test folder is used as a whole")
    return stored_images(store, sealed.images, name="external" if sealed.is_external else "test")
