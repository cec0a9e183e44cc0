"""The images that a confirmation is judged on, checked before they are scored.

They are of unused patients, of the test folder, or of a second hospital.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable, Mapping
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path

from xraytune.base.errors import DataError, Problem, StudyError, counted, join_names
from xraytune.base.records import Progress, ignore_progress
from xraytune.confirm.arms import CONFIRM_FOLDER, TestKind
from xraytune.confirm.draws import TEST, divide
from xraytune.confirm.test_access import last_access
from xraytune.data.changes import RESTORE, require_same_data
from xraytune.data.findings import targets_of
from xraytune.data.images import ImageFile
from xraytune.data.index import (
    ImageIndex,
    LabelledImages,
    content_fingerprint,
    patients_fingerprint,
    read_index,
    read_labelled,
    read_labelled_folder,
)
from xraytune.data.patients import PATIENTS_CSV
from xraytune.data.prepare import (
    ImageSource,
    Prepared,
    patients_seen,
    require_unbroken,
    side_images,
    store_images,
    stored_images,
)
from xraytune.data.shared_patients import patient_aliases, patients_by_file_name, shared_patients
from xraytune.data.sides import too_few_tested
from xraytune.data.table import find_table
from xraytune.space.settings import DataSettings, Parameters, Settings
from xraytune.stats.classification import Labels
from xraytune.synth.seen import seen_by, seen_images
from xraytune.trial.task import task_of

_GIVE_TEST = "give images of other patients: xraytune confirm STUDY --test DIR"
_REMOVE = f"remove them, or list them in {PATIENTS_CSV} there as other patients"


@dataclass(frozen=True, slots=True, kw_only=True)
class SealedTest(LabelledImages):
    """Images that no network was trained or selected on.

    Attributes:
        name: Of their folder.
        is_unused: Whether they are of unused patients.
    """

    name: str
    is_unused: bool = False

    @property
    def fingerprint(self) -> str:
        """The fingerprint of their content; a copied or renamed folder has the same one."""
        return content_fingerprint(self.images)

    @property
    def contents(self) -> tuple[str, ...]:
        """A short hash of each image of unused patients, since another study may score some of the same images."""
        return tuple(image.sha256[:16] for image in self.images) if self.is_unused else ()

    @property
    def targets(self) -> Labels:
        """The labels, or findings, int64 [N, C]."""
        return targets_of([image.label for image in self.images], [image.findings for image in self.images])

    @property
    def patients(self) -> tuple[str, ...]:
        """The patient of each image."""
        return tuple(image.patient for image in self.images)

    @property
    def order(self) -> str:
        """A hash (32 hex digits) of the content in the order of the file names, which is also the order of the scores."""
        return content_fingerprint(self.images, in_order=True)


@dataclass(frozen=True, slots=True, kw_only=True)
class TestChoice:
    """The images that a confirmation scores.

    Attributes:
        prepared: The study's images; if unused patients are scored, divided into draws.
        sealed: The images that are scored.
        notes: What cannot be done, and why.
    """

    __test__ = False
    prepared: Prepared
    sealed: SealedTest
    notes: tuple[str, ...] = ()

    @property
    def kind(self) -> TestKind:
        """What the verdict is about."""
        if self.sealed.is_unused:
            return "unused"
        return "draws" if any(image.side == "draw_0" for image in self.prepared.images) else "folder"


def choose_test(
    settings: Settings,
    prepared: Prepared,
    cache: Path,
    *,
    replicates: int,
    compared: Iterable[Parameters] = (),
    planned: TestKind | None = None,
    test: Path | None = None,
    on_progress: Progress = ignore_progress,
) -> TestChoice:
    """Choose and check the images that a confirmation of the `compared` finalists scores.

    `planned` is what an earlier call chose; `test` is as for `confirm`.

    Raises:
        DataError: There are none, they share patients or files with the training images, or too few are of a class.
        StudyError: The images changed since the search, or `test` was given for a study with a test folder.
    """
    has_test, where, notes = prepared.test_fingerprint is not None, settings.data.path, list[str]()
    if test and planned == "unused":
        fix = f"omit --test, or move {CONFIRM_FOLDER}/ away to start over"
        raise StudyError(Problem("this confirmation scores unused patients", test, fix))
    if test and has_test:
        raise StudyError(Problem("the study has its own test folder", test, "omit --test to use the study's own"))
    index = read_index(settings.data, pairs=task_of(settings).has_pairs, on_progress=on_progress)
    require_same_data(prepared, index, where)
    if has_test and index.test_fingerprint != prepared.test_fingerprint:
        raise StudyError(Problem("the test folder changed since the search", where, RESTORE))
    if has_test and prepared.test_patients not in (None, patients_fingerprint(index.test)):
        raise StudyError(Problem("the patients of the test folder changed since the search", where, RESTORE))
    compared = [*compared]
    seen = seen_by(compared)
    if known := patients_seen((*index.images, *index.test), seen):
        notes.append(f"{counted(len(known), 'patient')} whose images a generator has seen: neither drawn nor scored")
    own = SealedTest(name=TEST, data=settings.data, table=index.table, images=_unseen(index.test, seen))
    kind = planned or ("folder" if test else settings.confirm.test)
    sealed: SealedTest | None = None
    divided = prepared
    extra = sorted({parameters.folder.path for parameters in compared if parameters.folder})
    if any(seen_images(parameters) is None for parameters in compared) and not planned:
        what = "it is not known which images the extra ones were made from, so leakage cannot be excluded"
        if kind == "unused":
            instead = "use confirm.test: folder" if has_test else _GIVE_TEST
            raise DataError(Problem(what, "confirm.test", f"declare them as `seen`, or {instead}"))
        kind = "folder"
        notes.append(f"the test folder is scored: {what}")
    make_draws = partial(divide, prepared, settings, index, replicates, cache=cache, seen=seen)
    if kind in ("auto", "unused") and (kind == "unused" or settings.data.train_patients):
        try:
            divided = make_draws(fewest=settings.confirm.min_patients)
            tested = {image.file for image in divided.images if image.side == TEST}
            images = tuple(image for image in index.images if image.file in tested)
            sealed = replace(own, images=images, is_unused=True)
            _require_enough(sealed, prepared)
        except DataError as error:
            if kind == "unused":
                raise
            if not (has_test or test):
                fix = f"{error.problems[0].fix}, or {_GIVE_TEST}"
                raise DataError(Problem(error.problems[0].what, where, fix)) from error
            sealed, divided = None, prepared
            notes.append(f"the test folder is scored: {error.problems[0].what}")
    if sealed is None and not (has_test or test):
        raise DataError(Problem("the study has no test/ folder", where, _GIVE_TEST))
    if sealed is None and settings.data.train_patients and planned != "folder":
        try:
            divided = make_draws()
        except DataError as error:
            if planned:
                raise
            notes.append(f"all replicates train on the same patients: {error.problems[0].what}")
    if sealed is None and test:
        sealed = given_test(settings, divided, index, test, seen=seen, on_progress=on_progress)
    sealed = sealed or own
    require_testable(sealed, settings=settings, prepared=prepared, index=index, extra=extra)
    return TestChoice(prepared=divided, sealed=sealed, notes=tuple(notes))


def given_test(
    settings: Settings,
    prepared: Prepared,
    index: ImageIndex,
    source: Path,
    *,
    seen: Collection[str] = (),
    on_progress: Progress = ignore_progress,
) -> SealedTest:
    """Return the images of `source`, class folders or a data file (`read_labelled`), whose patients are not in the study.

    Patients with images in `seen`, given as SHA-256, are left out.

    Raises:
        DataError: The images share patients or files with the study.
    """
    task, group_regex = task_of(settings), settings.data.split.group_regex
    aliases = patient_aliases(prepared.images, index.table, group_regex)
    labelled = read_labelled(
        source,
        prepared.class_names,
        pairs=task.has_pairs,
        findings=prepared.findings,
        group_regex=group_regex,
        on_progress=on_progress,
    )
    images = SealedTest(
        name=source.resolve().name,
        data=labelled.data,
        table=labelled.table,
        images=_unseen(labelled.images, seen),
    )
    _refuse_patients_of(prepared.images, aliases, images, _REMOVE, owners=patients_by_file_name(index.images))
    return images


def _unseen(images: tuple[ImageFile, ...], seen: Collection[str]) -> tuple[ImageFile, ...]:
    """Leave out the patients whose images a generator has seen."""
    known = patients_seen(images, seen)
    return tuple(image for image in images if image.patient not in known)


def require_testable(
    images: SealedTest, *, settings: Settings, prepared: Prepared, index: ImageIndex, extra: Collection[Path]
) -> None:
    """Refuse (DataError) too few patients of a class, or patients in `extra`, the folders that finalists are trained on."""
    task, group_regex = task_of(settings), settings.data.split.group_regex
    owners = patients_by_file_name([*index.images, *images.images])
    for folder in extra:
        pairs, findings = task.has_pairs, prepared.findings
        extra_images = read_labelled_folder(folder, prepared.class_names, pairs=pairs, findings=findings)
        aliases = patient_aliases(extra_images, find_table(folder), group_regex, owners)
        # The study's own images must not change.
        is_own = images.data.path == settings.data.path
        fix = f"start a new search without them in {folder}" if is_own else _REMOVE
        _refuse_patients_of(extra_images, aliases, images, fix)
    _require_enough(images, prepared)


def _require_enough(images: SealedTest, prepared: Prepared) -> None:
    if few := too_few_tested(images.images, prepared.outputs):
        raise DataError(Problem(few, images.data.path, "add test images of other patients"))


def _refuse_patients_of(
    known: Iterable[ImageFile],
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


def require_scored_test(sealed: SealedTest, log: Path) -> None:
    """Refuse (StudyError) other images than those of the log's last confirmation, or the same ones in another order."""
    access = last_access(log, "confirm")
    if access is None:
        return
    if access["fingerprint"] != sealed.fingerprint:
        fix = "use those, or move confirm/ away to start from scratch"
        raise StudyError(Problem("this confirmation was scored on other test images", sealed.data.path, fix))
    if access["order"] != sealed.order:
        what = "test images were renamed since this confirmation scored them, which changed their order"
        fix = "restore their names, or move confirm/ away to start from scratch"
        raise StudyError(Problem(what, sealed.data.path, fix))


def load_test_images(
    sealed: SealedTest,
    prepared: Prepared,
    data: DataSettings,
    cache: Path,
    *,
    on_progress: Progress = ignore_progress,
) -> ImageSource:
    """Decode sealed images, none of them broken, with the study's `data` settings. Callers must log the access first."""
    if sealed.is_unused:  # decoded by the search, with all others of the folder
        return side_images(TEST, prepared, cache)
    root = sealed.data.path
    store = store_images(root, sealed.images, data, cache=cache, on_progress=on_progress)
    require_unbroken(store, root, "repair them: a test folder is used as a whole")
    return stored_images(store, sealed.images, name="test")
