"""The trials and sides of a study as lines and tables, for a search, `status` and the report."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import PurePath
from typing import TYPE_CHECKING

from xraytune.base.errors import counted, printable
from xraytune.base.tables import Cell, Entry, Frame, Row, Table, Tone, duration
from xraytune.data.sides import USUAL_AUROC, chance_warning
from xraytune.study.status import trial_table

if TYPE_CHECKING:
    from xraytune.data.sides import SideSize
    from xraytune.space.domains import Value
    from xraytune.study.row import TrialRow
    from xraytune.study.status import StudyView

_BARS = "▁▂▃▄▅▆▇█"
_CURVE_WIDTH = 8
_BEST_SHOWN = 5
_ENDED_SHOWN = 5
_SHOWN_BY_MIX = {
    "source",
    "synthetic_ratio",
    "synthetic_weight",
    "mixing",
    "gan.steps",
    "classical",
}
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
    best = view.ranked[:_BEST_SHOWN]
    ended = [trial for trial in view.trials if trial.seconds is not None and trial not in best]
    groups = {
        "now" if view.is_running else "unfinished": [
            trial for trial in view.trials if trial.status in {"running", "waiting", "unfinished"}
        ],
        "best": best,
        "ended": ended[::-1][:_ENDED_SHOWN],
    }
    title, low, high = _find_range(view)
    rows: list[Row] = []
    for name, trials in groups.items():
        for trial in trials:
            group = Cell(name if trial is trials[0] else "", "strong")
            row = {"": group, **_result(trial, view), title: _draw_curve(trial, low, high)}
            rows.append(row | {"state": _state(trial, view)})
    lines = [*heading(view)]
    if dashboard and view.is_running:
        lines.append(Cell(dashboard, "dim"))
    if hidden := len(view.trials) - len(rows):
        more = f"{counted(hidden, 'more trial')} ended; `xraytune status` shows them all"
        lines.append(Cell(more, "dim"))
    if not rows:
        return lines
    return *lines, Table(rows, text=("", "mix", title, "state"))


def status_frame(view: StudyView) -> Frame:
    """Lay out the trials of a study, with searched parameters and the reasons for failures."""
    parts: list[Cell | str | Table] = [*heading(view), *arms_frame(view)]
    if view.sides:
        parts += sides_frame(view.sides)
    for trial in view.trials:
        if trial.status == "failed":
            reason = trial.reason.splitlines()[0]
            parts.append(Cell(f"#{trial.number} failed: {reason}", "bad"))
    if view.trials:
        parts.append(_trials_table(view))
    return parts


def _trials_table(view: StudyView) -> Table:
    """Lay out all trials, with the searched parameters that `mix` does not show, `lr` first."""
    names = [name for name in view.searched if name not in _SHOWN_BY_MIX]
    names.sort(key=lambda name: name != "lr")
    titles = {name: name.replace("_", "\n") for name in names}
    title, low, high = _find_range(view)
    rows: list[Row] = []
    for trial in view.trials:
        parameters = {titles[name]: _parameter(trial.by_name.get(name)) for name in names}
        row = {**_result(trial, view), **parameters, title: _draw_curve(trial, low, high)}
        rows.append(row | {"state": _state(trial, view)})
    texts = {
        titles[name]
        for name in names
        for trial in view.trials
        if isinstance(trial.by_name.get(name), str)
    }
    optional = [titles[name] for name in names[1:]]
    return Table(
        rows,
        text=("mix", *texts, title, "state"),
        optional=(*optional, title),
    )


def arms_frame(view: StudyView) -> Frame:
    """Lay out the arms of a study; nothing without trials."""
    return (arms_table(view),) if view.trials else ()


def arms_table(view: StudyView) -> Table:
    """Lay out the arms of a study: their trials, and the best scores of those that are complete."""
    arms = view.arms
    has_difference = any(arm.difference is not None for arm in arms)
    has_others = any(arm.trials.keys() - {"complete"} for arm in arms)
    rows: list[Row] = []
    for arm in arms:
        row: dict[str, Entry] = {
            "arm": arm.arm,
            "trials": sum(arm.trials.values()),
            "complete": arm.trials.get("complete", 0),
            "best\nval-A": _numbered(arm.val_a),
            "best\nval-B": _numbered(arm.val_b),
        }
        if has_difference:
            difference = "" if arm.difference is None else f"{arm.difference:+.4f}"
            error = "" if arm.standard_error is None else f" ({arm.standard_error:.4f})"
            row["minus real_only\n(standard error)"] = difference + error
        if has_others:
            others = [f"{count} {word}" for word, count in arm.trials.items() if word != "complete"]
            row["other\ntrials"] = ", ".join(others)
        rows.append(row)
    return Table(rows, "Arms", text=("arm", "other\ntrials"))


def _numbered(best: tuple[int, float] | None) -> str:
    return f"#{best[0]} {best[1]:.3f}" if best else ""


def all_trials(view: StudyView) -> Table:
    """Lay out the columns of `trials_dataframe`, to sort and to filter."""
    columns = trial_table(view)
    rows = [
        {name: _rounded(value) for name, value in zip(columns, values, strict=True)}
        for values in zip(*columns.values(), strict=True)
    ]
    numbers = {
        name
        for name, values in columns.items()
        for value in values
        if isinstance(value, int | float)
    }
    return Table(rows, "All trials", text=columns.keys() - numbers, sortable=True)


def _rounded(value: Value) -> Entry:
    return float(f"{value:.5g}") if isinstance(value, float) else value


def _result(trial: TrialRow, view: StudyView) -> dict[str, Entry]:
    """Return a trial's number, mix, epochs and scores; the best one's are strong."""
    tone: Tone = "strong" if view.best and trial.number == view.best.number else "plain"
    return {
        "#": f"{trial.number}",
        "mix": Cell(trial.mix, tone),
        "epoch": f"{trial.epochs}/{view.max_epochs}" if trial.epochs else "",
        "val-A": Cell(_score(trial.value), tone),
        "val-B": _score(trial.val_b_score),
    }


def _score(value: float | None) -> str:
    return "" if value is None else f"{value:.3f}"


def _parameter(value: Value) -> str:
    if isinstance(value, bool):
        return f"{value}".lower()
    if isinstance(value, float):
        return f"{value:.2g}"
    return "" if value is None else PurePath(f"{value}").name


def _find_range(view: StudyView) -> tuple[str, float, float]:
    """Return the title of the column of curves, and the range of their bars."""
    scores = sorted(value for trial in view.trials for value in trial.values) or [0.0, 1.0]
    low = scores[len(scores) // 4]
    high = scores[-1]
    ends = [f"{end:.2f}".removeprefix("0") for end in (low, high)]
    return f"curve\n{'-'.join(ends)}", low, high


def _draw_curve(trial: TrialRow, low: float, high: float) -> Cell:
    return Cell(curve(trial.values, low, high), _TONES[trial.status])


def curve(values: Sequence[float], low: float, high: float) -> str:
    """Draw values as up to eight bars from `low` to `high`; each shows the last of its segment.

    Values beyond the range have the lowest or the highest bar.
    """
    count = min(len(values), _CURVE_WIDTH)
    ends = [round((bar + 1) * len(values) / count) - 1 for bar in range(count)]
    span = (high - low) or 1.0
    shares = [min(max((values[end] - low) / span, 0.0), 1.0) for end in ends]
    return "".join(_BARS[round(share * (len(_BARS) - 1))] for share in shares)


def sides_frame(sizes: Sequence[SideSize]) -> Frame:
    """Lay out the sides of a split, and a warning if they are too small to rank trials."""
    warning = chance_warning(sizes)
    lines = [Cell(f"note: {warning}", "busy")] if warning else []
    return *lines, sides_table(sizes)


def sides_table(sizes: Sequence[SideSize]) -> Table:
    """Lay out the sizes of the sides of a split, also of each class or finding."""
    rows: list[Row] = []
    for size in sizes:
        row: dict[str, Entry] = {
            "side": size.name,
            "images": size.image_count,
            "patients": size.patient_count,
        }
        if any(size.has_classes for size in sizes):
            few = size.unscored if size.unscored and size.name != "train" else ()
            classes = [
                f"{name} {size.images[name]:,} ({size.patients[name]:,})"
                + (": too few" if name in few else "")
                for name in size.images
            ]
            row["images (patients)\nof each class"] = ", ".join(classes)
            interval = "" if size.low is None else f"{size.low:.2f} to {size.high:.2f}"
            row[f"95 % interval\nof AUROC {USUAL_AUROC:g}"] = interval
        rows.append(row)
    return Table(rows, text=("side", "images (patients)\nof each class"))


def summary_line(view: StudyView) -> str:
    """Format a running search as one log line."""
    parts = [f"{_ended(view)} of {view.trial_budget} trials ended"]
    if best := view.best:
        score = f"{view.metric} {_score(best.value)}"
        parts.append(f"best on val-A: #{best.number} {best.mix}, {score}")
    for trial in view.trials:
        if trial.status == "running":
            parts.append(f"#{trial.number} {_state(trial, view).text}")
    parts.append(f"{duration(view.seconds)} used")
    if view.seconds_left is not None:
        parts.append(f"about {duration(view.seconds_left)} left")
    return "; ".join(parts)


def _state(trial: TrialRow, view: StudyView) -> Cell:
    text: str = trial.status
    if trial.status == "running":
        text = "starting"
        if trial.epochs:
            text = f"epoch {min(trial.epochs + 1, view.max_epochs)}/{view.max_epochs}"
        if trial.busy_with:
            text = trial.busy_with
        if trial.busy_with and trial.busy_seconds is not None:
            text += f", {duration(trial.busy_seconds)} left"
        if trial.node:
            text += f" on {printable(trial.node)}"
    elif trial.seconds is not None:
        text += f" {duration(trial.seconds)}"
    return Cell(text, _TONES[trial.status])


def heading(view: StudyView) -> Iterator[Cell | str]:
    """Yield how far a study is, its time, and what ASHA saved."""
    counts = [f"{view.counts[status]} {status}" for status in _TONES if status in view.counts]
    shown = f" ({', '.join(counts)})" if counts else ""
    yield Cell(f"{view.name}: {_ended(view)} of {view.trial_budget} trials ended{shown}", "strong")
    time = f"{duration(view.seconds)} used"
    if view.seconds_budget is not None:
        time += f" of at most {duration(view.seconds_budget)}"
    if view.seconds_left is not None:
        time += f", about {duration(view.seconds_left)} left"
    yield f"{'running' if view.is_running else 'not running'}, {time}"
    if view.gpu_seconds:
        yield f"GPU hours: {view.gpu_seconds / 3600:,.2f} used"
    if view.pruning:
        yield view.pruning


def _ended(view: StudyView) -> int:
    return sum(trial.seconds is not None for trial in view.trials)
