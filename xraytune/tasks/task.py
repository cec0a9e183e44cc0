"""Tasks; the base class is the task of images in classes: a classifier, scored by AUROC.

A task is a class with everything that depends on the task, from the labels to the tables of an
evaluation. `Findings` and `Masks` override what differs. The rest of the code, from the split to
the verdict, is the same for all tasks and asks `task_of(settings)`.

The main metrics of an evaluation use the threshold from validation, because a threshold chosen on
the evaluated images is optimistically biased. Metrics at the threshold 0.5 are reported next to
them.
"""

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import partial
from pathlib import Path
from typing import Any, ClassVar, TypeAlias

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn
from torch.nn.functional import binary_cross_entropy_with_logits, cross_entropy, one_hot

from xraytune.base.errors import ArtifactError, join_names
from xraytune.base.files import write_text
from xraytune.base.records import Compute, frozen
from xraytune.base.tables import Row, counts_text
from xraytune.data.decoding import BrokenImage
from xraytune.data.images import ImageFile, ImageTable
from xraytune.data.prepare import ImageSet, SplitData
from xraytune.nets.infer import predict_logits
from xraytune.nets.networks import build_classifier
from xraytune.space.settings import Objective, Parameters
from xraytune.stats.classification import (
    METRICS,
    Floats,
    Labels,
    ScoredImages,
    auprc,
    auroc,
    predicted_classes,
    reported_metrics,
    require_finite_outputs,
    scored_findings,
    sensitivity_at,
)
from xraytune.stats.intervals import (
    Measured,
    class_breakdown,
    measure,
    patient_means,
    subgroup_metrics,
)
from xraytune.stats.threshold import balanced_threshold
from xraytune.tasks.bundle_record import BundleRecord, CardMetric
from xraytune.tasks.evaluation import Sample
from xraytune.tasks.prediction import (
    Columns,
    ImageFiles,
    Predicted,
    Predictor,
    predict_images,
    predictions_csv,
)

Loss: TypeAlias = Callable[[Tensor, Tensor], Tensor]
Results: TypeAlias = Floats
"""The probabilities of each image's classes or findings, float64 [N, C], or its Dice, [N, 1]."""
_GAMMA = 2.0
"""The exponent of `imbalance: focal`, as published."""
_SPECIFICITY = 0.9
"""The least specificity of `objective.metric: val_sensitivity`."""
CARD_RESAMPLES = 1000


@frozen
class Validated:
    """The labels of the images of val-A and val-B, and the results of a network for these images.

    Attributes:
        labels: The labels of the images, int64 [N], or their findings, [N, C].
        results: The results of the network, [N, C].
        patients: The patient of each image.
    """

    labels: Labels
    results: Results
    patients: tuple[str, ...]


@frozen
class Mistakes:
    """The images of val-B that a network gets most wrong, the worst first.

    `places` are their positions on val-B, `rows` has the file and the facts of each image, and
    `note` also explains their pictures.
    """

    title: str
    note: str
    places: Sequence[int]
    rows: Sequence[Row]


@dataclass(frozen=True, kw_only=True)
class Task:
    """A task, with the objective of its study; the base class is for two or more classes.

    Attributes:
        metric: The display name of the score that `confirm` compares, whatever the search's
            objective.
        network: The kind of network that `confirm` trains, in words.
        packages: The packages that the network and its results depend on.
        has_classes: Whether an image has one of several classes; otherwise, each output of a
            network has a probability of its own.
        trains_heads: Whether a head can be trained alone, on the features of a frozen backbone.
        build_network: Builds the network of a trial.
    """

    metric: ClassVar[str] = "AUROC"
    network: ClassVar[str] = "classifier"
    packages: ClassVar[tuple[str, ...]] = ("torch", "torchvision")
    has_classes: ClassVar[bool] = True
    trains_heads: ClassVar[bool] = True
    build_network: ClassVar[Callable[..., nn.Module]] = staticmethod(build_classifier)

    objective: Objective = field(default_factory=Objective)

    def loss(self, outputs: Tensor, targets: Tensor) -> Tensor:
        """Return the cross-entropy of logits, [B, C], and labels, [B], or probabilities, [B, C]."""
        return cross_entropy(outputs, targets)

    def balanced_loss(
        self, outputs: Tensor, targets: Tensor, weights: Tensor | None = None, gamma: float = 0.0
    ) -> Tensor:
        """Return the loss of `imbalance`: weighted by class, [C], or the focal loss."""
        return soft_cross_entropy(outputs, targets, weights, gamma)

    def loss_of(self, parameters: Parameters, real: NDArray[Any], device: str) -> Loss:
        """Return the loss of a trial's training steps.

        `real` are the labels or findings of the real images, or their probabilities.
        """
        loss: Loss = self.loss
        if parameters.imbalance == "weighted":
            weights = self.balance(real).astype(np.float32)
            loss = partial(self.balanced_loss, weights=torch.as_tensor(weights, device=device))
        elif parameters.imbalance == "focal":
            loss = partial(self.balanced_loss, gamma=_GAMMA)
        return weigh_extra_images(loss, parameters)

    def balance(self, real: NDArray[Any]) -> Floats:
        """Return the weights of `imbalance: weighted`, [C], with which classes weigh the same."""
        shares = np.bincount(real) if real.ndim == 1 else real.sum(axis=0)
        weights: Floats = shares.sum() / (len(shares) * np.maximum(shares, 1))
        return weights

    def probabilities(self, logits: NDArray[Any]) -> NDArray[Any]:
        """Return the probabilities of classes, in float64, so that they do not tie at 1."""
        return torch.from_numpy(logits).double().softmax(dim=1).numpy()

    def predict_probabilities(
        self, network: nn.Module, batches: Iterable[Tensor], *, compute: Compute, where: Path
    ) -> NDArray[Any]:
        """Return the `probabilities` of at least one batch of inputs.

        Raises ArtifactError if an output is NaN or infinite, since metrics would rank such outputs
        arbitrarily; `where` names the network in the message.
        """
        logits = predict_logits(network, batches, compute=compute)
        require_finite_outputs(logits.reshape(len(logits), -1), ArtifactError, where)
        return self.probabilities(logits)

    def predict(
        self, network: nn.Module, batches: Iterable[Tensor], images: ImageSet, compute: Compute
    ) -> tuple[float, Results, NDArray[Any]]:
        """Return the mean loss, the probabilities and the logits, [N, C]."""
        logits = predict_logits(network, batches, compute=compute)
        loss = self.loss(torch.from_numpy(logits).double(), torch.from_numpy(images.targets))
        return float(loss), self.probabilities(logits), logits

    def score(self, labels: Labels, results: Results, *, positive: int) -> float:
        """Return the objective: AUROC, AUPRC, or the sensitivity at a specificity."""
        if self.objective.metric == "val_sensitivity":
            return sensitivity_at(labels, results, positive=positive, specificity=_SPECIFICITY)
        area = auprc if self.objective.metric == "val_auprc" else auroc
        return area(labels, results, positive=positive)

    def threshold(self, labels: Labels, results: Results, positive: int) -> float:
        """Return the positive class's threshold for balanced accuracy.

        Findings have `thresholds`, and the threshold of a mask's pixels is 0.5.
        """
        if not self.has_classes:
            return 0.5
        return balanced_threshold(labels == positive, results[:, positive])

    def thresholds(self, prepared: SplitData, validated: Validated) -> dict[str, float]:
        """Return the thresholds of findings; classes and masks have none."""
        return {}

    def card_metrics(
        self, prepared: SplitData, threshold: float, validated: Validated
    ) -> tuple[CardMetric, ...]:
        """Return the main metrics at the threshold."""
        scored = ScoredImages(
            validated.labels, validated.results, positive=prepared.positive, threshold=threshold
        )
        measured = measure(scored, validated.patients, resample_count=CARD_RESAMPLES, seed=0)
        names = prepared.class_names if self.has_classes else ()
        positive = names[prepared.positive] if len(names) == 2 else None
        return tuple(
            CardMetric.of(measured, metric.name, metric.of(metric.label, positive))
            for metric in reported_metrics(len(names))
            if metric.on_card
        )

    def write_predictions(
        self, model: Predictor, images: ImageFiles, out: Path | None
    ) -> Predicted:
        """Predict images, and write a CSV file, if any, of their probabilities and predictions."""
        record = model.record
        files, probabilities, broken = predict_images(model, images)
        counts, predicted = self.decide(record, probabilities)
        if out:
            table = predictions_csv({"file": files}, record.class_names, probabilities, predicted)
            write_text(out, table)
        of_image = None
        summary = f"{len(files)} images, predicted {counts_text(counts)}"
        if len(files) == 1:
            of_image = dict(zip(record.class_names, probabilities[0].tolist(), strict=True))
            shown = ", ".join(f"{name} {value:.3f}" for name, value in of_image.items())
            names = [name for name, count in counts.items() if count]
            summary = (
                f"{files[0]}: predicted {', '.join(names) or 'no finding'}; probabilities {shown}"
            )
        is_binary = "threshold" in predicted
        if is_binary:
            summary += f" (threshold for {record.positive}: {record.threshold:.3f})"
        return Predicted(
            path=out,
            images=len(files),
            counts=counts,
            broken=broken,
            probabilities=of_image,
            positive=record.positive if is_binary else None,
            threshold=record.threshold if is_binary else None,
            summary=summary,
        )

    def decide(self, record: BundleRecord, probabilities: Floats) -> tuple[dict[str, int], Columns]:
        """Return the number of images predicted as each output, and the columns of predictions."""
        names = record.class_names
        predicted = predicted_classes(
            probabilities, positive=record.positive_number, threshold=record.threshold
        )
        columns: Columns = {}
        if len(names) == 2:
            columns["threshold"] = [record.threshold] * len(predicted)
        columns["predicted"] = [names[label] for label in predicted]
        counts = np.bincount(predicted, minlength=len(names)).tolist()
        return dict(zip(names, counts, strict=True)), columns

    def predict_labelled(
        self, model: Predictor, labelled: Sequence[ImageFile], image_files: ImageFiles
    ) -> tuple[Sequence[ImageFile], Any, tuple[BrokenImage, ...]]:
        """Return images, their labels with a model's probabilities, and the broken images."""
        record = model.record
        files, probabilities, broken = predict_images(model, image_files)
        by_file = {image.file: image for image in labelled}
        images = ImageTable(by_file[file] for file in files)
        thresholds = [record.thresholds[name] for name in record.class_names if record.thresholds]
        scored = ScoredImages(
            images.targets,
            probabilities,
            positive=record.positive_number,
            threshold=np.array(thresholds) if thresholds else record.threshold,
        )
        return images, scored, broken

    def describe(self, sample: Sample) -> dict[str, Any]:
        """Return the fields of `Evaluation` about classes.

        Raises DataError if a class has no images.
        """
        record = sample.model.record
        names = record.class_names
        positive = record.positive if len(names) == 2 else None
        with_names = partial(name_metrics, class_count=len(names), positive=positive)
        scored = sample.scored
        patients = sample.patients
        total = measure(scored, patients, **sample.sampling)
        breakdown = class_breakdown(scored, patients, **sample.sampling)
        confusion = np.zeros((len(names), len(names)), dtype=np.int64)
        np.add.at(confusion, (scored.labels, scored.predicted), 1)
        counts = confusion.sum(axis=1).tolist()
        facts: dict[str, Any] = {
            "class_counts": dict(zip(names, counts, strict=True)),
            "confusion": confusion.tolist(),
            "positive": positive,
            "threshold": record.threshold if positive else None,
        }
        notes = []
        if sample.sampling["resample_count"] and not total.intervals:
            notes.append("no intervals: a class has images of a single patient")
        further = {}
        means, owners, left_out = patient_means(scored, patients)
        if left_out:
            text = "by patient without those with images of several classes"
            notes.append(f"{text}: {join_names(left_out, 5)}")
        if positive:
            notes.append(f"threshold for {positive}: {record.threshold:.3f}")
            at_half = replace(scored, threshold=0.5)
            further["at_half"] = measure(at_half, patients, resample_count=0, seed=0).metrics
            names_of = {metric.of(metric.label, positive): metric.name for metric in METRICS}
            further["in_validation"] = {
                names_of[metric.name]: metric.value for metric in record.metrics
            }
        if len({*means.labels.tolist()}) == len(names):
            by_patient = measure(means, owners, **sample.sampling)
            further["by_patient"] = by_patient.metrics
            facts["by_patient_intervals"] = with_names(by_patient.intervals)
        subgroups: dict[str, dict[str, Measured]] = {}
        for column, values in sample.columns.items():
            subgroups[column] = {}
            for subgroup in subgroup_metrics(
                sample.files, scored, patients, values, **sample.sampling
            ):
                subgroups[column][subgroup.value] = subgroup
                if subgroup.compared_with is not None:
                    other = names[subgroup.compared_with]
                    notes.append(f"{subgroup.value} is compared with all {other} images")
        return {
            "metrics": with_names(total.metrics),
            "intervals": with_names(total.intervals),
            "further": {name: with_names(values) for name, values in further.items()},
            "groups": {"classes": dict(zip(names, breakdown, strict=True))},
            "subgroups": subgroups,
            "facts": facts,
            "notes": notes,
        }

    def write_tables(self, sample: Sample, folder: Path) -> None:
        """Write tables and pictures of an evaluation."""
        record = sample.model.record
        names = record.class_names
        probabilities = sample.scored.probabilities
        columns: Columns = {"file": sample.files, "patient": sample.patients}
        columns |= self.name_targets(sample.images, names)
        _, predicted = self.decide(record, probabilities)
        table = predictions_csv(columns, names, probabilities, predicted)
        write_text(folder / "predictions.csv", table)
        if self.has_classes:
            from xraytune.tasks.figure import plot_evaluation  # loads scikit-learn

            plot_evaluation(folder, sample)

    def name_targets(self, images: Iterable[ImageFile], outputs: Sequence[str]) -> Columns:
        """Return columns of a table with the true classes or findings of images."""
        return {"label": [outputs[image.label] for image in images]}

    def find_mistakes(self, results: Results, prepared: SplitData, threshold: float) -> Mistakes:
        """Return the misclassified images, the highest predicted probability first."""
        names = prepared.class_names
        images = prepared.side("val_b")
        labels = images.labels
        predicted = predicted_classes(results, positive=prepared.positive, threshold=threshold)
        chances = results[np.arange(len(predicted)), predicted]
        wrong = np.flatnonzero(predicted != labels)
        places = wrong[np.argsort(-chances[wrong], kind="stable")].tolist()
        return Mistakes(
            title="Misclassified images",
            note=f"{len(places):,} of {len(labels):,} images are misclassified. Pictures: those "
            "with the highest predicted probability. Orange: image regions that support the "
            "predicted class (Grad-CAM). The maps are coarse, and show where the network looks, "
            "not why.",
            places=places,
            rows=[
                {
                    "file": images[place].file,
                    "true class": names[labels[place]],
                    "predicted class": names[predicted[place]],
                    "probability": round(float(chances[place]), 3),
                }
                for place in places
            ],
        )


def soft_cross_entropy(
    outputs: Tensor, targets: Tensor, weights: Tensor | None = None, gamma: float = 0.0
) -> Tensor:
    """Return the cross-entropy of logits, [B, C], and labels, [B], or probabilities, [B, C].

    This is the mean over images, weighted by the weights of their classes, [C]. With `gamma`, it is
    the focal loss, in which images that the network is sure of count less.

    From: Lin et al. 2017, "Focal Loss for Dense Object Detection" (arXiv:1708.02002), equation 4.
    """
    if targets.ndim == 1:
        targets = one_hot(targets, outputs.shape[1]).to(outputs.dtype)
    if weights is not None:
        targets = targets * weights
    total = targets.sum()
    logarithms = outputs.log_softmax(dim=1)
    if gamma:
        targets = targets * (1 - logarithms.exp()) ** gamma
    return -(targets * logarithms).sum() / total


def weigh_extra_images(loss: Loss, parameters: Parameters) -> Loss:
    """Return a loss that is the weighted mean over real images, which come first, and extra ones.

    A real image has weight 1, and an extra one has weight `synthetic_weight`. The mean of findings
    is over the known ones.
    """
    weight = parameters.synthetic_weight
    count = parameters.batch_size
    if weight == 1 or parameters.mixing == "pretrain":  # then, no step has both kinds
        return loss

    def weigh(outputs: Tensor, targets: Tensor) -> Tensor:
        extra_weight = weight * (len(outputs) - count)
        of_real = loss(outputs[:count], targets[:count])
        of_extra = loss(outputs[count:], targets[count:])
        return (count * of_real + extra_weight * of_extra) / (count + extra_weight)

    return weigh


def name_metrics(
    values: Mapping[str, Any], class_count: int, positive: str | None
) -> dict[str, Any]:
    """Return the metrics that are reported; metrics of a positive class are named after it."""
    return {
        metric.of(metric.name, positive): values[metric.name]
        for metric in reported_metrics(class_count)
        if metric.name in values
    }


@dataclass(frozen=True, kw_only=True)
class Findings(Task):
    """Images with findings, each present, absent or unknown, scored by macro AUROC.

    A class is the one-hot case. A finding with fewer than `FEWEST_LABELS` positive or negative
    images has no score, and is not in the means.
    """

    metric: ClassVar[str] = "macro AUROC"
    has_classes: ClassVar[bool] = False

    def loss(self, outputs: Tensor, targets: Tensor) -> Tensor:
        """Return the mean binary cross-entropy of known findings, or of their probabilities."""
        return self.balanced_loss(outputs, targets)

    def balanced_loss(
        self, outputs: Tensor, targets: Tensor, weights: Tensor | None = None, gamma: float = 0.0
    ) -> Tensor:
        """Return the loss of `imbalance`: with weights of positives, [C], or the focal loss."""
        is_known = (targets >= 0).to(outputs.dtype)
        expected = targets.clamp(min=0).to(outputs.dtype)
        losses = binary_cross_entropy_with_logits(
            outputs, expected, weight=is_known, pos_weight=weights, reduction="none"
        )
        if gamma:
            losses = losses * (expected - outputs.sigmoid()).abs() ** gamma
        return losses.sum() / is_known.sum().clamp(min=1)

    def balance(self, real: NDArray[Any]) -> Floats:
        """Return the weights of positives, [C], which make them weigh as much as negatives."""
        positives = (real > 0.5).sum(axis=0)
        negatives = ((real >= 0) & (real <= 0.5)).sum(axis=0)
        return np.where(positives, negatives / np.maximum(positives, 1), 1)

    def thresholds(self, prepared: SplitData, validated: Validated) -> dict[str, float]:
        """Return the threshold of each finding for balanced accuracy.

        It is 0.5 if all or none of the images have the finding.
        """
        thresholds = {}
        for number, name in enumerate(prepared.outputs):
            is_known = validated.labels[:, number] >= 0
            has_it = validated.labels[is_known, number] == 1
            scores = validated.results[is_known, number]
            is_mixed = has_it.any() and not has_it.all()
            thresholds[name] = balanced_threshold(has_it, scores) if is_mixed else 0.5
        return thresholds

    def name_targets(self, images: Iterable[ImageFile], outputs: Sequence[str]) -> Columns:
        """Return a column for each finding, with the values 1, 0 or ?."""
        states = list(zip(*(image.findings for image in images), strict=True))
        return {f"label_{name}": column for name, column in zip(outputs, states, strict=True)}

    def probabilities(self, logits: NDArray[Any]) -> NDArray[Any]:
        """Return the probability of each finding, float64."""
        return torch.from_numpy(logits).double().sigmoid().numpy()

    def card_metrics(
        self, prepared: SplitData, threshold: float, validated: Validated
    ) -> tuple[CardMetric, ...]:
        """Return the means over findings, and the AUROC of each."""
        means = super().card_metrics(prepared, threshold, validated)
        scored = ScoredImages(validated.labels, validated.results, positive=0)
        of_findings = _measure_each(
            scored, prepared.outputs, validated.patients, resample_count=CARD_RESAMPLES, seed=0
        )
        aurocs = [
            CardMetric.of(measured, "auroc", f"AUROC ({name})")
            for name, measured in of_findings.items()
        ]
        return *means, *aurocs

    def decide(self, record: BundleRecord, probabilities: Floats) -> tuple[dict[str, int], Columns]:
        """Return the number of images with each finding, and columns of predictions, 1 or 0."""
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

        Raises DataError if no finding has enough images.
        """
        record = sample.model.record
        names = record.class_names
        scored = sample.scored
        total = measure(scored, sample.patients, **sample.sampling)
        of_findings = _measure_each(scored, names, sample.patients, **sample.sampling)
        left_out = [name for name in names if name not in of_findings]
        notes = [f"too few of each kind for a score: {join_names(left_out)}"] if left_out else []
        subgroups: dict[str, dict[str, Measured]] = {column: {} for column in sample.columns}
        patients = np.asarray(sample.patients)
        for column, value, rows in sample.subgroups():
            group = replace(
                scored, labels=scored.labels[rows], probabilities=scored.probabilities[rows]
            )
            measured = _measure_each(group, names, patients[rows].tolist(), **sample.sampling)
            for name, of_finding in measured.items():
                subgroups[column][f"{name}, {value}"] = of_finding
        return {
            "metrics": name_metrics(total.metrics, 0, None),
            "intervals": name_metrics(total.intervals, 0, None),
            "groups": {"findings": of_findings},
            "subgroups": subgroups,
            "facts": {"left_out": left_out, "thresholds": record.thresholds},
            "notes": notes,
        }


def _measure_each(
    scored: ScoredImages, names: Sequence[str], patients: Sequence[str], **sampling: int
) -> dict[str, Measured]:
    """Return the metrics of each of the `scored_findings`, by name."""
    breakdowns = class_breakdown(scored, patients, **sampling)
    numbers = scored_findings(scored.labels)
    return {names[number]: measured for number, measured in zip(numbers, breakdowns, strict=True)}
