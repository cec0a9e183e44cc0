"""Images with findings, each present, absent or unknown: a classifier, scored by macro AUROC.

A finding with fewer than `FEWEST_LABELS` positive or negative images has no score, and is not in
the means.
"""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import partial
from typing import Any, ClassVar

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.nn.functional import binary_cross_entropy_with_logits

from xraytune.base.errors import join_names
from xraytune.data.prepare import Prepared
from xraytune.space.settings import Parameters
from xraytune.stats.classification import Floats, Labels, ScoredImages, scored_findings
from xraytune.stats.intervals import Measured, class_breakdown, measure
from xraytune.tasks.bundle_record import BundleRecord, CardMetric
from xraytune.tasks.evaluation import Sample
from xraytune.tasks.prediction import Columns
from xraytune.tasks.task import (
    CARD_REPLICATES,
    Loss,
    Task,
    Validated,
    name_metrics,
    weigh_extra_images,
)


@dataclass(frozen=True, kw_only=True)
class Findings(Task):
    """Images with findings; a class is the one-hot case."""

    metric: ClassVar[str] = "macro AUROC"
    has_findings: ClassVar[bool] = True

    def loss(self, outputs: Tensor, targets: Tensor, pos_weight: Tensor | None = None) -> Tensor:
        """Return the mean binary cross-entropy of the known findings.

        `pos_weight` is the weight of their positives, [C].
        """
        is_known = (targets >= 0).to(outputs.dtype)
        expected = (targets == 1).to(outputs.dtype)
        summed = binary_cross_entropy_with_logits(
            outputs, expected, weight=is_known, pos_weight=pos_weight, reduction="sum"
        )
        return summed / is_known.sum().clamp(min=1)

    def loss_of(self, parameters: Parameters, real: Labels, device: str) -> Loss:
        """Return the loss of a trial's training steps.

        With `pos_weight: balanced`, positives weigh negatives over positives of `real`.
        """
        loss: Loss = self.loss
        if parameters.pos_weight == "balanced":
            positives = (real == 1).sum(axis=0)
            negatives = (real == 0).sum(axis=0)
            weights = np.where(positives, negatives / np.maximum(positives, 1), 1)
            pos_weight = torch.as_tensor(weights.astype(np.float32), device=device)
            loss = partial(self.loss, pos_weight=pos_weight)
        return weigh_extra_images(loss, parameters)

    def probabilities(self, logits: NDArray[Any]) -> NDArray[Any]:
        """Return the probability of each finding, float64."""
        return torch.from_numpy(logits).double().sigmoid().numpy()

    def card_metrics(
        self, prepared: Prepared, threshold: float, validated: Validated
    ) -> tuple[CardMetric, ...]:
        """Return the means over findings, and the AUROC of each."""
        means = super().card_metrics(prepared, threshold, validated)
        scored = ScoredImages(validated.labels, validated.results, positive=0)
        each = _measure_each(
            scored, prepared.findings, validated.patients, replicates=CARD_REPLICATES, seed=0
        )
        aurocs = [
            CardMetric.of(measured, "auroc", f"AUROC ({name})") for name, measured in each.items()
        ]
        return *means, *aurocs

    def decide(self, record: BundleRecord, probabilities: Floats) -> tuple[dict[str, int], Columns]:
        """Return how many images have each finding, and the columns that say so with 1 or 0."""
        counts = {}
        columns: Columns = {}
        for name, of_finding in zip(record.class_names, probabilities.T, strict=True):
            threshold = record.thresholds[name]
            predicted = of_finding >= threshold
            columns[f"threshold_{name}"] = [threshold] * len(predicted)
            columns[f"predicted_{name}"] = predicted.astype(int).tolist()
            counts[name] = int(predicted.sum())
        return counts, columns

    def describe(self, sample: Sample) -> dict[str, Any]:
        """Return the fields of `Evaluation` about findings.

        DataError if none has enough images.
        """
        record = sample.model.record
        names = record.class_names
        scored = sample.scored
        total = measure(scored, sample.patients, **sample.sampling)
        each = _measure_each(scored, names, sample.patients, **sample.sampling)
        left_out = [name for name in names if name not in each]
        notes = [f"too few of each kind for a score: {join_names(left_out)}"] if left_out else []
        subgroups: dict[str, dict[str, Measured]] = {}
        patients = np.asarray(sample.patients)
        for column, values in sample.columns.items():
            subgroups[column] = {}
            value_of_image = np.array([values.get(file, "") for file in sample.files])
            for value in sorted({*value_of_image.tolist()} - {""}):
                rows = value_of_image == value
                few = replace(
                    scored, labels=scored.labels[rows], probabilities=scored.probabilities[rows]
                )
                measured = _measure_each(few, names, patients[rows].tolist(), **sample.sampling)
                for name, of_finding in measured.items():
                    subgroups[column][f"{name}, {value}"] = of_finding
        return {
            "metrics": name_metrics(total.metrics, 0, None),
            "intervals": name_metrics(total.intervals, 0, None),
            "groups": {"findings": each},
            "subgroups": subgroups,
            "facts": {"left_out": left_out, "thresholds": record.thresholds},
            "notes": notes,
        }


def _measure_each(
    scored: ScoredImages, names: Sequence[str], patients: Sequence[str], **sampling: int
) -> dict[str, Measured]:
    """Return the metrics of each of the `scored_findings`, by name."""
    each = class_breakdown(scored, patients, **sampling)
    numbers = scored_findings(scored.labels)
    return {names[number]: measured for number, measured in zip(numbers, each, strict=True)}
