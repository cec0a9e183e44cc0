"""Lay out a `StudyView` as lines and a table, for `search` and `status`."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import replace
from pathlib import PurePath
from typing import TYPE_CHECKING

from xraytune.cli.console import Cell, Column, Frame, Row, Table, Tone, duration, numbers

if TYPE_CHECKING:
    from xraytune.data.sides import SideSize
    from xraytune.space.domains import Value
    from xraytune.study.pruning import Pruning
    from xraytune.study.status import StudyView, TrialView

_BARS = "▁▂▃▄▅▆▇█"
_CURVE_WIDTH = 8
_BEST_SHOWN = 5
_SHOWN_BY_MIX = {"source", "synthetic_ratio", "mixing", "gan.steps", "diffusion.steps", "classical"}
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
    shown = [trial for trials in groups.values() for trial in trials]
    names = [name if place == 0 else "" for name, trials in groups.items() for place, _ in enumerate(trials)]
    columns, rows = _columns_and_rows(shown, view)
    grouped = [(Cell(name, "strong"), *row) for name, row in zip(names, rows, strict=True)]
    lines = [*_heading(view), *([Cell(dashboard, "dim")] if dashboard and view.is_running else [])]
    if hidden := len(view.trials) - len(rows):
        have = "trial has" if hidden == 1 else "trials have"
        lines.append(Cell(f"{hidden} more {have} ended; `xraytune status` shows them all", "dim"))
    return *lines, Table(("", *columns), grouped)


def status_frame(view: StudyView) -> Frame:
    """Lay out the trials of a study, with their searched parameters and the reasons for failures."""
    trials = view.trials
    searched = _parameter_columns(view)
    (*first, curves, states), rows = _columns_and_rows(trials, view)
    columns = (*first, *searched.values(), replace(curves, optional=True), states)
    wide = [
        (*figures, *(_parameter(trial.by_name.get(name)) for name in searched), bars, state)
        for trial, (*figures, bars, state) in zip(trials, rows, strict=True)
    ]
    failed = [trial for trial in trials if trial.status == "failed"]
    reasons = [Cell(f"#{trial.number} failed: {trial.reason.splitlines()[0]}", "bad") for trial in failed]
    return (
        *_heading(view),
        *(sides_frame(view.sides) if view.sides else ()),
        *reasons,
        *([Table(columns, wide)] if trials else []),
    )


def sides_frame(sizes: Sequence[SideSize]) -> Frame:
    """Lay out the sides of a split with their sizes, and a warning if they are too small to rank trials."""
    from xraytune.data.sides import USUAL_AUROC, chance_warning

    classes, interval = (
        Column("images (patients)\nof each class", flexible=True),
        f"95 % interval\nof AUROC {USUAL_AUROC:g}",
    )
    columns = ("side", *numbers("images", "patients"), classes, interval)
    rows: list[Row] = []
    for size in sizes:
        of_classes = ", ".join(f"{name} {size.images[name]:,} ({size.patients[name]:,})" for name in size.images)
        ends = "" if size.low is None or size.high is None else f"{size.low:.2f} to {size.high:.2f}"
        rows.append((size.name, f"{size.image_count:,}", f"{size.patient_count:,}", of_classes, ends))
    shown = len(columns) if any(size.has_classes for size in sizes) else 3
    warning = chance_warning(sizes)
    note = [Cell(f"note: {warning}", "busy")] if warning else []
    return *note, Table(columns[:shown], [row[:shown] for row in rows])


def _parameter_columns(view: StudyView) -> dict[str, Column]:
    """Return a column for each searched parameter that `mix` does not show. The first one, `lr` if searched, always fits."""
    names = sorted((name for name in view.searched if name not in _SHOWN_BY_MIX), key=lambda name: name != "lr")
    texts = {name for name in names for trial in view.trials if isinstance(trial.by_name.get(name), str)}
    return {
        name: Column(name.replace("_", "\n"), "left" if name in texts else "right", optional=name != names[0])
        for name in names
    }


def _parameter(value: Value) -> str:
    if isinstance(value, bool | float):
        return f"{value}".lower() if isinstance(value, bool) else f"{value:.2g}"
    return "" if value is None else PurePath(f"{value}").name


def summary_line(view: StudyView) -> str:
    """Format a running search as one log line."""
    busy = [f"#{trial.number} {_state(trial, view)}" for trial in view.trials if trial.status == "running"]
    parts = [f"{_ended(view)} of {view.trial_budget} trials ended", *_best(view)[:1], *busy]
    parts.append(f"{duration(view.seconds)} used")
    if view.seconds_left is not None:
        parts.append(f"about {duration(view.seconds_left)} left")
    return "; ".join(parts)


def scores_text(metric: str, val_a: float | None, val_b: float | None) -> str:
    """Format the scores of a trial: `AUROC 0.962 on val-A, 0.951 on val-B`."""
    scores = (("val-A", val_a), ("val-B", val_b))
    return f"{metric} " + ", ".join(f"{score:.3f} on {side}" for side, score in scores if score is not None)


def curve(values: Sequence[float], low: float, high: float) -> str:
    """Draw values as up to eight bars, scaled from `low` to `high`; each shows the last value of its segment.

    Values beyond the range have the lowest or the highest bar.
    """
    if len(values) > _CURVE_WIDTH:
        values = [values[round((place + 1) * len(values) / _CURVE_WIDTH) - 1] for place in range(_CURVE_WIDTH)]
    span = (high - low) or 1.0
    shares = [min(max((value - low) / span, 0.0), 1.0) for value in values]
    return "".join(_BARS[round(share * (len(_BARS) - 1))] for share in shares)


def _columns_and_rows(trials: Sequence[TrialView], view: StudyView) -> tuple[tuple[Column, ...], list[Row]]:
    """Return columns and rows; the curve's bars show the better three quarters of all scores, where differences matter."""
    scores = sorted((value for trial in view.trials for value in trial.values), key=view.objective.rank)
    low, high = sorted((scores[0], scores[-1 - len(scores) // 4])) if scores else (0.0, 1.0)
    ends = "\n" + "-".join(f"{end:.2f}".removeprefix("0") for end in (low, high)) if scores else ""
    has_val_b, best = not view.objective.is_of_generator, view.best

    def row(trial: TrialView) -> Row:
        tone = _TONES[trial.status]
        weight: Tone = "strong" if best and trial.number == best.number else "plain"
        return (
            f"{trial.number}",
            Cell(trial.mix, weight),
            f"{trial.epochs}/{view.max_epochs}" if trial.epochs else "",
            Cell(_score(trial.values[-1] if trial.values else None), weight),
            *([_score(trial.val_b_score)] if has_val_b else []),
            Cell(curve(trial.values, low, high), tone),
            Cell(_state(trial, view), tone),
        )

    columns = (
        Column("#", "right"),
        Column("mix", flexible=True),
        Column("epoch", "right"),
        *(Column(name, "right") for name in (("val-A", "val-B") if has_val_b else (view.metric,))),
        Column(f"curve{ends}"),
        Column("state", flexible=True),
    )
    return columns, [row(trial) for trial in trials]


def _score(value: float | None) -> str:
    return "" if value is None else f"{value:.3f}"


def _state(trial: TrialView, view: StudyView) -> str:
    if trial.status == "running":
        if trial.busy_with:
            left = f", {duration(trial.busy_seconds)} left" if trial.busy_seconds is not None else ""
            return trial.busy_with + left
        return f"epoch {min(trial.epochs + 1, view.max_epochs)}/{view.max_epochs}" if trial.epochs else "starting"
    took = f" {duration(trial.seconds)}" if trial.seconds is not None and trial.status != "waiting" else ""
    return f"{trial.status}{took}"


def _heading(view: StudyView) -> Iterable[Cell | str]:
    from xraytune.study.pruning import pruning_of

    counts = [f"{view.count(status)} {status}" for status in _TONES if view.count(status)]
    first = f"{view.name}: {_ended(view)} of {view.trial_budget} trials ended"
    yield Cell(first + (f" ({', '.join(counts)})" if counts else ""), "strong")
    for best in _best(view):
        yield Cell(best, "good")
    if (nearest := view.most_realistic) and nearest.report and nearest.report.quality:
        yield f"most realistic images: #{nearest.number}, {nearest.report.quality}"
    limit = f" of at most {duration(view.seconds_budget)}" if view.seconds_budget is not None else ""
    left = f", about {duration(view.seconds_left)} left" if view.seconds_left is not None else ""
    idle = f", slots {view.idle_share:.0%} idle" if view.idle_share is not None else ""
    state = "running" if view.is_running else "not running"
    yield f"{state}, {duration(view.seconds)} used{limit}{idle}{left}"
    if pruning := pruning_of(view):
        yield from pruning_lines(pruning)


def pruning_lines(pruning: Pruning) -> Iterable[Cell | str]:
    """Return what ASHA saved, and warnings about values that it never let train to the end."""
    return pruning.summary, *(Cell(f"warning: {one}", "bad") for one in pruning.warnings)


def _best(view: StudyView) -> list[str]:
    best = view.best
    if best is None:
        return []
    which = "best" if view.objective.is_of_generator else "best on val-A"
    chosen = [f"{which}: #{best.number} {best.mix}, {view.metric} {best.values[-1]:.3f}"]
    if (export := view.for_export) is not None and export.val_b_score is not None:
        score = f"{view.metric} {export.val_b_score:.3f}"
        chosen.append(f"best on val-B, to be exported: #{export.number} {export.mix}, {score}")
    return chosen


def _ended(view: StudyView) -> int:
    return sum(trial.seconds is not None for trial in view.trials)
