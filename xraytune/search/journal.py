"""The study's one truth: an Optuna journal of what was asked, every epoch's value in its order of arrival, and every end.

Each append is fsynced by Optuna. Everything else about a study, its rungs and `trials.jsonl` included, follows from what is
read here. One process writes, under the study's lock; others may read at any time.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from functools import partial
from pathlib import Path
from typing import Any, Literal

import optuna
from optuna.distributions import CategoricalDistribution
from optuna.storages import JournalStorage
from optuna.storages.journal import JournalFileBackend
from optuna.trial import FrozenTrial, TrialState

from xraytune.config.domains import Choices, Domain, FloatRange, IntRange, Suggester, Value
from xraytune.config.fields import flat_values
from xraytune.config.resolved import is_path, relative_path, relative_value
from xraytune.config.settings import Parameters
from xraytune.config.space import Point, Space
from xraytune.errors import Problem, StudyError
from xraytune.files import check_fences, cut_torn_line, explained_disk_errors, require_file
from xraytune.search.messages import TrialSuggestion
from xraytune.search.sampler import NumberedSampler, quiet_optuna
from xraytune.search.trial_queue import Failure, share


@dataclass(frozen=True, slots=True)
class PortableTrial:
    """A `Suggester` that has the paths among its choices as the journal has them.

    Attributes:
        trial: Optuna's; it is asked for the stored choices.
        stored: From a parameter's name and choices to the same choices as they are stored, in their order.
    """

    trial: Suggester
    stored: Callable[[str, Sequence[Value]], Sequence[Value]]

    def suggest_categorical(self, name: str, choices: Sequence[Value]) -> Value:
        """One of the choices."""
        stored = self.stored(name, choices)
        return choices[stored.index(self.trial.suggest_categorical(name, stored))]

    def suggest_float(
        self, name: str, low: float, high: float, *, step: float | None = None, log: bool = False
    ) -> float:
        """As Optuna does."""
        return self.trial.suggest_float(name, low, high, step=step, log=log)

    def suggest_int(self, name: str, low: int, high: int, *, step: int = 1, log: bool = False) -> int:
        """As Optuna does."""
        return self.trial.suggest_int(name, low, high, step=step, log=log)


@dataclass(frozen=True, slots=True)
class RecordedTrial:
    """A `Suggester` that repeats recorded values.

    Attributes:
        values: By parameter. Asking for one that is missing, or outside its domain, raises a ValueError.
    """

    values: Mapping[str, Value]

    def suggest_categorical(self, name: str, choices: Sequence[Value]) -> Value:
        """The recorded choice."""
        choice: Value = self._checked(name, Choices(tuple(choices)))
        return choice

    def suggest_float(
        self, name: str, low: float, high: float, *, step: float | None = None, log: bool = False
    ) -> float:
        """The recorded number."""
        number: float = self._checked(name, FloatRange(low=low, high=high, step=step, is_log=log))
        return number

    def suggest_int(self, name: str, low: int, high: int, *, step: int = 1, log: bool = False) -> int:
        """The recorded whole number."""
        number: int = self._checked(name, IntRange(low=low, high=high, step=step, is_log=log))
        return number

    def _checked(self, name: str, domain: Domain) -> Any:
        if name not in self.values:
            raise ValueError(f"{name} is missing")
        value = self.values[name]
        if not domain.contains(value):
            raise ValueError(f"{name} is {value}, and not {domain}")
        return value


Status = Literal["complete", "pruned", "failed"]
_STATES: dict[Status, TrialState] = {
    "complete": TrialState.COMPLETE,
    "pruned": TrialState.PRUNED,
    "failed": TrialState.FAIL,
}
_OUTCOME = "outcome"
_FAILURES = "failures"
_STUDY_NAME = "xraytune"
_LOST = "put it back from a copy; without it the study is lost, and its space can be searched under another name"
# The operation code of Optuna's journal for a reported value; a test reads a journal that Optuna wrote.
_REPORT_OPERATION = 7


class Journal:
    """An open journal.

    Args:
        path: `optuna.journal`.
        space: The study's space.
        writable: Cut off what a crash left half-written; only under the study's lock.

    Raises:
        StudyError: The journal cannot be read, or is too large.
    """

    def __init__(self, path: Path, space: Space, *, writable: bool) -> None:
        self._space = space
        if not path.is_file():  # Optuna would make an empty one
            raise StudyError(Problem("the journal is missing", path, _LOST))
        require_file(path, "log", StudyError)  # Optuna reads it whole
        if writable:
            for stale in path.parent.glob(f"{path.name}.lock*"):
                stale.unlink()
            cut_torn_line(path)
        self._backend = _WholeLines(str(path))
        try:
            with quiet_optuna():
                self._study = optuna.load_study(study_name=_STUDY_NAME, storage=JournalStorage(self._backend))
        except Exception as error:  # Optuna stumbles over a damaged line in any way
            raise StudyError(Problem(f"the journal cannot be read: {error}", path, _LOST)) from error
        self._path = path
        self._trials: dict[int, optuna.trial.Trial] = {}

    @property
    def trials(self) -> list[FrozenTrial]:
        """All trials, by number; not to be changed."""
        return [trial for trial in self._study.get_trials(deepcopy=False) if trial.state is not TrialState.WAITING]

    def unfinished(self) -> list[int]:
        """Trials that were asked for and have not ended."""
        return [trial.number for trial in self.trials if trial.state is TrialState.RUNNING]

    def ask(self, points: Sequence[Mapping[str, Value]]) -> TrialSuggestion:
        """The next trial: the point of its number where there is one, else what the sampler says.

        The sampler is seeded by the trial's number, so that a restart does not shift the draws. Whatever it draws can run:
        `load_space` refuses a space with settings that do not go together.
        """
        number = len(self.trials)
        has_waiting = len(self._study.get_trials(deepcopy=False)) > number
        if number < len(points) and not has_waiting:
            self._study.enqueue_trial(self._as_stored(points[number]))
        self._study.sampler = NumberedSampler(self._space.settings.sampler, number)
        trial = self._study.ask()
        self._trials[trial.number] = trial
        return TrialSuggestion(number=trial.number, parameters=self._suggest(trial))

    def again(self, number: int) -> TrialSuggestion:
        """A trial that was asked for earlier, with the settings that it got then; those it had not got yet are drawn now."""
        self._study.sampler = NumberedSampler(self._space.settings.sampler, number)
        parameters = self._suggest(self._trial(number))
        return TrialSuggestion(number=number, parameters=parameters, share=share(self.failures(number)))

    def parameters(self, number: int) -> Parameters:
        """The settings of a trial; nothing is written.

        Raises:
            ValueError: It is being asked for at this moment.
            StudyError: It has ended, and the journal does not say with which settings.
        """
        trial = self._frozen(number)
        try:
            return self._suggest(RecordedTrial(trial.params))
        except (ValueError, LookupError) as error:
            if trial.state.is_finished():
                raise self._damaged(number, error) from error
            raise ValueError(f"trial {number} has no settings yet") from error

    def status(self, number: int) -> Status | None:
        """How a trial ended; None where it has not."""
        state = self._frozen(number).state
        return next((name for name, ended in _STATES.items() if ended is state), None)

    def report(self, number: int, epoch: int, value: float) -> None:
        """Record the value of a trial after an epoch."""
        self._trial(number).report(value, epoch)

    def reported(self, number: int) -> dict[int, float]:
        """The values recorded for a trial, by epoch."""
        return dict(self._frozen(number).intermediate_values)

    def reports(self) -> Iterator[tuple[int, int, float]]:
        """Every recorded value in its order of arrival: number, epoch, value.

        Raises:
            StudyError: The journal is damaged there.
        """
        for entry in self._backend.read_logs(0):
            if entry["op_code"] == _REPORT_OPERATION:
                number, epoch, value = (entry.get(name) for name in ("trial_id", "step", "intermediate_value"))
                if not (isinstance(number, int) and isinstance(epoch, int) and isinstance(value, float | int)):
                    raise StudyError(Problem("the journal is damaged: a report is incomplete", self._path, _LOST))
                yield number, epoch, value

    def failures(self, number: int) -> list[Failure]:
        """How often a trial was tried in vain."""
        return [Failure(**entry) for entry in self._frozen(number).user_attrs.get(_FAILURES, [])]

    def add_failure(self, number: int, failure: Failure) -> None:
        """Record that a trial is to be tried again."""
        entries = [asdict(entry) for entry in (*self.failures(number), failure)]
        self._trial(number).set_user_attr(_FAILURES, entries)

    def tell(self, number: int, status: Status, value: float | None, outcome: Mapping[str, Any]) -> None:
        """End a trial, once; told again, nothing changes. A pruned trial keeps its last value, a failed one has none."""
        if self._frozen(number).state.is_finished():
            return
        trial = self._trial(number)
        trial.set_user_attr(_OUTCOME, dict(outcome))
        self._study.tell(number, value if status == "complete" else None, state=_STATES[status])

    def gpu_seconds(self, usual_gpus: float) -> float:
        """GPU time of all ended trials; those of an earlier version, which did not record it, held the usual GPUs.

        Raises:
            StudyError: The journal is damaged there.
        """
        return sum(map(partial(self._gpu_seconds, usual_gpus), self.trials))

    def rows(self) -> list[dict[str, Any]]:
        """One row for each ended trial, in the order of their numbers: what `trials.jsonl` holds."""
        return [self.row(trial.number) for trial in self.trials if trial.state.is_finished()]

    def row(self, number: int) -> dict[str, Any]:
        """The row of one ended trial.

        Raises:
            StudyError: The journal does not say what it should of it.
        """
        try:
            return self._row(number)
        except (ValueError, AttributeError, LookupError, RuntimeError) as error:
            raise self._damaged(number, error) from error

    def _damaged(self, number: int, error: Exception) -> StudyError:
        return StudyError(Problem(f"the journal is damaged at trial {number}: {error}", self._path, _LOST))

    def _gpu_seconds(self, usual_gpus: float, trial: FrozenTrial) -> float:
        outcome = trial.user_attrs.get(_OUTCOME, {})
        try:
            return float(outcome.get("gpu_seconds", outcome.get("seconds", 0.0) * usual_gpus))
        except (TypeError, ValueError, AttributeError) as error:
            raise self._damaged(trial.number, error) from error

    def _row(self, number: int) -> dict[str, Any]:
        trial, parameters, status = self._frozen(number), self.parameters(number), self.status(number)
        outcome = trial.user_attrs.get(_OUTCOME, {})
        row = {
            "version": 2,
            "number": trial.number,
            "status": status,
            "arm": parameters.arm,
            "parameters": {
                name: relative_value(name, value, self._path.parent)
                for name, value in flat_values(parameters).items()
                if value is not None
            },
            "value": None if status == "failed" else trial.value,
            "epochs": len(trial.intermediate_values),
            "seconds": outcome.get("seconds", 0.0),
            "reason": outcome.get("reason", ""),
            "val_b_auroc": outcome.get("val_b_auroc"),
        }
        of_complete = float | int if status == "complete" else float | int | None
        kinds = {
            "value": of_complete,
            "val_b_auroc": of_complete,
            "seconds": float | int,
            "reason": str,
        }
        for name, kind in kinds.items():
            if not isinstance(row[name], kind):
                raise ValueError(f"its {name} is {row[name]!r}")
        return row

    def _suggest(self, trial: Suggester) -> Parameters:
        return self._space.suggest(PortableTrial(trial, self._stored))

    def _stored(self, name: str, choices: Sequence[Value]) -> Sequence[Value]:
        """How the journal has a parameter's choices: a new study's paths are relative to it.

        An earlier version's are absolute; Optuna takes no others for a parameter than those that it has.
        """
        if not any(is_path(name, choice) for choice in choices):
            return choices
        for trial in self._study.get_trials(deepcopy=False):
            if isinstance(known := trial.distributions.get(name), CategoricalDistribution):
                return known.choices
        folder = self._path.parent
        return [relative_path(str(choice), folder) if is_path(name, choice) else choice for choice in choices]

    def _as_stored(self, point: Mapping[str, Value]) -> Point:
        choices = {spec.name: spec.domain.values for spec in self._space.specs if isinstance(spec.domain, Choices)}
        return {
            name: self._stored(name, choices[name])[choices[name].index(value)] if is_path(name, value) else value
            for name, value in point.items()
        }

    def _trial(self, number: int) -> optuna.trial.Trial:
        # One study lies in a journal, so a trial's id is its number.
        if number not in self._trials:
            self._trials[number] = optuna.trial.Trial(self._study, number)
        return self._trials[number]

    def _frozen(self, number: int) -> FrozenTrial:
        return self._study.get_trials(deepcopy=False)[number]


class _WholeLines(JournalFileBackend):
    """Optuna's file, which a full disk leaves with whole lines alone, and a process that lost its study leaves as it is."""

    def append_logs(self, logs: list[dict[str, Any]]) -> None:
        check_fences()
        path = Path(self._file_path)
        with explained_disk_errors(path):
            try:
                super().append_logs(logs)
            except OSError:
                cut_torn_line(path)  # half a line would make the next one unreadable
                raise


def create_journal(path: Path) -> None:
    """Begin a journal with nothing in it but its study."""
    with quiet_optuna():
        storage = JournalStorage(_WholeLines(str(path)))
        optuna.create_study(storage=storage, study_name=_STUDY_NAME, direction="maximize")
