"""Evaluate a model on labelled images, with confidence intervals over patients.

The main metrics use the threshold from validation, because one chosen on the evaluated images is optimistically biased;
those at the threshold 0.5 are reported next to them. Access to the study's sealed test folder is logged. Images and patients
of the model's training or validation set are counted, because they bias the metrics.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np
from sklearn.metrics import confusion_matrix

from xraytune.data.table import subgroup_columns
from xraytune.errors import ConfigError, DataError, Problem
from xraytune.export.evaluation import Evaluation, PatientLevel, ScoredImages, write_evaluation
from xraytune.export.mask_evaluation import BOOTSTRAP_SEED, MaskEvaluation, evaluate_masks
from xraytune.export.outputs import ImageFiles
from xraytune.export.overlap import overlap_of
from xraytune.export.predict import predict_images
from xraytune.files import require_new
from xraytune.metrics.breakdown import class_breakdown, patient_means, subgroup_metrics
from xraytune.metrics.classification import METRICS, Floats, Labels, classification_metrics, predicted_classes
from xraytune.metrics.intervals import extension_metrics, patient_bootstrap
from xraytune.metrics.shift import Shift, class_samples, shift_from_validation
from xraytune.pipeline.bundle import Bundle, open_bundle
from xraytune.pipeline.predictor import threshold_of
from xraytune.pipeline.task import TASKS
from xraytune.records import Progress, ignore_progress


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
        require_new(out)
        if out.resolve().is_relative_to(data.resolve()):
            what = "a figure in the image folder would be mistaken for an X-ray"
            raise ConfigError(Problem(what, out, "give a folder outside of it"))
    bundle = open_bundle(model)
    threshold = threshold_of(bundle.record, sensitivity)
    names, group_regex, task = bundle.record.class_names, bundle.record.group_regex, bundle.record.task
    found = TASKS[task].read_labelled(data, names, group_regex=group_regex, on_progress=on_progress)
    files = [image.file for image in found.images]
    columns = subgroup_columns(found.data, files, by)
    images = ImageFiles(root=found.data.path, files=files, skip_broken=skip_broken, on_progress=on_progress)
    if task == "segmentation":
        return evaluate_masks(
            bundle, data, found, images, columns, out=out, threshold=threshold, reason=reason, replicates=replicates
        )
    is_binary, positive = len(names) == 2, bundle.positive
    rule: dict[str, Any] = {"positive": positive, "threshold": threshold}
    used, probabilities, broken = predict_images(bundle.predictor(), images)
    by_file = {image.file: image for image in found.images}
    labels = np.array([by_file[file].label for file in used], dtype=np.int64)
    patients = tuple(by_file[file].patient for file in used)
    predicted = predicted_classes(probabilities, **rule)
    scored = ScoredImages(
        files=used, patients=patients, labels=labels, predicted=predicted, probabilities=probabilities
    )
    counts = _class_counts(names, labels, data)
    sampling = {"replicates": replicates, "seed": BOOTSTRAP_SEED}
    installed = {name: METRICS.load(name) for name in METRICS.names()}
    further = extension_metrics(installed, labels, probabilities, patients, positive=positive, **sampling)
    # Logs access to the test folder, before any metric can be seen.
    overlap = overlap_of(bundle, found, used, reason=reason)
    intervals = patient_bootstrap(labels, probabilities, patients, **rule, **sampling)
    breakdown = class_breakdown(labels, probabilities, predicted, patients, **sampling)
    evaluation = Evaluation(
        model=bundle.path,
        data=data,
        out=out,
        positive=bundle.record.positive_name,
        class_counts=counts,
        patients=len(set(patients)),
        threshold=threshold if is_binary else None,
        metrics=classification_metrics(labels, probabilities, **rule),
        further={name: value for name, (value, _, _) in further.items()},
        intervals={name: (low, high) for name, (_, low, high) in further.items()} | intervals,
        at_half=classification_metrics(labels, probabilities, positive=positive) if is_binary else None,
        classes=dict(zip(counts, breakdown.classes, strict=True)),
        macro=breakdown.macro,
        micro=breakdown.micro,
        confusion=tuple(map(tuple, confusion_matrix(labels, predicted, labels=range(len(counts))).tolist())),
        patient_level=_patient_level(names, scored, rule, sampling),
        subgroups={
            name: subgroup_metrics(used, labels, probabilities, patients, values, **rule, **sampling)
            for name, values in columns.items()
        },
        shift=_shift(bundle, labels, probabilities, patients, threshold),
        broken=broken,
        **asdict(overlap),
    )
    if out is not None:
        write_evaluation(out, evaluation, scored, **sampling)
    return evaluation


def _patient_level(
    class_names: Sequence[str], scored: ScoredImages, rule: Mapping[str, Any], sampling: Mapping[str, int]
) -> PatientLevel:
    means = patient_means(scored.labels, scored.probabilities, scored.patients)
    counts = np.bincount(means.labels, minlength=len(class_names)).tolist()
    metrics, intervals = None, {}
    if all(counts):
        metrics = classification_metrics(means.labels, means.probabilities, **rule)
        intervals = patient_bootstrap(means.labels, means.probabilities, means.patients, **rule, **sampling)
    return PatientLevel(
        class_counts=dict(zip(class_names, counts, strict=True)),
        metrics=metrics,
        intervals=intervals,
        left_out=means.left_out,
    )


def _class_counts(names: Sequence[str], labels: Labels, data: Path) -> dict[str, int]:
    counts = dict(zip(names, np.bincount(labels, minlength=len(names)).tolist(), strict=True))
    if empty := [name for name, count in counts.items() if count == 0]:
        what = f"there are no images of {' and '.join(empty)}, so AUROC is undefined"
        fix = f"put images of each class into folders named {', '.join(names)}; `xraytune predict` needs no classes"
        raise DataError(Problem(what, data, fix))
    return counts


def _shift(
    bundle: Bundle, labels: Labels, probabilities: Floats, patients: Sequence[str], threshold: float
) -> Shift | None:
    if bundle.record.validation is None:
        return None
    folder = class_samples(bundle.record.class_names, labels, probabilities[:, bundle.positive], patients)
    validation = {name: one.sample() for name, one in bundle.record.validation.items()}
    return shift_from_validation(validation, folder, positive=bundle.record.positive_name, threshold=threshold)
