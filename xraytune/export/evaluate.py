"""Evaluate a model on labelled images, with confidence intervals over patients.

The main metrics use the threshold from validation, because one chosen on the evaluated images is optimistically biased;
those at the threshold 0.5 are reported next to them. Access to the study's sealed test folder is logged. Images and patients
of the model's training or validation set are counted, because they bias the metrics.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from sklearn.metrics import confusion_matrix

from xraytune.config.settings import TaskName
from xraytune.data.decoding import BrokenImage
from xraytune.data.index import ImageFile, read_labelled
from xraytune.data.table import subgroup_columns
from xraytune.errors import DataError, Problem
from xraytune.export.bundle import Bundle, open_bundle
from xraytune.export.evaluation import (
    Evaluation,
    PatientLevel,
    ScoredImages,
    require_new_evaluation,
    write_evaluation,
)
from xraytune.export.mask_evaluation import MaskEvaluation, evaluate_masks
from xraytune.export.overlap import overlap_of
from xraytune.export.predict import predict_images, threshold_of
from xraytune.metrics.breakdown import Subgroup, class_breakdown, patient_means, subgroup_metrics
from xraytune.metrics.classification import METRICS, Floats, classification_metrics, predicted_classes
from xraytune.metrics.intervals import extension_metrics, patient_bootstrap
from xraytune.metrics.shift import Shift, class_samples, shift_from_validation
from xraytune.records import Progress, ignore_progress

_BOOTSTRAP_SEED = 0


def evaluate(
    model: Path,
    *,
    data: Path,
    out: Path | None = None,
    by: Sequence[str] = (),
    skip_broken: bool = False,
    reason: str = "",
    sensitivity: float | None = None,
    replicates: int = 2000,
    on_progress: Progress = ignore_progress,
) -> Evaluation | MaskEvaluation:
    """Compare a model's predictions with labels: classes for a classifier, masks for a segmenter.

    Args:
        model: Model bundle.
        data: Folder with one subfolder per class, or with images/ and masks/ for a segmenter; not a data folder with train/
            or test/. For a `test/` without its own `patients.csv`, that of the data folder is used. Or a data file (YAML),
            of which the test images are used; all images if there are none.
        out: Folder to create, with predictions, tables and a figure (`export/evaluation.py`, `mask_evaluation.py`).
        by: Columns of the patient table that define subgroups; `pneumonia` also if Kermany file names state its type.
        skip_broken: Leave out broken images.
        reason: Reason to record in the test-set access log.
        sensitivity: Use the threshold that reaches this sensitivity on validation images; for classifiers with two classes.
        replicates: Number of bootstrap samples.
        on_progress: Called with progress.

    Raises:
        ConfigError: The file is invalid, `out` exists or is inside `data`, there are too few validation images to set the
            threshold for `sensitivity`, or a column of `by` makes no subgroups.
        ArtifactError: The bundle is missing or damaged.
        DataError: The folder or its images are invalid, or a class has no images.
        MachineError: A metric of another package cannot be loaded, or the packages of a segmenter are not installed.
    """
    if out is not None:
        require_new_evaluation(out, data)
    bundle = open_bundle(model)
    return _EVALUATE[bundle.record.task](
        bundle,
        data,
        out=out,
        by=by,
        threshold=threshold_of(bundle, sensitivity),
        skip_broken=skip_broken,
        reason=reason,
        replicates=replicates,
        on_progress=on_progress,
    )


def _evaluate_classes(
    bundle: Bundle,
    data: Path,
    *,
    out: Path | None,
    by: Sequence[str],
    threshold: float,
    skip_broken: bool,
    reason: str,
    replicates: int,
    on_progress: Progress,
) -> Evaluation:
    positive = bundle.positive
    found = read_labelled(
        data, bundle.record.class_names, group_regex=bundle.record.group_regex, on_progress=on_progress
    )
    images, root = found.images, found.data.path
    files = [image.file for image in images]
    columns = subgroup_columns(found.data, files, by)
    scored, broken = _score(bundle, root, images, threshold, skip_broken=skip_broken, on_progress=on_progress)
    counts = _class_counts(bundle, scored.labels, data)
    is_binary = len(counts) == 2
    labels, probabilities, patients = scored.labels, scored.probabilities, scored.patients
    sampling = {"replicates": replicates, "seed": _BOOTSTRAP_SEED}
    installed = {name: METRICS.load(name) for name in METRICS.names()}
    further = extension_metrics(installed, labels, probabilities, patients, positive=positive, **sampling)
    # Logs access to the test folder, before any metric can be seen.
    overlap = overlap_of(bundle, found, scored.files, reason=reason)
    intervals = patient_bootstrap(labels, probabilities, patients, positive=positive, threshold=threshold, **sampling)
    breakdown = class_breakdown(labels, probabilities, scored.predicted, patients, **sampling)

    def subgroups_of(values: Mapping[str, str]) -> tuple[Subgroup, ...]:
        given = (scored.files, labels, probabilities, patients, values)
        return subgroup_metrics(
            *given, positive=positive, threshold=threshold, replicates=replicates, seed=_BOOTSTRAP_SEED
        )

    evaluation = Evaluation(
        model=bundle.path,
        data=data,
        out=out,
        positive=bundle.positive_name,
        class_counts=counts,
        patient_count=len(set(patients)),
        threshold=threshold if is_binary else None,
        metrics=classification_metrics(labels, probabilities, positive=positive, threshold=threshold),
        further={name: value for name, (value, _, _) in further.items()},
        intervals={name: (low, high) for name, (_, low, high) in further.items()} | intervals,
        at_half=classification_metrics(labels, probabilities, positive=positive) if is_binary else None,
        classes=dict(zip(counts, breakdown.classes, strict=True)),
        macro=breakdown.macro,
        micro=breakdown.micro,
        confusion=tuple(map(tuple, confusion_matrix(labels, scored.predicted, labels=range(len(counts))).tolist())),
        patient_level=_patient_level([*counts], scored, positive=positive, threshold=threshold, **sampling),
        subgroups={name: subgroups_of(values) for name, values in columns.items()},
        shift=_shift(bundle, labels, probabilities, patients, threshold),
        broken=broken,
        **asdict(overlap),
    )
    if out is not None:
        write_evaluation(out, evaluation, scored, **sampling)
    return evaluation


def _score(
    bundle: Bundle,
    data: Path,
    images: Sequence[ImageFile],
    threshold: float,
    *,
    skip_broken: bool,
    on_progress: Progress,
) -> tuple[ScoredImages, tuple[BrokenImage, ...]]:
    files = [image.file for image in images]
    found = predict_images(bundle, data, files, skip_broken=skip_broken, on_progress=on_progress)
    by_file = {image.file: image for image in images}
    kept = [by_file[file] for file in found.files]
    scored = ScoredImages(
        files=found.files,
        patients=tuple(image.patient for image in kept),
        labels=np.array([image.label for image in kept], dtype=np.int64),
        predicted=predicted_classes(found.probabilities, positive=bundle.positive, threshold=threshold),
        probabilities=found.probabilities,
    )
    return scored, found.broken


def _patient_level(
    class_names: Sequence[str], scored: ScoredImages, *, positive: int, threshold: float, replicates: int, seed: int
) -> PatientLevel:
    means = patient_means(scored.labels, scored.probabilities, scored.patients)
    counts = np.bincount(means.labels, minlength=len(class_names)).tolist()
    metrics, intervals = None, {}
    if all(counts):
        metrics = classification_metrics(means.labels, means.probabilities, positive=positive, threshold=threshold)
        intervals = patient_bootstrap(
            means.labels,
            means.probabilities,
            means.patients,
            positive=positive,
            threshold=threshold,
            replicates=replicates,
            seed=seed,
        )
    return PatientLevel(
        class_counts=dict(zip(class_names, counts, strict=True)),
        metrics=metrics,
        intervals=intervals,
        left_out=means.left_out,
    )


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
    return shift_from_validation(validation, folder, positive=bundle.positive_name, threshold=threshold)


_EVALUATE: Mapping[TaskName, Callable[..., Evaluation | MaskEvaluation]] = {
    "classification": _evaluate_classes,
    "segmentation": evaluate_masks,
}
