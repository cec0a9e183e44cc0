"""The evaluation of a classifier of images in classes, as JSON and tables."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass

from xraytune.base.errors import counted, join_names
from xraytune.base.records import Json, to_json
from xraytune.base.tables import Cell, Row, Table, counts_text
from xraytune.stats.classification import CLASS_METRICS, METRICS, reported_metrics
from xraytune.stats.intervals import ClassMetrics, Measured, Subgroup
from xraytune.tasks.bundle_record import CardMetric
from xraytune.tasks.calibration import Calibration
from xraytune.tasks.evaluated import Evaluated, Parts, tall_table, wide_table

_MOST_CONFUSED = 5


@dataclass(frozen=True, slots=True, kw_only=True)
class PatientLevel(Measured):
    """Metrics of patients, each scored by the mean probability of their images.

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
        """Return values by metric, with the class of those that are about one: `f1 (PNEUMONIA)`."""
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
        """Show all metrics.

        Of two classes, also those in validation, and at 0.5 or not calibrated.
        """
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
