"""The current state of a study, read from its folder, even while another process runs the search."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from html import escape
from pathlib import Path
from typing import TYPE_CHECKING, Any

from xraytune.base.records import to_json
from xraytune.data.sides import SideSize, side_sizes
from xraytune.space.domains import Value
from xraytune.space.fields import flat_values, has_path, parameters_from
from xraytune.study.arms import ArmSummary, summarise_arms
from xraytune.study.clock import Times, read_times
from xraytune.study.folder import StudyFolder, is_searched
from xraytune.study.journal import ROW_ATTRIBUTES, VALUE_NAME, Journal
from xraytune.study.row import TrialRecord, TrialStatus, ranked_on_val_a, ranked_on_val_b
from xraytune.study.trial_files import read_node, read_pool_report, read_progress, read_samples
from xraytune.synth.generator_quality import PoolReport
from xraytune.trial.mix import mix_label

if TYPE_CHECKING:
    import pandas as pd


class TrialView(TrialRecord):
    """A trial that has ended or not: `waiting` for a slot or another trial's generator, or `unfinished` in a stopped search.

    Paths are relative to the study.
    """

    mix: str
    """Such as `gan r=0.5 (500 steps) +classical 1`."""
    values: tuple[float, ...] = ()
    """The best val-A score after each recorded epoch."""
    busy_with: str = ""
    """What a running trial does before its first epoch, such as `training the GAN: 300 of 600 steps`."""
    busy_seconds: float | None = None
    """An estimate of how long it will be busy with that; None if unknown."""
    node: str = ""
    """The node that runs it, if it is another one than this."""
    samples: str = ""
    """The sample grid of its generator, such as `samples/gan-1a2b3c4d.png` in the study; "" if there is none yet."""
    report: PoolReport | None = None
    """Quality and memorisation of its synthetic images; None if there is none, or not yet."""


@dataclass(frozen=True, slots=True, kw_only=True)
class StudyView:
    """A study at one moment: its folder, its sides, its trials by number, and the names of the searched parameters.

    Attributes:
        metric: Of its scores, such as AUROC.
        trial_budget: That of the last start, and at least the number of trials.
        seconds: Wall time used, over all starts, as last saved.
        seconds_budget: `budget.hours` of the last start; None if it has none.
        gpu_seconds: GPUs held by all trials, times seconds.
        gpu_seconds_budget: `budget.gpu_hours` of the last start; None if it has none.
        seconds_left: An estimate from the trials so far; None before the first one has ended or if no search runs.
    """

    path: Path
    metric: str
    sides: tuple[SideSize, ...] = ()
    trials: tuple[TrialView, ...]
    trial_budget: int
    max_epochs: int
    seconds: float
    seconds_left: float | None
    is_running: bool
    searched: tuple[str, ...] = ()
    seconds_budget: float | None = None
    gpu_seconds: float = 0.0
    gpu_seconds_budget: float | None = None

    def to_json(self) -> dict[str, Any]:
        """Return the study as a JSON object, also with what follows from its trials."""
        best = self.best.number if self.best else None
        derived = {"name": self.name, "counts": self.counts, "best": best, "arms": self.arms, "pruning": self.pruning}
        return to_json(self) | to_json(derived)

    @property
    def name(self) -> str:
        """The study's name."""
        return self.path.name

    @property
    def counts(self) -> dict[str, int]:
        """The number of trials by status."""
        return dict(Counter(trial.status for trial in self.trials))

    @property
    def best(self) -> TrialView | None:
        """The complete trial with the best val-A score, the simplest of equals."""
        return next(iter(self.ranked), None)

    @property
    def ranked(self) -> list[TrialView]:
        """The complete trials, best objective first; of equals, the simplest first."""
        return ranked_on_val_a(self.trials)

    @property
    def arms(self) -> list[ArmSummary]:
        """The arms, the simplest first; raises StudyError if the results of a trial are damaged."""
        return summarise_arms(StudyFolder(self.path), self.trials)

    @property
    def pruning(self) -> str:
        """How many complete and pruned trials ASHA stopped, and the epochs that it saved; "" if it stopped none."""
        ended = [trial for trial in self.trials if trial.status in ("complete", "pruned")]
        saved = [self.max_epochs - trial.epochs for trial in ended if trial.status == "pruned"]
        epochs = sum(trial.epochs for trial in ended) + sum(saved)
        text = f"ASHA stopped {len(saved)} of {len(ended)} trials and saved {sum(saved):,} of {epochs:,} epochs"
        return text if saved else ""

    @property
    def for_export(self) -> TrialView | None:
        """The complete trial with the best val-B score, the simplest of equals."""
        return next(iter(ranked_on_val_b(self.trials)), None)

    def _repr_html_(self) -> str:
        """Return what a notebook shows: its trials by status, its arms, and its trials, without columns that are empty."""
        import pandas as pd  # takes most of a second

        counts = ", ".join(f"{count} {status}" for status, count in self.counts.items())
        arms = pd.DataFrame(map(asdict, self.arms)).set_index("arm")
        trials = pd.DataFrame(trial_table(self)).set_index("number")
        tables = (
            table.dropna(axis="columns", how="all").to_html(max_rows=30, na_rep="", float_format="{:.4g}".format)
            for table in (arms, trials)
        )
        return f"<p><b>{escape(self.name)}</b>: {counts}</p>{''.join(tables)}"


def status(study: Path) -> StudyView:
    """Return the state of the study in a folder; a search may be running on it.

    Args:
        study: The study's folder.

    Raises:
        StudyError: There is no study, or it is damaged.
    """
    return StudyWatcher(StudyFolder(study.resolve())).look()


def trials_dataframe(study: Path) -> pd.DataFrame:
    """Return the trials of a study as a table, a row for each trial; a search may be running on it.

    The index is the trial's number. The columns are `status`, `arm`, `mix`, `epochs`, `val_a_score`
    (the best so far), `val_b_score`, `seconds`, and each searched parameter under its name in the
    space file, such as `gan.steps`; then, if the quality of synthetic images was measured,
    `gan_kid` and other figures (docs/generators.md). A value is missing where a trial has none, as
    `gan.steps` without a GAN.

    Args:
        study: The study's folder.

    Raises:
        StudyError: There is no study, or it is damaged.
    """
    import pandas as pd  # takes most of a second

    return pd.DataFrame(trial_table(status(study))).set_index("number")


def trial_table(view: StudyView) -> dict[str, list[Value]]:
    """Return the trials of a study as columns of a table; None where a trial has no value."""
    trials = view.trials
    searched = {name: [trial.by_name.get(name) for trial in trials] for name in view.searched}
    figures = dict.fromkeys(name for trial in trials for name in _figures(trial))
    return {
        **{name: [getattr(trial, name) for trial in trials] for name in ("number", "status", "arm", "mix", "epochs")},
        VALUE_NAME: [trial.value for trial in trials],
        **{name: [getattr(trial, name) for trial in trials] for name in ("val_b_score", "seconds")},
        **searched,
        **{name: [_figures(trial).get(name) for trial in trials] for name in figures},
    }


def _figures(trial: TrialView) -> dict[str, float | None]:
    return trial.report.quality.columns() if trial.report and trial.report.quality else {}


class StudyWatcher:
    """Observe a study; each look reads only what was added to the journal since the last one."""

    def __init__(self, folder: StudyFolder) -> None:
        self._folder = folder
        self.space = folder.space()
        self._sides = side_sizes(folder.prepared())
        self.journal = Journal(folder.journal_path, self.space, writable=False)
        self._ended: dict[int, TrialView] = {}

    def look(self) -> StudyView:
        """Return the study now."""
        is_running = is_searched(self._folder)
        views = (self._trial(frozen.number, is_running) for frozen in self.journal.trials)
        trials = tuple(filter(None, views))
        trial_budget = max(self.space.trial_budget(), len(trials))
        times, budget = read_times(self._folder.path / "wall.json"), self.space.settings.budget
        seconds_budget = None if budget.hours is None else budget.hours * 3600
        gpu_seconds = sum(trial.gpu_seconds for trial in trials) + sum(times.gpu_seconds.values())
        gpu_seconds_budget = None if budget.gpu_hours is None else budget.gpu_hours * 3600
        left = seconds_left(trials, trial_budget, times) if is_running else None
        if left is not None:
            if seconds_budget is not None:
                left = min(left, seconds_budget - times.seconds)
            if gpu_seconds_budget is not None and gpu_seconds:
                left = min(left, (gpu_seconds_budget / gpu_seconds - 1) * times.seconds)
            left = max(0.0, left)
        return StudyView(
            path=self._folder.path,
            metric=self.space.settings.metric,
            sides=self._sides,
            trials=trials,
            trial_budget=trial_budget,
            max_epochs=self.space.settings.budget.max_epochs,
            seconds=times.seconds,
            seconds_left=left,
            is_running=is_running,
            searched=self.space.searched,
            seconds_budget=seconds_budget,
            gpu_seconds=gpu_seconds,
            gpu_seconds_budget=gpu_seconds_budget,
        )

    def _trial(self, number: int, is_running: bool) -> TrialView | None:
        if number in self._ended:
            return self._ended[number]
        try:
            parameters = self.journal.parameters(number)
        except ValueError:  # they are just being drawn
            return None
        row = self.journal.row(number) if self.journal.status(number) else None
        values = tuple(value for _, value in sorted(self.journal.reported(number).items()))
        folder = self._folder.trial_path(number)
        has_started = (folder / "config.json").exists()
        busy = None if row or values or not has_started else read_progress(folder)
        is_at_work = has_started and not (busy and busy.is_waiting)
        status: TrialStatus = "unfinished" if not is_running else "running" if is_at_work else "waiting"
        view = TrialView(
            number=number,
            parameters=parameters_from(flat_values(parameters, self._folder.path))
            if has_path(parameters)
            else parameters,
            mix=mix_label(parameters),
            status=row.status if row else status,
            value=values[-1] if values else None,
            epochs=len(values),
            values=values,
            busy_with=str(busy or ""),
            busy_seconds=busy and busy.seconds_left,
            node=read_node(folder) if status == "running" and not row else "",
            samples=read_samples(folder) if parameters.gan else "",
            report=read_pool_report(folder) if parameters.has_synthetic_images else None,
            **(row.model_dump(include={*ROW_ATTRIBUTES}) if row else {}),
        )
        if row:
            self._ended[number] = view
        return view


def seconds_left(trials: Sequence[TrialView], trial_budget: int, times: Times) -> float | None:
    """Estimate the time left from the mean time of ended trials and how many ran at once; None before the first end."""
    ended = [trial.seconds for trial in trials if trial.seconds is not None]
    worked = sum(ended)
    if not worked or not times.seconds:
        return None
    mean = worked / len(ended)
    begun = [(times.trials.get(trial.number, 0.0), trial.busy_seconds) for trial in trials if trial.seconds is None]
    to_come = (trial_budget - len(trials)) * mean
    to_come += sum(max(mean - seconds, busy or 0.0, 0.0) for seconds, busy in begun)
    at_once = (worked + sum(seconds for seconds, _ in begun)) / times.seconds
    return to_come / at_once
