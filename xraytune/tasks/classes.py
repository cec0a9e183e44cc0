"""Images in classes: a classifier, trained with cross-entropy and scored by AUROC.

The main metrics of an evaluation use the threshold from validation, because one chosen on the
evaluated images is optimistically biased; those at the threshold 0.5 are reported next to them.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar

import numpy as np
from numpy.typing import NDArray

from xraytune.base.errors import DataError, Problem, counted, join_names
from xraytune.base.files import write_text
from xraytune.base.records import Compute, Json, to_json
from xraytune.base.tables import Cell, Row, Table, counts_text
from xraytune.data.index import LabelledImages
from xraytune.data.prepare import ImageSource, Prepared
from xraytune.space.settings import Parameters
from xraytune.stats.breakdown import (
    ClassMetrics,
    Subgroup,
    class_breakdown,
    patient_means,
    subgroup_metrics,
)
from xraytune.stats.classification import (
    CLASS_METRICS,
    METRICS,
    Floats,
    Labels,
    ScoredImages,
    auprc,
    auroc,
    classification_metrics,
    predicted_classes,
    reported_metrics,
    sensitivity_at,
)
from xraytune.stats.intervals import Measured, measure
from xraytune.stats.placements import StructuralComponents, structural_components
from xraytune.stats.threshold import balanced_threshold
from xraytune.tasks.bundle_record import CardMetric
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
    ImageFiles,
    Predicted,
    Predictor,
    predict_images,
    predictions_csv,
)
from xraytune.tasks.task import CARD_REPLICATES, Mistakes, Results, Task, Validated

if TYPE_CHECKING:
    from torch import Tensor, nn

_MOST_CONFUSED = 5


@dataclass(frozen=True, kw_only=True)
class Classes(Task):
    """Images in two or more classes."""

    metric: ClassVar[str] = "AUROC"
    network: ClassVar[str] = "classifier"
    packages: ClassVar[tuple[str, ...]] = ("torch", "torchvision")

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

    def probabilities(self, logits: NDArray[Any]) -> NDArray[Any]:
        """Return the probabilities of classes, in float64, so that confident scores do not tie at 1."""
        from torch import from_numpy

        return from_numpy(logits).double().softmax(dim=1).numpy()

    def predict(
        self, network: nn.Module, batches: Iterable[Tensor], images: ImageSource, compute: Compute
    ) -> tuple[float, Results, NDArray[Any]]:
        """Return the mean loss, the probabilities and the logits, [N, C]."""
        from torch import from_numpy

        from xraytune.nets.infer import predict_logits

        logits = predict_logits(network, batches, compute=compute)
        loss = self.loss(from_numpy(logits).double(), from_numpy(images.targets))
        return float(loss), self.probabilities(logits), logits

    def score(self, labels: Labels, results: Results, *, positive: int) -> float:
        """Return the objective: AUROC, AUPRC, or the sensitivity at a specificity."""
        if self.objective.specificity is not None:
            return sensitivity_at(
                labels, results, positive=positive, specificity=self.objective.specificity
            )
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

    def write_predictions(self, model: Predictor, images: ImageFiles, out: Path) -> Predicted:
        """Write a CSV file with the probabilities and the class of each image."""
        record = model.record
        names = record.class_names
        files, probabilities, broken = predict_images(model, images)
        predicted = predicted_classes(
            probabilities, positive=names.index(record.positive_name), threshold=record.threshold
        )
        threshold = record.threshold if len(names) == 2 else None
        shown = {"predicted": [names[label] for label in predicted]}
        write_text(out, predictions_csv(names, files, probabilities, shown, threshold=threshold))
        return Predicted(
            path=out,
            images=len(files),
            counts=_count_classes(names, predicted),
            positive=None if threshold is None else record.positive,
            threshold=threshold,
            broken=broken,
        )

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
    ) -> tuple[ClassEvaluation, Write]:
        """Predict the classes of labelled images and compute all metrics; DataError if a class has no images."""
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
            shown = {"predicted": [names[label] for label in scored.predicted]}
            table = predictions_csv(names, files, scored.probabilities, shown, about=about_files)
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
                note=f"{len(labels):,} images of {evaluation.patients:,} patients. In brackets: 95% intervals "
                "over patients.",
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
            note="Those with the highest predicted probability. Orange: image regions that support the "
            "predicted class (Grad-CAM). The maps are coarse, and show where the network looks, not why.",
            places=wrong.tolist(),
            captions=captions,
            table=Table(rows, text=("file", "true class", "predicted class")) if rows else None,
        )


@dataclass(frozen=True, slots=True, kw_only=True)
class PatientLevel(Measured):
    """Metrics of patients, each scored by the mean probability of their images, at the model's threshold.

    Patients with images of several classes are `left_out`; there are no metrics if none remains of
    some class.
    """

    class_counts: dict[str, int]
    left_out: tuple[str, ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class ClassEvaluation(Evaluated):
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

    @property
    def positive_of_two(self) -> str | None:
        """The positive class of two; None with more."""
        return None if self.threshold is None else self.positive

    def named(self, values: Mapping[str, object]) -> dict[str, Json]:
        """Return reported values by metric, with the class of those that are about one: `sensitivity (PNEUMONIA)`."""
        metrics = reported_metrics(len(self.class_counts))
        return to_json(
            {
                metric.of(metric.name, self.positive_of_two): values[metric.name]
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
            "positive": self.positive_of_two,
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

    def counts_text(self) -> str:
        """Return how many images there are of each class."""
        return f" ({counts_text(self.class_counts)})"

    def parts(self) -> Parts:
        """Yield the lines and tables of the metrics."""
        names = [*self.class_counts]
        positive = self.positive_of_two
        if self.calibration:
            images = counted(self.calibration.images, "image")
            patients = counted(self.calibration.patients, "patient")
            text = (
                f"probabilities are calibrated on {images} of {patients}, who are not evaluated: "
                f"{self.positive} from {self.calibration.threshold:.3f}"
            )
            yield Cell(text, "dim")
        yield self._main_table()

        if positive is None:
            title = "Each class against the others, with 95 % intervals"
            yield wide_table(self.classes, CLASS_METRICS, {"n": "images"}, title)
        if len(names) <= _MOST_CONFUSED:
            title = "Confusion matrix: true classes in rows, predicted classes in columns"
            yield Table([*self._confusion_rows()], title)
        if self.patients != self.images:
            yield from self._patient_parts()
        metrics = reported_metrics(len(names), "subgroups")
        about = f", sensitivity and specificity of {positive}" if positive else ""
        for column, subgroups in self.subgroups.items():
            counts = {"images": "images", "patients": "patients"}
            by_value = {subgroup.value: subgroup for subgroup in subgroups}
            yield wide_table(by_value, metrics, counts, f"By {column}{about} (exploratory)")
            for subgroup in subgroups:
                if subgroup.compared_with is not None:
                    other = names[subgroup.compared_with]
                    yield Cell(f"{subgroup.value} is compared with all {other} images", "dim")

    def _main_table(self) -> Table:
        """Show all metrics; of two classes, also those in validation, and at 0.5 or not calibrated."""
        metrics = reported_metrics(len(self.class_counts))
        if self.threshold is None:
            return tall_table(self, metrics, value="most probable class")
        card = {metric.name: metric.value for metric in self.validation}
        validation = {}
        for metric in metrics:
            name = metric.of(metric.label, self.positive)
            if name in card:
                validation[metric.name] = card[name]
        further: dict[str, Mapping[str, float | None]] = {"in\nvalidation": validation}
        if self.uncalibrated:
            further["not\ncalibrated"] = self.uncalibrated
        elif self.at_half:
            at_threshold = [metric.name for metric in metrics if metric.at_threshold]
            further["threshold\n0.5"] = {name: self.at_half[name] for name in at_threshold}
        value = f"threshold\n{self.threshold:.3f}"
        return tall_table(self, metrics, positive=self.positive, value=value, further=further)

    def _confusion_rows(self) -> Iterator[Row]:
        names = [*self.class_counts]
        for name, counts in zip(names, self.confusion, strict=True):
            shares = (f"{count} ({count / sum(counts):.0%})" for count in counts)
            yield {"": Cell(name, "dim"), **dict(zip(names, shares, strict=True))}

    def _patient_parts(self) -> Parts:
        level = self.patient_level
        if not level.metrics:
            missing = join_names([name for name, count in level.class_counts.items() if not count])
            yield Cell(f"no metrics by patient: no patient has only {missing} images", "busy")
            return
        metrics = reported_metrics(len(self.class_counts), "patients")
        title = "By patient: the mean probability of each patient's images"
        yield tall_table(level, metrics, positive=self.positive_of_two, title=title)
        if level.left_out:
            left_out = join_names(level.left_out, 5)
            yield Cell(f"left out, with images of several classes: {left_out}", "busy")


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
        fix = f"put images of each class into folders named {', '.join(names)}; `xraytune predict` needs no classes"
        raise DataError(Problem(what, where, fix))


def _count_classes(names: Sequence[str], labels: Labels) -> dict[str, int]:
    return dict(zip(names, np.bincount(labels, minlength=len(names)).tolist(), strict=True))


def _confuse(labels: Labels, predicted: Labels, class_count: int) -> tuple[tuple[int, ...], ...]:
    from sklearn.metrics import confusion_matrix  # takes half a second

    confusion = confusion_matrix(labels, predicted, labels=range(class_count))
    return tuple(map(tuple, confusion.tolist()))
