"""The studies of a folder: how far each is, its best score, and the verdict of `confirm`."""

from collections.abc import Sequence
from pathlib import Path

from xraytune.base.errors import StudyError
from xraytune.base.records import frozen
from xraytune.base.tables import Cell, Frame, Row, Table
from xraytune.confirm.arms import CONFIRM_FOLDER
from xraytune.confirm.record import read_verdict
from xraytune.study.folder import StudyFolder, work_on
from xraytune.study.status import StudyWatcher

_BUSY = {"searched": "searching", "confirmed": "confirming"}
_DELETE = (
    "to delete a study, delete its folder; `xraytune cache clean` shrinks the cache that studies "
    "share"
)


@frozen
class StudySummary:
    """One study of a folder.

    Attributes:
        state: `searching`, `confirming` or `stopped`; `finished` once its budget of trials is used
            up, `damaged` if it cannot be read.
        trials: The trials that have ended.
        best: The best val-A score of a complete trial; None before there is one.
        verdict: That of `confirm`, such as `no_better` or `helps (exploratory)`; None before it has
            run.
    """

    name: str
    path: Path
    state: str
    trials: int = 0
    trial_budget: int = 0
    metric: str = ""
    best: float | None = None
    verdict: str | None = None


def list_studies(folder: Path = Path("studies")) -> tuple[StudySummary, ...]:
    """Return a summary of each study in a folder, by name.

    Args:
        folder: The folder of all studies, `studies` unless `search` was given another one.

    Raises:
        StudyError: There are no studies in it.
    """
    files = sorted(folder.glob(f"*/{StudyFolder(folder).space_path.name}"))
    if not files:
        fix = "start one with `xraytune search`"
        raise StudyError("no study here, nor in its subfolders", folder, fix)
    return tuple(_summarise(StudyFolder(file.parent.resolve())) for file in files)


def _summarise(folder: StudyFolder) -> StudySummary:
    try:
        view = StudyWatcher(folder).look()
        verdict = read_verdict(folder.path / CONFIRM_FOLDER)
    except StudyError:
        return StudySummary(name=folder.path.name, path=folder.path, state="damaged")
    ended = sum(trial.seconds is not None for trial in view.trials)
    idle = "finished" if ended >= view.trial_budget else "stopped"
    exploratory = " (exploratory)" if verdict and verdict.exploratory else ""
    return StudySummary(
        name=folder.path.name,
        path=folder.path,
        state=_BUSY.get(work_on(folder), idle),
        trials=ended,
        trial_budget=view.trial_budget,
        metric=view.metric,
        best=view.best.value if view.best else None,
        verdict=f"{verdict.verdict}{exploratory}" if verdict else None,
    )


def studies_frame(studies: Sequence[StudySummary]) -> Frame:
    """Lay out studies as a table, with how to look at one and how to delete one."""
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
