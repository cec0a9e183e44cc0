"""Tasks; by itself, a task is that of images in classes: a classifier, scored by AUROC.

A task is a class with all that depends on it, from the labels to the tables of an evaluation:
`Findings` and `Masks` override what differs. The rest of the code, from the split to the verdict,
is the same for all tasks and asks `task_of(settings)`. Only methods that compute import torch, so
that `status` and `export` start without it.

The main metrics of an evaluation use the threshold from validation, because one chosen on the
evaluated images is optimistically biased; those at the threshold 0.5 are reported next to them.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar, TypeAlias

import numpy as np
from numpy.typing import NDArray

from xraytune.base.errors import ArtifactError, DataError, Problem, TrialError, XraytuneError
from xraytune.base.files import write_text
from xraytune.base.records import Compute
from xraytune.base.tables import Row, Table
from xraytune.data.images import ImageFile, ImageIndex
from xraytune.data.index import LabelledImages, read_index, read_labelled
from xraytune.data.prepare import ImageSource, Prepared
from xraytune.space.settings import DataSettings, Objective, Parameters
from xraytune.stats.classification import (
    Floats,
    Labels,
    ScoredImages,
    auprc,
    auroc,
    classification_metrics,
    predicted_classes,
    reported_metrics,
    require_finite_outputs,
    sensitivity_at,
)
from xraytune.stats.intervals import (
    Measured,
    class_breakdown,
    measure,
    patient_means,
    subgroup_metrics,
)
from xraytune.stats.placements import StructuralComponents, structural_components
from xraytune.stats.threshold import balanced_threshold
from xraytune.tasks.bundle_record import BundleRecord, CardMetric
from xraytune.tasks.calibration import Calibration
from xraytune.tasks.class_evaluation import ClassEvaluation, PatientLevel
from xraytune.tasks.evaluated import BOOTSTRAP_SEED, About, Evaluated, Write
from xraytune.tasks.prediction import (
    Columns,
    ImageFiles,
    Predicted,
    PredictedMasks,
    Predictor,
    predict_images,
    predictions_csv,
)

if TYPE_CHECKING:
    from torch import Tensor, nn

Results: TypeAlias = Floats
"""Of each image, float64 [N, C]: the probability of each class or finding, or the Dice (C = 1)."""
_SPECIFICITY = 0.9
"""That of `objective.metric: val_sensitivity`."""
CARD_REPLICATES = 1000


@dataclass(frozen=True, slots=True, kw_only=True)
class Validated:
    """Images, such as val-A and val-B: labels, int64 [N], or findings, [N, C].

    A network's results, [N, C]; patients.
    """

    labels: Labels
    results: Results
    patients: tuple[str, ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class Mistakes:
    """The images of val-B that a network gets most wrong, the worst first, by their `places` there.

    `note` is about their pictures.
    """

    title: str
    note: str
    places: Sequence[int]
    captions: Sequence[str]
    lead: str = ""
    table: Table | None = None


@dataclass(frozen=True, kw_only=True)
class Task:
    """A task, with the objective of its study; by itself, that of images in two or more classes.

    Attributes:
        metric: The display name of the score that `confirm` compares, whatever the search's
            objective.
        network: What `confirm` trains.
        packages: What the network and its results depend on.
        has_masks: Whether images come with masks.
        caches_features: Whether the features of a frozen backbone are computed once.
    """

    metric: ClassVar[str] = "AUROC"
    network: ClassVar[str] = "classifier"
    packages: ClassVar[tuple[str, ...]] = ("torch", "torchvision")
    has_masks: ClassVar[bool] = False
    caches_features: ClassVar[bool] = True

    objective: Objective = field(default_factory=Objective)

    def read_index(self, data: DataSettings, **options: Any) -> ImageIndex:
        """List the images of a data folder; see `data.index.read_index`."""
        return read_index(data, pairs=self.has_masks, **options)

    def read_labelled(self, source: Path, outputs: Sequence[str], **options: Any) -> LabelledImages:
        """Read labelled images for a network with these outputs; see `data.index.read_labelled`."""
        findings = self.findings(outputs)
        return read_labelled(source, outputs, pairs=self.has_masks, findings=findings, **options)

    def read_labelled_folder(self, folder: Path, outputs: Sequence[str]) -> tuple[ImageFile, ...]:
        """Read all images of a folder without parts, or of a data file."""
        return self.read_labelled(folder, outputs, all_parts=True).images

    def findings(self, outputs: Sequence[str]) -> Sequence[str]:
        """Return those of a network's outputs that are findings."""
        return ()

    def build_network(
        self, parameters: Parameters, output_count: int, *, weights: Path | None, seed: int
    ) -> nn.Module:
        """Build a classifier."""
        from xraytune.nets.classifier import build_classifier

        return build_classifier(parameters, output_count, weights=weights, seed=seed)

    def loss(self, outputs: Tensor, targets: Tensor) -> Tensor:
        """Return the cross-entropy of logits, [B, C], and labels, [B]."""
        from torch.nn.functional import cross_entropy

        return cross_entropy(outputs, targets)

    def balanced_loss(
        self, parameters: Parameters, real: Labels, device: str
    ) -> Callable[[Tensor, Tensor], Tensor]:
        """Return the loss with the trial's `pos_weight`, if the task has one."""
        return self.loss

    def loss_of(
        self, parameters: Parameters, real: Labels, device: str
    ) -> Callable[[Tensor, Tensor], Tensor]:
        """Return the loss of a trial's training steps, with these `real` labels or findings."""
        loss = self.balanced_loss(parameters, real, device)
        weight = parameters.synthetic_weight
        if weight == 1:
            return loss
        return partial(_weigh_extra, loss, real_count=parameters.batch_size, weight=weight)

    def probabilities(self, logits: NDArray[Any]) -> NDArray[Any]:
        """Return the probabilities of classes, in float64, so that they do not tie at 1."""
        from torch import from_numpy

        return from_numpy(logits).double().softmax(dim=1).numpy()

    def predict_probabilities(
        self, network: nn.Module, batches: Iterable[Tensor], *, compute: Compute, where: Path
    ) -> NDArray[Any]:
        """Return the `probabilities` of at least one batch of inputs.

        Raises ArtifactError, in which `where` names the network, for NaN or infinity, as metrics
        would rank them arbitrarily.
        """
        from xraytune.nets.infer import predict_logits

        logits = predict_logits(network, batches, compute=compute)
        require_finite_outputs(logits.reshape(len(logits), -1), ArtifactError, where)
        return self.probabilities(logits)

    def predict(
        self, network: nn.Module, batches: Iterable[Tensor], images: ImageSource, compute: Compute
    ) -> tuple[float, Results, NDArray[Any]]:
        """Return the mean loss, the probabilities and the logits, [N, C]."""
        from torch import from_numpy

        from xraytune.nets.infer import predict_logits

        logits = predict_logits(network, batches, compute=compute)
        loss = self.loss(from_numpy(logits).double(), from_numpy(images.targets))
        return float(loss), self.probabilities(logits), logits

    def validate(
        self,
        network: nn.Module,
        batches: Iterable[Tensor],
        images: ImageSource,
        *,
        positive: int,
        compute: Compute,
    ) -> tuple[float, float]:
        """Return loss and score of a network on images.

        The score is NaN if the loss is not finite.
        """
        loss, results, _ = self.predict(network, batches, images, compute)
        if not math.isfinite(loss):
            return loss, math.nan
        return loss, self.score(images.targets, results, positive=positive)

    def results(
        self,
        network: nn.Module,
        batches: Iterable[Tensor],
        images: ImageSource,
        *,
        compute: Compute,
        error: type[XraytuneError] = TrialError,
        where: Path | str = "",
    ) -> Results:
        """Return the network's results for images.

        Raise `error`, in which `where` names it, if outputs are not finite.
        """
        _, results, outputs = self.predict(network, batches, images, compute)
        require_finite_outputs(outputs, error, where)
        return results

    def score(self, labels: Labels, results: Results, *, positive: int) -> float:
        """Return the objective: AUROC, AUPRC, or the sensitivity at a specificity."""
        if self.objective.metric == "val_sensitivity":
            return sensitivity_at(labels, results, positive=positive, specificity=_SPECIFICITY)
        area = auprc if self.objective.metric == "val_auprc" else auroc
        return area(labels, results, positive=positive)

    def threshold(self, labels: Labels, results: Results, positive: int) -> float:
        """Return the threshold of the positive class for balanced accuracy."""
        return balanced_threshold(labels == positive, results[:, positive])

    def components(
        self, labels: Labels, results: Floats, patients: Sequence[str], positive: int
    ) -> StructuralComponents:
        """Return AUROCs with the contribution of each patient to their variance."""
        return structural_components(labels, results, patients, positive)

    def positive_class(self, prepared: Prepared) -> str | None:
        """Return the name of the positive class."""
        return prepared.class_names[prepared.positive]

    def thresholds(self, prepared: Prepared, validated: Validated) -> dict[str, float]:
        """Return the threshold of each finding, if the images have any."""
        return {}

    def card_metrics(
        self, prepared: Prepared, threshold: float, validated: Validated
    ) -> tuple[CardMetric, ...]:
        """Return the main metrics at the threshold."""
        scored = ScoredImages(
            validated.labels, validated.results, positive=prepared.positive, threshold=threshold
        )
        measured = measure(scored, validated.patients, replicates=CARD_REPLICATES, seed=0)
        positive = self.positive_class(prepared) if scored.class_count == 2 else None
        return tuple(
            CardMetric.of(measured, metric.name, metric.of(metric.label, positive))
            for metric in reported_metrics(scored.class_count, "card")
        )

    def write_predictions(
        self, model: Predictor, images: ImageFiles, out: Path
    ) -> Predicted | PredictedMasks:
        """Predict images and write a CSV file with their probabilities, and what these mean."""
        record = model.record
        names = record.class_names
        files, probabilities, broken = predict_images(model, images)
        counts, columns = self.decide(record, probabilities)
        write_text(out, predictions_csv(names, files, probabilities, columns))
        has_threshold = "threshold" in columns
        return Predicted(
            path=out,
            images=len(files),
            counts=dict(zip(names, counts, strict=True)),
            positive=record.positive if has_threshold else None,
            threshold=record.threshold if has_threshold else None,
            broken=broken,
        )

    def decide(self, record: BundleRecord, probabilities: Floats) -> tuple[list[int], Columns]:
        """Return how many images are predicted as each output, and the columns that say so."""
        names = record.class_names
        positive = names.index(record.positive_name)
        predicted = predicted_classes(probabilities, positive=positive, threshold=record.threshold)
        columns: Columns = {}
        if len(names) == 2:
            columns["threshold"] = [record.threshold] * len(predicted)
        columns["predicted"] = [names[label] for label in predicted]
        return np.bincount(predicted, minlength=len(names)).tolist(), columns

    def require_labels(self, labelled: LabelledImages, outputs: Sequence[str]) -> None:
        """Raise DataError if a class has no image."""
        labels = [image.label for image in labelled.images]
        _require_every_class(outputs, labels, labelled.data.path)

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
        """Predict the classes of labelled images and compute all metrics.

        DataError if a class has no images.
        """
        record = model.record
        names = record.class_names
        is_binary = len(names) == 2
        files, probabilities, broken = predict_images(model, images)
        by_file = {image.file: image for image in labelled.images}
        labels = np.array([by_file[file].label for file in files], dtype=np.int64)
        patients = [by_file[file].patient for file in files]
        _require_every_class(names, labels.tolist(), images.root)  # again, without broken images
        positive = names.index(record.positive_name)
        scored = ScoredImages(labels, probabilities, positive=positive, threshold=record.threshold)
        uncalibrated = None
        if calibration:
            uncalibrated = classification_metrics(scored)
            calibrated = calibration.apply(probabilities, positive)
            scored = replace(scored, probabilities=calibrated, threshold=calibration.threshold)

        shared = about(files, broken)
        sampling = {"replicates": replicates, "seed": BOOTSTRAP_SEED}
        total = measure(scored, patients, **sampling)
        evaluation = ClassEvaluation(
            **shared,
            metrics=total.metrics,
            intervals=total.intervals,
            images=len(labels),
            patients=len({*patients}),
            positive=record.positive_name,
            class_counts=_count_classes(names, labels),
            threshold=float(scored.threshold) if is_binary else None,
            calibration=calibration,
            uncalibrated=uncalibrated,
            at_half=classification_metrics(replace(scored, threshold=0.5)) if is_binary else None,
            classes=dict(zip(names, class_breakdown(scored, patients, **sampling), strict=True)),
            confusion=_confuse(labels, scored.predicted, len(names)),
            patient_level=_measure_patients(names, scored, patients, sampling),
            subgroups={
                name: subgroup_metrics(files, scored, patients, values, **sampling)
                for name, values in columns.items()
            },
            validation=record.metrics,
        )

        def write(folder: Path) -> None:
            from xraytune.tasks.figure import draw_evaluation  # loads scikit-learn

            about_files = {"patient": patients, "label": [names[label] for label in labels]}
            used = record.model_copy(update={"threshold": scored.threshold})
            _, columns = self.decide(used, scored.probabilities)
            table = predictions_csv(names, files, scored.probabilities, columns, about=about_files)
            write_text(folder / "predictions.csv", table)
            draw_evaluation(
                [folder / "evaluation.png", folder / "evaluation.svg"],
                dict(
                    zip(
                        [evaluation.positive] if is_binary else names,
                        scored.classes(),
                        strict=True,
                    )
                ),
                evaluation.classes,
                evaluation.confusion,
                names,
                brier_interval=total.intervals.get("brier") if is_binary else None,
                threshold=evaluation.threshold,
                note=f"{len(labels):,} images of {evaluation.patients:,} patients. In brackets: 95% "
                "intervals over patients.",
            )

        return evaluation, write

    def find_mistakes(
        self, results: Results, prepared: Prepared, threshold: float, trial: int
    ) -> Mistakes | None:
        """Return the misclassified images, those with the highest predicted probability first."""
        names = prepared.class_names
        images = [image for image in prepared.images if image.side == "val_b"]
        labels = prepared.side("val_b").labels
        predicted = predicted_classes(results, positive=prepared.positive, threshold=threshold)
        chances = results[np.arange(len(predicted)), predicted]
        wrong = np.flatnonzero(predicted != labels)
        wrong = wrong[np.argsort(-chances[wrong], kind="stable")]
        rows: list[Row] = []
        captions = []
        for place in wrong.tolist():
            file = images[place].file
            true = names[labels[place]]
            guess = names[predicted[place]]
            chance = float(chances[place])
            captions.append(f"{Path(file).name}: {true}, predicted {guess} ({chance:.2f})")
            row = {"file": file, "true class": true, "predicted class": guess}
            rows.append({**row, "probability": round(chance, 3)})
        counts = f"{len(wrong):,} of {len(labels):,} images of val-B"
        return Mistakes(
            title="Misclassified images",
            lead=f"{counts} are misclassified by #{trial}.",
            note="Those with the highest predicted probability. Orange: image regions that support "
            "the predicted class (Grad-CAM). The maps are coarse, and show where the network looks, "
            "not why.",
            places=wrong.tolist(),
            captions=captions,
            table=Table(rows, text=("file", "true class", "predicted class")) if rows else None,
        )


def _measure_patients(
    names: Sequence[str], scored: ScoredImages, patients: Sequence[str], sampling: dict[str, int]
) -> PatientLevel:
    means, means_of, left_out = patient_means(scored, patients)
    counts = _count_classes(names, means.labels)
    measured = Measured(metrics={}, intervals={})
    if all(counts.values()):
        measured = measure(means, means_of, **sampling)
    return PatientLevel(
        metrics=measured.metrics,
        intervals=measured.intervals,
        class_counts=counts,
        left_out=left_out,
    )


def _require_every_class(names: Sequence[str], labels: Sequence[int], where: Path) -> None:
    if empty := [name for label, name in enumerate(names) if label not in labels]:
        what = f"there are no images of {' and '.join(empty)}, so AUROC is undefined"
        folders = f"put images of each class into folders named {', '.join(names)}"
        fix = f"{folders}; `xraytune predict` needs no classes"
        raise DataError(Problem(what, where, fix))


def _count_classes(names: Sequence[str], labels: Labels) -> dict[str, int]:
    return dict(zip(names, np.bincount(labels, minlength=len(names)).tolist(), strict=True))


def _confuse(labels: Labels, predicted: Labels, class_count: int) -> tuple[tuple[int, ...], ...]:
    from sklearn.metrics import confusion_matrix  # takes half a second

    confusion = confusion_matrix(labels, predicted, labels=range(class_count))
    return tuple(map(tuple, confusion.tolist()))


def _weigh_extra(
    loss: Callable[[Tensor, Tensor], Tensor],
    outputs: Tensor,
    targets: Tensor,
    *,
    real_count: int,
    weight: float,
) -> Tensor:
    """Return the weighted mean of the loss over real images, which come first, and over extra ones.

    A real image has weight 1, an extra one `weight`; of findings, each mean is over known ones.
    """
    extra_weight = weight * (len(outputs) - real_count)
    of_real = loss(outputs[:real_count], targets[:real_count])
    of_extra = loss(outputs[real_count:], targets[real_count:])
    return (real_count * of_real + extra_weight * of_extra) / (real_count + extra_weight)
