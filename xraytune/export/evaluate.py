"""What a model is worth on a folder of class folders, with intervals over patients.

The headline is at the threshold that validation gave, for a threshold that is chosen on the images it is judged by flatters;
the figures at .5 stand beside it. If the folder is the study's sealed test folder, the look at it is written down. Images
and patients that the model was trained or validated on flatter the figures, so they are counted.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, replace
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
from xraytune.export.test_access import record_test_access
from xraytune.metrics.classification import METRICS, ClassificationMetrics, Floats, classification_metrics
from xraytune.metrics.intervals import further_figures, patient_bootstrap
from xraytune.metrics.shift import Shift, class_samples, shift_from_validation
from xraytune.pipeline.known_patients import all_names, known_patients, owners_by_name
from xraytune.records import Json, Progress, ignore_progress

_BOOTSTRAP_SEED = 0


@dataclass(frozen=True, slots=True, kw_only=True)
class Evaluation:
    """The figures of one model on one folder.

    Attributes:
        model: The bundle.
        data: The folder.
        positive: The class that sensitivity is about.
        class_counts: Images of each class.
        patient_count: Patients on them.
        threshold: At which `metrics` are; None with three classes or more, where the most probable one is called.
        metrics: The headline.
        further: Of the metrics that other packages bring, by name.
        intervals: 95 % intervals of its figures, by name: low, high.
        at_half: The figures at the threshold .5; None with three classes or more.
        known_image_count: Images that are, to the byte, in the model's training or validation parts, or in its folder of
            extra images, if that lies where it did.
        known_patient_count: Patients who are in these parts or that folder, by the rules of `known_patients`.
        known_patient_image_count: Their images, those of `known_image_count` included.
        shift: How its scores differ from the validation images'; None with three classes or more, and for bundles of
            earlier versions.
        broken: Images that were left out.
        opened_test: Whether this is the sealed test folder of the model's study.
        test_access: How often it has been opened, this time included; 0 for another folder.
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
        """The record as JSON values, the headline's figures at the top."""
        return {
            **self.further,
            **asdict(self.metrics),
            "intervals": {name: list(interval) for name, interval in self.intervals.items()},
            "threshold": self.threshold,
            "at_half": None if self.at_half is None else asdict(self.at_half),
            "positive": self.positive,
            "class_counts": {**self.class_counts},
            "patients": self.patient_count,
            "known_images": self.known_image_count,
            "known_patients": self.known_patient_count,
            "images_of_known_patients": self.known_patient_image_count,
            "shift": self.shift and {**asdict(self.shift), "warnings": [*self.shift.warnings]},
            "broken": [asdict(image) for image in self.broken],
            "opened_test": self.opened_test,
            "test_access": self.test_access,
            "model": str(self.model),
            "data": str(self.data),
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
    """Predict a folder of class folders and compare with its classes.

    Args:
        model: The bundle.
        data: The folder whose subfolders are the classes; one with train/ or test/ in it is refused. Of a `test/` the data
            folder's `patients.csv` tells the patients, where it has none of its own.
        skip_broken: Leave broken images out, and say which.
        reason: Why the test folder is opened, for the log of its openings.
        sensitivity: Evaluate at the threshold for this sensitivity instead of the model's own.
        replicates: Resamples for the intervals.
        on_progress: Told how far it is.

    Raises:
        ConfigError: The validation images cannot tell the threshold for `sensitivity`.
        ArtifactError: The bundle is missing or damaged.
        DataError: The folder, its names or images; a class without images.
        MachineError: The disk is full, or another package's metric cannot be loaded.
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
    metrics = classification_metrics(labels, probabilities, positive=positive, threshold=threshold)
    intervals = patient_bootstrap(
        labels,
        probabilities,
        patients,
        positive=positive,
        threshold=threshold,
        replicates=replicates,
        seed=_BOOTSTRAP_SEED,
    )
    installed = {name: METRICS.load(name) for name in METRICS.names()}
    further = further_figures(
        installed, labels, probabilities, patients, positive=positive, replicates=replicates, seed=_BOOTSTRAP_SEED
    )
    fingerprint = content_fingerprint(images)
    is_test = fingerprint == bundle.record.test_fingerprint
    # Before anyone has seen a figure, so that no look goes unrecorded.
    accesses = record_test_access(bundle, fingerprint, reason=reason, image_count=len(kept)) if is_test else 0
    known_contents, known = _known(bundle, data, kept, is_test=is_test)
    return Evaluation(
        model=model,
        data=data,
        positive=bundle.record.positive,
        class_counts=counts,
        patient_count=len(set(patients)),
        threshold=threshold if is_binary else None,
        metrics=metrics,
        further={name: value for name, (value, _, _) in further.items()},
        intervals={name: (low, high) for name, (_, low, high) in further.items()} | intervals,
        at_half=classification_metrics(labels, probabilities, positive=positive) if is_binary else None,
        known_image_count=sum(image.sha256 in known_contents for image in kept),
        known_patient_count=len(known),
        known_patient_image_count=sum(patient in known for patient in patients),
        shift=_shift(bundle, labels, probabilities, patients, threshold),
        broken=predicted.broken,
        opened_test=is_test,
        test_access=accesses,
    )


def _read_folder(bundle: Bundle, data: Path, on_progress: Progress) -> tuple[ImageFile, ...]:
    group_regex = bundle.record.group_regex
    whole = data_folder_of(data, group_regex)
    # A table of patients knows more about them than the training set's file names.
    if ((whole or data) / PATIENTS_CSV).is_file():
        group_regex = None
    names = bundle.record.class_names
    return read_labelled_folder(data, names, group_regex=group_regex, whole=whole, on_progress=on_progress)


def _class_counts(bundle: Bundle, labels: NDArray[np.int64], data: Path) -> dict[str, int]:
    names = bundle.record.class_names
    counts = dict(zip(names, np.bincount(labels, minlength=len(names)).tolist(), strict=True))
    empty = [name for name, count in counts.items() if count == 0]
    if empty:
        what = f"no images of {' and '.join(empty)}, so AUROC has no value"
        fix = f"put images of each class into folders called {', '.join(names)}; `xraytune predict` needs no classes"
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


def _known(bundle: Bundle, data: Path, images: Sequence[ImageFile], *, is_test: bool) -> tuple[set[str], set[str]]:
    """Hashes of all images that the model was trained or validated on, and the patients of `images` who are on them."""
    own, group_regex = bundle.prepared().images, bundle.record.group_regex
    whole = data_folder_of(data, group_regex)
    found = images if whole is None else [replace(one, file=f"{data.resolve().name}/{one.file}") for one in images]
    known_in = partial(known_patients, found, whole or data, group_regex=group_regex)
    extra, names = _extra_images(bundle, owners_by_name([*own, *found]))
    patients = known_in(extra, known_as=names)
    if not is_test:  # the index has checked that no patient of the sealed test folder is in training
        patients |= known_in(own, known_as=_further_names(bundle), owners=owners_by_name(own))
    return {image.sha256 for image in own} | {image.sha256 for image in extra}, patients


def _further_names(bundle: Bundle) -> set[str]:
    """Names of the model's patients that only its data folder tells; none if that cannot be read any more."""
    try:
        root = bundle.experiment().settings.data.path
        return all_names(bundle.prepared().images, root, bundle.record.group_regex)
    except (ArtifactError, DataError, OSError):
        return set()


def _extra_images(bundle: Bundle, owners: Mapping[str, str]) -> tuple[tuple[ImageFile, ...], set[str]]:
    """The model's extra images from a folder and the names of their patients; none if that cannot be read any more."""
    try:
        folder = bundle.experiment().parameters.folder
        if folder is None:
            return (), set()
        images = read_labelled_folder(folder.path, bundle.record.class_names)
        return images, all_names(images, folder.path, bundle.record.group_regex, owners)
    except (ArtifactError, DataError, MachineError, OSError):
        return (), set()
