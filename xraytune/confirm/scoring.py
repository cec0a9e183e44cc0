"""What each run says of the images it is judged by: val-B, and, once all training is done, the test images.

A run's probabilities lie beside it (`val_b.npy`, `test.npy`, float64 [N, C]), so that they are computed once.
"""

from __future__ import annotations

import hashlib
import io
from collections.abc import Collection, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Literal

import numpy as np
from numpy.typing import NDArray
from pydantic import TypeAdapter

from xraytune.classifier.checkpoint import load_best
from xraytune.classifier.train import predict_probabilities
from xraytune.compute import compute_like
from xraytune.config.settings import DataSettings
from xraytune.data.index import ImageFile, content_fingerprint, read_index, read_labelled_folder
from xraytune.data.patients import PATIENTS_CSV
from xraytune.data.pixels import open_pixels
from xraytune.errors import DataError, Problem, StudyError, listed
from xraytune.files import read_json, require_file, write_bytes, write_json
from xraytune.metrics.classification import require_finite
from xraytune.pipeline.artifacts import discard
from xraytune.pipeline.inputs import untrained
from xraytune.pipeline.known_patients import all_names, known_patients, owners_by_name
from xraytune.pipeline.prepare import Prepared, missing_images, pixels_inputs, require_unbroken, store_images
from xraytune.pipeline.training_set import ImageSource
from xraytune.records import Compute, Progress, ignore_progress
from xraytune.search.study import StudyFolder, damage_explained, numeric_releases
from xraytune.search.test_access import last_access

_FEWEST_PATIENTS = 5
_REMOVE = f"remove them, or say in {PATIENTS_CSV} there that they are others"


@dataclass(frozen=True, slots=True, kw_only=True)
class SealedTest:
    """A test folder that nobody has looked into.

    Attributes:
        root: What the images' names are relative to.
        images: Each with its label, patient and hash.
        fingerprint: Of their content.
    """

    root: Path
    images: tuple[ImageFile, ...]
    fingerprint: str

    @property
    def order(self) -> str:
        """32 hex digits over the content in the order of the files' names, which is that of a run's scores."""
        content = "\n".join(f"{image.label} {image.sha256}" for image in self.images)
        return hashlib.sha256(content.encode()).hexdigest()[:32]


def find_test(
    data: DataSettings,
    prepared: Prepared,
    test: Path | None,
    *,
    extra: Collection[Path] = (),
    on_progress: Progress = ignore_progress,
) -> SealedTest:
    """The study's test folder, or the one that is given where the study has none.

    Args:
        data: The study's settings of its images.
        prepared: The study's images.
        test: A folder of class folders, for a study without a `test/`.
        extra: Folders of extra images that finalists are trained on.
        on_progress: Told how many files were read.

    Raises:
        DataError: There is no test folder, patients or files of it stand in training too, a class is missing or has too
            few patients; what `read_index` refuses.
        StudyError: The images changed since the search, or `test` was given although the study has its own.
    """
    if prepared.test_fingerprint is not None and test is not None:
        fix = "leave --test out: the study's own test folder is the one that it never looked at"
        raise StudyError(Problem("the study has a sealed test folder of its own", test, fix))
    if prepared.test_fingerprint is None and test is None:
        fix = "give a folder of class folders with other patients: xraytune confirm STUDY --test DIR"
        raise DataError(Problem("there is no test/ folder to confirm on", data.path, fix))
    index = read_index(data, on_progress=on_progress)
    _require_same_images(prepared, index.images, data.path)
    group_regex = data.split.group_regex
    if test is None:
        found = SealedTest(root=index.root, images=index.test, fingerprint=index.test_fingerprint or "")
        if found.fingerprint != prepared.test_fingerprint:
            fix = "put the test images back as they were, or start a study of another name"
            raise StudyError(Problem("the test folder changed since the search", data.path, fix))
    else:
        known_as = all_names(prepared.images, data.path, group_regex)
        if (test / PATIENTS_CSV).is_file():  # it knows more about them than the training set's file names
            group_regex = None
        images = read_labelled_folder(test, prepared.class_names, group_regex=group_regex)
        found = SealedTest(root=test, images=images, fingerprint=content_fingerprint(images))
        owners = owners_by_name(index.images)
        known = known_patients(images, test, prepared.images, group_regex=group_regex, known_as=known_as, owners=owners)
        _refuse(known, found, _REMOVE)
    owners = owners_by_name([*index.images, *found.images])
    for folder in extra:
        images = read_labelled_folder(folder, prepared.class_names)
        known_as = all_names(images, folder, data.split.group_regex, owners)
        known = known_patients(found.images, found.root, images, group_regex=group_regex, known_as=known_as)
        # The study's own test folder has to stay as it was.
        _refuse(known, found, f"search anew without them in {folder}" if test is None else _REMOVE)
    _refuse_few(prepared, found)
    return found


def require_scored_test(sealed: SealedTest, log: Path) -> None:
    """Refuse test images that earlier scores are not of: they would be held against the labels of others.

    Args:
        sealed: The test folder.
        log: The study's openings; the last one of a confirm is of the images that were scored.

    Raises:
        StudyError: It is another folder, or its files go by other names that bring them into another order.
    """
    access = last_access(log, "confirm")
    if access is None:
        return
    if access["fingerprint"] != sealed.fingerprint:
        fix = "give that folder, or move confirm/ away to begin anew"
        raise StudyError(Problem("this confirm was judged on another test folder", sealed.root, fix))
    if access.get("order", sealed.order) != sealed.order:  # an earlier version wrote none
        what = "the test images were renamed since this confirm scored them, and stand in another order now"
        fix = "give them back their names, or move confirm/ away to begin anew"
        raise StudyError(Problem(what, sealed.root, fix))


def open_test(
    sealed: SealedTest, prepared: Prepared, cache: Path, *, on_progress: Progress = ignore_progress
) -> ImageSource:
    """Decode the test images. Write the opening down before.

    Raises:
        DataError: An image is broken.
        MachineError: The disk is full.
    """
    store = store_images(
        sealed.root, sealed.images, prepared.image_size_px, prepared.resize, cache=cache, on_progress=on_progress
    )
    require_unbroken(store, sealed.root, "repair them: a test folder is used as a whole")
    return ImageSource(
        name="test",
        pixels=open_pixels(store),
        rows=np.arange(len(sealed.images)),
        labels=np.array([image.label for image in sealed.images], dtype=np.int64),
        inputs={**pixels_inputs(store)},
    )


def _require_same_images(prepared: Prepared, images: Sequence[ImageFile], root: Path) -> None:
    if gone := missing_images(prepared, images):
        what = f"{len(gone)} images changed or are gone since the search: {listed(gone)}"
        raise StudyError(Problem(what, root, "put the images back as they were, or start a study of another name"))


def _refuse(patients: Collection[str], found: SealedTest, fix: str) -> None:
    """Refuse a test folder with patients whom the study knows."""
    known = [image.file for image in found.images if image.patient in patients]
    if known:
        what = f"{len(known)} images are of patients whom the study trained or validated on: {listed(known)}"
        raise DataError(Problem(what, found.root, f"{fix}: a test on patients seen in training proves nothing"))


def _refuse_few(prepared: Prepared, found: SealedTest) -> None:
    problems = []
    for label, name in enumerate(prepared.class_names):
        count = len({image.patient for image in found.images if image.label == label})
        if count < _FEWEST_PATIENTS:
            what = f"class {name} has {count} patients in the test folder; an interval needs {_FEWEST_PATIENTS} or more"
            problems.append(Problem(what, found.root, "add test images of other patients"))
    if problems:
        raise DataError(*problems)


VAL_B: Literal["val_b"] = "val_b"
TEST = "test"
SCORING_FILE = "scoring.json"


def scoring_compute(folder: StudyFolder, trained_on: Compute, *, is_complete: bool) -> Compute:
    """What computes the scores of all runs: what they were trained on, or the CPU where this machine has no GPU.

    Scores that are compared come from one kind of device and one release of torch. If some are missing and the earlier ones
    were computed otherwise than is possible here, the earlier ones are removed, so that all are computed again.

    Args:
        folder: Of the runs.
        trained_on: What they were trained on.
        is_complete: No score is missing.

    Raises:
        StudyError: The record of the earlier scores is damaged.
        MachineError: The disk is full.
    """
    file, recorded = folder.path / SCORING_FILE, trained_on
    scored_with = folder.releases()[-1]  # an earlier version, which left no record, scored as it trained
    if file.exists():
        with damage_explained(file):
            content = read_json(file)
            recorded = TypeAdapter(Compute).validate_python(content["compute"])
            scored_with = numeric_releases(content["packages"])
    if is_complete:
        return recorded
    compute = compute_like(recorded, threads=recorded.threads)
    if (compute, numeric_releases()) != (recorded, scored_with):
        for side in (VAL_B, TEST):
            for old in sorted(folder.path.glob(f"trials/*/{side}.npy")):
                discard(old)
    write_json(file, {"version": 1, "compute": {**asdict(compute)}, "packages": {**numeric_releases()}})
    return compute


def has_scores(folder: StudyFolder, number: int, side: str) -> bool:
    """Whether a run's probabilities for one side are there."""
    return _path(folder, number, side).exists()


def has_any_scores(folder: StudyFolder, side: str) -> bool:
    """Whether a run's probabilities for one side are there, of whichever run."""
    return any(folder.path.glob(f"trials/*/{side}.npy"))


def scores(folder: StudyFolder, number: int, side: str) -> NDArray[np.float64]:
    """A run's probabilities for one side, [N, C].

    Raises:
        StudyError: The file is missing or damaged, or holds NaN, as earlier versions could write.
    """
    with damage_explained(_path(folder, number, side)) as file:
        require_file(file, "table")
        # Mapped, because an array that is read takes the memory that its header asks for.
        loaded: NDArray[np.float64] = np.load(file, allow_pickle=False, mmap_mode="r")
        require_finite(loaded)
        return loaded


def score(folder: StudyFolder, number: int, side: str, group: ImageSource, *, compute: Compute, cache: Path) -> None:
    """Predict one side with the network of a run's best val-A epoch, and keep what it says.

    Raises:
        StudyError: The network's output is not finite.
        MachineError: The disk is full.
    """
    experiment, prepared = folder.experiment(number), folder.prepared()
    network, batches = untrained(experiment, prepared, group, cache=cache, compute=compute)
    load_best(folder.trial_path(number) / "checkpoint", network)
    where = folder.trial_path(number)
    probabilities = predict_probabilities(network, batches, compute=compute, error=StudyError, where=where)
    content = io.BytesIO()
    np.save(content, probabilities)
    write_bytes(_path(folder, number, side), content.getvalue())


def _path(folder: StudyFolder, number: int, side: str) -> Path:
    return folder.trial_path(number) / f"{side}.npy"
