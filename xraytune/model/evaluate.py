"""Evaluate a model on labelled images, with confidence intervals over patients.

The main metrics use the threshold from validation, because one chosen on the evaluated images is optimistically biased;
those at the threshold 0.5 are reported next to them. Access to the study's sealed test folder is logged. Images and patients
of the model's training or validation set are counted, because they bias the metrics. For a classifier, the folder holds:

    metrics.json                 all metrics, with 95 % intervals over patients
    predictions.csv              file, patient, label, probability of each class, predicted class
    per_class.csv                one-vs-rest metrics of each class
    confusion_matrix.csv         images by true class (rows) and predicted class (columns)
    roc.csv, pr.csv              the curves, one row per threshold
    calibration.csv              predicted probability and observed share in each bin
    evaluation.png, .svg         the four panels: ROC, precision-recall, calibration, confusion matrix

With two classes the curves are those of the positive class, else of each class against the others.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from sklearn.metrics import confusion_matrix

from xraytune.base.drawing import figure_files, with_interval
from xraytune.base.errors import ConfigError, DataError, Problem
from xraytune.base.files import csv_table, new_folder, require_new, write_json, write_text
from xraytune.base.records import Json, Progress, ignore_progress, to_json
from xraytune.data.decoding import BrokenImage
from xraytune.data.table import subgroup_columns
from xraytune.model.bundle_record import threshold_of
from xraytune.model.evaluation_figure import DrawnClass, draw_evaluation
from xraytune.model.load import open_bundle
from xraytune.model.mask_evaluation import BOOTSTRAP_SEED, MaskEvaluation, evaluate_masks
from xraytune.model.overlap import Overlap, overlap_of
from xraytune.model.predict import ImageFiles, predict_images, predictions_csv
from xraytune.stats.breakdown import ClassMetrics, Subgroup, class_breakdown, patient_means, subgroup_metrics
from xraytune.stats.classification import (
    ClassificationMetrics,
    Floats,
    Labels,
    classification_metrics,
    predicted_classes,
)
from xraytune.stats.curves import class_curves
from xraytune.stats.intervals import Interval, patient_bootstrap
from xraytune.stats.shift import Shift, class_samples, shift_from_validation
from xraytune.trial.task import TASKS

if TYPE_CHECKING:
    import pandas as pd

_OF_POSITIVE = ("sensitivity", "specificity", "ppv", "npv")
AT_THRESHOLD = ("accuracy", "balanced_accuracy", *_OF_POSITIVE, "f1")
"""The metrics that depend on the threshold."""
_OF_CLASS = ("auroc", "auprc", *_OF_POSITIVE)
_CURVE_COLUMNS = {
    "roc": {"false_positive_rate": "x", "sensitivity": "y", "threshold": "thresholds"},
    "pr": {"recall": "x", "precision": "y", "threshold": "thresholds"},
    "calibration": {
        "mean_probability": "mean_probability",
        "observed_share": "share",
        **{name: name for name in ("low", "high", "images", "patients")},
    },
}
"""The columns of the table of each of `ClassCurves`, with their attributes."""


@dataclass(frozen=True, slots=True, kw_only=True)
class ScoredImages:
    """True and predicted classes of labelled images, int64 [N], with the probabilities, float64 [N, C]."""

    files: tuple[str, ...]
    patients: tuple[str, ...]
    labels: Labels
    predicted: Labels
    probabilities: Floats


@dataclass(frozen=True, slots=True, kw_only=True)
class PatientLevel:
    """Metrics of patients, each scored by the mean probability of their images, at the model's threshold.

    Patients with images of several classes are `left_out`; `metrics` is None if none remains of some class.
    """

    class_counts: dict[str, int]
    metrics: ClassificationMetrics | None
    intervals: dict[str, Interval]
    left_out: tuple[str, ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class Evaluation(Overlap):
    """The metrics of one model on one folder; the other attributes are those of `Overlap`.

    Attributes:
        class_counts: Images of each class, in the order of the model's outputs.
        threshold: Threshold of `metrics`; None with three or more classes, where the most probable class is predicted.
        intervals: 95 % intervals (low, high) of all metrics, by name.
        at_half: Metrics at the threshold 0.5; None with three or more classes.
        classes: One-vs-rest metrics of each class.
        confusion: Images by true class (rows) and predicted class (columns).
        shift: Differences between these scores and those of the validation images; None with three or more classes.
    """

    model: Path
    data: Path
    out: Path | None
    positive: str
    class_counts: dict[str, int]
    patients: int
    threshold: float | None
    metrics: ClassificationMetrics
    intervals: dict[str, Interval]
    at_half: ClassificationMetrics | None
    classes: dict[str, ClassMetrics]
    confusion: tuple[tuple[int, ...], ...]
    patient_level: PatientLevel
    subgroups: dict[str, tuple[Subgroup, ...]]
    shift: Shift | None
    broken: tuple[BrokenImage, ...]

    def named(self, values: Mapping[str, object]) -> dict[str, Json]:
        """Return values by metric with the class of each sensitivity: `sensitivity (PNEUMONIA)`.

        With three or more classes these metrics are left out, since `classes` has them for each class.
        """
        if self.threshold is None:
            return to_json({name: value for name, value in values.items() if name not in _OF_POSITIVE})
        names = {name: f"{name} ({self.positive})" for name in _OF_POSITIVE}
        return to_json({names.get(name, name): value for name, value in values.items()})

    def to_dataframe(self) -> pd.DataFrame:
        """Return the metrics as a table, a row for each: `value`, and the 95 % interval from `low` to `high`."""
        import pandas as pd  # takes most of a second

        values = self.named(asdict(self.metrics))
        del values["images"]
        intervals = pd.DataFrame(self.named(self.intervals), index=["low", "high"]).T
        return pd.DataFrame({"value": values}).join(intervals)

    def to_json(self) -> dict[str, Json]:
        """Return the evaluation as a JSON object, with the main metrics at the top level."""
        content = to_json(self)
        by_patient = self.patient_level
        return {
            **self.named(asdict(self.metrics)),
            "patients": self.patients,
            **{name: value for name, value in content.items() if name != "metrics"},
            "positive": None if self.threshold is None else self.positive,
            "intervals": self.named(self.intervals),
            "at_half": self.at_half and self.named({name: getattr(self.at_half, name) for name in AT_THRESHOLD}),
            "patient_level": {
                **content["patient_level"],
                "metrics": by_patient.metrics
                and {"patients" if k == "images" else k: v for k, v in self.named(asdict(by_patient.metrics)).items()},
                "intervals": self.named(by_patient.intervals),
            },
            "shift": self.shift and {**to_json(self.shift), "warnings": [*self.shift.warnings]},
        }


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
        out: Folder to create, with predictions, tables and a figure (listed above, and in `mask_evaluation.py`).
        by: Columns of the patient table that define subgroups; `pneumonia` also if Kermany file names state its type.
        skip_broken: Leave out broken images.
        reason: Reason to record in the test-set access log.
        sensitivity: Use the threshold that reaches this sensitivity on validation images; for classifiers with two classes.
        replicates: Number of bootstrap samples.
        on_progress: Called with progress.

    Raises:
        ConfigError: `out` exists or is inside `data`, too few validation images set the threshold for `sensitivity`, or a
            column of `by` makes no subgroups.
        ArtifactError: The bundle is missing or damaged.
        DataError: The folder or its images are invalid, or a class has no images.
        MachineError: The packages of a segmenter are not installed.
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
    counts = dict(zip(names, np.bincount(labels, minlength=len(names)).tolist(), strict=True))
    if empty := [name for name, count in counts.items() if count == 0]:
        what = f"there are no images of {' and '.join(empty)}, so AUROC is undefined"
        fix = f"put images of each class into folders named {', '.join(names)}; `xraytune predict` needs no classes"
        raise DataError(Problem(what, data, fix))
    scored = ScoredImages(
        files=used, patients=patients, labels=labels, predicted=predicted, probabilities=probabilities
    )
    sampling = {"replicates": replicates, "seed": BOOTSTRAP_SEED}
    # Logs access to the test folder, before any metric can be seen.
    overlap = overlap_of(bundle, found, used, reason=reason)
    intervals = patient_bootstrap(labels, probabilities, patients, **rule, **sampling)
    breakdown = class_breakdown(labels, probabilities, predicted, patients, **sampling)
    shift = None
    if bundle.record.validation is not None:
        folder = class_samples(names, labels, probabilities[:, positive], patients)
        validation = {name: one.sample() for name, one in bundle.record.validation.items()}
        shift = shift_from_validation(validation, folder, positive=names[positive], threshold=threshold)
    evaluation = Evaluation(
        model=bundle.path,
        data=data,
        out=out,
        positive=names[positive],
        class_counts=counts,
        patients=len(set(patients)),
        threshold=threshold if is_binary else None,
        metrics=classification_metrics(labels, probabilities, **rule),
        intervals=intervals,
        at_half=classification_metrics(labels, probabilities, positive=positive) if is_binary else None,
        classes=dict(zip(counts, breakdown, strict=True)),
        confusion=tuple(map(tuple, confusion_matrix(labels, predicted, labels=range(len(counts))).tolist())),
        patient_level=_patient_level(names, scored, rule, sampling),
        subgroups={
            name: subgroup_metrics(used, labels, probabilities, patients, values, **rule, **sampling)
            for name, values in columns.items()
        },
        shift=shift,
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


def write_evaluation(out: Path, found: Evaluation, scored: ScoredImages, *, replicates: int, seed: int) -> None:
    """Write the folder described above; it appears as a whole."""
    names, is_binary = tuple(found.class_counts), len(found.class_counts) == 2
    drawn: dict[str, DrawnClass] = {}
    for label in [names.index(found.positive)] if is_binary else range(len(names)):
        is_class, scores = scored.labels == label, scored.probabilities[:, label]
        brier = float(((scores - is_class) ** 2).mean())
        drawn[names[label]] = DrawnClass(
            curves=class_curves(is_class, scores, scored.patients, replicates=replicates, seed=seed),
            metrics=found.classes[names[label]],
            brier=with_interval(brier, found.intervals.get("brier") if is_binary else None),
            prevalence=float(is_class.mean()),
        )
    labels = [names[label] for label in scored.labels]
    tables = {
        "predictions": predictions_csv(
            names, scored.files, scored.probabilities, scored.predicted, patient=scored.patients, label=labels
        ),
        "per_class": _per_class_csv(found),
        "confusion_matrix": csv_table(
            ["true class", *(f"predicted {name}" for name in names)],
            ([name, *row] for name, row in zip(names, found.confusion, strict=True)),
        ),
        **{kind: _curves_csv(kind, drawn) for kind in _CURVE_COLUMNS},
    }
    note = (
        f"{len(labels):,} images of {found.patients:,} patients. Bands (pointwise), bars and brackets show 95% intervals "
        "over patients."
    )
    with new_folder(out) as folder:
        write_json(folder / "metrics.json", found.to_json())
        for name, table in tables.items():
            write_text(folder / f"{name}.csv", table)
        files = figure_files(folder, "evaluation")
        draw_evaluation(drawn, np.array(found.confusion), names, files, threshold=found.threshold, note=note)


def _per_class_csv(found: Evaluation) -> str:
    header = ["class", "images", *(f"{name}{end}" for name in _OF_CLASS for end in ("", "_low", "_high"))]

    def cells(one: ClassMetrics) -> Iterator[float | None]:
        for name in _OF_CLASS:
            yield from (getattr(one, name), *one.intervals.get(name, (None, None)))

    return csv_table(header, ([name, one.images, *cells(one)] for name, one in found.classes.items()))


def _curves_csv(kind: str, drawn: Mapping[str, DrawnClass]) -> str:
    columns = _CURVE_COLUMNS[kind]
    rows: list[list[str | float]] = []
    for name, one in drawn.items():
        values = (getattr(getattr(one.curves, kind), attribute).tolist() for attribute in columns.values())
        rows += [[name, *row] for row in zip(*values, strict=True)]
    return csv_table(("class", *columns), rows)
