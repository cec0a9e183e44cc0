"""The evaluation of a model on labelled images, and its JSON."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import field
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeAlias

from xraytune.base.records import Json, frozen, to_json
from xraytune.data.decoding import BrokenImage
from xraytune.data.images import ImageFile
from xraytune.stats.classification import METRICS, Flags, Floats, Labels
from xraytune.stats.intervals import Bounds, Measured, subgroups
from xraytune.stats.segmentation import MASK_METRICS
from xraytune.tasks.bundle_record import CardMetric
from xraytune.tasks.prediction import Calibration, ImageFiles, Predictor

if TYPE_CHECKING:
    import pandas as pd

Groups: TypeAlias = Mapping[str, Mapping[str, Measured]]
_METRICS = {metric.name: metric for metric in (*METRICS, *MASK_METRICS)}


@frozen
class Sample:
    """Labelled images with a model's predictions.

    Attributes:
        image_files: The files of the images.
        images: The images that were predicted.
        scored: `ScoredImages` or, for a segmenter, the `ScoredMask` of each image.
        columns: The value of each file in columns that define subgroups.
        resample_count: Number of bootstrap samples.
    """

    model: Predictor
    image_files: ImageFiles
    images: Sequence[ImageFile]
    scored: Any
    columns: Mapping[str, Mapping[str, str]]
    resample_count: int

    @property
    def files(self) -> list[str]:
        """The file of each image."""
        return [image.file for image in self.images]

    @property
    def patients(self) -> list[str]:
        """The patient of each image."""
        return [image.patient for image in self.images]

    def subgroups(self) -> Iterator[tuple[str, str, Flags]]:
        """Yield each column and value that define a subgroup, and which images are in it."""
        return subgroups(self.columns, self.files)

    def empty_groups(self) -> dict[str, dict[str, Measured]]:
        """Return a mapping for the metrics of the subgroups of each column."""
        return {column: {} for column in self.columns}


@frozen
class Evaluation(Measured):
    """The metrics of a model on the images of a folder.

    Attributes:
        metrics: The metrics of all images; with two classes, some of their names contain the
            positive one, such as `f1 (PNEUMONIA)`.
        intervals: Metric -> its lower and upper bound, at 95 %.
        further: Other values of the metrics, such as `at_half`, the values at the threshold 0.5.
        groups: The metrics of each class, each finding, or the worst images.
        subgroups: Column -> value -> metrics.
        notes: Sentences on what limits the metrics.
        calibration: How the probabilities were adapted; None if they were not.
        facts: Further keys of the JSON file.
        known_images: Number of copies of images that the model knows: training and validation
            images, extra images if their folder exists, and images that their generator has seen.
        known_patients: Number of patients of these images, by the rules of `shared_patients`.
        images_of_known_patients: Number of images of these patients, including `known_images`.
        test_access: How often the sealed test folder of the model's study has been accessed,
            including now; 0 for other folders.
        model: Folder of the model.
        data: The folder or data file of the images.
        out: The folder that was written; None if none was.
        images, patients: Number of scored images and of their patients.
        broken: Images that cannot be decoded and were left out.
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
        top_level: dict[str, Json] = {}
        for name in ("metrics", "further", "groups", "facts"):
            top_level |= content.pop(name)
        return top_level | content


def fallen_metrics(
    metrics: Mapping[str, float | None],
    intervals: Mapping[str, Bounds],
    validated: Sequence[CardMetric],
) -> str:
    """Return a text on metrics that were higher in validation than their interval here, or ""."""
    in_validation = {metric.name: metric.value for metric in validated if metric.value is not None}
    fallen = []
    for name, (_, high) in intervals.items():
        then = in_validation.get(metric_label(name), -1.0)
        if name.startswith(("auroc", "sensitivity", "specificity")) and then > high:
            now = format_metric(name, metrics[name])
            fallen.append(f"{metric_label(name)} {now} (in validation {format_metric(name, then)})")
    if not fallen:
        return ""
    return (
        f"lower than in validation: {', '.join(fallen)}; these images differ from those of the "
        "training, or the threshold does not suit them (--calibrate-on)"
    )


def metric_label(name: str) -> str:
    """Return the name of a metric in tables, with the positive class."""
    metric, bracket, positive = name.partition(" (")
    return f"{_METRICS[metric].label}{bracket}{positive}"


def format_metric(name: str, value: float | None) -> str:
    """Return the value of a metric with its usual number of decimals."""
    decimals = _METRICS[name.partition(" (")[0]].decimals
    return "undefined" if value is None else f"{value:.{decimals}f}"


@frozen
class Validated:
    """The labels of the images of val-A and val-B, and the results of a network for these images.

    Attributes:
        labels: The labels of the images, int64 [N], or their findings, [N, C].
        results: The results of the network, [N, C].
        patients: The patient of each image.
    """

    labels: Labels
    results: Floats
    patients: tuple[str, ...]
