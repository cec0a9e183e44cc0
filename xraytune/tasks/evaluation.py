"""The evaluation of a model on labelled images: its JSON, warnings and tables of metrics."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import field
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeAlias

from xraytune.base.errors import counted
from xraytune.base.records import Json, frozen, to_json
from xraytune.base.tables import Cell, Entry, Frame, Row, Table, counts_text
from xraytune.data.decoding import BrokenImage
from xraytune.data.images import ImageFile
from xraytune.data.patients import EQUAL_IDS
from xraytune.stats.classification import METRICS
from xraytune.stats.intervals import Bounds, Measured
from xraytune.stats.segmentation import MASK_METRICS
from xraytune.tasks.bundle_record import CardMetric
from xraytune.tasks.prediction import Calibration, ImageFiles, Predictor

if TYPE_CHECKING:
    import pandas as pd

Groups: TypeAlias = Mapping[str, Mapping[str, Measured]]
_METRICS = {metric.name: metric for metric in (*METRICS, *MASK_METRICS)}


@frozen
class Sample:
    """Labelled images with a model's predictions, and how their metrics are resampled.

    Attributes:
        source: Where the images come from.
        images: Those that were predicted.
        scored: `ScoredImages`, or of a segmenter the `ScoredMask` of each image.
        columns: The value of each file in columns that define subgroups.
    """

    model: Predictor
    source: ImageFiles
    images: Sequence[ImageFile]
    scored: Any
    columns: Mapping[str, Mapping[str, str]]
    sampling: Mapping[str, int]

    @property
    def files(self) -> list[str]:
        """The file of each image."""
        return [image.file for image in self.images]

    @property
    def patients(self) -> list[str]:
        """The patient of each image."""
        return [image.patient for image in self.images]


@frozen
class Evaluation(Measured):
    """The metrics of a model on the images of a folder; those that are `broken` were left out.

    Attributes:
        metrics: Of all images; with two classes, some name the positive one: `f1 (PNEUMONIA)`.
        further: Other values of the metrics, such as those `at_half`, the threshold 0.5.
        groups: The metrics of each class, each finding, or the worst images.
        subgroups: Column -> value -> metrics.
        facts: Further keys of the JSON file.
        known_images: Copies of the model's training or validation images, of its extra images if
            their folder exists, or of those that their generator has seen.
        known_patients: Patients of these sets, by the rules of `shared_patients`.
        images_of_known_patients: Their images, including those of `known_images`.
        test_access: How often the sealed test folder of the model's study has been accessed,
            including now; 0 for other folders.
    """

    further: Mapping[str, Mapping[str, float | None]] = field(default_factory=dict)
    groups: Groups
    subgroups: Groups
    facts: Mapping[str, Any]
    notes: Sequence[str]
    calibration: Calibration | None
    known_images: int
    known_patients: int
    images_of_known_patients: int
    test_access: int
    model: Path
    data: Path
    out: Path | None
    images: int
    patients: int
    broken: Sequence[BrokenImage]

    def to_dataframe(self) -> pd.DataFrame:
        """Return a row for each metric: `value`, and its 95 % interval from `low` to `high`."""
        import pandas as pd  # takes most of a second

        intervals = pd.DataFrame(self.intervals, index=["low", "high"]).T
        return pd.DataFrame({"value": self.metrics}).join(intervals)

    def to_json(self) -> dict[str, Json]:
        """Return the evaluation as a JSON object, with the metrics at the top level."""
        content = to_json(self)
        first: dict[str, Json] = {}
        for name in ("metrics", "further", "groups", "facts"):
            first |= content.pop(name)
        return first | content

    def lay_out(self) -> Frame:
        """Return the metrics as lines and tables, with warnings that matter for reading them."""
        classes = counts_text(self.facts.get("class_counts", {}))
        images = f"{self.images} images{f' ({classes})' if classes else ''}"
        heading = f"{self.model} on {self.data}: {images} of {self.patients} patients"
        parts: list[Cell | Table] = [Cell(heading, "strong")]
        for image in self.broken:
            parts.append(Cell(f"left out: {image.file}: {image.reason}", "bad"))
        if self.test_access:
            access = f"access number {self.test_access}"
            if self.test_access == 1:
                access = "the first access by this model or its study"
            text = f"`confirm` may score some of these images: {access} was logged"
            parts.append(Cell(text, "busy"))
        if self.known_patients:
            patients = counted(self.known_patients, "patient")
            text = (
                f"{self.images_of_known_patients} of these images have the ID, name or content of "
                f"{patients} in the model's own training or validation set ({self.known_images} "
                "are the same files). If these are the same people, the metrics are optimistically "
                f"biased; {EQUAL_IDS}"
            )
            parts.append(Cell(text, "bad"))
        parts += [Cell(note, "busy") for note in self.notes]
        fit = self.calibration
        if fit:
            images = f"{counted(fit.images, 'image')} of {counted(fit.patients, 'patient')}"
            parts.append(Cell(f"calibrated on {images}, who are not evaluated", "busy"))
        rows: list[Row] = []
        for name, value in self.metrics.items():
            row: dict[str, Entry] = {
                "": Cell(_label(name), "strong" if name == "auroc" else "plain"),
                "value": _format(name, value),
                "95 % interval": " to ".join(_format_ends(name, self)),
            }
            for column, values in self.further.items():
                shown = _format(name, values[name]) if name in values else ""
                row[column.replace("_", "\n")] = shown
            rows.append(row)
        parts.append(Table(rows))
        if self.facts.get("threshold") is None:  # the other of two classes has the same metrics
            parts += [_group_table(group, name.capitalize()) for name, group in self.groups.items()]
        if "confusion" in self.facts:
            names = [*self.facts["class_counts"]]
            rows = [
                {"": name, **dict(zip(names, counts, strict=True))}
                for name, counts in zip(names, self.facts["confusion"], strict=True)
            ]
            parts.append(Table(rows, "True classes in rows, predicted classes in columns"))
        for column, group in self.subgroups.items():
            parts.append(_group_table(group, f"By {column} (exploratory)"))
        return parts


def what_fell(
    metrics: Mapping[str, float | None],
    intervals: Mapping[str, Bounds],
    validated: Sequence[CardMetric],
) -> str:
    """Return which metrics were higher in validation than their interval here; "" if none was."""
    before = {metric.name: metric.value for metric in validated if metric.value is not None}
    fallen = []
    for name, (_, high) in intervals.items():
        then = before.get(_label(name), -1.0)
        if name.startswith(("auroc", "sensitivity", "specificity")) and then > high:
            now = _format(name, metrics[name])
            fallen.append(f"{_label(name)} {now} (in validation {_format(name, then)})")
    if not fallen:
        return ""
    return (
        f"lower than in validation: {', '.join(fallen)}; these images differ from those of the "
        "training, or the threshold does not suit them (--calibrate-on)"
    )


def _group_table(group: Mapping[str, Measured], title: str) -> Table:
    """Show each class, finding, image or subgroup in a row, each metric above its interval."""
    rows: list[Row] = []
    for name, measured in group.items():
        row: dict[str, Entry] = {
            "": Cell(name, "strong"),
            "images": getattr(measured, "images", ""),
        }
        for metric, value in measured.metrics.items():
            ends = "-".join(_format_ends(metric, measured))
            row[_label(metric)] = f"{_format(metric, value)}\n{ends}".rstrip()
        rows.append(row)
    return Table(rows, title)


def _label(name: str) -> str:
    metric, bracket, positive = name.partition(" (")
    return f"{_METRICS[metric].label}{bracket}{positive}"


def _format(name: str, value: float | None) -> str:
    decimals = _METRICS[name.partition(" (")[0]].decimals
    return "undefined" if value is None else f"{value:.{decimals}f}"


def _format_ends(name: str, measured: Measured) -> list[str]:
    return [_format(name, end) for end in measured.intervals.get(name, ())]
