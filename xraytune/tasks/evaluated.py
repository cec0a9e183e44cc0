"""What the evaluations of all tasks have in common: fields, JSON, warnings, tables of metrics."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeAlias

from xraytune.base.errors import counted
from xraytune.base.records import Json, to_json
from xraytune.base.tables import Cell, Entry, Frame, Row, Table
from xraytune.data.decoding import BrokenImage
from xraytune.stats.classification import Metric
from xraytune.stats.intervals import Measured

if TYPE_CHECKING:
    import pandas as pd

BOOTSTRAP_SEED = 0
About: TypeAlias = Callable[[Sequence[str], Sequence[BrokenImage]], dict[str, Any]]
"""Called before any metric can be seen: files used, images left out -> fields of `Evaluated`."""
Write: TypeAlias = Callable[[Path], None]
"""Writes tables and pictures to a folder."""
Parts: TypeAlias = Iterator[Cell | Table]


@dataclass(frozen=True, slots=True, kw_only=True)
class Evaluated(Measured):
    """The metrics of a model on the images of a folder; those that are `broken` were left out.

    Attributes:
        known_images: Copies of the model's training or validation images, of its extra images if
            their folder exists, or of those that their generator has seen.
        known_patients: Patients of these sets, by the rules of `shared_patients`.
        images_of_known_patients: Their images, including those of `known_images`.
        opened_test: Whether this is the sealed test folder of the model's study.
        test_access: How often that folder has been accessed, including now; 0 for other folders.
    """

    known_images: int
    known_patients: int
    images_of_known_patients: int
    opened_test: bool
    test_access: int
    model: Path
    data: Path
    out: Path | None
    images: int
    patients: int
    broken: tuple[BrokenImage, ...]

    def named(self, values: Mapping[str, object]) -> dict[str, Json]:
        """Return reported values by metric, under the names of the JSON file."""
        return to_json(dict(values))

    def to_dataframe(self) -> pd.DataFrame:
        """Return a row for each metric: `value`, and its 95 % interval from `low` to `high`."""
        import pandas as pd  # takes most of a second

        intervals = pd.DataFrame(self.named(self.intervals), index=["low", "high"]).T
        return pd.DataFrame({"value": self.named(self.metrics)}).join(intervals)

    def to_json(self) -> dict[str, Json]:
        """Return the evaluation as a JSON object, with the metrics at the top level."""
        content = to_json(self)
        return {**content.pop("metrics"), **content}

    def lay_out(self) -> Frame:
        """Return the metrics as lines and tables, with warnings that matter for reading them."""
        images = f"{self.images} images{self.counts_text()} of {self.patients} patients"
        heading = Cell(f"{self.model} on {self.data}: {images}", "strong")
        return heading, *self._warnings(), *self.parts()

    def counts_text(self) -> str:
        """Return how many images there are of each class, if they are in classes."""
        return ""

    def parts(self) -> Parts:
        """Yield the lines and tables of the metrics."""
        yield from ()

    def _warnings(self) -> Iterator[Cell]:
        for image in self.broken:
            yield Cell(f"left out: {image.file}: {image.reason}", "bad")
        if self.opened_test:
            access = f"access number {self.test_access}"
            if self.test_access == 1:
                access = "the first access by this model or its study"
            text = f"these are the test images of the model's own data: {access} was logged"
            yield Cell(text, "busy")
        if self.known_patients:
            patients = counted(self.known_patients, "patient")
            yield Cell(
                f"{self.images_of_known_patients} of these images belong to {patients} in the "
                f"model's own training or validation set ({self.known_images} are the same "
                "files): the metrics are optimistically biased",
                "bad",
            )


def tall_table(
    measured: Measured,
    metrics: Sequence[Metric],
    *,
    positive: str | None = None,
    average: str = "macro",
    title: str = "",
    value: str = "value",
    further: Mapping[str, Mapping[str, float | None]] | None = None,
) -> Table:
    """Show each metric in a row: of the positive class, or an average of all.

    And its `further` values, by column.
    """
    rows: list[Row] = []
    for metric in metrics:
        name = metric.of(metric.label, positive)
        if metric.of_class and positive is None:
            name += f" ({average})"
        row: dict[str, Entry] = {
            "": Cell(name, "strong" if metric.name == "auroc" else "plain"),
            value: format_metric(measured.metrics[metric.name], metric),
            "95 % interval": " to ".join(_ends(measured, metric)),
        }
        for column, values in (further or {}).items():
            is_known = metric.name in values
            row[column] = format_metric(values[metric.name], metric) if is_known else ""
        rows.append(row)
    return Table(rows, title)


def wide_table(
    by_name: Mapping[str, Measured],
    metrics: Sequence[Metric],
    attributes: Mapping[str, str],
    title: str = "",
) -> Table:
    """Show each class, finding or subgroup in a row, with each metric above its interval."""
    rows: list[Row] = []
    for name, measured in by_name.items():
        row: dict[str, Entry] = {"": Cell(name, "strong")}
        for column, attribute in attributes.items():
            row[column] = round(getattr(measured, attribute), 3)
        for metric in metrics:
            value = format_metric(measured.metrics[metric.name], metric)
            row[metric.label] = f"{value}\n{'-'.join(_ends(measured, metric))}".rstrip()
        rows.append(row)
    return Table(rows, title)


def format_metric(value: float | None, metric: Metric) -> str:
    """Format a value with the decimals of its metric."""
    return "undefined" if value is None else f"{value:.{metric.decimals}f}"


def _ends(measured: Measured, metric: Metric) -> list[str]:
    return [format_metric(end, metric) for end in measured.intervals.get(metric.name, ())]
