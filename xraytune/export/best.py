"""The best configuration of a study, as a file that `train` runs.

Takes a study, gives a YAML file in which nothing is left to choose. Trials were steered by val-A, so the one to take is
chosen by val-B, which no trial has seen. The file says which trial it is, so that a final training finds the study.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from xraytune.config.load import experiment_to_yaml
from xraytune.config.settings import Experiment, ExportedFrom
from xraytune.errors import ConfigError, Problem, StudyError, TrialError, listed
from xraytune.files import require_writable, write_text
from xraytune.records import Json
from xraytune.search.journal import Journal
from xraytune.search.study import StudyFolder


@dataclass(frozen=True, slots=True, kw_only=True)
class Exported:
    """What was written.

    Attributes:
        path: The file.
        study: The study's name.
        trial: The number of the trial.
        arm: Its arm, such as `classical+gan`.
        val_auroc: Its value, on val-A.
        val_b_auroc: On val-B.
        command: What goes on from here.
    """

    path: Path
    study: str
    trial: int
    arm: str
    val_auroc: float
    val_b_auroc: float
    command: str

    def to_json(self) -> dict[str, Json]:
        """The record as JSON values."""
        return asdict(self) | {"path": str(self.path)}


def export(study: Path, *, out: Path, trial: int | None = None) -> Exported:
    """Write the experiment of the complete trial with the best val-B AUROC (of equals the earliest), or of `trial`.

    Args:
        study: The study's folder; it may be searched meanwhile.
        out: The file; one with the same content may be there already.
        trial: The number of a complete trial.

    Raises:
        ConfigError: `out` is there with other content, or a file is where its folder should be.
        StudyError: There is no study, or no complete trial `trial`.
        TrialError: No trial completed.
        MachineError: The disk is full.
    """
    folder = StudyFolder(study.resolve())
    space = folder.space()
    journal = Journal(folder.journal_path, space, writable=False)
    rows = journal.rows()
    row = _best(rows, study) if trial is None else _chosen(rows, trial, study)
    origin = ExportedFrom(study=folder.path, trial=row["number"])
    settings = space.settings.model_copy(update={"exported_from": origin})
    experiment = Experiment(settings=settings, parameters=journal.parameters(row["number"]))
    exported = Exported(
        path=out,
        study=folder.path.name,
        trial=row["number"],
        arm=row["arm"],
        val_auroc=row["value"],
        val_b_auroc=row["val_b_auroc"],
        command=f"xraytune train --config {out} -o model",
    )
    _write(out, experiment_to_yaml(experiment, out.resolve().parent, _header(exported)))
    return exported


def _best(rows: Sequence[dict[str, Any]], study: Path) -> dict[str, Any]:
    complete = [row for row in rows if row["status"] == "complete"]
    if not complete:
        reasons = sorted({row["reason"] for row in rows if row["status"] == "failed"})
        what = "no trial completed yet" + "".join(f"\n    {reason}" for reason in reasons[:5])
        raise TrialError(
            Problem(what, study, "let the search go on until one has; `xraytune status` shows how far it is")
        )
    return max(complete, key=lambda row: (row["val_b_auroc"], -row["number"]))


def _chosen(rows: Sequence[dict[str, Any]], trial: int, study: Path) -> dict[str, Any]:
    row = next((row for row in rows if row["number"] == trial), None)
    if row is not None and row["status"] == "complete":
        return row
    complete = [str(row["number"]) for row in rows if row["status"] == "complete"]
    ended = "has not ended, or there is none of this number" if row is None else f"{row['status']}: {row['reason']}"
    fix = f"choose one that ran to its end: {listed(complete) or 'there is none yet'}"
    raise StudyError(Problem(f"trial {trial}: {ended}", study, fix))


def _header(exported: Exported) -> str:
    return (
        f"Trial {exported.trial} of the study {exported.study}, arm {exported.arm}.\n"
        f"AUROC {exported.val_auroc:.4f} on val-A, which steered the search, "
        f"and {exported.val_b_auroc:.4f} on val-B, which chose the trial.\n"
        f"\n"
        f"    xraytune train --config {exported.path.name} -o model\n"
        f"\n"
        f"Paths are relative to this file."
    )


def _write(out: Path, text: str) -> None:
    require_writable(out.parent)
    if out.exists():
        if out.is_file() and out.read_bytes() == text.encode():
            return
        fix = "give another path, or remove what is there"
        raise ConfigError(Problem("there is something else here already", out, fix))
    write_text(out, text)
