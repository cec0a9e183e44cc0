"""Images with findings, each present, absent or unknown: a classifier, scored by macro AUROC.

A finding with fewer than `FEWEST_LABELS` positive or negative images has no score, and is not in
the means.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar

import numpy as np
from numpy.typing import NDArray

from xraytune.base.errors import join_names
from xraytune.base.files import write_text
from xraytune.base.tables import Cell, Entry, Row, Table
from xraytune.data.findings import numbers_of
from xraytune.data.index import LabelledImages
from xraytune.data.prepare import Prepared
from xraytune.space.settings import Parameters
from xraytune.stats.classification import (
    CLASS_METRICS,
    Floats,
    Labels,
    ScoredImages,
    auroc,
    reported_metrics,
    scored_findings,
)
from xraytune.stats.intervals import ClassMetrics, class_breakdown, measure
from xraytune.stats.threshold import balanced_threshold
from xraytune.tasks.bundle_record import BundleRecord, CardMetric
from xraytune.tasks.calibration import Calibration
from xraytune.tasks.evaluated import (
    BOOTSTRAP_SEED,
    About,
    Evaluated,
    Parts,
    Write,
    tall_table,
    wide_table,
)
from xraytune.tasks.prediction import (
    Columns,
    ImageFiles,
    Predictor,
    predict_images,
    predictions_csv,
)
from xraytune.tasks.task import CARD_REPLICATES, Mistakes, Results, Task, Validated

if TYPE_CHECKING:
    from torch import Tensor


@dataclass(frozen=True, kw_only=True)
class Findings(Task):
    """Images with findings; a class is the one-hot case."""

    metric: ClassVar[str] = "macro AUROC"

    def findings(self, outputs: Sequence[str]) -> Sequence[str]:
        """Return all outputs."""
        return outputs

    def loss(self, outputs: Tensor, targets: Tensor, pos_weight: Tensor | None = None) -> Tensor:
        """Return the mean binary cross-entropy of the known findings.

        `pos_weight` is the weight of their positives, [C].
        """
        from torch.nn.functional import binary_cross_entropy_with_logits

        is_known = (targets >= 0).to(outputs.dtype)
        expected = (targets == 1).to(outputs.dtype)
        summed = binary_cross_entropy_with_logits(
            outputs, expected, weight=is_known, pos_weight=pos_weight, reduction="sum"
        )
        return summed / is_known.sum().clamp(min=1)

    def balanced_loss(
        self, parameters: Parameters, real: Labels, device: str
    ) -> Callable[[Tensor, Tensor], Tensor]:
        """Return the loss.

        With `pos_weight: balanced`, positives weigh negatives over positives of `real`.
        """
        if parameters.pos_weight == "none":
            return self.loss
        from torch import as_tensor

        positives = (real == 1).sum(axis=0)
        negatives = (real == 0).sum(axis=0)
        weights = np.where(positives, negatives / np.maximum(positives, 1), 1).astype(np.float32)
        return partial(self.loss, pos_weight=as_tensor(weights, device=device))

    def probabilities(self, logits: NDArray[Any]) -> NDArray[Any]:
        """Return the probability of each finding, float64."""
        from torch import from_numpy

        return from_numpy(logits).double().sigmoid().numpy()

    def threshold(self, labels: Labels, results: Results, positive: int) -> float:
        """Return 0.5, which is not used."""
        return 0.5

    def positive_class(self, prepared: Prepared) -> str | None:
        """Return None."""
        return None

    def thresholds(self, prepared: Prepared, validated: Validated) -> dict[str, float]:
        """Return the threshold of each finding for balanced accuracy.

        0.5 if all or none of the images have it.
        """
        thresholds = {}
        for number, name in enumerate(prepared.findings):
            is_known = validated.labels[:, number] >= 0
            has_it = validated.labels[is_known, number] == 1
            scores = validated.results[is_known, number]
            is_mixed = has_it.any() and not has_it.all()
            thresholds[name] = balanced_threshold(has_it, scores) if is_mixed else 0.5
        return thresholds

    def card_metrics(
        self, prepared: Prepared, threshold: float, validated: Validated
    ) -> tuple[CardMetric, ...]:
        """Return the means over findings, and the AUROC of each."""
        scored = ScoredImages(validated.labels, validated.results, positive=0, threshold=threshold)
        measured = measure(scored, validated.patients, replicates=CARD_REPLICATES, seed=0)
        each = class_breakdown(scored, validated.patients, replicates=CARD_REPLICATES, seed=0)
        means = [
            CardMetric.of(measured, metric.name, f"{metric.label} (mean over findings)")
            for metric in reported_metrics(0, "card")
        ]
        aurocs = [
            CardMetric.of(finding, "auroc", f"AUROC ({prepared.findings[number]})")
            for number, finding in zip(scored_findings(validated.labels), each, strict=True)
        ]
        return *means, *aurocs

    def decide(self, record: BundleRecord, probabilities: Floats) -> tuple[list[int], Columns]:
        """Return how many images have each finding, and the columns that say so with 1 or 0."""
        counts = []
        columns: Columns = {}
        for name, of_finding in zip(record.class_names, probabilities.T, strict=True):
            threshold = record.thresholds[name]
            predicted = of_finding >= threshold
            columns[f"threshold_{name}"] = [threshold] * len(predicted)
            columns[f"predicted_{name}"] = predicted.astype(int).tolist()
            counts.append(int(predicted.sum()))
        return counts, columns

    def require_labels(self, labelled: LabelledImages, outputs: Sequence[str]) -> None:
        """Accept any images: findings that too few of them have are left out."""

    def evaluate(
        self,
        model: Predictor,
        labelled: LabelledImages,
        images: ImageFiles,
        columns: Mapping[str, Mapping[str, str]],
        *,
        replicates: int,
        about: About,
        calibration: Calibration | None = None,
    ) -> tuple[Evaluated, Write]:
        """Predict the findings of images and compute all metrics.

        DataError if no finding has enough images.
        """
        names = model.record.class_names
        thresholds = model.record.thresholds
        files, probabilities, broken = predict_images(model, images)
        by_file = {image.file: image for image in labelled.images}
        states = [by_file[file].findings for file in files]
        labels = numbers_of(states)
        patients = [by_file[file].patient for file in files]
        limits = np.array([thresholds[name] for name in names])
        scored = ScoredImages(labels, probabilities, positive=0, threshold=limits)
        shared = about(files, broken)
        total = measure(scored, patients, replicates=replicates, seed=BOOTSTRAP_SEED)
        breakdown = class_breakdown(scored, patients, replicates=replicates, seed=BOOTSTRAP_SEED)
        numbers = scored_findings(labels)

        def score_by_value(values: Mapping[str, str]) -> dict[str, dict[str, float]]:
            value_of_image = np.array([values.get(file, "") for file in files])
            by_value = {}
            for value in sorted({*value_of_image.tolist()} - {""}):
                rows = value_of_image == value
                by_value[value] = {
                    names[number]: auroc(
                        labels[rows][:, [number]], probabilities[rows][:, [number]], positive=0
                    )
                    for number in scored_findings(labels[rows])
                }
            return by_value

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
            subgroups={column: score_by_value(values) for column, values in columns.items()},
        )

        def write(folder: Path) -> None:
            """Write the label (1, 0 or ?), probability and prediction of each finding."""
            about_files: dict[str, Sequence[str]] = {"patient": patients}
            for name, column in zip(names, zip(*states, strict=True), strict=True):
                about_files[f"label_{name}"] = column
            _, columns = self.decide(model.record, probabilities)
            table = predictions_csv(names, files, probabilities, columns, about=about_files)
            write_text(folder / "predictions.csv", table)

        return evaluation, write

    def find_mistakes(
        self, results: Results, prepared: Prepared, threshold: float, trial: int
    ) -> Mistakes | None:
        """Return None: an image is not right or wrong as a whole."""
        return None


@dataclass(frozen=True, slots=True, kw_only=True)
class FindingMetrics(ClassMetrics):
    """The metrics of a finding, on `images` that have it and `absent` ones that do not."""

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

    def parts(self) -> Parts:
        """Yield the lines and tables of the metrics."""
        yield tall_table(self, reported_metrics(0), average="mean", value="mean")
        counts = {"present": "images", "absent": "absent", "threshold": "threshold"}
        yield wide_table(self.findings, CLASS_METRICS, counts)
        if self.left_out:
            left_out = join_names(self.left_out)
            yield Cell(f"too few of each kind for a score: {left_out}", "busy")
        for column, by_value in self.subgroups.items():
            rows: list[Row] = []
            for finding in self.findings:
                row: dict[str, Entry] = {"": finding}
                for value, aurocs in by_value.items():
                    row[value] = f"{aurocs[finding]:.3f}" if finding in aurocs else ""
                rows.append(row)
            yield Table(rows, f"AUROC by {column} (exploratory)")
