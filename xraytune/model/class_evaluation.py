"""The metrics of a classifier on labelled images, with confidence intervals over patients.

The main metrics use the threshold from validation, because one chosen on the evaluated images is
optimistically biased; those at the threshold 0.5 are reported next to them.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
from sklearn.metrics import confusion_matrix

from xraytune.base.drawing import with_interval
from xraytune.base.errors import DataError, Problem
from xraytune.base.files import write_text
from xraytune.base.records import Json, to_json
from xraytune.data.index import LabelledImages
from xraytune.model.bundle_record import CardMetric
from xraytune.model.calibration import Calibration
from xraytune.model.evaluation_figure import DrawnClass, draw_evaluation
from xraytune.model.load import Bundle
from xraytune.model.overlap import BOOTSTRAP_SEED, About, Evaluated, Write
from xraytune.model.predict import ImageFiles, predict_images, predictions_csv
from xraytune.stats.breakdown import (
    ClassMetrics,
    Subgroup,
    class_breakdown,
    patient_means,
    subgroup_metrics,
)
from xraytune.stats.classification import (
    METRICS,
    ScoredImages,
    classification_metrics,
    reported_metrics,
)
from xraytune.stats.intervals import Measured, measure


@dataclass(frozen=True, slots=True, kw_only=True)
class PatientLevel(Measured):
    """Metrics of patients, each scored by the mean probability of their images, at the model's threshold.

    Patients with images of several classes are `left_out`; there are no metrics if none remains of
    some class.
    """

    class_counts: dict[str, int]
    left_out: tuple[str, ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class Evaluation(Evaluated):
    """The metrics of a classifier on labelled images.

    Attributes:
        class_counts: Images of each class, in the order of the model's outputs.
        threshold: Threshold of `metrics`; None with three or more classes, where the most probable
        class is predicted.
        at_half: Metrics at the threshold 0.5; None with three or more classes.
        calibration: What the model's probabilities were adapted by, if anything.
        uncalibrated: Metrics without it, at the model's own threshold; None without a calibration.
        classes: One-vs-rest metrics of each class.
        confusion: Images by true class (rows) and predicted class (columns).
        validation: The metrics of the model card, on the validation images.
    """

    positive: str
    class_counts: dict[str, int]
    threshold: float | None
    at_half: dict[str, float | None] | None
    calibration: Calibration | None
    uncalibrated: dict[str, float | None] | None
    classes: dict[str, ClassMetrics]
    confusion: tuple[tuple[int, ...], ...]
    patient_level: PatientLevel
    subgroups: dict[str, tuple[Subgroup, ...]]
    validation: tuple[CardMetric, ...]

    def named(self, values: Mapping[str, object]) -> dict[str, Json]:
        """Return reported values by metric, with the class of those that are about one: `sensitivity (PNEUMONIA)`."""
        positive = None if self.threshold is None else self.positive
        metrics = reported_metrics(len(self.class_counts))
        return to_json(
            {
                metric.of(metric.name, positive): values[metric.name]
                for metric in metrics
                if metric.name in values
            }
        )

    def to_json(self) -> dict[str, Json]:
        """Return the evaluation as a JSON object, with the main metrics at the top level."""
        content = to_json(self)
        at_threshold = {metric.name for metric in METRICS if metric.at_threshold}
        return {
            **self.named(content.pop("metrics")),
            **content,
            "positive": None if self.threshold is None else self.positive,
            "intervals": self.named(self.intervals),
            "uncalibrated": self.uncalibrated and self.named(self.uncalibrated),
            "at_half": self.at_half
            and self.named({name: self.at_half[name] for name in at_threshold}),
            "patient_level": {
                **content["patient_level"],
                "metrics": self.named(self.patient_level.metrics),
                "intervals": self.named(self.patient_level.intervals),
            },
        }


def evaluate_classes(
    bundle: Bundle,
    labelled: LabelledImages,
    images: ImageFiles,
    columns: Mapping[str, Mapping[str, str]],
    calibration: Calibration | None,
    *,
    replicates: int,
    about: About,
) -> tuple[Evaluation, Write]:
    """Predict the classes of labelled images and compute all metrics; DataError if a class has no images."""
    names = bundle.record.class_names
    is_binary = len(names) == 2
    files, probabilities, broken = predict_images(bundle.predictor(), images)
    by_file = {image.file: image for image in labelled.images}
    labels = np.array([by_file[file].label for file in files], dtype=np.int64)
    patients = [by_file[file].patient for file in files]
    require_every_class(names, labels.tolist(), images.root)  # again, without broken images
    scored = ScoredImages(
        labels, probabilities, positive=bundle.positive, threshold=bundle.record.threshold
    )
    uncalibrated = None
    if calibration:
        uncalibrated = classification_metrics(scored)
        calibrated = calibration.apply(probabilities, bundle.positive)
        scored = replace(scored, probabilities=calibrated, threshold=calibration.threshold)

    shared = about(files, broken)
    sampling = {"replicates": replicates, "seed": BOOTSTRAP_SEED}
    total = measure(scored, patients, **sampling)
    means, means_of, left_out = patient_means(scored, patients)
    patient_counts = _count_classes(names, means)
    of_patients = Measured(metrics={}, intervals={})
    if all(patient_counts.values()):
        of_patients = measure(means, means_of, **sampling)
    confusion = confusion_matrix(labels, scored.predicted, labels=range(len(names)))
    evaluation = Evaluation(
        **shared,
        metrics=total.metrics,
        intervals=total.intervals,
        images=len(labels),
        patients=len({*patients}),
        positive=names[scored.positive],
        class_counts=_count_classes(names, scored),
        threshold=float(scored.threshold) if is_binary else None,
        calibration=calibration,
        uncalibrated=uncalibrated,
        at_half=classification_metrics(replace(scored, threshold=0.5)) if is_binary else None,
        classes=dict(zip(names, class_breakdown(scored, patients, **sampling), strict=True)),
        confusion=tuple(map(tuple, confusion.tolist())),
        patient_level=PatientLevel(
            metrics=of_patients.metrics,
            intervals=of_patients.intervals,
            class_counts=patient_counts,
            left_out=left_out,
        ),
        subgroups={
            name: subgroup_metrics(files, scored, patients, values, **sampling)
            for name, values in columns.items()
        },
        validation=bundle.record.metrics,
    )

    def write(folder: Path) -> None:
        about_files = {"patient": patients, "label": [names[label] for label in labels]}
        table = predictions_csv(
            names, files, scored.probabilities, scored.predicted, about=about_files
        )
        write_text(folder / "predictions.csv", table)
        drawn = {}
        for name, one_class in zip(
            [evaluation.positive] if is_binary else names, scored.classes(), strict=True
        ):
            brier = float(((one_class.scores - one_class.is_class) ** 2).mean())
            caption = with_interval(brier, total.intervals.get("brier") if is_binary else None)
            drawn[name] = DrawnClass(
                scored=one_class, metrics=evaluation.classes[name], brier=caption
            )
        note = f"{len(labels):,} images of {len({*patients}):,} patients. In brackets: 95% intervals over patients."
        figures = [folder / "evaluation.png", folder / "evaluation.svg"]
        draw_evaluation(drawn, confusion, names, figures, threshold=evaluation.threshold, note=note)

    return evaluation, write


def require_every_class(names: Sequence[str], labels: Sequence[int], where: Path) -> None:
    """Refuse (DataError) labelled images without one of the classes; pairs of images and masks have a single one."""
    if empty := [name for label, name in enumerate(names) if label not in labels]:
        what = f"there are no images of {' and '.join(empty)}, so AUROC is undefined"
        fix = f"put images of each class into folders named {', '.join(names)}; `xraytune predict` needs no classes"
        raise DataError(Problem(what, where, fix))


def _count_classes(names: Sequence[str], scored: ScoredImages) -> dict[str, int]:
    return dict(zip(names, np.bincount(scored.labels, minlength=len(names)).tolist(), strict=True))
