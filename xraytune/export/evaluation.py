"""The result of `evaluate`: a record, and a folder with its tables and its figure.

    metrics.json                 all metrics, with 95 % intervals over patients
    predictions.csv              file, patient, label, probability of each class, predicted class
    per_class.csv                one-vs-rest metrics of each class, with macro and micro means
    confusion_matrix.csv         images by true class (rows) and predicted class (columns)
    roc.csv, pr.csv              the curves, one row per threshold
    calibration.csv              predicted probability and observed share in each bin
    evaluation.png, .svg         the four panels: ROC, precision-recall, calibration, confusion matrix

With two classes the curves are those of the positive class, else of each class against the others.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from xraytune.data.decoding import BrokenImage
from xraytune.export.overlap import Overlap
from xraytune.export.predict import predictions_csv
from xraytune.figures.drawing import figure_files, with_interval
from xraytune.figures.evaluation_figure import DrawnClass, draw_evaluation
from xraytune.files import csv_table, new_folder, write_json, write_text
from xraytune.metrics.breakdown import ClassMetrics, Subgroup
from xraytune.metrics.classification import ClassificationMetrics, Floats, Labels
from xraytune.metrics.curves import ClassCurves, class_curves
from xraytune.metrics.intervals import Interval
from xraytune.metrics.shift import Shift
from xraytune.records import Json, to_json

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
    """What a model predicts for labelled images.

    Attributes:
        files: Paths below the folder, [N].
        patients: The patient of each, [N].
        labels: True class numbers, int64 [N].
        predicted: Predicted class numbers, int64 [N].
        probabilities: float64 [N, C].
    """

    files: tuple[str, ...]
    patients: tuple[str, ...]
    labels: Labels
    predicted: Labels
    probabilities: Floats


@dataclass(frozen=True, slots=True, kw_only=True)
class PatientLevel:
    """Metrics of patients, each scored by the mean probability of their images, at the model's threshold.

    Attributes:
        class_counts: Patients of each class.
        metrics: As for images; None if no patient of a class remains.
        intervals: 95 % intervals (low, high) by name.
        left_out: Patients with images of several classes.
    """

    class_counts: dict[str, int]
    metrics: ClassificationMetrics | None
    intervals: dict[str, Interval]
    left_out: tuple[str, ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class Evaluation(Overlap):
    """The metrics of one model on one folder; further attributes are those of `Overlap`.

    Attributes:
        out: The folder with tables and figure; None if none was asked for.
        class_counts: Images of each class, in the order of the model's outputs.
        threshold: Threshold of `metrics`; None with three or more classes, where the most probable class is predicted.
        further: Metrics of other packages, by name.
        intervals: 95 % confidence intervals (low, high) of all metrics, by name.
        at_half: Metrics at the threshold 0.5; None with three or more classes.
        classes: One-vs-rest metrics of each class.
        macro: Mean over the classes; None with two classes.
        micro: Mean over all pairs of image and class; None with two classes.
        confusion: Images by true class (rows) and predicted class (columns).
        patient_level: Metrics of patients instead of images.
        subgroups: Exploratory metrics by the values of each requested column.
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
    further: dict[str, float]
    intervals: dict[str, Interval]
    at_half: ClassificationMetrics | None
    classes: dict[str, ClassMetrics]
    macro: ClassMetrics | None
    micro: ClassMetrics | None
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

        values = self.further | self.named(
            {name: value for name, value in asdict(self.metrics).items() if name != "images"}
        )
        intervals = pd.DataFrame(self.named(self.intervals), index=["low", "high"]).T
        return pd.DataFrame({"value": values}).join(intervals)

    def to_json(self) -> dict[str, Json]:
        """Return the evaluation as a JSON object, with the main metrics at the top level."""
        content = to_json(self)
        by_patient = self.patient_level
        return {
            **content.pop("further"),
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


def write_evaluation(out: Path, found: Evaluation, scored: ScoredImages, *, replicates: int, seed: int) -> None:
    """Write the folder described above; it appears as a whole."""
    names = tuple(found.class_counts)
    curves = {
        names[number]: class_curves(
            scored.labels == number, scored.probabilities[:, number], scored.patients, replicates=replicates, seed=seed
        )
        for number in ([names.index(found.positive)] if len(names) == 2 else range(len(names)))
    }
    with new_folder(out) as folder:
        write_json(folder / "metrics.json", found.to_json())
        tables = {
            "predictions": predictions_csv(
                names,
                scored.files,
                scored.probabilities,
                scored.predicted,
                patient=scored.patients,
                label=[names[label] for label in scored.labels],
            ),
            "per_class": _per_class_csv(found),
            "confusion_matrix": csv_table(
                ["true class", *(f"predicted {name}" for name in names)],
                ([name, *row] for name, row in zip(names, found.confusion, strict=True)),
            ),
            **{kind: _curves_csv(kind, curves) for kind in _CURVE_COLUMNS},
        }
        for name, table in tables.items():
            write_text(folder / f"{name}.csv", table)
        _draw(folder, found, scored, curves)


def _per_class_csv(found: Evaluation) -> str:
    rows = {**found.classes, "(macro mean)": found.macro, "(micro mean)": found.micro}
    header = ["class", "images", *(f"{name}{end}" for name in _OF_CLASS for end in ("", "_low", "_high"))]

    def cells(one: ClassMetrics) -> Iterator[float | None]:
        for name in _OF_CLASS:
            yield from (getattr(one, name), *one.intervals.get(name, (None, None)))

    return csv_table(header, ([name, one.images, *cells(one)] for name, one in rows.items() if one))


def _curves_csv(kind: str, curves: Mapping[str, ClassCurves]) -> str:
    columns = _CURVE_COLUMNS[kind]
    rows: list[list[str | float]] = []
    for name, one in curves.items():
        values = (getattr(getattr(one, kind), attribute).tolist() for attribute in columns.values())
        rows += [[name, *row] for row in zip(*values, strict=True)]
    return csv_table(("class", *columns), rows)


def _draw(folder: Path, found: Evaluation, scored: ScoredImages, curves: Mapping[str, ClassCurves]) -> None:
    names = tuple(found.class_counts)

    def drawn(name: str) -> DrawnClass:
        is_class = scored.labels == names.index(name)
        brier = float(((scored.probabilities[:, names.index(name)] - is_class) ** 2).mean())
        return DrawnClass(
            curves=curves[name],
            metrics=found.classes[name],
            brier=with_interval(brier, found.intervals.get("brier") if len(names) == 2 else None),
            prevalence=float(is_class.mean()),
        )

    note = (
        f"{len(scored.files):,} images of {found.patients:,} patients. Bands (pointwise), bars and brackets show 95% "
        "intervals over patients."
    )
    files = figure_files(folder, "evaluation")
    shown = {name: drawn(name) for name in curves}
    draw_evaluation(shown, np.array(found.confusion), names, files, threshold=found.threshold, note=note)
