"""The trials and sides of a study as lines and tables: for a running search, for `status`, and for the report."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from pathlib import PurePath
from typing import TYPE_CHECKING, TypeAlias, TypeVar

from xraytune.base.errors import counted, printable
from xraytune.data.sides import USUAL_AUROC, chance_warning
from xraytune.present.tables import Cell, Column, Entry, Frame, Row, Table, Tone, duration, numbers
from xraytune.study.status import trial_table

if TYPE_CHECKING:
    from xraytune.data.sides import SideSize
    from xraytune.space.domains import Value
    from xraytune.study.arms import ArmSummary
    from xraytune.study.status import StudyView, TrialView

Subject = TypeVar("Subject")
_Columns: TypeAlias = list[tuple[Column, Callable[[Subject], Entry]]]
"""Each column of a table with its cell for the subject of a row."""
_BARS = "▁▂▃▄▅▆▇█"
_CURVE_WIDTH = 8
_BEST_SHOWN = 5
_SHOWN_BY_MIX = {"source", "synthetic_ratio", "mixing", "gan.steps", "classical"}
_ENDED_SHOWN = 5
_TONES: dict[str, Tone] = {
    "running": "busy",
    "waiting": "dim",
    "unfinished": "dim",
    "complete": "good",
    "pruned": "dim",
    "failed": "bad",
}


def live_frame(view: StudyView, *, dashboard: str = "") -> Frame:
    """Lay out a running search: the running trials, the best ones and the last ones."""
    now = [trial for trial in view.trials if trial.status in {"running", "waiting", "unfinished"}]
    ended = [trial for trial in view.trials if trial.seconds is not None]
    best = view.ranked[:_BEST_SHOWN]
    last = [trial for trial in reversed(ended) if trial not in best][:_ENDED_SHOWN]
    groups = {"now" if view.is_running else "unfinished": now, "best": best, "ended": last}
    shown = {trial.number: trial for trials in groups.values() for trial in trials}
    names = {trials[0].number: name for name, trials in groups.items() if trials}
    group: _Columns[TrialView] = [(Column(""), lambda trial: Cell(names.get(trial.number, ""), "strong"))]
    lines = [*heading(view), *([Cell(dashboard, "dim")] if dashboard and view.is_running else [])]
    if hidden := len(view.trials) - len(shown):
        lines.append(Cell(f"{counted(hidden, 'more trial')} ended; `xraytune status` shows them all", "dim"))
    columns = [*group, *_result_columns(view), *_curve_column(view), *_state_column(view)]
    return *lines, _table(columns, shown.values())


def status_frame(view: StudyView) -> Frame:
    """Lay out the trials of a study, with their searched parameters and the reasons for failures."""
    failed = [trial for trial in view.trials if trial.status == "failed"]
    columns = [
        *_result_columns(view),
        *_parameter_columns(view),
        *_curve_column(view, optional=True),
        *_state_column(view),
    ]
    return (
        *heading(view),
        *arms_frame(view),
        *(sides_frame(view.sides) if view.sides else ()),
        *(Cell(f"#{trial.number} failed: {trial.reason.splitlines()[0]}", "bad") for trial in failed),
        *([_table(columns, view.trials)] if view.trials else []),
    )


def arms_frame(view: StudyView) -> Frame:
    """Lay out the arms of a study; nothing without trials."""
    return (arms_table(view),) if view.trials else ()


def arms_table(view: StudyView) -> Table:
    """Lay out the arms of a study: their trials, and the best scores of those that are complete."""
    arms = view.arms
    columns: _Columns[ArmSummary] = [
        (Column("arm"), lambda arm: arm.arm),
        (Column("trials", "right"), lambda arm: sum(arm.trials.values())),
        (Column("complete", "right"), lambda arm: arm.trials.get("complete", 0)),
        (Column("best\nval-A", "right"), lambda arm: _numbered(arm.val_a)),
        (Column("best\nval-B", "right"), lambda arm: _numbered(arm.val_b)),
    ]
    if any(arm.difference is not None for arm in arms):
        columns.append((Column("minus real_only\n(standard error)", "right"), _difference))
    if any(map(_other_trials, arms)):
        columns.append((Column("other\ntrials", flexible=True), _other_trials))
    return _table(columns, arms, "Arms")


def _numbered(best: tuple[int, float] | None) -> str:
    return f"#{best[0]} {best[1]:.3f}" if best else ""


def _difference(arm: ArmSummary) -> str:
    if arm.difference is None:
        return ""
    return f"{arm.difference:+.4f}" + (f" ({arm.standard_error:.4f})" if arm.standard_error is not None else "")


def _other_trials(arm: ArmSummary) -> str:
    return ", ".join(f"{count} {status}" for status, count in arm.trials.items() if status != "complete")


def all_trials(view: StudyView) -> Table:
    """Lay out the columns of `trials_dataframe`, to sort and to filter."""
    table = trial_table(view)
    columns = [
        Column(name, "right" if any(isinstance(value, int | float) for value in values) else "left")
        for name, values in table.items()
    ]
    rows = [[_rounded(value) for value in row] for row in zip(*table.values(), strict=True)]
    return Table(columns, rows, "All trials", sortable=True)


def _rounded(value: Value) -> Entry:
    if isinstance(value, float):
        return float(f"{value:.5g}")
    return f"{value}".lower() if isinstance(value, bool) else value


def _table(columns: _Columns[Subject], subjects: Iterable[Subject], title: str = "") -> Table:
    rows = [[cell(subject) for _, cell in columns] for subject in subjects]
    return Table([heading for heading, _ in columns], rows, title)


def _result_columns(view: StudyView) -> _Columns[TrialView]:
    best = view.best.number if view.best else None

    def weighted(trial: TrialView, text: str) -> Cell:
        return Cell(text, "strong" if trial.number == best else "plain")

    def epochs(trial: TrialView) -> str:
        return f"{trial.epochs}/{view.max_epochs}" if trial.epochs else ""

    return [
        (Column("#", "right"), lambda trial: f"{trial.number}"),
        (Column("mix", flexible=True), lambda trial: weighted(trial, trial.mix)),
        (Column("epoch", "right"), epochs),
        (Column("val-A", "right"), lambda trial: weighted(trial, _score(trial.value))),
        (Column("val-B", "right"), lambda trial: _score(trial.val_b_score)),
    ]


def _score(value: float | None) -> str:
    return "" if value is None else f"{value:.3f}"


def _parameter_columns(view: StudyView) -> _Columns[TrialView]:
    """Return a column for each searched parameter that `mix` does not show. The first one, `lr` if searched, always fits."""
    names = sorted((name for name in view.searched if name not in _SHOWN_BY_MIX), key=lambda name: name != "lr")

    def column(name: str) -> tuple[Column, Callable[[TrialView], Entry]]:
        is_text = any(isinstance(trial.by_name.get(name), str) for trial in view.trials)
        heading = Column(name.replace("_", "\n"), "left" if is_text else "right", optional=name != names[0])
        return heading, lambda trial: _parameter(trial.by_name.get(name))

    return [column(name) for name in names]


def _parameter(value: Value) -> str:
    if isinstance(value, bool | float):
        return f"{value}".lower() if isinstance(value, bool) else f"{value:.2g}"
    return "" if value is None else PurePath(f"{value}").name


def _curve_column(view: StudyView, *, optional: bool = False) -> _Columns[TrialView]:
    """Return the curves; their bars show the better three quarters of all scores, where differences matter."""
    scores = sorted(value for trial in view.trials for value in trial.values)
    low, high = (scores[len(scores) // 4], scores[-1]) if scores else (0.0, 1.0)
    ends = "\n" + "-".join(f"{end:.2f}".removeprefix("0") for end in (low, high)) if scores else ""
    heading = Column(f"curve{ends}", optional=optional)
    return [(heading, lambda trial: Cell(curve(trial.values, low, high), _TONES[trial.status]))]


def _state_column(view: StudyView) -> _Columns[TrialView]:
    return [(Column("state", flexible=True), lambda trial: Cell(_state(trial, view), _TONES[trial.status]))]


def sides_frame(sizes: Sequence[SideSize]) -> Frame:
    """Lay out the sides of a split with their sizes, and a warning if they are too small to rank trials."""
    warning = chance_warning(sizes)
    return *([Cell(f"note: {warning}", "busy")] if warning else []), sides_table(sizes)


def sides_table(sizes: Sequence[SideSize]) -> Table:
    """Lay out the sides of a split with their sizes; those of each class or finding, and which have too few to score."""
    columns = (
        "side",
        *numbers("images", "patients"),
        Column("images (patients)\nof each class", flexible=True),
        f"95 % interval\nof AUROC {USUAL_AUROC:g}",
    )
    rows: list[Row] = []
    for size in sizes:
        few = size.unscored if size.unscored and size.name != "train" else ()
        counts = {name: f"{name} {size.images[name]:,} ({size.patients[name]:,})" for name in size.images}
        classes = ", ".join(f"{text}: too few" if name in few else text for name, text in counts.items())
        interval = "" if size.low is None or size.high is None else f"{size.low:.2f} to {size.high:.2f}"
        rows.append((size.name, size.image_count, size.patient_count, classes, interval))
    shown = len(columns) if any(size.has_classes for size in sizes) else 3
    return Table(columns[:shown], [row[:shown] for row in rows])


def summary_line(view: StudyView) -> str:
    """Format a running search as one log line."""
    parts = [f"{_ended(view)} of {view.trial_budget} trials ended"]
    if best := view.best:
        parts.append(f"best on val-A: #{best.number} {best.mix}, {view.metric} {_score(best.value)}")
    parts += [f"#{trial.number} {_state(trial, view)}" for trial in view.trials if trial.status == "running"]
    parts.append(f"{duration(view.seconds)} used")
    if view.seconds_left is not None:
        parts.append(f"about {duration(view.seconds_left)} left")
    return "; ".join(parts)


def curve(values: Sequence[float], low: float, high: float) -> str:
    """Draw values as up to eight bars, scaled from `low` to `high`; each shows the last value of its segment.

    Values beyond the range have the lowest or the highest bar.
    """
    if len(values) > _CURVE_WIDTH:
        values = [values[round((place + 1) * len(values) / _CURVE_WIDTH) - 1] for place in range(_CURVE_WIDTH)]
    span = (high - low) or 1.0
    shares = [min(max((value - low) / span, 0.0), 1.0) for value in values]
    return "".join(_BARS[round(share * (len(_BARS) - 1))] for share in shares)


def _state(trial: TrialView, view: StudyView) -> str:
    if trial.status == "running":
        where = f" on {printable(trial.node)}" if trial.node else ""
        if trial.busy_with:
            left = f", {duration(trial.busy_seconds)} left" if trial.busy_seconds is not None else ""
            return trial.busy_with + left + where
        epoch = f"epoch {min(trial.epochs + 1, view.max_epochs)}/{view.max_epochs}" if trial.epochs else "starting"
        return epoch + where
    took = f" {duration(trial.seconds)}" if trial.seconds is not None and trial.status != "waiting" else ""
    return f"{trial.status}{took}"


def heading(view: StudyView) -> Iterable[Cell | str]:
    """Return how far a study is, its time, and what ASHA saved."""
    counts = [f"{view.counts[status]} {status}" for status in _TONES if status in view.counts]
    first = f"{view.name}: {_ended(view)} of {view.trial_budget} trials ended"
    yield Cell(first + (f" ({', '.join(counts)})" if counts else ""), "strong")
    limit = f" of at most {duration(view.seconds_budget)}" if view.seconds_budget is not None else ""
    left = f", about {duration(view.seconds_left)} left" if view.seconds_left is not None else ""
    state = "running" if view.is_running else "not running"
    yield f"{state}, {duration(view.seconds)} used{limit}{left}"
    if view.gpu_seconds:
        most = view.gpu_seconds_budget
        limit = f" of at most {most / 3600:,.2f}, {max(0.0, most - view.gpu_seconds) / 3600:,.2f} left" if most else ""
        yield f"GPU hours: {view.gpu_seconds / 3600:,.2f} used{limit}"
    if view.pruning:
        yield view.pruning


def _ended(view: StudyView) -> int:
    return sum(trial.seconds is not None for trial in view.trials)
