"""The row of an ended trial, and the ranking of trials.

A `TrialRow` is a line of a study's `trials.jsonl` and follows from the journal; a `RunRow` is a
line of the `runs.jsonl` of a confirmation. A row is validated when it is built, so its readers can
rely on types and ranges.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterable, Mapping
from functools import cached_property
from pathlib import Path
from typing import Annotated, Any, Literal, TypeAlias, TypeVar

from pydantic import ConfigDict, Field, NonNegativeInt, PlainSerializer, PositiveInt, ValidationError

from xraytune.base.files import append_jsonl, read_jsonl, write_text
from xraytune.space.domains import Value
from xraytune.space.fields import flat_values
from xraytune.space.settings import Parameters
from xraytune.space.strict_model import StrictModel
from xraytune.study.folder import StudyFolder, damage_explained

Status: TypeAlias = Literal["complete", "pruned", "failed"]
TrialStatus: TypeAlias = Literal["running", "waiting", "unfinished", Status]
_Share = Annotated[float, Field(ge=0, le=1)]
_Seconds = Annotated[float, Field(ge=0)]
_Row = TypeVar("_Row", bound="EndedRow")
_Trial = TypeVar("_Trial", bound="TrialRecord")


def _set_values(parameters: Parameters, folder: Path | None = None) -> dict[str, Value]:
    """Return the parameters that are set, by dotted name; paths are relative to `folder`."""
    return {name: value for name, value in flat_values(parameters, folder).items() if value is not None}


class RunOutcome(StrictModel):
    """How far a trial of a search or a run of a confirmation got."""

    number: NonNegativeInt
    status: TrialStatus
    value: float | None = None
    """The best objective on val-A so far; None before the first epoch, and if it failed."""
    val_b_score: _Share | None = None
    """The score on val-B, if it is complete."""
    threshold: _Share | None = None
    """Set on val-A and val-B, if it is complete and has two classes."""
    epochs: NonNegativeInt = 0
    seconds: _Seconds | None = None
    """Wall time, once it has ended."""
    reason: str = ""
    """Why it ended, unless it is complete."""


class TrialRecord(RunOutcome):
    """A trial and its parameters, which are written by dotted name."""

    parameters: Annotated[
        Parameters, PlainSerializer(lambda given, info: _set_values(given, info.context), when_used="json")
    ]
    arm: str = Field(default_factory=lambda given: given["parameters"].arm)
    """Such as `classical+gan`."""
    gpu_seconds: _Seconds = 0.0
    """GPUs held, times seconds."""

    @cached_property
    def by_name(self) -> Mapping[str, Value]:
        """The parameters that are set, by dotted name."""
        return _set_values(self.parameters)


class EndedRow(RunOutcome):
    """What is read of a trial or a run that has ended."""

    model_config = ConfigDict(extra="ignore")

    status: Status
    seconds: _Seconds = 0.0


class TrialRow(EndedRow, TrialRecord):
    """An ended trial of a search; further columns are the quality of its synthetic images (docs/generators.md).

    Paths are absolute here, and relative to the study in `trials.jsonl`.
    """

    model_config = ConfigDict(extra="allow")
    __pydantic_extra__: dict[str, float | None] = Field(init=False)

    version: Literal[2] = 2


class RunRow(EndedRow):
    """An ended run of a confirmation."""

    version: Literal[1] = 1
    label: str = ""
    """Such as `gan #12, replicate 1`."""
    best_epoch: PositiveInt | None = None
    network_sha256: str | None = None
    """Of the best network of a complete run; None in rows of earlier versions."""


def validated_row(kind: type[_Row], content: Mapping[str, Any]) -> _Row:
    """Build a row; ValueError with the first wrong value."""
    try:
        return kind.model_validate(content)
    except ValidationError as error:
        wrong = error.errors()[0]
        raise ValueError(f"its {'.'.join(map(str, wrong['loc']))} is {wrong['input']!r:.40}") from None


def append_row(file: Path, row: TrialRow | RunRow) -> None:
    """Append a row to `trials.jsonl` or `runs.jsonl` durably."""
    append_jsonl(file, row.model_dump(mode="json", context=file.parent))


def write_trials(folder: StudyFolder, rows: Iterable[TrialRow]) -> None:
    """Write `trials.jsonl` again unless it has exactly these rows, which the journal has."""
    contents = [row.model_dump(mode="json", context=folder.path) for row in rows]
    lines = [json.dumps(content, ensure_ascii=False) for content in contents]
    try:
        written = folder.rows_path.read_text("utf-8").splitlines()
    except (FileNotFoundError, UnicodeDecodeError):
        written = []
    if sorted(lines) != sorted(written):
        write_text(folder.rows_path, "".join(f"{line}\n" for line in lines))


def ended_trials(folder: StudyFolder) -> dict[int, EndedRow]:
    """Return the ended trials of `trials.jsonl` by number; StudyError if it is damaged."""
    return _last_rows(folder.rows_path, EndedRow)


def ended_runs(folder: StudyFolder) -> dict[int, RunRow]:
    """Return the ended runs of `runs.jsonl` by number; StudyError if it is damaged."""
    return _last_rows(folder.runs_path, RunRow)


def _last_rows(file: Path, kind: type[_Row]) -> dict[int, _Row]:
    with damage_explained(file):
        rows = [validated_row(kind, content) for content in read_jsonl(file)]
        return {row.number: row for row in rows}


def completed_runs(folder: StudyFolder) -> dict[int, RunRow]:
    """Return the rows of the complete runs by number."""
    return {number: row for number, row in ended_runs(folder).items() if row.status == "complete"}


def reasons_of(rows: Iterable[RunOutcome]) -> str:
    """Return up to five different reasons of some rows, each on a line of its own, to be appended to a message."""
    return "".join(f"\n    {reason}" for reason in sorted({row.reason for row in rows if row.reason})[:5])


def ranked_on_val_a(trials: Iterable[_Trial]) -> list[_Trial]:
    """Return the complete trials by the objective of the search, the best first."""
    return _ranked(trials, lambda trial: trial.value)


def ranked_on_val_b(trials: Iterable[_Trial]) -> list[_Trial]:
    """Return the complete trials by their score on val-B, which no decision of the search used, the best first."""
    return _ranked(trials, lambda trial: trial.val_b_score)


def _ranked(trials: Iterable[_Trial], score: Callable[[_Trial], float | None]) -> list[_Trial]:
    """Put the highest score first; of equals, the simplest, then the first of `trials`."""
    complete = [(score(trial), trial) for trial in trials if trial.status == "complete"]
    keys = [(-value, trial.parameters.simplicity, trial) for value, trial in complete if value is not None]
    return [trial for *_, trial in sorted(keys, key=lambda key: key[:2])]
