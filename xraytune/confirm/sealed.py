"""The images that a confirmation is judged on, checked before they are scored: of unused patients, or of a test folder.

Unused patients are those of the training folder that `data.train_patients` left out. They are
divided into a draw for each replicate, with as many patients as the search trained on, and a test
side. Draws and test side have about the class shares of the folder, and share no patient.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable, Mapping
from dataclasses import dataclass, replace
from itertools import chain
from pathlib import Path

from xraytune.base.errors import DataError, Problem, StudyError, counted, join_names
from xraytune.base.records import Progress, ignore_progress
from xraytune.confirm.arms import CONFIRM_FOLDER, TestKind
from xraytune.confirm.test_access import last_access
from xraytune.data.changes import RESTORE, require_same_data
from xraytune.data.images import ImageFile, ImageIndex, Images, content_fingerprint
from xraytune.data.index import (
    LabelledImages,
    patients_fingerprint,
)
from xraytune.data.patients import PATIENTS_CSV
from xraytune.data.prepare import (
    ImageSource,
    Prepared,
    patients_seen,
    prepare_index,
    require_unbroken,
    side_images,
    store_images,
    stored_images,
)
from xraytune.data.shared_patients import patient_aliases, patients_by_file_name, shared_patients
from xraytune.data.sides import too_few_tested, too_few_unused
from xraytune.data.split import nested_order
from xraytune.data.table import find_table
from xraytune.space.settings import DataSettings, Parameters, Settings
from xraytune.stats.classification import Labels
from xraytune.synth.sources.which import seen_by, source_of
from xraytune.tasks import task_of

TEST = "test"
"""The side of the unused patients who are scored."""
_GIVE_TEST = "give images of other patients: xraytune confirm STUDY --test DIR"
_REMOVE = f"remove them, or list them in {PATIENTS_CSV} there as other patients"
_PREFERRED: dict[str, tuple[TestKind, ...]] = {
    "auto": ("unused", "draws", "folder"),
    "unused": ("unused",),
    "folder": ("draws", "folder"),
}
"""By `confirm.test`: what is scored and trained on, as far as there are enough patients."""
_INSTEAD = {
    "unused": "the test folder is scored",
    "draws": "all replicates train on the same patients",
}


@dataclass(frozen=True, slots=True, kw_only=True)
class SealedTest(LabelledImages):
    """Images that no network was trained or selected on; `is_unused` if they are of unused patients."""

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
        return self.images.targets

    @property
    def patients(self) -> tuple[str, ...]:
        """The patient of each image."""
        return self.images.patients

    @property
    def order(self) -> str:
        """A hash (32 hex digits) of the content in the order of the file names, which is also the order of the scores."""
        return content_fingerprint(self.images, in_order=True)


@dataclass(frozen=True, slots=True, kw_only=True)
class TestChoice:
    """The images that a confirmation scores.

    Attributes:
        kind: What is scored, and what replicates are trained on.
        prepared: The study's images; with draws, divided into them.
        sealed: The images that are scored.
        notes: What cannot be done, and why.
    """

    __test__ = False
    kind: TestKind
    prepared: Prepared
    sealed: SealedTest
    notes: tuple[str, ...] = ()


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
        DataError: There are none, they share patients or files with the training images, or too few
            are of a class.
        StudyError: The images changed since the search, or `test` was given for a study with a test
            folder.
    """
    compared = [*compared]
    where = settings.data.path
    index = _read_unchanged(settings, prepared, on_progress)
    has_test = prepared.test_fingerprint is not None
    if test and planned == "unused":
        fix = f"omit --test, or move {CONFIRM_FOLDER}/ away to start over"
        raise StudyError(Problem("this confirmation scores unused patients", test, fix))
    if test and has_test:
        raise StudyError(
            Problem("the study has its own test folder", test, "omit --test to use the study's own")
        )

    notes = []
    seen = seen_by(compared)
    if known := patients_seen((*index.images, *index.test), seen):
        notes.append(
            f"{counted(len(known), 'patient')} whose images a generator has seen: neither drawn nor scored"
        )
    wanted = "folder" if test else settings.confirm.test
    if any(source_of(parameters).seen_images() is None for parameters in compared) and not planned:
        what = "it is not known which images the extra ones were made from, so leakage cannot be excluded"
        if wanted == "unused":
            instead = "use confirm.test: folder" if has_test else _GIVE_TEST
            raise DataError(Problem(what, "confirm.test", f"declare them as `seen`, or {instead}"))
        wanted = "folder"
        notes.append(f"the test folder is scored: {what}")

    kinds = [planned] if planned else [*_PREFERRED[wanted]]
    if wanted != "unused" and not settings.data.train_patients:
        kinds = ["folder"]
    if not (has_test or test):
        kinds = [kind for kind in kinds if kind == "unused"]
    if not kinds:
        raise DataError(Problem("the study has no test/ folder", where, _GIVE_TEST))

    for kind in kinds:
        sealed = SealedTest(
            data=settings.data, table=index.table, images=_leave_out(index.test, seen)
        )
        divided = prepared
        try:
            if kind != "folder":
                fewest = settings.confirm.min_patients if kind == "unused" else 0
                divided = divide_unused(
                    prepared, settings, index, replicates, cache=cache, seen=seen, fewest=fewest
                )
            if kind == "unused":
                tested = {image.file for image in divided.images if image.side == TEST}
                images = Images(image for image in index.images if image.file in tested)
                sealed = replace(sealed, images=images, is_unused=True)
                _require_enough(sealed, prepared)
            break
        except DataError as error:
            (problem, *_) = error.problems
            if wanted == "auto" and kinds == ["unused"] and not planned:
                raise DataError(
                    Problem(problem.what, where, f"{problem.fix}, or {_GIVE_TEST}")
                ) from error
            if kind == kinds[-1]:
                raise
            notes.append(f"{_INSTEAD[kind]}: {problem.what}")
    if test:
        sealed = _read_given(settings, divided, index, test, seen=seen, on_progress=on_progress)
    extra = sorted({parameters.folder.path for parameters in compared if parameters.folder})
    _require_testable(sealed, settings, prepared, index, extra)
    return TestChoice(kind=kind, prepared=divided, sealed=sealed, notes=tuple(notes))


def divide_unused(
    prepared: Prepared,
    settings: Settings,
    index: ImageIndex,
    replicates: int,
    *,
    cache: Path,
    seen: Collection[str] = (),
    fewest: int = 0,
) -> Prepared:
    """Return a study's images with its unused patients on sides `draw_0`, `draw_1` ..., and on `test` if `fewest` is given.

    Patients with images in `seen`, given as SHA-256, are left out.

    Raises:
        DataError: Fewer than `fewest` patients are left to test on, or a draw lacks a class.
        StudyError: The images changed since the search.
    """
    data = settings.data.model_copy(update={"train_patients": None})
    everyone, _ = prepare_index(index, data, cache, skip_broken=True)
    if everyone.pixels != prepared.pixels:
        what = "unused images were added, changed or removed since the search"
        raise StudyError(Problem(what, data.path, "restore them, or start a new study"))
    known = {image.patient for image in prepared.images} | patients_seen(index.images, seen)
    unused = Images(image for image in everyone.images if image.patient not in known)
    order = nested_order(unused.patients, unused.targets, settings.data.split.seed)
    size = prepared.train_patients
    if problem := too_few_unused(len(order), size, replicates=replicates, fewest=fewest):
        raise DataError(problem)
    sides = dict.fromkeys(chain(*order), TEST if fewest else "others")
    for draw in range(replicates):
        places = [*chain(*order[draw * size : (draw + 1) * size])]
        sides |= dict.fromkeys(places, f"draw_{draw}")
        if missing := {*prepared.class_names} - {
            prepared.class_names[unused[place].label] for place in places
        }:
            what = f"a draw of {size} patients has no image of {join_names(sorted(missing))}"
            raise DataError(
                Problem(what, "data.train_patients", "start a search with more patients")
            )
    side_of = {unused[place].file: side for place, side in sides.items()}
    side_of |= {image.file: image.side for image in prepared.images}
    divided = (
        replace(image, side=side_of[image.file])
        for image in everyone.images
        if image.file in side_of
    )
    return replace(prepared, images=tuple(divided), unused=())


def _read_unchanged(settings: Settings, prepared: Prepared, on_progress: Progress) -> ImageIndex:
    """Index the study's images; raise StudyError if they, or their patients, changed since the search."""
    where = settings.data.path
    index = task_of(settings).read_index(settings.data, on_progress=on_progress)
    require_same_data(prepared, index, where)
    if (
        prepared.test_fingerprint is not None
        and index.test_fingerprint != prepared.test_fingerprint
    ):
        raise StudyError(Problem("the test folder changed since the search", where, RESTORE))
    if prepared.test_patients not in (None, patients_fingerprint(index.test)):
        raise StudyError(
            Problem("the patients of the test folder changed since the search", where, RESTORE)
        )
    return index


def _read_given(
    settings: Settings,
    prepared: Prepared,
    index: ImageIndex,
    source: Path,
    *,
    seen: Collection[str],
    on_progress: Progress,
) -> SealedTest:
    """Read class folders or a data file of test images; raise DataError if they share patients or files with the study."""
    group_regex = settings.data.split.group_regex
    labelled = task_of(settings).read_labelled(
        source, prepared.outputs, group_regex=group_regex, on_progress=on_progress
    )
    sealed = SealedTest(
        data=labelled.data, table=labelled.table, images=_leave_out(labelled.images, seen)
    )
    aliases = patient_aliases(prepared.images, index.table, group_regex)
    _refuse_patients_of(
        prepared.images, aliases, sealed, _REMOVE, owners=patients_by_file_name(index.images)
    )
    return sealed


def _leave_out(images: Images, seen: Collection[str]) -> Images:
    """Return the images without those of patients whose images a generator has seen."""
    known = patients_seen(images, seen)
    return Images(image for image in images if image.patient not in known)


def _require_testable(
    sealed: SealedTest,
    settings: Settings,
    prepared: Prepared,
    index: ImageIndex,
    extra: Iterable[Path],
) -> None:
    """Refuse (DataError) too few patients of a class, or patients in `extra`, the folders that finalists are trained on."""
    owners = patients_by_file_name([*index.images, *sealed.images])
    task = task_of(settings)
    for folder in extra:
        images = task.read_labelled_folder(folder, prepared.outputs)
        aliases = patient_aliases(
            images, find_table(folder), settings.data.split.group_regex, owners
        )
        # The study's own images must not change.
        is_own = sealed.data.path == settings.data.path
        fix = f"start a new search without them in {folder}" if is_own else _REMOVE
        _refuse_patients_of(images, aliases, sealed, fix)
    _require_enough(sealed, prepared)


def _require_enough(sealed: SealedTest, prepared: Prepared) -> None:
    if few := too_few_tested(sealed.images, prepared.outputs):
        raise DataError(Problem(few, sealed.data.path, "add test images of other patients"))


def _refuse_patients_of(
    known: Iterable[ImageFile],
    aliases: Collection[str],
    sealed: SealedTest,
    fix: str,
    *,
    owners: Mapping[str, str] | None = None,
) -> None:
    """Refuse (DataError) patients who also have `known` images; `aliases` and `owners` as for `shared_patients`."""
    group_regex = sealed.data.split.group_regex
    patients = shared_patients(
        sealed.images, sealed.table, known, group_regex=group_regex, aliases=aliases, owners=owners
    )
    if shared := [image.file for image in sealed.images if image.patient in patients]:
        what = f"{len(shared)} test images belong to patients used for training or validation: {join_names(shared)}"
        raise DataError(
            Problem(
                what, sealed.data.path, f"{fix}: results on patients seen in training are biased"
            )
        )


def require_scored_test(sealed: SealedTest, log: Path) -> None:
    """Refuse (StudyError) other images than those of the log's last confirmation, or the same ones in another order."""
    access = last_access(log, "confirm")
    if access is None:
        return
    if access["fingerprint"] != sealed.fingerprint:
        fix = "use those, or move confirm/ away to start from scratch"
        raise StudyError(
            Problem("this confirmation was scored on other test images", sealed.data.path, fix)
        )
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
