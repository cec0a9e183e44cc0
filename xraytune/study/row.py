"""The row of a trial, whose fields are empty while it runs, and the ranking of trials.

A `TrialRow` follows from the journal; the rows of ended trials are the lines of a study's
`trials.jsonl`. A `RunRow` is a line of the `runs.jsonl` of a confirmation. A row is validated when
it is built, so its readers can rely on types and ranges.
"""

import json
from collections.abc import Iterable, Mapping
from datetime import datetime
from pathlib import Path
from typing import Annotated, Any, Literal, TypeAlias

from pydantic import ConfigDict, Field, PlainSerializer

from xraytune.base.files import append_jsonl, read_jsonl, write_text
from xraytune.space.domains import Value
from xraytune.space.fields import flat_values
from xraytune.space.parameters import Parameters
from xraytune.space.strict_model import StrictModel
from xraytune.study.folder import StudyFolder, explain_damage
from xraytune.study.trial import TrialProgress
from xraytune.synth.generator_quality import PoolReport

Status: TypeAlias = Literal["complete", "pruned", "failed"]
TrialStatus: TypeAlias = Literal["running", "waiting", "unfinished", Status]
_COLUMNS = {
    *("number", "status", "value", "val_b_score", "threshold", "epochs", "seconds", "reason"),
    *("parameters", "arm", "gpu_seconds"),
}
"""The fields in a line of `trials.jsonl`; a line of `runs.jsonl` has all fields of a `RunRow`."""


def set_values(parameters: Parameters, folder: Path | None) -> dict[str, Value]:
    """Return the set parameters by dotted name, with paths relative to `folder` if it is given."""
    return {
        name: value for name, value in flat_values(parameters, folder).items() if value is not None
    }


class RunRow(StrictModel):
    """A run of a confirmation, or an ended trial without its parameters."""

    model_config = ConfigDict(extra="ignore")

    number: int
    status: TrialStatus
    label: str = Field(default_factory=lambda data: f"#{data['number']}")
    """Name of the run, such as `gan #12, replicate 1`; the name of a trial is `#12`."""
    value: float | None = None
    """The best objective on val-A so far; None before the first epoch."""
    val_b_score: float | None = None
    """The score on val-B of a complete trial."""
    threshold: float | None = None
    """The threshold, chosen on val-A and val-B, of a complete trial with two classes."""
    epochs: int = 0
    best_epoch: int | None = None
    seconds: float | None = None
    """Wall time of an ended trial."""
    reason: str = ""
    """Why the trial ended; "" for a complete trial."""
    network_sha256: str | None = Field(default=None, exclude_if=lambda digest: digest is None)
    """The SHA-256 of the best network of a complete run."""


class TrialRow(RunRow):
    """A trial of a search, or a top-up.

    A trial that has not ended is `waiting` for a slot or a generator, `running`, or `unfinished` in
    a stopped search.
    """

    parameters: Annotated[
        Parameters,
        PlainSerializer(lambda value, info: set_values(value, info.context), when_used="json"),
    ]
    arm: str = Field(default_factory=lambda value: value["parameters"].arm)
    """The arm, such as `augmented+gan`."""
    gpu_seconds: float = 0.0
    """Number of GPUs that the trial held, times seconds."""
    quality: Mapping[str, float | None] = Field(default={}, exclude=True)
    """Quality figures of the synthetic images (docs/generators.md), which are further columns of
    `trials.jsonl`."""
    ended_at: datetime | None = Field(default=None, exclude=True)
    """When the trial ended."""
    mix: str = ""
    """The mix in words, such as `gan r=0.5 (500 steps) +affine`."""
    values: tuple[float, ...] = ()
    """The best val-A score after each recorded epoch."""
    busy_with: str = ""
    """What a trial does before its first epoch, such as `training the GAN: 300 of 600 steps`."""
    preparing: TrialProgress | None = Field(default=None, exclude=True)
    """The progress of what a running trial does before its first epoch; None if it is unknown."""
    node: str = ""
    """The node that runs the trial, if it is another node than this."""
    samples: str = ""
    """The sample grid of the trial's generator in the study, such as `samples/gan-1a2b3c4d.png`; ""
    if there is none yet."""
    report: PoolReport | None = None
    """Report on quality and memorisation of the synthetic images; None if there is none yet."""


def _content(row: TrialRow, study_folder: StudyFolder) -> dict[str, Any]:
    """Return a row as a line of `trials.jsonl`."""
    columns = row.model_dump(mode="json", include=_COLUMNS, context=study_folder.path)
    return {"version": 1, **columns, **row.quality}


def append_trial(study_folder: StudyFolder, row: TrialRow) -> None:
    """Append a row to `trials.jsonl` durably."""
    append_jsonl(study_folder.rows_path, _content(row, study_folder))


def append_run(study_folder: StudyFolder, row: RunRow) -> None:
    """Append a row to `runs.jsonl`, a chained log, durably."""
    content = {"version": 1, **row.model_dump(mode="json")}
    append_jsonl(study_folder.runs_path, content, is_chained=True)


def write_trials(study_folder: StudyFolder, rows: Iterable[TrialRow]) -> None:
    """Write `trials.jsonl` again, from the rows of the journal."""
    lines = [json.dumps(_content(row, study_folder), ensure_ascii=False) for row in rows]
    write_text(study_folder.rows_path, "".join(f"{line}\n" for line in lines))


def ended_runs(study_folder: StudyFolder) -> dict[int, RunRow]:
    """Return the ended runs of `runs.jsonl` by number.

    Raises:
        StudyError, ArtifactError: The file is damaged.
    """
    with explain_damage(study_folder.runs_path) as file:
        rows = map(RunRow.model_validate, read_jsonl(file, is_chained=True))
        return {row.number: row for row in rows}


def reasons_of(rows: Iterable[RunRow]) -> str:
    """Return up to five different reasons of some rows, on lines to be appended to a message."""
    return "".join(
        f"\n    {reason}" for reason in sorted({row.reason for row in rows if row.reason})[:5]
    )


def rank(
    trials: Iterable[TrialRow], by: Literal["value", "val_b_score"] = "val_b_score"
) -> list[TrialRow]:
    """Return the complete trials, best first; of trials with equal scores, the simplest first.

    They are ranked by their score on val-B, which no decision of the search used, or by the
    search's objective on val-A.
    """
    scored_trials = [
        trial for trial in trials if trial.status == "complete" and getattr(trial, by) is not None
    ]
    return sorted(
        scored_trials, key=lambda trial: (-getattr(trial, by), trial.parameters.simplicity)
    )
