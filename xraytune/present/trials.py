"""The trials and sides of a study as lines and tables, for a search, `status` and the report."""

from collections.abc import Iterator, Mapping, Sequence
from operator import attrgetter
from pathlib import PurePath

from xraytune.base.errors import counted, printable
from xraytune.base.tables import Cell, Entry, Frame, Row, Table, Tone, duration, text_of
from xraytune.data.sides import USUAL_AUROC, SideSize, chance_warning
from xraytune.search.callbacks import RunsView
from xraytune.space.domains import Value
from xraytune.space.parameters import CLASSICAL_METHODS
from xraytune.study.row import TrialRow
from xraytune.study.status import StudyView, trial_table

_BEST_SHOWN = 5
_ENDED_SHOWN = 5
_SHOWN_BY_MIX = {
    "source",
    "synthetic_ratio",
    "synthetic_weight",
    "mixing",
    "gan.steps",
    *CLASSICAL_METHODS,
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
    ranked = view.ranked
    best_of_arm = {trial.arm: trial for trial in reversed(ranked)}
    best = [
        trial
        for index, trial in enumerate(ranked)
        if index < _BEST_SHOWN or trial is best_of_arm[trial.arm]
    ]
    ended = [trial for trial in view.trials if trial.seconds is not None and trial not in best]
    ended.sort(key=attrgetter("ended_at"), reverse=True)
    unfinished = [trial for trial in view.trials if trial.seconds is None]
    waiting = view.counts.get("waiting", 0)
    groups: dict[str, Sequence[TrialRow]] = {
        "now" if view.is_running else "unfinished": [
            trial for trial in unfinished if trial.status != "waiting"
        ],
        "best": best,
        "ended": ended[:_ENDED_SHOWN],
    }
    lines = [*heading(view)]
    if dashboard and view.is_running:
        lines.append(Cell(dashboard, "dim"))
    if waiting:
        lines.append(Cell(f"+{waiting} waiting", "dim"))
    if hidden := len(view.trials) - waiting - sum(map(len, groups.values())):
        more = f"{counted(hidden, 'more trial')} ended; `xraytune status` shows them all"
        lines.append(Cell(more, "dim"))
    return [*lines, *_trials_frame(view, groups)]


def runs_frame(view: RunsView) -> Frame:
    """Lay out the runs of a confirmation: how many have ended, and what each running one does."""
    rows: list[Row] = [{"run": label, "state": text} for label, text in view.running.items()]
    return [Cell(runs_line(view), "strong"), *([Table(rows)] if rows else [])]


def runs_line(view: RunsView) -> str:
    """Format the progress of a confirmation's runs as one line."""
    total = view.ended + len(view.running) + view.waiting
    parts = [f"training {view.what}: {view.ended} of {total} ended"]
    if view.running:
        parts.append(f"{len(view.running)} running")
    if view.waiting:
        parts.append(f"+{view.waiting} waiting")
    if view.seconds_left:
        parts.append(f"about {duration(view.seconds_left)} left")
    return ", ".join(parts)


def runs_summary(view: RunsView) -> str:
    """Format the runs of a confirmation as one log line."""
    return "; ".join([runs_line(view), *(f"{run} {text}" for run, text in view.running.items())])


def status_frame(view: StudyView) -> Frame:
    """Lay out the trials of a study, with the reasons for failures."""
    failed = [
        Cell(f"#{trial.number} failed: {trial.reason.splitlines()[0]}", "bad")
        for trial in view.trials
        if trial.status == "failed"
    ]
    return [
        *heading(view),
        *arms_frame(view),
        *sides_frame(view.sides),
        *failed,
        *_trials_frame(view, {"": view.trials}),
    ]


def _trials_frame(view: StudyView, groups: Mapping[str, Sequence[TrialRow]]) -> Frame:
    """Lay out trials with their scores and the searched parameters that `mix` does not show."""
    names = [name for name in view.searched if name not in _SHOWN_BY_MIX]
    names.sort(key=lambda name: name != "lr")
    rows: list[Row] = []
    for group, trials in groups.items():
        for trial in trials:
            # The best trial is emphasised.
            tone: Tone = "strong" if view.best and trial.number == view.best.number else "plain"
            row: dict[str, Entry] = {
                "": Cell(group if trial is trials[0] else "", "strong"),
                "#": f"{trial.number}",
                "mix": Cell(trial.mix, tone),
                "epoch": f"{trial.epochs}/{view.max_epochs}" if trial.epochs else "",
                "val-A": Cell(_score(trial.value), tone),
                "val-B": _score(trial.val_b_score),
            }
            values = view.values_of(trial)
            for name in names:
                row[name.replace("_", "\n")] = _format_parameter(values.get(name))
            rows.append(row | {"state": Cell(_state(trial, view), _TONES[trial.status])})
    optional = [name.replace("_", "\n") for name in names[1:]]
    return [Table(rows, optional=optional)] if rows else []


def _format_parameter(value: Value) -> str:
    if isinstance(value, float):
        return f"{value:.2g}"
    return "" if value is None else PurePath(f"{value}").name


def _score(value: float | None) -> str:
    return "" if value is None else f"{value:.3f}"


def _state(trial: TrialRow, view: StudyView) -> str:
    if trial.seconds is not None:
        return f"{trial.status} {duration(trial.seconds)}"
    if trial.status != "running":
        return trial.status
    text = "starting"
    if trial.busy_with:
        text = trial.busy_with
    elif trial.epochs:
        text = f"epoch {min(trial.epochs + 1, view.max_epochs)}/{view.max_epochs}"
    return f"{text} on {printable(trial.node)}" if trial.node else text


def arms_frame(view: StudyView) -> Frame:
    """Lay out a study's arms, with the best scores of complete trials; empty without trials."""
    rows: list[Row] = []
    for arm in view.arms:
        texts = [f"{count} {word}" for word, count in arm.trials.items() if word != "complete"]
        difference = "" if arm.difference is None else f"{arm.difference:+.4f}"
        if arm.standard_error is not None:
            difference += f" ({arm.standard_error:.4f})"
        rows.append(
            {
                "arm": arm.arm,
                "trials": sum(arm.trials.values()),
                "complete": arm.trials.get("complete", 0),
                "best\nval-A": f"#{arm.val_a[0]} {arm.val_a[1]:.3f}" if arm.val_a else "",
                "best\nval-B": f"#{arm.val_b[0]} {arm.val_b[1]:.3f}" if arm.val_b else "",
                "minus real_only\n(standard error)": difference,
                "other\ntrials": ", ".join(texts),
            }
        )
    return [Table(rows, "Arms")] if rows else []


def all_trials(view: StudyView) -> Table:
    """Lay out the columns of `trials_dataframe` as a table that can be sorted and filtered."""
    columns = trial_table(view)
    rows = [
        dict(zip(columns, values, strict=True)) for values in zip(*columns.values(), strict=True)
    ]
    return Table(rows, "All trials", sortable=True)


def sides_frame(sizes: Sequence[SideSize]) -> Frame:
    """Lay out the sides of a split, also by class or finding, with a warning if they are small."""
    if not sizes:
        return []
    rows: list[Row] = []
    for size in sizes:
        few = size.unscored if size.unscored and size.name != "train" else ()
        classes = [
            f"{name} {size.images[name]:,} ({size.patients[name]:,})"
            + (": too few" if name in few else "")
            for name in size.images
        ]
        rows.append(
            {
                "side": size.name,
                "images": size.image_count,
                "patients": size.patient_count,
                "images (patients)\nof each class": ", ".join(classes) if size.has_classes else "",
                f"95 % interval\nof AUROC {USUAL_AUROC:g}": (
                    "" if size.low is None else f"{size.low:.2f} to {size.high:.2f}"
                ),
            }
        )
    warning = chance_warning(sizes)
    return [*([Cell(f"note: {warning}", "busy")] if warning else []), Table(rows)]


def summary_line(view: StudyView) -> str:
    """Format a running search as one log line."""
    parts = [text_of(line) for line in heading(view)]
    if best := view.best:
        score = f"{view.metric} {_score(best.value)}"
        parts.append(f"best on val-A: #{best.number} {best.mix}, {score}")
    for trial in view.trials:
        if trial.status == "running":
            parts.append(f"#{trial.number} {_state(trial, view)}")
    return "; ".join(parts)


def heading(view: StudyView) -> Iterator[Cell | str]:
    """Yield lines on the progress of a study, the time used, and the epochs that ASHA saved."""
    counts = [f"{view.counts[status]} {status}" for status in _TONES if status in view.counts]
    text = f" ({', '.join(counts)})" if counts else ""
    yield Cell(f"{view.name}: {view.ended} of {view.trial_budget} trials ended{text}", "strong")
    time = f"{duration(view.seconds)} used"
    if view.seconds_budget is not None:
        time += f" of at most {duration(view.seconds_budget)}"
    if view.seconds_left:
        time += f", about {duration(view.seconds_left)} left"
    yield f"{'running' if view.is_running else 'not running'}, {time}"
    if view.gpu_seconds:
        yield f"GPU hours: {view.gpu_seconds / 3600:,.2f} used"
    if view.pruning:
        yield view.pruning
    if view.saturation:
        yield Cell(f"note: {view.saturation}", "busy")
