"""The images that a confirmation is judged on, checked before they are scored.

The images are of unused patients, or of a test folder. Unused patients are those of the training
folder that `data.train_patients` left out. Each replicate has a draw of as many of them as the
search trained on (`confirm/unused.py`).
"""

from collections.abc import Callable, Collection, Iterable, Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np

from xraytune.base.errors import DataError, StudyError, counted, join_names
from xraytune.base.records import Progress, frozen, ignore_progress
from xraytune.confirm.arms import UNUSED_KINDS, TestKind
from xraytune.confirm.record import TEST_FOLDER
from xraytune.confirm.unused import TEST, divide_unused, left_out_sites
from xraytune.data.changes import RESTORE, require_same_data
from xraytune.data.copies import Hashes, close_pairs, perceptual_hash
from xraytune.data.draws import (
    MANY_UNUSED,
    STUDY_REMEDIES,
    Remedies,
    fewest_scored,
)
from xraytune.data.guesses import part_named
from xraytune.data.image_set import ImageSet, stored_image_set
from xraytune.data.images import ImageIndex, content_fingerprint
from xraytune.data.index import LabelledImages, read_index, read_labelled
from xraytune.data.patients import EQUAL_IDS, PATIENTS_CSV
from xraytune.data.pixels import open_pixels, require_unbroken, store_images, stored_files
from xraytune.data.prepare import SplitData, patients_seen, side_image_set
from xraytune.data.shared_patients import patients_by_file_name, patients_by_key, shared_patients
from xraytune.data.sides import too_few_tested
from xraytune.space.data_settings import DataSettings
from xraytune.space.encoders import has_unknown_origin
from xraytune.space.parameters import Parameters
from xraytune.space.settings import Settings
from xraytune.synth.sources.registry import seen_by, source_of

_REMOVE = f"remove them, or list them in {PATIENTS_CSV} there as other patients; {EQUAL_IDS}"
_PREFERRED: dict[str, Sequence[TestKind]] = {
    "auto": ("unused", "outside", "draws", "folder"),
    "unused": ("unused", "outside"),
    "folder": ("draws", "folder"),
}
"""What may be scored and trained on for each value of `confirm.test`, the preferred kind first.

The first kind with enough patients is chosen.
"""


@frozen
class SealedTest(LabelledImages):
    """Images that no network was trained or selected on.

    Attributes:
        kind: What is scored, and what replicates are trained on.
        name: `the test folder`, or the name of another folder that was given instead.
        prepared: The study's images, with draws of unused patients if replicates train on them.
        notes: What cannot be done, and why.
    """

    kind: TestKind
    prepared: SplitData
    name: str
    notes: tuple[str, ...] = ()

    @property
    def fingerprint(self) -> str:
        """The fingerprint of the images' content, which a copied or renamed folder shares."""
        return content_fingerprint(self.images)

    @property
    def contents(self) -> list[str]:
        """The `short_sha256` of each image, by which other accesses to it are recognised."""
        return [image.short_sha256 for image in self.images]

    @property
    def ordered_fingerprint(self) -> str:
        """The fingerprint in the order of the file names, in which the scores are, too."""
        return content_fingerprint(self.images, in_order=True)


def name_of_hospital(folder: Path) -> str:
    """Return the name of a folder of test images, or of its parent if it is called `test`."""
    folder = folder.resolve()
    return folder.parent.name if part_named(folder.name) else folder.name


def choose_test(
    settings: Settings,
    prepared: SplitData,
    *,
    replicates: int,
    mixes: Sequence[Parameters] = (),
    planned_kind: TestKind | None = None,
    test: LabelledImages | None = None,
    index: ImageIndex | None = None,
    seen_sha256: Collection[str] = (),
    remedies: Remedies = STUDY_REMEDIES,
) -> SealedTest:
    """Choose and check the images that a confirmation of `mixes` scores.

    `planned_kind` is the kind that an earlier call chose. `test` takes the place of the study's
    test folder. `index` has the study's images as they are now; by default, they are read.
    `seen_sha256` are the hashes of images that something else than the mixes has seen. Errors say
    what `remedies` there are for too few patients.

    Raises:
        DataError: There are no test images, they share patients or files with the training images,
            or too few are of a class.
        StudyError: The images changed since the search.
    """
    index = index or read_unchanged(settings, prepared, ignore_progress)
    sites = left_out_sites(settings, prepared)
    test_set = test or LabelledImages(data=settings.data, images=index.test)
    name = name_of_hospital(test.data.path) if test else TEST_FOLDER
    if test:
        refuse_patients_of_study(test, index, settings)

    seen_sha256 = seen_by(mixes).union(seen_sha256)
    seen_patients = patients_seen((*index.images, *test_set.images), seen_sha256)
    exclusion = _describe_exclusion(seen_patients)
    notes = [*filter(None, (_describe_unknown_weights(mixes), exclusion))]

    folder_test = SealedTest(
        data=test_set.data,
        images=test_set.images.without(seen_patients),
        kind="folder",
        name=name,
        prepared=prepared,
    )
    folder_problem = too_few_tested(folder_test.images, prepared.outputs)
    can_score_folder = test is not None or not folder_problem
    kinds: Sequence[TestKind] = [planned_kind] if planned_kind else []
    kinds = kinds or _preferred_kinds(
        settings, mixes, notes, name, can_score_folder=can_score_folder
    )
    fewest_tested = fewest_scored(
        settings, len(prepared.class_names), can_score_folder=can_score_folder
    )
    fewest_of_kind = {
        "unused": fewest_tested if planned_kind or sites else MANY_UNUSED,
        "outside": fewest_tested,
        "draws": 0,
    }

    def seal(kind: TestKind) -> SealedTest:
        sealed = folder_test
        if kind != "folder":
            divided = divide_unused(
                prepared,
                settings,
                index,
                replicates,
                kind,
                seen_sha256=seen_sha256,
                fewest_tested=fewest_of_kind[kind],
                sites=sites,
                remedies=remedies,
            )
            sealed = replace(sealed, kind=kind, prepared=divided)
        if kind in UNUSED_KINDS:
            sealed = replace(sealed, data=settings.data, images=sealed.prepared.side(TEST))
        refuse_too_few(sealed, prepared, exclusion)
        return sealed

    try:
        sealed = _seal_first(kinds, seal, notes, name)
    except DataError as error:
        if can_score_folder or sites:
            raise
        problem = error.problems[0]
        what = problem.what if kinds[-1] == "folder" else f"{folder_problem}: {problem.what}"
        raise DataError(what, problem.where, f"{problem.fix}, or {remedies.give_test}") from error
    refuse_patients_of_folders(sealed, index, settings, mixes, prepared)
    return replace(sealed, notes=tuple(notes))


def _describe_unknown_weights(mixes: Iterable[Parameters]) -> str:
    """Return a note on weights of which nobody knows their training images; "" without any."""
    weights = {mix.weights for mix in mixes if has_unknown_origin(mix.backbone, mix.weights)}
    names = join_names(sorted(Path(file).name for file in weights))
    return f"it is not known which images the weights were trained on: {names}" if names else ""


def _describe_exclusion(seen_patients: Collection[str]) -> str:
    """Return a note on patients who are left out, as their images were seen; "" without any."""
    if not seen_patients:
        return ""
    return (
        f"{counted(len(seen_patients), 'patient')} whose images a generator or an encoder has "
        "seen: neither drawn nor scored"
    )


def _seal_first(
    kinds: Sequence[TestKind],
    seal: Callable[[TestKind], SealedTest],
    notes: list[str],
    name: str,
) -> SealedTest:
    """Seal the images of the first kind with enough patients; notes say what others lack.

    Raises DataError if the last kind lacks patients, too.
    """
    for kind in kinds[:-1]:
        try:
            return seal(kind)
        except DataError as error:
            why = error.problems[0].what
            if kind == "outside":
                notes.append(f"{name} is scored: {why}")
            if kind == "draws":
                notes.append(f"all replicates train on the same patients: {why}")
    return seal(kinds[-1])


def refuse_too_few(test_set: LabelledImages, prepared: SplitData, exclusion: str = "") -> None:
    """Refuse (DataError) too few images for a verdict; `exclusion` says which were left out."""
    problem = too_few_tested(test_set.images, prepared.outputs)
    if problem:
        what = f"{problem} ({exclusion})" if exclusion else problem
        raise DataError(what, test_set.data.path, "add test images of other patients")


def refuse_patients_of_study(
    test_set: LabelledImages,
    index: ImageIndex,
    settings: Settings,
    seen_sha256: Collection[str] = (),
) -> None:
    """Refuse (DataError) images of the study's patients, or of patients with other known images.

    `seen_sha256` are the hashes of all images that a generator or an encoder has seen.
    """
    owners = patients_by_file_name(index.images)
    keys = patients_by_key(test_set.images, test_set.data.split.group_regex, owners=owners)
    study_keys = patients_by_key(index.images, settings.data.split.group_regex)
    known_patients = shared_patients(keys, study_keys) | patients_seen(test_set.images, seen_sha256)
    _refuse_patients(known_patients, test_set, _REMOVE)


def refuse_copies(
    test_set: LabelledImages, others: LabelledImages, data: DataSettings, cache: Path
) -> None:
    """Refuse (DataError) images that look like some of `others`, which may have been saved again.

    All images are decoded with the settings `data`.
    """
    files, hashes = _hash_images(test_set, data, cache)
    _, other_hashes = _hash_images(others, data, cache)
    pairs = close_pairs(hashes, other_hashes)
    copies = sorted({files[index] for indices, _ in pairs for index in indices.tolist()})
    if copies:
        what = f"{len(copies)} images are copies of images in {others.data.path}, or look like them"
        raise DataError(
            f"{what}: {join_names(copies)}",
            test_set.data.path,
            "remove them: they are no new evidence",
        )


def _hash_images(
    labelled: LabelledImages, data: DataSettings, cache: Path
) -> tuple[Sequence[str], Hashes]:
    """Return the files of all images that can be decoded, and their hashes, [N, 4]."""
    store = store_images(labelled.data.path, labelled.images, data, cache=cache)
    files, _ = stored_files(store)
    return files, np.array([perceptual_hash(pixels) for pixels in open_pixels(store)])


def refuse_patients_of_folders(
    test_set: LabelledImages,
    index: ImageIndex,
    settings: Settings,
    mixes: Sequence[Parameters],
    prepared: SplitData,
) -> None:
    """Refuse (DataError) images of patients who are in a finalist's folder of extra images."""
    owners = patients_by_file_name([*index.images, *test_set.images])
    keys = patients_by_key(test_set.images, test_set.data.split.group_regex)
    group_regex = settings.data.split.group_regex
    for folder in sorted({parameters.folder.path for parameters in mixes if parameters.folder}):
        extra_images = read_labelled(folder, prepared.outputs, settings.task, all_parts=True).images
        shared = shared_patients(keys, patients_by_key(extra_images, group_regex, owners=owners))
        # The study's own images must not change.
        is_own = test_set.data.path == settings.data.path
        fix = f"start a new search without them in {folder}" if is_own else _REMOVE
        _refuse_patients(shared, test_set, fix)


def _preferred_kinds(
    settings: Settings,
    mixes: Iterable[Parameters],
    notes: list[str],
    name: str,
    *,
    can_score_folder: bool,
) -> Sequence[TestKind]:
    """Return what may be scored and trained on, the preferred kind first; a note says why.

    Images that were given are scored if unused patients do not suffice. Raises DataError if the
    space asks for unused patients, and the extra images may have been made from them.
    """
    test_setting = settings.confirm.test
    has_sites = settings.confirm.leave_out == "site"
    if has_sites:
        test_setting = "unused"
    elif name != TEST_FOLDER and test_setting == "unused":
        test_setting = "auto"
    if any(source_of(parameters).seen_images_sha256() is None for parameters in mixes):
        what = (
            "it is not known which images the extra ones were made from, "
            "so leakage cannot be excluded"
        )
        if test_setting == "unused":
            fix = "declare them as `seen`" + ("" if has_sites else ", or use confirm.test: folder")
            raise DataError(what, "confirm.test", fix)
        test_setting = "folder"
        notes.append(f"{name} is scored: {what}")
    if has_sites:
        return ["unused"]
    if test_setting == "auto" and not can_score_folder:
        test_setting = "unused"
    if test_setting != "unused" and not settings.data.train_patients:
        return ["folder"]
    return _PREFERRED[test_setting]


def read_unchanged(settings: Settings, prepared: SplitData, on_progress: Progress) -> ImageIndex:
    """Return the index of the study's images.

    Raises StudyError if the images or their patients changed since the search.
    """
    where = settings.data.path
    index = read_index(
        settings.data,
        pairs=settings.task == "segmentation",
        name_sets=prepared.name_sets,
        on_progress=on_progress,
    )
    require_same_data(prepared, index, where)
    if prepared.test_fingerprint not in (None, index.test_fingerprint):
        raise StudyError(
            f"{TEST_FOLDER}, or its grouping by patient, changed since the search", where, RESTORE
        )
    return index


def _refuse_patients(patients: Collection[str], test_set: LabelledImages, fix: str) -> None:
    """Refuse (DataError) to test on `patients`, whose images are used for training."""
    shared_files = [image.file for image in test_set.images if image.patient in patients]
    if shared_files:
        what = (
            f"{len(shared_files)} test images have the ID, name or content of patients used for "
            f"training or validation: {join_names(shared_files)}"
        )
        why = "results on patients seen in training are biased"
        raise DataError(what, test_set.data.path, f"{fix}: {why}")


def load_test_image_set(
    sealed: SealedTest,
    data: DataSettings,
    cache: Path,
    *,
    on_progress: Progress = ignore_progress,
) -> ImageSet:
    """Decode sealed images, none of them broken, with the `data` settings of a run.

    Callers must log the access first.
    """
    if sealed.kind in UNUSED_KINDS:  # decoded by the search, with the whole folder
        return side_image_set(TEST, sealed.prepared.sizes[data.image_size], cache)
    store = decode_unbroken(sealed, data, cache, on_progress=on_progress)
    return stored_image_set(store, sealed.images, name="test")


def decode_unbroken(
    test_set: LabelledImages, data: DataSettings, cache: Path, *, on_progress: Progress
) -> Path:
    """Decode test images, and return their store; refuse (DataError) broken ones."""
    root = test_set.data.path
    store = store_images(root, test_set.images, data, cache=cache, on_progress=on_progress)
    require_unbroken(store, root, "repair them: a test folder is used as a whole")
    return store
