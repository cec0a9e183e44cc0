"""The current state of a study, read from its folder, even while another process searches.

It has the trials, and the arms side by side: their best scores, and the differences of these from
the best score of `real_only`.
"""

from __future__ import annotations

from collections import Counter
from dataclasses import asdict, fields
from html import escape
from itertools import chain
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from xraytune.base.files import StrPath
from xraytune.base.records import frozen, progress_text, to_json
from xraytune.data.sides import FEWEST_OF_CLASS, SideSize, side_sizes
from xraytune.space.cost import usual_seconds
from xraytune.space.domains import Value
from xraytune.space.task_settings import TASK_RULES
from xraytune.stats.classification import scored_findings
from xraytune.stats.placements import findings_with_intervals, structural_components
from xraytune.study.folder import StudyFolder, work_on
from xraytune.study.journal import Journal
from xraytune.study.row import TrialRow, TrialStatus, rank, set_values
from xraytune.study.trial import read_node, read_pool_report, read_progress, read_samples
from xraytune.synth.generator_inputs import GAN_PROGRESS
from xraytune.synth.mix import mix_label

if TYPE_CHECKING:
    import pandas as pd

_REFERENCE = "real_only"
_FEWEST_COMPARED, _SATURATED = 3, 0.999
"""A search with at least `_FEWEST_COMPARED` complete trials is saturated if none of them scores
less than `_SATURATED` on val-A."""


@frozen
class ArmSummary:
    """An arm of a search.

    Only complete trials are compared, since other trials were trained for fewer epochs.

    Attributes:
        arm: Name of the arm, such as `augmented+gan`.
        trials: Number of trials by status.
        val_a: Number and score of the arm's best complete trial on val-A; None if it has none.
        val_b: Number and score of the arm's best complete trial on val-B; None if it has none.
        difference: Score of `val_b` minus the score of the best complete trial of `real_only` on
            val-B; None if one of them is missing, and for `real_only`.
        standard_error: Standard error of the difference over the patients of val-B; None if it is
            not known.
    """

    arm: str
    trials: dict[str, int]
    val_a: tuple[int, float] | None
    val_b: tuple[int, float] | None
    difference: float | None
    standard_error: float | None


@frozen
class _GanInTraining:
    """A GAN that a running trial trains.

    Attributes:
        seconds: The time that its steps have taken.
        seconds_left: The time left of it, of the longer runs that will continue it, and of its
            trial.
        followers: Number of trials that wait for the longest run.
    """

    seconds: float
    seconds_left: float
    followers: int


@frozen
class StudyView:
    """A study at one moment.

    Attributes:
        path: Folder of the study.
        metric: Name of the scores, such as AUROC.
        sides: Sizes of train, val-A and val-B.
        trials: The trials by number.
        trial_budget: Budget of trials at the last start, or the number of trials if it is larger.
        max_epochs: Largest number of epochs of a trial.
        seconds: Wall time used, over all starts, as last saved.
        is_running: Whether a search is running on the study now.
        searched: Names of the searched parameters.
        seconds_budget: `budget.hours` of the last start, in seconds; None if there is no limit.
    """

    path: Path
    metric: str
    sides: tuple[SideSize, ...] = ()
    trials: tuple[TrialRow, ...]
    trial_budget: int
    max_epochs: int
    seconds: float
    is_running: bool
    searched: tuple[str, ...] = ()
    seconds_budget: float | None = None

    def to_json(self) -> dict[str, Any]:
        """Return the study as a JSON object, with what follows from its trials."""
        derived_values = {
            "seconds_left": self.seconds_left,
            "gpu_seconds": self.gpu_seconds,
            "name": self.name,
            "counts": self.counts,
            "best": self.best and self.best.number,
            "arms": self.arms,
            "pruning": self.pruning,
        }
        return to_json(self, self.path) | to_json(derived_values, self.path)

    def values_of(self, trial: TrialRow) -> dict[str, Value]:
        """Return the parameters that a trial sets, by dotted name.

        Paths are relative to the study, as in its files.
        """
        return set_values(trial.parameters, self.path)

    @property
    def name(self) -> str:
        """The study's name."""
        return self.path.name

    @property
    def ended(self) -> int:
        """The number of trials that have ended."""
        return sum(trial.seconds is not None for trial in self.trials)

    @property
    def seconds_left(self) -> float | None:
        """Estimated time left; None until a trial has ended, and if no search is running.

        On average, half of a running trial is assumed to be done. If a generator is being trained,
        the search cannot end before its trial and those that wait for it.
        """
        ended_seconds = [trial.seconds for trial in self.trials if trial.seconds is not None]
        if not (ended_seconds and self.is_running):
            return None
        usual = usual_seconds(ended_seconds)
        running = [trial for trial in self.trials if trial.status == "running"]
        gans = [*filter(None, map(self._gan_in_training, running))]
        half_done = usual / 2 * (len(running) - len(gans))
        waiting_count = self.trial_budget - len(ended_seconds) - len(running)
        finished_work = sum(ended_seconds) + half_done + sum(gan.seconds for gan in gans)
        pace = self.seconds / finished_work if finished_work else 0.0
        remaining_work = usual * waiting_count + half_done + sum(gan.seconds_left for gan in gans)
        ends = [gan.seconds_left + pace * usual * gan.followers for gan in gans]
        seconds = max(pace * remaining_work, *ends, 0.0)
        if self.seconds_budget is None:
            return seconds
        return max(0.0, min(seconds, self.seconds_budget - self.seconds))

    def _gan_in_training(self, trial: TrialRow) -> _GanInTraining | None:
        """Return the GAN that a running trial trains; None if it trains none.

        After the GAN, its trial computes what others then share. This is assumed to take half as
        long as the slowest trial without a generator, which also did this for real images.
        """
        gan = trial.parameters.gan
        progress = trial.preparing
        if not (gan and progress and progress.step_seconds and progress.what == GAN_PROGRESS):
            return None
        open_gans = [other.parameters.gan for other in self.trials if other.seconds is None]
        lengths = [other.steps for other in open_gans if other and other.lineage == gan.lineage]
        longest = max(lengths)
        alone = [other for other in self.trials if not other.parameters.trains_generator]
        slowest = max((other.seconds or 0.0 for other in alone), default=0.0)
        steps_left = longest - progress.done
        return _GanInTraining(
            seconds=progress.step_seconds * progress.done,
            seconds_left=progress.step_seconds * steps_left + slowest / 2,
            followers=lengths.count(longest) - (gan.steps == longest),
        )

    @property
    def gpu_seconds(self) -> float:
        """Sum over the ended trials of the number of GPUs that they held, times seconds."""
        return sum(trial.gpu_seconds for trial in self.trials)

    @property
    def counts(self) -> dict[str, int]:
        """The number of trials by status."""
        return dict(Counter(trial.status for trial in self.trials))

    @property
    def best(self) -> TrialRow | None:
        """The complete trial with the best val-A score; of equal ones, the simplest."""
        return next(iter(self.ranked), None)

    @property
    def ranked(self) -> list[TrialRow]:
        """The complete trials, best objective first; of equal ones, the simplest first."""
        return rank(self.trials, "value")

    @property
    def arms(self) -> list[ArmSummary]:
        """The arms, the simplest first; raises StudyError if the results of a trial are damaged."""
        trials = sorted(self.trials, key=lambda trial: trial.parameters.simplicity[:2])
        best_on_a = {trial.arm: trial for trial in reversed(self.ranked)}
        best_on_b = {trial.arm: trial for trial in reversed(rank(self.trials))}
        errors = _standard_errors(StudyFolder(self.path), best_on_b)
        reference = best_on_b.get(_REFERENCE)
        summaries = []
        for arm in dict.fromkeys(trial.arm for trial in trials):
            row_a = best_on_a.get(arm)
            row_b = best_on_b.get(arm)
            difference = None
            if row_b and reference and arm != _REFERENCE:
                difference = (row_b.val_b_score or 0.0) - (reference.val_b_score or 0.0)
            summaries.append(
                ArmSummary(
                    arm=arm,
                    trials=dict(Counter(trial.status for trial in trials if trial.arm == arm)),
                    val_a=(row_a.number, row_a.value or 0.0) if row_a else None,
                    val_b=(row_b.number, row_b.val_b_score or 0.0) if row_b else None,
                    difference=difference,
                    standard_error=errors.get(arm),
                )
            )
        return summaries

    @property
    def pruning(self) -> str:
        """A sentence on how many trials ASHA stopped and how many epochs it saved; "" if none."""
        pruned_trials = [trial for trial in self.trials if trial.status == "pruned"]
        if not pruned_trials:
            return ""
        trials = [*pruned_trials, *(trial for trial in self.trials if trial.status == "complete")]
        saved_epochs = sum(self.max_epochs - trial.epochs for trial in pruned_trials)
        epochs = saved_epochs + sum(trial.epochs for trial in trials)
        return (
            f"ASHA stopped {len(pruned_trials)} of {len(trials)} trials and saved "
            f"{saved_epochs:,} of {epochs:,} epochs"
        )

    @property
    def saturation(self) -> str:
        """A warning if the objective cannot tell the complete trials apart; "" if it can."""
        scores = [trial.value for trial in self.ranked if trial.value is not None]
        if len(scores) < _FEWEST_COMPARED or min(scores) < _SATURATED:
            return ""
        return (
            f"all {len(scores)} complete trials have a val-A {self.metric} of {min(scores):.3f} or "
            "more, so val-A cannot rank them: search with fewer training patients "
            "(data.train_patients), where arms may differ"
        )

    @property
    def has_finalist(self) -> bool:
        """Whether there is a trial with synthetic images that `confirm` can test."""
        ended_trials = [trial for trial in self.trials if trial.status in ("complete", "pruned")]
        return any(trial.parameters.has_synthetic_images for trial in ended_trials)

    @property
    def best_on_val_b(self) -> TrialRow | None:
        """The complete trial with the best val-B score; of equal ones, the simplest."""
        return next(iter(rank(self.trials)), None)

    def _repr_html_(self) -> str:
        """Return the HTML for notebooks: numbers of trials, then tables of the arms and trials."""
        import pandas as pd  # takes most of a second

        counts = ", ".join(f"{count} {status}" for status, count in self.counts.items())
        columns = [field.name for field in fields(ArmSummary)]
        arms = pd.DataFrame(map(asdict, self.arms), columns=columns).set_index("arm")
        trials = pd.DataFrame(trial_table(self)).set_index("number")
        tables = (
            table.dropna(axis="columns", how="all").to_html(
                max_rows=30, na_rep="", float_format="{:.4g}".format
            )
            for table in (arms, trials)
        )
        return f"<p><b>{escape(self.name)}</b>: {counts}</p>{''.join(tables)}"


def status(study: StrPath) -> StudyView:
    """Return the state of the study in a folder; a search may be running on it.

    Args:
        study: The study's folder.

    Raises:
        StudyError: There is no study, or it is damaged.
    """
    return StudyWatcher(StudyFolder(Path(study).resolve())).refresh()


def trials_dataframe(study: StrPath) -> pd.DataFrame:
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
    set_by_trials = [view.values_of(trial) for trial in trials]
    figures = [
        trial.report.quality.columns() if trial.report and trial.report.quality else {}
        for trial in trials
    ]
    fields = ("number", "status", "arm", "mix", "epochs", "value", "val_b_score", "seconds")
    names = {"value": "val_a_score"}
    return {
        **{names.get(name, name): [getattr(trial, name) for trial in trials] for name in fields},
        **{name: [values.get(name) for values in set_by_trials] for name in view.searched},
        **{
            name: [trial_figures.get(name) for trial_figures in figures]
            for name in dict.fromkeys(chain(*figures))
        },
    }


def _standard_errors(study_folder: StudyFolder, best: dict[str, TrialRow]) -> dict[str, float]:
    """Return the standard error of each arm's difference from the reference, if it is known.

    The best trials of the arms are compared on the same images, so the difference is paired. Its
    standard error is known for AUROC and Dice, if there are several patients of each class, or
    with and without each finding.
    """
    if _REFERENCE not in best or len(best) == 1:
        return {}
    numbers = [trial.number for trial in best.values()]
    if not all(study_folder.results_path(number).exists() for number in numbers):
        return {}
    settings = study_folder.space().settings
    prepared = study_folder.prepared()
    is_usual = settings.objective.metric == TASK_RULES[settings.task].objectives[0]
    if not is_usual or side_sizes(prepared)[-1].lacking(FEWEST_OF_CLASS):
        return {}
    side = prepared.side("val_b")
    targets = side.targets
    if targets.ndim == 2 and (
        findings_with_intervals(targets, side.patients) != scored_findings(targets)
    ):
        return {}
    results = np.stack([study_folder.results(number) for number in numbers])
    structure = structural_components(targets, results, side.patients, prepared.positive)
    components = structure.components
    differences = components - components[list(best).index(_REFERENCE)]
    errors = np.sqrt((differences**2).sum(axis=1)).tolist()
    return {arm: error for arm, error in zip(best, errors, strict=True) if arm != _REFERENCE}


class StudyWatcher:
    """Observe a study; each `refresh` reads only what was added to the journal since the last."""

    def __init__(self, study_folder: StudyFolder) -> None:
        self._folder = study_folder
        self.space = study_folder.space()
        self._sides = side_sizes(study_folder.prepared())
        self.journal = Journal(study_folder.journal_path, self.space, is_writable=False)
        self._ended: dict[int, TrialRow] = {}

    def refresh(self) -> StudyView:
        """Return the current state of the study."""
        is_running = work_on(self._folder) == "searched"
        rows = (self._row(trial.number, is_running) for trial in self.journal.trials)
        trials = tuple(filter(None, rows))
        settings = self.space.settings
        budget = settings.budget
        return StudyView(
            path=self._folder.path,
            metric=settings.metric,
            sides=self._sides,
            trials=trials,
            trial_budget=max(self.space.trial_budget(), len(trials)),
            max_epochs=budget.max_epochs,
            seconds=self._folder.seconds(),
            is_running=is_running,
            searched=self.space.searched,
            seconds_budget=None if budget.hours is None else budget.hours * 3600,
        )

    def _row(self, number: int, is_running: bool) -> TrialRow | None:
        if number in self._ended:
            return self._ended[number]
        try:
            row = self.journal.row(number)
        except (LookupError, ValueError):  # its parameters are just being suggested
            return None
        folder = self._folder.trial_path(number)
        parameters = row.parameters
        has_ended = row.status != "unfinished"
        has_started = (folder / "config.json").exists()
        status: TrialStatus = row.status
        if is_running and not has_ended:
            status = "running" if has_started else "waiting"
        is_preparing = has_started and not (has_ended or row.values)
        progress = read_progress(folder) if is_preparing else None
        changes = {
            "mix": mix_label(parameters),
            "status": status,
            "busy_with": progress_text(*progress[:3]) if progress else "",
            "preparing": progress,
            "node": read_node(folder) if status == "running" else "",
            "samples": read_samples(folder) if parameters.trains_generator else "",
            "report": read_pool_report(folder) if parameters.has_synthetic_images else None,
        }
        row = row.with_values(changes)
        if has_ended:
            self._ended[number] = row
        return row
