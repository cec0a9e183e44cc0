"""The images that a confirmation is judged on, checked before they are scored.

They are of unused patients, or of a test folder.

Unused patients are those of the training folder that `data.train_patients` left out. They are
divided into a draw for each replicate, with as many patients as the search trained on, and a test
side. Draws and test side have about the class shares of the folder, and share no patient.
"""

from collections.abc import Collection, Iterable, Sequence
from dataclasses import replace
from itertools import chain
from pathlib import Path

from xraytune.base.errors import DataError, StudyError, counted, join_names
from xraytune.base.records import Progress, frozen, ignore_progress
from xraytune.confirm.arms import TestKind
from xraytune.data.changes import RESTORE, require_same_data
from xraytune.data.images import ImageFile, ImageIndex, Images, content_fingerprint
from xraytune.data.index import LabelledImages, read_index
from xraytune.data.patients import EQUAL_IDS, PATIENTS_CSV
from xraytune.data.pixels import require_unbroken, store_images
from xraytune.data.prepare import (
    ImageSource,
    Prepared,
    patients_seen,
    prepare_index,
    side_images,
    stored_images,
)
from xraytune.data.shared_patients import patients_by_file_name, patients_by_key, shared_patients
from xraytune.data.sides import FEWEST_UNUSED, too_few_tested, too_few_unused
from xraytune.data.split import nested_order
from xraytune.space.settings import DataSettings, Parameters, Settings
from xraytune.synth.sources.which import seen_by, source_of
from xraytune.tasks import task_of

TEST = "test"
"""The side of the unused patients who are scored."""
_REMOVE = f"remove them, or list them in {PATIENTS_CSV} there as other patients; {EQUAL_IDS}"
_GIVE_TEST = "xraytune confirm STUDY --test DIR"
_PREFERRED: dict[str, Sequence[TestKind]] = {
    "auto": ("unused", "draws", "folder"),
    "unused": ("unused",),
    "folder": ("draws", "folder"),
}
"""By `confirm.test`: what is scored and trained on, as far as there are enough patients."""
_INSTEAD = {
    "unused": "the test folder is scored",
    "draws": "all replicates train on the same patients",
}


@frozen
class SealedTest(LabelledImages):
    """Images that no network was trained or selected on.

    Attributes:
        kind: What is scored, and what replicates are trained on.
        prepared: The study's images; with draws, divided into them.
        notes: What cannot be done, and why.
    """

    kind: TestKind
    prepared: Prepared
    notes: tuple[str, ...] = ()

    @property
    def fingerprint(self) -> str:
        """The fingerprint of their content; a copied or renamed folder has the same one."""
        return content_fingerprint(self.images)

    @property
    def contents(self) -> list[str]:
        """The `short_sha256` of each image, since another access may score some of the same."""
        return [image.short_sha256 for image in self.images]

    @property
    def order(self) -> str:
        """A hash (32 hex digits) of the content in the order of the file names.

        That is also the order of the scores.
        """
        return content_fingerprint(self.images, in_order=True)


def choose_test(
    settings: Settings,
    prepared: Prepared,
    cache: Path,
    *,
    replicates: int,
    compared: Sequence[Parameters] = (),
    planned: TestKind | None = None,
    test: Path | None = None,
    on_progress: Progress = ignore_progress,
) -> SealedTest:
    """Choose and check the images that a confirmation of the `compared` finalists scores.

    `planned` is what an earlier call chose; `test` is as for `confirm`.

    Raises:
        DataError: There are none, they share patients or files with the training images, or too few
            are of a class.
        StudyError: The images changed since the search, or `test` was given for a study with a test
            folder.
    """
    notes: list[str] = []
    index = _read_unchanged(settings, prepared, on_progress)
    has_test = prepared.test_fingerprint is not None
    if test and (has_test or planned == "unused"):
        scored = "its own test folder" if has_test else "unused patients"
        raise StudyError(f"this study is scored on {scored}", test, "omit --test")
    given = LabelledImages(data=settings.data, images=index.test)
    task = task_of(settings)
    group_regex = settings.data.split.group_regex
    if test:
        given = task.read_labelled(
            test, prepared.outputs, group_regex=group_regex, on_progress=on_progress
        )
        owners = patients_by_file_name(index.images)
        keys = patients_by_key(given.images, given.data.split.group_regex, owners=owners)
        known = shared_patients(keys, patients_by_key(index.images, group_regex))
        _refuse_patients(known, given, _REMOVE)
    seen = seen_by(compared)
    known = patients_seen((*index.images, *given.images), seen)
    left_out = ""
    if known:
        count = counted(len(known), "patient")
        left_out = (
            f"{count} whose images a generator or an encoder has seen: neither drawn nor scored"
        )
        notes.append(left_out)
        unseen = Images(image for image in given.images if image.patient not in known)
        given = replace(given, images=unseen)

    kinds = [planned] if planned else _preferred_kinds(settings, compared, test, notes)
    if not (has_test or test):
        kinds = [kind for kind in kinds if kind == "unused"]
    if not kinds:
        fix = f"give images of other patients: {_GIVE_TEST}"
        raise DataError("the study has no test/ folder", settings.data.path, fix)
    fewest = {"unused": FEWEST_UNUSED if settings.confirm.test == "auto" else 1}
    for kind in kinds:
        divided = prepared
        tested = given
        try:
            if kind != "folder":
                divided = divide_unused(
                    prepared,
                    settings,
                    index,
                    replicates,
                    cache=cache,
                    seen=seen,
                    fewest=fewest.get(kind, 0),
                )
            if kind == "unused":
                tested = replace(given, images=divided.side(TEST))
            few = too_few_tested(tested.images, prepared.outputs)
            if few:
                what = f"{few} ({left_out})" if left_out else few
                raise DataError(what, tested.data.path, "add test images of other patients")
            break
        except DataError as error:
            problem = error.problems[0]
            if kind != kinds[-1]:
                notes.append(f"{_INSTEAD[kind]}: {problem.what}")
            elif has_test or kind != "unused":
                raise
            else:
                fix = f"{problem.fix}, or give images of other patients: {_GIVE_TEST}"
                raise DataError(problem.what, problem.where, fix) from error

    owners = patients_by_file_name([*index.images, *tested.images])
    keys = patients_by_key(tested.images, tested.data.split.group_regex)
    for folder in sorted({parameters.folder.path for parameters in compared if parameters.folder}):
        extra = task.read_labelled(folder, prepared.outputs, all_parts=True).images
        known = shared_patients(keys, patients_by_key(extra, group_regex, owners=owners))
        # The study's own images must not change.
        is_own = tested.data.path == settings.data.path
        fix = f"start a new search without them in {folder}" if is_own else _REMOVE
        _refuse_patients(known, tested, fix)
    return SealedTest(
        data=tested.data,
        images=tested.images,
        kind=kind,
        prepared=divided,
        notes=tuple(notes),
    )


def _preferred_kinds(
    settings: Settings, compared: Iterable[Parameters], test: Path | None, notes: list[str]
) -> Sequence[TestKind]:
    """Return what may be scored and trained on, the preferred first; `notes` gets why not others.

    Raises DataError if unused patients are asked for, and may have been seen.
    """
    wanted = "folder" if test else settings.confirm.test
    if any(source_of(parameters).seen_images() is None for parameters in compared):
        what = (
            "it is not known which images the extra ones were made from, "
            "so leakage cannot be excluded"
        )
        if wanted == "unused":
            fix = "declare them as `seen`, or use confirm.test: folder"
            raise DataError(what, "confirm.test", fix)
        wanted = "folder"
        notes.append(f"the test folder is scored: {what}")
    if wanted != "unused" and not settings.data.train_patients:
        return ["folder"]
    return _PREFERRED[wanted]


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
    """Return a study's images with its unused patients on sides `draw_0`, `draw_1` ...

    If `fewest` is given, they are on `test`, too.

    Patients with images in `seen`, given as SHA-256, are left out.

    Raises:
        DataError: Fewer than `fewest` patients are left to test on, or a draw lacks a class.
        StudyError: The images changed since the search.
    """
    data = settings.data.model_copy(update={"train_patients": None})
    sizes_px = [prepared.image_size_px]
    everyone, _ = prepare_index(index, data, cache, sizes_px=sizes_px, skip_broken=True)
    if everyone.pixels != prepared.pixels:
        what = "unused images were added, changed or removed since the search"
        raise StudyError(what, data.path, "restore them, or start a new study")
    known = {image.patient for image in prepared.images} | patients_seen(index.images, seen)
    unused = Images(image for image in everyone.images if image.patient not in known)
    order = nested_order(unused.patients, unused.targets, settings.data.split.seed)
    size = prepared.train_patients
    problem = too_few_unused(len(order), size, replicates=replicates, fewest=fewest)
    if problem:
        raise DataError(problem)
    side_of = {image.file: image.side for image in prepared.images}
    side_of |= dict.fromkeys((image.file for image in unused), TEST if fewest else "others")
    for draw in range(replicates):
        members = [unused[place] for place in chain(*order[draw * size : (draw + 1) * size])]
        require_every_class(members, prepared, size)
        side_of |= dict.fromkeys((image.file for image in members), f"draw_{draw}")
    divided = (
        replace(image, side=side_of[image.file])
        for image in everyone.images
        if image.file in side_of
    )
    return replace(prepared, images=tuple(divided), unused=())


def require_every_class(images: Iterable[ImageFile], prepared: Prepared, patients: int) -> None:
    """Refuse (DataError) a draw of so many patients that lacks a class."""
    names = prepared.class_names
    missing = {*names} - {names[image.label] for image in images}
    if missing:
        what = f"a draw of {patients} patients has no image of {join_names(sorted(missing))}"
        raise DataError(what, "data.train_patients", "use more patients")


def _read_unchanged(settings: Settings, prepared: Prepared, on_progress: Progress) -> ImageIndex:
    """Index the study's images.

    Raise StudyError if they, or their patients, changed since the search.
    """
    where = settings.data.path
    index = read_index(settings.data, pairs=task_of(settings).has_masks, on_progress=on_progress)
    require_same_data(prepared, index, where)
    what = ""
    if prepared.test_fingerprint not in (None, index.test_fingerprint):
        what = "the test folder"
    elif prepared.test_patients not in (None, index.test_patients):
        what = "the patients of the test folder"
    if what:
        raise StudyError(f"{what} changed since the search", where, RESTORE)
    return index


def _refuse_patients(patients: Collection[str], tested: LabelledImages, fix: str) -> None:
    """Refuse (DataError) to test on patients who also have images in the training."""
    shared = [image.file for image in tested.images if image.patient in patients]
    if shared:
        what = (
            f"{len(shared)} test images have the ID, name or content of patients used for training "
            f"or validation: {join_names(shared)}"
        )
        why = "results on patients seen in training are biased"
        raise DataError(what, tested.data.path, f"{fix}: {why}")


def load_test_images(
    sealed: SealedTest,
    data: DataSettings,
    cache: Path,
    *,
    on_progress: Progress = ignore_progress,
) -> ImageSource:
    """Decode sealed images, none of them broken, with the `data` settings of a run.

    Callers must log the access first.
    """
    if sealed.kind == "unused":  # decoded by the search, with all others of the folder
        return side_images(TEST, sealed.prepared.sizes[data.image_size], cache)
    root = sealed.data.path
    store = store_images(root, sealed.images, data, cache=cache, on_progress=on_progress)
    require_unbroken(store, root, "repair them: a test folder is used as a whole")
    return stored_images(store, sealed.images, name="test")
