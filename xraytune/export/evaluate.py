"""Evaluate a model on labelled images, with confidence intervals over patients.

The main metrics use the threshold from validation, because one chosen on the evaluated images is optimistically biased;
those at the threshold 0.5 are reported next to them. Access to the study's sealed test folder is logged. Images and patients
of the model's training or validation set are counted, because they bias the metrics.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from xraytune.data.decoding import BrokenImage
from xraytune.data.index import ImageFile, content_fingerprint, data_folder_of, read_labelled_folder
from xraytune.data.patients import PATIENTS_CSV
from xraytune.errors import ArtifactError, DataError, MachineError, Problem
from xraytune.export.bundle import Bundle, open_bundle
from xraytune.export.predict import predict_images, threshold_of
from xraytune.files import read_jsonl
from xraytune.metrics.classification import METRICS, ClassificationMetrics, Floats, classification_metrics
from xraytune.metrics.intervals import extension_metrics, patient_bootstrap
from xraytune.metrics.shift import Shift, class_samples, shift_from_validation
from xraytune.pipeline.shared_patients import patient_aliases, patients_by_file_name, shared_patients
from xraytune.records import Json, Progress, ignore_progress, to_json
from xraytune.search.study import StudyFolder
from xraytune.search.test_access import TEST_ACCESS_FILE, accesses, log_test_access, study_logs

_BOOTSTRAP_SEED = 0


@dataclass(frozen=True, slots=True, kw_only=True)
class Evaluation:
    """The metrics of one model on one folder.

    Attributes:
        threshold: Threshold of `metrics`; None with three or more classes, where the most probable class is predicted.
        further: Metrics of other packages, by name.
        intervals: 95 % confidence intervals (low, high) of all metrics, by name.
        at_half: Metrics at the threshold 0.5; None with three or more classes.
        known_image_count: Images that are copies of the model's training or validation images, or of its folder of extra
            images if that still exists.
        known_patient_count: Patients of these sets, by the rules of `shared_patients`.
        known_patient_image_count: Their images, including those of `known_image_count`.
        shift: Differences between these scores and those of the validation images; None with three or more classes.
        opened_test: Whether this is the sealed test folder of the model's study.
        test_access: How often that folder has been accessed, including now; 0 for other folders.
    """

    model: Path
    data: Path
    positive: str
    class_counts: dict[str, int]
    patient_count: int
    threshold: float | None
    metrics: ClassificationMetrics
    further: dict[str, float]
    intervals: dict[str, tuple[float, float]]
    at_half: ClassificationMetrics | None
    known_image_count: int
    known_patient_count: int
    known_patient_image_count: int
    shift: Shift | None
    broken: tuple[BrokenImage, ...]
    opened_test: bool
    test_access: int

    def to_json(self) -> dict[str, Json]:
        """Return the evaluation as a JSON object, with the main metrics at the top level."""
        content = to_json(self)
        return {
            **content.pop("further"),
            **content.pop("metrics"),
            "patients": content.pop("patient_count"),
            "known_images": content.pop("known_image_count"),
            "known_patients": content.pop("known_patient_count"),
            "images_of_known_patients": content.pop("known_patient_image_count"),
            **content,
            "shift": self.shift and {**to_json(self.shift), "warnings": [*self.shift.warnings]},
        }


def evaluate(
    model: Path,
    *,
    data: Path,
    skip_broken: bool = False,
    reason: str = "",
    sensitivity: float | None = None,
    replicates: int = 2000,
    on_progress: Progress = ignore_progress,
) -> Evaluation:
    """Predict the images of class folders and compare with their classes.

    Args:
        model: Model bundle.
        data: Folder with one subfolder per class, not a data folder with train/ or test/. For a `test/` without its own
            `patients.csv`, that of the data folder is used.
        skip_broken: Leave out broken images.
        reason: Reason to record in the test-set access log.
        sensitivity: Use the threshold that reaches this sensitivity on the model's validation images.
        replicates: Number of bootstrap samples.
        on_progress: Called with progress.

    Raises:
        ConfigError: There are too few validation images to set the threshold for `sensitivity`.
        ArtifactError: The bundle is missing or damaged.
        DataError: The folder or its images are invalid, or a class has no images.
        MachineError: A metric of another package cannot be loaded.
    """
    bundle = open_bundle(model)
    threshold = threshold_of(bundle, sensitivity)
    images = _read_folder(bundle, data, on_progress)
    predicted = predict_images(
        bundle, data, [image.file for image in images], skip_broken=skip_broken, on_progress=on_progress
    )
    used = set(predicted.files)
    kept = [image for image in images if image.file in used]
    labels = np.array([image.label for image in kept], dtype=np.int64)
    counts = _class_counts(bundle, labels, data)
    patients = [image.patient for image in kept]
    probabilities, positive = predicted.probabilities, bundle.positive
    is_binary = len(counts) == 2
    sampling = {"positive": positive, "replicates": replicates, "seed": _BOOTSTRAP_SEED}
    intervals = patient_bootstrap(labels, probabilities, patients, threshold=threshold, **sampling)
    installed = {name: METRICS.load(name) for name in METRICS.names()}
    further = extension_metrics(installed, labels, probabilities, patients, **sampling)
    fingerprint = content_fingerprint(images)
    is_test = fingerprint == bundle.record.test_fingerprint
    # Logged before any metric can be seen.
    access_count = _log_access(bundle, fingerprint, reason=reason, image_count=len(kept)) if is_test else 0
    known_contents, known = _known(bundle, data, kept, is_test=is_test)
    return Evaluation(
        model=model,
        data=data,
        positive=bundle.record.positive,
        class_counts=counts,
        patient_count=len(set(patients)),
        threshold=threshold if is_binary else None,
        metrics=classification_metrics(labels, probabilities, positive=positive, threshold=threshold),
        further={name: value for name, (value, _, _) in further.items()},
        intervals={name: (low, high) for name, (_, low, high) in further.items()} | intervals,
        at_half=classification_metrics(labels, probabilities, positive=positive) if is_binary else None,
        known_image_count=sum(image.sha256 in known_contents for image in kept),
        known_patient_count=len(known),
        known_patient_image_count=sum(patient in known for patient in patients),
        shift=_shift(bundle, labels, probabilities, patients, threshold),
        broken=predicted.broken,
        opened_test=is_test,
        test_access=access_count,
    )


def _read_folder(bundle: Bundle, data: Path, on_progress: Progress) -> tuple[ImageFile, ...]:
    group_regex = bundle.record.group_regex
    whole = data_folder_of(data, group_regex)
    if ((whole or data) / PATIENTS_CSV).is_file():  # overrides the rule for the training set's file names
        group_regex = None
    names = bundle.record.class_names
    return read_labelled_folder(data, names, group_regex=group_regex, whole=whole, on_progress=on_progress)


def _class_counts(bundle: Bundle, labels: NDArray[np.int64], data: Path) -> dict[str, int]:
    names = bundle.record.class_names
    counts = dict(zip(names, np.bincount(labels, minlength=len(names)).tolist(), strict=True))
    if empty := [name for name, count in counts.items() if count == 0]:
        what = f"there are no images of {' and '.join(empty)}, so AUROC is undefined"
        fix = f"put images of each class into folders named {', '.join(names)}; `xraytune predict` needs no classes"
        raise DataError(Problem(what, data, fix))
    return counts


def _shift(
    bundle: Bundle, labels: NDArray[np.int64], probabilities: Floats, patients: Sequence[str], threshold: float
) -> Shift | None:
    if bundle.record.validation is None:
        return None
    folder = class_samples(bundle.record.class_names, labels, probabilities[:, bundle.positive], patients)
    validation = {name: one.sample() for name, one in bundle.record.validation.items()}
    return shift_from_validation(validation, folder, positive=bundle.record.positive, threshold=threshold)


def _log_access(bundle: Bundle, fingerprint: str, *, reason: str, image_count: int) -> int:
    """Log access to the test folder, with the model and with its study; return the number of known accesses."""
    model, study = bundle.path.resolve(), _study_with_test(bundle, fingerprint)
    log_test_access(
        model,
        *(study_logs(study) if study else ()),
        command="evaluate",
        fingerprint=fingerprint,
        reason=reason,
        image_count=image_count,
        model=model,
        model_sha256=bundle.model_sha256,
        **({"study": study.name} if study else {}),
    )
    with_model = [row for row in read_jsonl(model / TEST_ACCESS_FILE) if row["fingerprint"] == fingerprint]
    return max(len(with_model), len(accesses(study, fingerprint)) if study else 0)


def _study_with_test(bundle: Bundle, fingerprint: str) -> Path | None:
    """Return the bundle's study, if it was not moved and has this test folder."""
    if bundle.study is None:
        return None
    folder = StudyFolder(bundle.study.resolve())
    is_found = folder.space_path.is_file() and folder.prepared().test_fingerprint == fingerprint
    return folder.path if is_found else None


def _known(bundle: Bundle, data: Path, images: Sequence[ImageFile], *, is_test: bool) -> tuple[set[str], set[str]]:
    """Return the hashes of the model's training and validation images, and the patients of `images` on them."""
    own, group_regex = bundle.prepared().images, bundle.record.group_regex
    whole = data_folder_of(data, group_regex)
    found = images if whole is None else [replace(one, file=f"{data.resolve().name}/{one.file}") for one in images]
    known_in = partial(shared_patients, found, whole or data, group_regex=group_regex)
    extra, names = _extra_images(bundle, patients_by_file_name([*own, *found]))
    patients = known_in(extra, aliases=names)
    if not is_test:  # the search has checked that the sealed test folder shares no patient with training
        patients |= known_in(own, aliases=_further_names(bundle), owners=patients_by_file_name(own))
    return {image.sha256 for image in own} | {image.sha256 for image in extra}, patients


def _further_names(bundle: Bundle) -> set[str]:
    """Return the names of the model's patients that only its data folder gives; empty if it can no longer be read."""
    try:
        root = bundle.experiment().settings.data.path
        return patient_aliases(bundle.prepared().images, root, bundle.record.group_regex)
    except (ArtifactError, DataError, OSError):
        return set()


def _extra_images(bundle: Bundle, owners: Mapping[str, str]) -> tuple[tuple[ImageFile, ...], set[str]]:
    """Return the model's folder of extra images and the names of their patients; empty if it can no longer be read."""
    try:
        folder = bundle.experiment().parameters.folder
        if folder is None:
            return (), set()
        images = read_labelled_folder(folder.path, bundle.record.class_names)
        return images, patient_aliases(images, folder.path, bundle.record.group_regex, owners)
    except (ArtifactError, DataError, MachineError, OSError):
        return (), set()
