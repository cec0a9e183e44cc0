"""The test folder, checked before it is scored, and each run's results on val-B and test images.

Results, class probabilities or the Dice of each image, are stored with the run (`val_b.npy`, `test.npy`, float64 [N, C]), so
that they are computed only once.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass
from functools import partial
from pathlib import Path
from typing import Any, Literal

import numpy as np
from numpy.typing import ArrayLike
from pydantic import TypeAdapter

from xraytune.base.artifacts import discard
from xraytune.base.errors import DataError, Problem, StudyError, join_names
from xraytune.base.files import read_json, write_array, write_json
from xraytune.base.records import Compute, Progress, ignore_progress
from xraytune.confirm.analysis import ArmResults, ArmScores, EvaluationSet
from xraytune.confirm.plan import Plan
from xraytune.confirm.test_access import TEST_ACCESS_FILE, last_access, log_test_access, study_logs
from xraytune.confirm.training import Training
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
    RunContext,
    Side,
    missing_images,
    require_unbroken,
    side_images,
    store_images,
    stored_images,
)
from xraytune.data.shared_patients import patient_aliases, patients_by_file_name, shared_patients
from xraytune.data.table import find_table
from xraytune.nets.checkpoint import load_best
from xraytune.nets.compute import compute_like, pin
from xraytune.space.settings import DataSettings, Settings
from xraytune.stats.classification import Floats, Labels
from xraytune.study.folder import StudyFolder, damage_explained, numeric_releases
from xraytune.study.row import completed_runs
from xraytune.trial.inputs import untrained
from xraytune.trial.task import Task, task_of

VAL_B: Literal["val_b"] = "val_b"
TEST = "test"
SCORING_FILE = "scoring.json"
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
    """Return the study's own test folder or, if it has none, `source`: class folders or a data file (`read_labelled`).

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
        found = SealedTest(data=settings.data, table=index.table, images=index.test)
        if found.fingerprint != prepared.test_fingerprint:
            fix = "restore the test images, or start a new study"
            raise StudyError(Problem("the test folder changed since the search", settings.data.path, fix))
    else:
        aliases = patient_aliases(prepared.images, index.table, group_regex)
        labelled = read_labelled(
            source, prepared.class_names, pairs=task.has_pairs, group_regex=group_regex, on_progress=on_progress
        )
        found = SealedTest(
            data=labelled.data, table=labelled.table, images=labelled.images, is_external=sealed is not None
        )
        owners = patients_by_file_name(index.images)
        _refuse_patients_of(prepared.images, aliases, found, _REMOVE, owners=owners)
        shared = {image.sha256 for image in sealed.images} if sealed else set()
        if known := [image.file for image in found.images if image.sha256 in shared]:
            what = f"{len(known)} images are in the study's test folder too: {join_names(known)}"
            raise DataError(Problem(what, source, "give images of another hospital"))
    owners = patients_by_file_name([*index.images, *found.images])
    for folder in extra:
        images = read_labelled_folder(folder, prepared.class_names, pairs=task.has_pairs)
        aliases = patient_aliases(images, find_table(folder), group_regex, owners)
        # The study's own test folder must not change.
        fix = f"start a new search without them in {folder}" if source is None else _REMOVE
        _refuse_patients_of(images, aliases, found, fix)
    _require_patients(prepared, found)
    return found


def _refuse_patients_of(
    images: Iterable[ImageFile | PreparedImage],
    aliases: Collection[str],
    found: SealedTest,
    fix: str,
    *,
    owners: Mapping[str, str] | None = None,
) -> None:
    """Refuse (DataError) patients who also have images among these; `aliases` and `owners` as for `shared_patients`."""
    group_regex = found.data.split.group_regex
    patients = shared_patients(
        found.images, found.table, images, group_regex=group_regex, aliases=aliases, owners=owners
    )
    if known := [image.file for image in found.images if image.patient in patients]:
        what = f"{len(known)} test images belong to patients used for training or validation: {join_names(known)}"
        raise DataError(Problem(what, found.data.path, f"{fix}: results on patients seen in training are biased"))


def _require_patients(prepared: Prepared, found: SealedTest) -> None:
    problems = []
    for label, name in enumerate(prepared.class_names):
        count = len({image.patient for image in found.images if image.label == label})
        if count < _FEWEST_PATIENTS:
            of_class = f" of class {name}" if len(prepared.class_names) > 1 else ""
            what = f"patients{of_class} in the test folder: {count}; an interval needs {_FEWEST_PATIENTS} or more"
            problems.append(Problem(what, found.data.path, "add test images of other patients"))
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


def scoring_compute(training: Training, needed: Mapping[str, Sequence[int]]) -> Compute:
    """Return the device for scoring, pinned: that of the training, or the CPU if this machine has no GPU.

    Scores that are compared come from one kind of device and one release of torch. If some of the needed ones (runs by side)
    are missing, and the existing ones were computed differently than is possible here, the existing ones are removed and all
    are computed again.
    """
    folder = training.runs_folder
    file = folder.path / SCORING_FILE
    recorded, scored_with = training.compute, folder.releases()[-1]
    if file.exists():
        with damage_explained(file):
            content = read_json(file)
            recorded = TypeAdapter(Compute).validate_python(content["compute"])
            scored_with = numeric_releases(content["packages"])
    compute = recorded
    if not all(is_scored(folder, runs, side) for side, runs in needed.items()):
        compute = compute_like(recorded, threads=recorded.threads)
        if (compute, numeric_releases()) != (recorded, scored_with):
            for old in sorted(folder.path.glob("trials/*/*.npy")):
                discard(old)
        write_json(file, {"version": 1, "compute": {**asdict(compute)}, "packages": {**numeric_releases()}})
    pin(compute)
    return compute


def is_scored(folder: StudyFolder, runs: Iterable[int], side: str) -> bool:
    """Return whether all of these runs have been scored on a side."""
    return all(folder.results_path(number, side).exists() for number in runs)


def has_any_results(folder: StudyFolder, side: str) -> bool:
    """Return whether any run has been scored on a side."""
    return any(folder.path.glob(f"trials/*/{side}.npy"))


def evaluation_set(images: SealedTest | Side, prepared: Prepared, task: Task) -> EvaluationSet:
    """Return the labels and patients of a test folder, or of val-B."""
    return EvaluationSet(labels=images.labels, patients=images.patients, positive=prepared.positive, task=task)


def arm_thresholds(folder: StudyFolder, plan: Plan) -> ArmResults:
    """Return a function from an arm's name to the thresholds of its replicates, set on val-A and val-B, [G, K]."""
    rows = completed_runs(folder)

    def of_run(number: int) -> float:
        with damage_explained(folder.runs_path):
            if (threshold := rows[number].threshold) is None:
                raise ValueError(f"run {number} has no threshold")
            return threshold

    return partial(_of_replicates, plan, of_run)


def arm_scores(folder: StudyFolder, plan: Plan, side: str, images: EvaluationSet) -> ArmScores:
    """Return the results on a side, of these images; they are read when they are needed."""
    shape = len(images.labels), len(folder.prepared().class_names)
    of_arm = partial(_of_replicates, plan, lambda number: folder.results(number, side, shape))
    return ArmScores(plan=plan, images=images, results=of_arm)


def _of_replicates(plan: Plan, of_run: Callable[[int], ArrayLike], arm: str) -> Floats:
    numbers = plan.numbers(arm)
    seeds = range(plan.classifier_seeds)
    return np.array([[of_run(numbers[gan_seed, seed]) for seed in seeds] for gan_seed in range(plan.gan_seeds)])


def score_runs(training: Training, numbers: Sequence[int], side: str, group: ImageSource, compute: Compute) -> None:
    """Score the runs that lack scores on a side."""
    for done, number in enumerate(numbers, 1):
        if not is_scored(training.runs_folder, [number], side):
            score(training.runs_folder, number, side, group, compute=compute, cache=training.cache)
        what = f"scoring {group.name.replace('val_b', 'val-B')} (replicates)"
        training.callbacks.on_progress(what, done, len(numbers))


def score_sealed(
    training: Training, found: SealedTest, numbers: Sequence[int], compute: Compute, *, reason: str
) -> None:
    """Log the access to sealed images, and score the runs that lack scores on them."""
    study = training.folder.path
    access: dict[str, Any] = {"fingerprint": found.fingerprint, "order": found.order, "runs": len(numbers)}
    last = last_access(study / TEST_ACCESS_FILE, found.command) or {}
    # After a kill during the scoring, it is already logged.
    if not has_any_results(training.runs_folder, found.side) or access != {name: last.get(name) for name in access}:
        log_test_access(
            *study_logs(study),
            command=found.command,
            study=study.name,
            reason=reason,
            image_count=len(found.images),
            **access,
        )
    data, progress = training.settings.data, training.callbacks.on_progress
    images = load_test_images(found, data, training.cache, on_progress=progress)
    score_runs(training, numbers, found.side, images, compute)


def score_val_b(training: Training, numbers: Sequence[int], compute: Compute) -> None:
    """Score the runs that lack scores on val-B."""
    score_runs(training, numbers, VAL_B, side_images(VAL_B, training.prepared, training.cache), compute)


def score(folder: StudyFolder, number: int, side: str, group: ImageSource, *, compute: Compute, cache: Path) -> None:
    """Predict one side with the network of a run's best val-A epoch and store the results."""
    where = folder.trial_path(number)
    experiment = folder.experiment(number)
    context = RunContext(prepared=folder.prepared(), cache=cache, compute=compute)
    network, batches = untrained(experiment, context, group)
    load_best(where / "checkpoint", network)
    results_of = task_of(experiment.settings).results
    found = results_of(network, batches, group, compute=compute, error=StudyError, where=where)
    write_array(folder.results_path(number, side), found, is_recorded=True)
