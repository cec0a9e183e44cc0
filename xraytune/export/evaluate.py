"""Evaluate a model on labelled images, with confidence intervals over patients.

The main metrics use the threshold from validation, because one chosen on the evaluated images is optimistically biased;
those at the threshold 0.5 are reported next to them. Access to the study's sealed test folder is logged. Images and patients
of the model's training or validation set are counted, because they bias the metrics.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from functools import partial
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from sklearn.metrics import confusion_matrix

from xraytune.data.decoding import BrokenImage
from xraytune.data.index import ImageFile, LabelledImages, content_fingerprint, read_labelled, read_labelled_folder
from xraytune.data.table import find_table, subgroup_columns
from xraytune.errors import ArtifactError, ConfigError, DataError, MachineError, Problem
from xraytune.export.bundle import Bundle, open_bundle
from xraytune.export.evaluation import (
    Evaluation,
    PatientLevel,
    ScoredImages,
    require_new_evaluation,
    write_evaluation,
)
from xraytune.export.predict import predict_images, threshold_of
from xraytune.files import read_jsonl
from xraytune.metrics.breakdown import Subgroup, class_breakdown, patient_means, subgroup_metrics
from xraytune.metrics.classification import METRICS, Floats, classification_metrics, predicted_classes
from xraytune.metrics.intervals import extension_metrics, patient_bootstrap
from xraytune.metrics.shift import Shift, class_samples, shift_from_validation
from xraytune.pipeline.shared_patients import patient_aliases, patients_by_file_name, shared_patients
from xraytune.records import Progress, ignore_progress
from xraytune.search.study import StudyFolder
from xraytune.search.test_access import TEST_ACCESS_FILE, accesses, log_test_access, study_logs

_BOOTSTRAP_SEED = 0
"""The column of the pneumonia types that Kermany file names state."""


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
) -> Evaluation:
    """Predict the images of class folders and compare with their classes.

    Args:
        model: Model bundle.
        data: Folder with one subfolder per class, not a data folder with train/ or test/; for a `test/` without its own
            `patients.csv`, that of the data folder is used. Or a YAML file with `data.table`, of which the test images are
            used; all images if none are.
        out: Folder to create, with predictions, tables and a figure (`export/evaluation.py`).
        by: Columns of the patient table that define subgroups; `pneumonia` also if Kermany file names state its type.
        skip_broken: Leave out broken images.
        reason: Reason to record in the test-set access log.
        sensitivity: Use the threshold that reaches this sensitivity on the model's validation images.
        replicates: Number of bootstrap samples.
        on_progress: Called with progress.

    Raises:
        ConfigError: The file is invalid, `out` exists or is inside `data`, there are too few validation images to set the
            threshold for `sensitivity`, or a column of `by` makes no subgroups.
        ArtifactError: The bundle is missing or damaged.
        DataError: The folder or its images are invalid, or a class has no images.
        MachineError: A metric of another package cannot be loaded.
    """
    if out is not None:
        require_new_evaluation(out, data)
    bundle = open_bundle(model)
    threshold, positive = threshold_of(bundle, sensitivity), bundle.positive
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
    fingerprint = content_fingerprint(images)
    is_test = fingerprint == bundle.record.test_fingerprint
    # Logged before any metric can be seen.
    access_count = _log_access(bundle, fingerprint, reason=reason, image_count=len(scored.files)) if is_test else 0
    used = set(scored.files)
    kept = [image for image in images if image.file in used]
    known_contents, known = _known(bundle, found, kept, is_test=is_test)
    intervals = patient_bootstrap(labels, probabilities, patients, positive=positive, threshold=threshold, **sampling)
    breakdown = class_breakdown(labels, probabilities, scored.predicted, patients, **sampling)

    def subgroups_of(values: Mapping[str, str]) -> tuple[Subgroup, ...]:
        given = (scored.files, labels, probabilities, patients, values)
        return subgroup_metrics(
            *given, positive=positive, threshold=threshold, replicates=replicates, seed=_BOOTSTRAP_SEED
        )

    evaluation = Evaluation(
        model=model,
        data=data,
        out=out,
        positive=bundle.record.positive,
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
        known_image_count=sum(image.sha256 in known_contents for image in kept),
        known_patient_count=len(known),
        known_patient_image_count=sum(patient in known for patient in patients),
        shift=_shift(bundle, labels, probabilities, patients, threshold),
        broken=broken,
        opened_test=is_test,
        test_access=access_count,
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


def _known(
    bundle: Bundle, found: LabelledImages, images: Sequence[ImageFile], *, is_test: bool
) -> tuple[set[str], set[str]]:
    """Return the hashes of the model's training and validation images, and the patients of `images` on them."""
    own = bundle.prepared().images
    known_in = partial(shared_patients, images, found.table, group_regex=found.data.split.group_regex)
    extra, names = _extra_images(bundle, patients_by_file_name([*own, *images]))
    patients = known_in(extra, aliases=names)
    if not is_test:  # the search has checked that the sealed test folder shares no patient with training
        patients |= known_in(own, aliases=_further_names(bundle), owners=patients_by_file_name(own))
    return {image.sha256 for image in own} | {image.sha256 for image in extra}, patients


def _further_names(bundle: Bundle) -> set[str]:
    """Return the names of the model's patients that only its data folder gives; empty if it can no longer be read."""
    try:
        data = bundle.experiment().settings.data
        return patient_aliases(bundle.prepared().images, find_table(data.path, data.table), bundle.record.group_regex)
    except (ArtifactError, ConfigError, DataError, OSError):
        return set()


def _extra_images(bundle: Bundle, owners: Mapping[str, str]) -> tuple[tuple[ImageFile, ...], set[str]]:
    """Return the model's folder of extra images and the names of their patients; empty if it can no longer be read."""
    try:
        folder = bundle.experiment().parameters.folder
        if folder is None:
            return (), set()
        images = read_labelled_folder(folder.path, bundle.record.class_names)
        return images, patient_aliases(images, find_table(folder.path), bundle.record.group_regex, owners)
    except (ArtifactError, DataError, MachineError, OSError):
        return (), set()
