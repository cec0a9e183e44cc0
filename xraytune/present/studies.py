"""Several studies, each with its progress, its best scores, and the verdict of `confirm`."""

from collections.abc import Sequence
from itertools import chain
from pathlib import Path

from xraytune.base.errors import ArtifactError, StudyError, counted
from xraytune.base.records import frozen
from xraytune.base.tables import Cell, Entry, Frame, Row, Table, shown_path
from xraytune.confirm.record import read_verdict
from xraytune.space.load import STUDY_NAME
from xraytune.study.folder import StudyFolder, work_on
from xraytune.study.status import ArmSummary, StudyWatcher

_BUSY = {"searched": "searching", "confirmed": "confirming"}
_DELETE = (
    "to delete a study, delete its folder; `xraytune cache clean` shrinks the cache that studies "
    "share"
)


@frozen
class StudySummary:
    """One study of a folder.

    Attributes:
        name: Name of the study.
        path: Folder of the study.
        state: `searching`, `confirming` or `stopped`; `finished` once its budget of trials is used
            up, `damaged` if it cannot be read.
        trials: Number of trials that have ended.
        trial_budget: Budget of trials at the last start.
        metric: Name of the scores, such as AUROC.
        best: The best val-A score of a complete trial; None if no trial is complete.
        arms: The arms of the trials, the simplest first.
        verdict: The verdict of `confirm`, such as `no_better` or `helps (exploratory)`; None before
            `confirm` has run.
    """

    name: str
    path: Path
    state: str
    trials: int = 0
    trial_budget: int = 0
    metric: str = ""
    best: float | None = None
    arms: tuple[ArmSummary, ...] = ()
    verdict: str | None = None


def list_studies(*folders: Path | str) -> tuple[StudySummary, ...]:
    """Return a summary of each study, in the order of the folders and by name.

    Args:
        folders: Studies, or folders of studies. The default is `studies`, which has all studies
            unless `search` was given another folder.

    Raises:
        StudyError: There are no studies in one of the folders.
    """
    summaries: list[StudySummary] = []
    for folder in map(Path, folders or ["studies"]):
        files = sorted(folder.glob(STUDY_NAME)) or sorted(folder.glob(f"*/{STUDY_NAME}"))
        if not files:
            raise StudyError(
                "no study here, nor in its subfolders", folder, "start one with `xraytune search`"
            )
        summaries += [_summarise(StudyFolder(file.parent.resolve())) for file in files]
    return tuple(summaries)


def _summarise(study_folder: StudyFolder) -> StudySummary:
    try:
        view = StudyWatcher(study_folder).refresh()
        arms = view.arms
        verdict = read_verdict(study_folder.confirm_path)
    except (ArtifactError, StudyError):  # the former of the record of its extensions
        return StudySummary(name=study_folder.path.name, path=study_folder.path, state="damaged")
    ended = sum(trial.seconds is not None for trial in view.trials)
    idle = "finished" if ended >= view.trial_budget else "stopped"
    exploratory = " (exploratory)" if verdict and verdict.exploratory else ""
    return StudySummary(
        name=study_folder.path.name,
        path=study_folder.path,
        state=_BUSY.get(work_on(study_folder), idle),
        trials=ended,
        trial_budget=view.trial_budget,
        metric=view.metric,
        best=view.best.value if view.best else None,
        arms=tuple(arms),
        verdict=f"{verdict.verdict}{exploratory}" if verdict else None,
    )


def studies_frame(studies: Sequence[StudySummary]) -> Frame:
    """Lay out studies as a table, with a note on how to delete one."""
    rows: list[Row] = [
        {
            "study": study.name,
            "state": Cell(study.state, "bad" if study.state == "damaged" else "plain"),
            "trials": f"{study.trials} of {study.trial_budget}",
            "best val-A": "" if study.best is None else f"{study.best:.3f} {study.metric}",
            "verdict": study.verdict,
        }
        for study in studies
    ]
    return Table(rows), Cell(_DELETE, "dim")


def compare_studies(studies: Sequence[StudySummary]) -> Table:
    """Lay out studies side by side, with the state, verdict and best trials of each in a column."""
    columns = [_facts(study) for study in studies]
    names = list(dict.fromkeys(chain(*columns)))
    rows: list[Row] = []
    for name in names:
        row: dict[str, Entry] = {"": name}
        for study, facts in zip(studies, columns, strict=True):
            row[f"{shown_path(study.path)}"] = facts.get(name)
        rows.append(row)
    return Table(rows)


def _facts(study: StudySummary) -> dict[str, str | None]:
    facts = {
        "state": study.state,
        "trials": f"{study.trials} of {study.trial_budget}",
        "verdict": study.verdict,
    }
    for arm in study.arms:
        best = counted(sum(arm.trials.values()), "trial")
        for side, score in (("val-A", arm.val_a), ("val-B", arm.val_b)):
            if score:
                best += f"\n{side} {score[1]:.3f} (#{score[0]})"
        facts[f"{arm.arm}"] = best
    return facts
