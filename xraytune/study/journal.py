"""A study's original record: an Optuna journal of all trials, their values and their ends.

Each suggestion, value and end is flushed to disk once, and each line has a checksum of itself and
of all lines before it. Everything else about a study, such as its rungs and `trials.jsonl`, follows
from the journal. One process writes, under the study's lock; others may read at any time. Paths in
the journal are relative to the study. `Journal` makes them absolute when it reads a trial, so that
parameters have absolute paths everywhere else.
"""

import json
import os
import warnings
from collections.abc import Iterator, Mapping, Sequence
from contextlib import suppress
from functools import cached_property
from pathlib import Path
from typing import Any

import optuna
from optuna.exceptions import ExperimentalWarning
from optuna.samplers import RandomSampler
from optuna.storages import JournalStorage
from optuna.storages.journal import BaseJournalBackend
from optuna.trial import FixedTrial, FrozenTrial, TrialState

from xraytune.base.errors import ArtifactError, FileLine, StudyError, counted
from xraytune.base.files import (
    BROKEN_CHAIN,
    append_jsonl,
    chain_rows,
    cut_torn_line,
    explain_disk_errors,
    read_chained,
    read_jsonl,
    sync,
)
from xraytune.base.records import Json
from xraytune.space.domains import Point
from xraytune.space.fields import parameters_from
from xraytune.space.load import STUDY_NAME
from xraytune.space.parameters import Parameters
from xraytune.space.settings import Experiment
from xraytune.space.space import Space
from xraytune.study.folder import ROWS_FILE
from xraytune.study.row import Status, TrialRow
from xraytune.study.samplers import NumberedSampler
from xraytune.study.trial import OpenTrial
from xraytune.synth.mix import mix_label

_STATES: dict[Status, TrialState] = {
    "complete": TrialState.COMPLETE,
    "pruned": TrialState.PRUNED,
    "failed": TrialState.FAIL,
}
_STATUSES = {state: status for status, state in _STATES.items()}
_FAILURES = "failures"
_SPACE = "space"
_LOST = (
    "restore it from a backup, or search the space again under another name: "
    "the study cannot be used without it"
)
# The operation codes of Optuna's journal for a new trial and for a reported value; a test reads a
# journal that Optuna wrote.
_CREATE_OPERATION = 4
_REPORT_OPERATION = 7


class Journal:
    """An open journal.

    With `is_writable`, which needs the study's lock, a line that a crash has torn is cut off.
    The attribute `study` is the study as Optuna sees it, which must only be read.

    Raises:
        StudyError: The journal is damaged, or the search began with another space.
    """

    def __init__(self, path: Path, space: Space, *, is_writable: bool) -> None:
        self._path = path
        self._settings = space.settings
        self._space = space.relative_to(path.parent)  # as the journal writes it
        if not path.is_file():  # Optuna would create an empty one
            raise StudyError("the journal is missing", path, _LOST)
        if is_writable:
            cut_torn_line(path)
        # Before the journal, which is ahead of it.
        ended_numbers = _ended_trials(path.with_name(ROWS_FILE))
        self._parameters: dict[int, Parameters] = {}
        self._load()
        _require_same_space(self.optuna_study.user_attrs.get(_SPACE), self._space, path.parent)
        if is_writable and self._cut_torn_trial():
            self._load()
        self.count = len(self.trials)  # including those suggested since opening
        losses = ended_numbers - {
            trial.number for trial in self.trials if trial.state.is_finished()
        }
        if losses:
            raise StudyError(
                f"its end was cut off: {ROWS_FILE} has {counted(len(losses), 'trial')} more",
                path,
                _LOST,
            )

    def _load(self) -> None:
        self._backend = _ChainedLines(self._path)
        try:
            self._storage = JournalStorage(self._backend)
            self.optuna_study = optuna.load_study(study_name=None, storage=self._storage)
        except StudyError:
            raise
        except Exception as error:  # another study makes Optuna raise anything
            raise StudyError(f"the journal cannot be read: {error}", self._path, _LOST) from error

    def _cut_torn_trial(self) -> bool:
        """Remove the last trial if a kill came before all of its settings were written.

        It is asked for again: a sampler that finds its own trial decides differently.
        """
        trials = self.optuna_study.get_trials(deepcopy=False)
        if not trials or trials[-1].state.is_finished() or trials[-1].intermediate_values:
            return False
        if trials[-1].state is TrialState.RUNNING:
            with suppress(LookupError, ValueError):
                self.parameters(trials[-1].number)
                return False
        os.truncate(self._path, self._backend.offset_of_last_trial())
        self._flush()
        return True

    @property
    def trials(self) -> list[FrozenTrial]:
        """All trials by number; read-only."""
        return [
            trial
            for trial in self.optuna_study.get_trials(deepcopy=False)
            if trial.state is not TrialState.WAITING
        ]

    @cached_property
    def _points(self) -> Sequence[Point]:
        return self._space.points()

    def ask(self) -> OpenTrial:
        """Return the next trial: the listed point with its number, or else a sampled one."""
        number = self.count
        self.optuna_study.sampler = NumberedSampler(self._settings.sampler, number)
        if number < len(self._points):
            self.optuna_study.enqueue_trial({**self._points[number]})
        trial = self.optuna_study.ask()
        self._suggest(trial)
        self._flush()
        self.count += 1
        return self._open_trial(number)

    def resume(self) -> list[OpenTrial]:
        """Return the trials that have not ended."""
        return [
            self._open_trial(trial.number)
            for trial in self.trials
            if trial.state is TrialState.RUNNING
        ]

    def _open_trial(self, number: int) -> OpenTrial:
        parameters = self.parameters(number)
        stored_trial = self._storage.get_trial(number)
        return OpenTrial(
            number=number,
            label=f"#{number} {mix_label(parameters)}",
            experiment=Experiment(settings=self._settings, parameters=parameters),
            epochs=max(stored_trial.intermediate_values, default=0),
            failures=[*stored_trial.user_attrs.get(_FAILURES, [])],
        )

    def parameters(self, number: int) -> Parameters:
        """Return the settings of a trial.

        Raises LookupError or ValueError while they are being suggested.
        """
        if number not in self._parameters:
            stored_trial = FixedTrial(self._storage.get_trial(number).params)
            self._parameters[number] = self._suggest(stored_trial)
        return self._parameters[number]

    def values(self, number: int) -> Mapping[int, float]:
        """Return the recorded values of a trial by epoch."""
        return self._storage.get_trial(number).intermediate_values

    def report(self, number: int, epoch: int, value: float) -> None:
        """Record the value of a trial after an epoch."""
        self._storage.set_trial_intermediate_value(number, epoch, value)
        self._flush()

    def reports(self) -> Iterator[tuple[int, int, float]]:
        """Yield every recorded value in its order of arrival: number, epoch, value."""
        for entry in self._backend.read_logs(0):
            if entry["op_code"] == _REPORT_OPERATION:
                yield entry["trial_id"], entry["step"], entry["intermediate_value"]

    def rung_reports(self) -> Iterator[tuple[Parameters, int, float, str]]:
        """Yield every recorded value as the arguments of `Rungs.should_continue`."""
        for number, epoch, value in self.reports():
            parameters = self.parameters(number)
            yield parameters, epoch, value, parameters.rung_group

    def record_failures(self, trial: OpenTrial) -> None:
        """Record the failed attempts at a trial that is to be retried."""
        self._storage.set_trial_user_attr(trial.number, _FAILURES, trial.failures)
        self._flush()

    def tell(
        self, number: int, status: Status, value: float | None, outcome: Mapping[str, Any]
    ) -> None:
        """Record the end of a trial; a pruned one keeps its last value, a failed one has none."""
        # The reason is always written, since a crash may have left another reason when the end was
        # recorded only in part.
        attributes = {"status": status, "arm": self.parameters(number).arm, "reason": "", **outcome}
        for name, attribute in attributes.items():
            if name not in ("value", "epochs"):  # these are Optuna's own
                self._storage.set_trial_user_attr(number, name, attribute)
        self.optuna_study.tell(
            number, value if status == "complete" else None, state=_STATES[status]
        )
        self._flush()

    def _flush(self) -> None:
        with explain_disk_errors(self._path):
            sync(self._path)

    def rows(self) -> list[TrialRow]:
        """Return the row of each ended trial, by number."""
        return [self.row(trial.number) for trial in self.trials if trial.state.is_finished()]

    def row(self, number: int) -> TrialRow:
        """Return the row of a trial, `unfinished` if the trial has not ended.

        Raises the errors of `parameters`.
        """
        trial = self._storage.get_trial(number)
        has_ended = trial.state.is_finished()
        values = [value for _, value in sorted(trial.intermediate_values.items())]
        last_value = values[-1] if values else None
        content = {
            **(trial.user_attrs if has_ended else {}),  # an end may have been recorded in part
            "number": number,
            "status": _STATUSES.get(trial.state, "unfinished"),
            "parameters": self.parameters(number),
            "value": trial.value if has_ended else last_value,
            "epochs": len(values),
            "values": tuple(values),
            "ended_at": trial.datetime_complete,
        }
        return TrialRow.model_validate(content)

    def _suggest(self, trial: optuna.trial.BaseTrial) -> Parameters:
        """Suggest on the stored space, whose paths are relative, and make the paths absolute."""
        return parameters_from(self._space.suggest_point(trial), self._path.parent)


class _ChainedLines(BaseJournalBackend):
    """A chained log in the format of Optuna's `JournalFileBackend`.

    Optuna's backend locks and flushes the file for each line. Here, the study's lock suffices, and
    several lines are flushed at once. The notes of optuna-dashboard, which are attributes of the
    study without a checksum, may stand between the lines of the chain.
    """

    def __init__(self, path: Path) -> None:
        self._path = path
        # For each line, by the number of lines before it: its offset, and the checksum before it.
        self._offsets = {0: (0, 0)}
        self._last = 0

    def append_logs(self, logs: list[dict[str, Any]]) -> None:
        lines = chain_rows(logs, self._last)
        append_jsonl(self._path, *lines, is_durable=False)
        self._last = lines[-1]["crc"]

    def read_logs(self, log_number_from: int) -> Iterator[dict[str, Any]]:
        offset, checksum = self._offsets[log_number_from]
        with self._path.open("rb") as stream:
            stream.seek(offset)
            for number, line in enumerate(stream, log_number_from + 1):
                if not line.endswith(b"\n"):  # torn, or just being written
                    break
                try:
                    if _is_note(line):
                        log = json.loads(line)
                    else:
                        log, checksum = read_chained(line, checksum)
                except (ValueError, TypeError) as error:
                    raise StudyError(
                        f"the journal is damaged: {BROKEN_CHAIN}",
                        FileLine(self._path, number),
                        _LOST,
                    ) from error
                offset += len(line)
                self._offsets[number] = (offset, checksum)
                yield log
        self._last = checksum

    def offset_of_last_trial(self) -> int:
        """Return the offset of the line that created the last trial."""
        entries = enumerate(self.read_logs(0))
        lines = [line for line, entry in entries if entry["op_code"] == _CREATE_OPERATION]
        return self._offsets[lines[-1]][0]


def _is_note(line: bytes) -> bool:
    """Return whether a line has no checksum and sets a study attribute other than the space."""
    log = json.loads(line)
    is_attribute = not {"user_attr", "system_attr"}.isdisjoint(log) and "trial_id" not in log
    return "crc" not in log and is_attribute and _SPACE not in log.get("user_attr", ())


def _ended_trials(rows: Path) -> set[int]:
    """Return the numbers of the trials in `trials.jsonl`, which is written after the journal."""
    with suppress(ArtifactError):  # a damaged one is written again from the journal
        return {row["number"] for row in read_jsonl(rows)}
    return set()


def create_journal(path: Path, space: Space, study: Path) -> None:
    """Create a journal without trials for a space; `study` is the folder that it will be in.

    The names of the study and of the objective are recorded for Optuna's tools.
    """
    settings = space.settings
    path.touch()
    storage = JournalStorage(_ChainedLines(path))
    optuna_study = optuna.create_study(
        storage=storage, study_name=settings.name, direction="maximize"
    )
    optuna_study.set_user_attr(_SPACE, space.relative_to(study).identity())
    with warnings.catch_warnings(action="ignore", category=ExperimentalWarning):
        optuna_study.set_metric_names([settings.objective.metric])


def _require_same_space(recorded_identity: Json, space: Space, study: Path) -> None:
    """Refuse (StudyError) another space than the search began with, and name the lines that differ.

    The space decides what the trials are, and how `confirm` compares and judges them.
    """
    if recorded_identity is None:
        raise StudyError(
            "the journal does not say what was searched: another version of xraytune wrote it",
            study,
            "search the space again under another name",
        )
    recorded_lines = _describe(recorded_identity)
    current_lines = _describe(space.identity())
    for name in current_lines.keys() - recorded_lines.keys():
        if not name.startswith("parameters."):
            del current_lines[name]  # a setting of a later version, with its default
    changes = []
    for name in sorted(recorded_lines.keys() | current_lines.keys()):
        if recorded_lines.get(name) != current_lines.get(name):
            sides = {"-": recorded_lines, "+": current_lines}
            shown_name = name.removeprefix("parameters.")
            changes += [
                f"{mark} {shown_name}: {lines[name]}"
                for mark, lines in sides.items()
                if name in lines
            ]
    if changes:
        what = "\n    ".join(["the study began with another space (- then, + now):", *changes])
        raise StudyError(
            what,
            study,
            f"restore these lines ({STUDY_NAME} there), or start a new study: --set name=...",
        )


def _describe(identity: Json, name: str = "") -> dict[str, str]:
    """Return each setting and parameter as a line of JSON, by its dotted name."""
    if not isinstance(identity, dict) or not identity or name.startswith("parameters."):
        return {name: json.dumps(identity, ensure_ascii=False)}
    lines: dict[str, str] = {}
    for key, inner in identity.items():
        lines |= _describe(inner, f"{name}.{key}" if name else key)
    return lines


def random_parameters(space: Space, seed: int) -> Iterator[Parameters]:
    """Yield independent random settings forever; the same seed yields the same settings."""
    study = optuna.create_study(sampler=RandomSampler(seed=seed))
    while True:
        yield space.suggest(study.ask())
