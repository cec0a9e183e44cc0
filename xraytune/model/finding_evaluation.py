"""The metrics of a classifier of findings on labelled images: of each finding, and their means.

A finding with fewer than `FEWEST_LABELS` positive or negative images has none, and is not in the
means. The folder holds:

    metrics.json       all metrics, with 95 % intervals over patients
    predictions.csv    file, patient, label (1, 0 or ?), probability and prediction of each finding
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from xraytune.base.files import write_text
from xraytune.data.findings import numbers_of
from xraytune.data.index import LabelledImages
from xraytune.model.load import Bundle
from xraytune.model.overlap import BOOTSTRAP_SEED, About, Evaluated, Write
from xraytune.model.predict import ImageFiles, predict_images, predictions_csv
from xraytune.stats.breakdown import ClassMetrics, class_breakdown
from xraytune.stats.classification import ScoredImages, auroc, scored_findings
from xraytune.stats.intervals import measure


@dataclass(frozen=True, slots=True, kw_only=True)
class FindingMetrics(ClassMetrics):
    """The metrics of a finding at its `threshold`, on `images` that have it and `absent` ones that do not."""

    absent: int
    threshold: float


@dataclass(frozen=True, slots=True, kw_only=True)
class FindingEvaluation(Evaluated):
    """The means of metrics over findings, and those of each.

    Attributes:
        left_out: Findings with too few positive or negative images.
        subgroups: Column -> value -> AUROC of each finding that has one there.
    """

    findings: dict[str, FindingMetrics]
    left_out: tuple[str, ...]
    subgroups: dict[str, dict[str, dict[str, float]]]


def evaluate_findings(
    bundle: Bundle,
    labelled: LabelledImages,
    images: ImageFiles,
    columns: Mapping[str, Mapping[str, str]],
    *,
    replicates: int,
    about: About,
) -> tuple[FindingEvaluation, Write]:
    """Predict the findings of images and compute all metrics; DataError if no finding has enough images."""
    names, thresholds = bundle.record.class_names, bundle.record.thresholds
    files, probabilities, broken = predict_images(bundle.predictor(), images)
    by_file = {image.file: image for image in labelled.images}
    labels = numbers_of([by_file[file].findings for file in files])
    patients = [by_file[file].patient for file in files]
    limits = np.array([thresholds[name] for name in names])
    scored = ScoredImages(labels, probabilities, positive=0, threshold=limits)
    shared = about(files, broken)
    total = measure(scored, patients, replicates=replicates, seed=BOOTSTRAP_SEED)
    breakdown = class_breakdown(scored, patients, replicates=replicates, seed=BOOTSTRAP_SEED)
    numbers = scored_findings(labels)

    def by_value(values: Mapping[str, str]) -> dict[str, dict[str, float]]:
        of_image = np.array([values.get(file, "") for file in files])
        parts = {value: of_image == value for value in sorted({*of_image.tolist()} - {""})}
        return {
            value: {
                names[number]: auroc(
                    labels[rows][:, [number]], probabilities[rows][:, [number]], positive=0
                )
                for number in scored_findings(labels[rows])
            }
            for value, rows in parts.items()
        }

    evaluation = FindingEvaluation(
        **shared,
        metrics=total.metrics,
        intervals=total.intervals,
        images=len(files),
        patients=len({*patients}),
        findings={
            names[number]: FindingMetrics(
                images=measured.images,
                metrics=measured.metrics,
                intervals=measured.intervals,
                absent=int((labels[:, number] == 0).sum()),
                threshold=thresholds[names[number]],
            )
            for number, measured in zip(numbers, breakdown, strict=True)
        },
        left_out=tuple(name for number, name in enumerate(names) if number not in numbers),
        subgroups={column: by_value(values) for column, values in columns.items()},
    )

    def write(folder: Path) -> None:
        states = zip(*(by_file[file].findings for file in files), strict=True)
        true = {f"label_{name}": [*column] for name, column in zip(names, states, strict=True)}
        table = predictions_csv(
            names,
            files,
            probabilities,
            probabilities >= limits,
            about={"patient": patients, **true},
        )
        write_text(folder / "predictions.csv", table)

    return evaluation, write
