"""Write the best configuration of a study to a YAML file for `train`.

Once `confirm` has found a mix that helps, that mix is exported. Until then, it is the simplest mix whose score on
val-B, which did not guide the search, is within one standard error of the best. `train` then uses the settings of
`final` and all training patients, including those that the search left out for speed (`data.train_patients`), unless
the trial is exported exactly.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from shlex import quote
from typing import get_args

from xraytune.base.errors import ArtifactError, Problem, StudyError, TrialError, join_names
from xraytune.base.files import require_new, write_text
from xraytune.confirm.arms import CONFIRM_FOLDER, TOP_UP_FOLDER, finished_label
from xraytune.confirm.record import VERDICT_FILE, VERDICT_FIX, read_verdict
from xraytune.data.prepare import Prepared
from xraytune.space.fields import flat_values
from xraytune.space.load import experiment_to_yaml
from xraytune.space.settings import Experiment, ExportedFrom, FinalSettings, Settings
from xraytune.study.arms import differences_on_val_b, has_standard_error
from xraytune.study.folder import StudyFolder, damage_explained
from xraytune.study.journal import Journal
from xraytune.study.row import TrialRow, completed_runs, ranked_on_val_b, reasons_of

_CONFIRMED = "confirmed: the mix beats all controls"
_VERDICTS = {
    "helps": _CONFIRMED,
    "hurts": "refuted: the mix lowers {metric}",
    "no_better": "not confirmed: the mix does not improve {metric} over a control without them",
    "undecided": "not confirmed: the result is inconclusive",
    "not_tested": "not confirmed: the mix was not tested, because a better-ranked mix does not help",
}
_REFUSED = ("hurts", "no_better")
_EXPLORATORY = "not confirmed: the verdict of xraytune confirm is exploratory"
_UNTESTED = "not confirmed: xraytune confirm has not compared the mix with its controls"


@dataclass(frozen=True, slots=True, kw_only=True)
class Exported:
    """An exported trial, and the command that trains its final model.

    Attributes:
        trial: Number of the trial.
        is_exact: Whether `train` will reproduce the trial exactly.
        synthetic: Whether the benefit of its synthetic images is confirmed; empty if it has no such images.
        reason: Why this trial was chosen.
    """

    path: Path
    study: str
    trial: int
    arm: str
    metric: str
    is_exact: bool
    val_score: float
    val_b_score: float
    synthetic: str
    reason: str
    command: str

    @property
    def sentence(self) -> str:
        """Which trial it is, with its scores, and why it was chosen."""
        scores = f"{self.metric} {self.val_score:.4f} on val-A, {self.val_b_score:.4f} on val-B"
        return f"trial {self.trial} of {self.study}, arm {self.arm}, {scores}: {self.reason}"

    @property
    def final_training(self) -> str:
        """What `train` will use, in words."""
        if self.is_exact:
            return "`train` reproduces the trial bit for bit, on the same images"
        return "`train` uses all patients except those of val-A and val-B"


def export(study: Path, *, out: Path, trial: int | None = None, exact: bool = False) -> Exported:
    """Write the mix that `confirm` found to help, or else the simplest within one standard error of the best on val-B.

    Whatever `data.train_patients` was in the search, `train` will use all training patients, unless `exact` is set.

    Args:
        study: Folder of the study; a search may be running on it.
        out: File to write.
        trial: Number of a completed trial to export instead.
        exact: Write the trial's own settings, so that `train` reproduces it bit for bit, not those of a final training.

    Raises:
        ConfigError: `out` exists, or its folder is a file.
        StudyError: There is no study, or no completed trial with this number.
        TrialError: No trial has completed.
    """
    require_new(out)
    folder = StudyFolder(study.resolve())
    search = _read_search(folder)
    row, reason = _choose(search, trial)
    assert row.value is not None, "it is complete"
    assert row.val_b_score is not None, "as above"
    benefit = _benefit(search, row)
    prepared = folder.prepared()
    experiment = _experiment(search, row, benefit, prepared, exact=exact)
    origin = experiment.settings.exported_from
    exported = Exported(
        path=out,
        study=folder.path.name,
        trial=row.number,
        arm=row.arm,
        metric=search.settings.metric,
        is_exact=origin is None or origin.is_exact,
        val_score=row.value,
        val_b_score=row.val_b_score,
        synthetic=benefit,
        reason=reason,
        command=_command(str(out)),
    )
    write_text(out, experiment_to_yaml(experiment, out.resolve().parent, _header(exported)))
    return exported


def trial_to_export(folder: StudyFolder) -> tuple[int, str] | None:
    """Return the number of the trial that `export` writes, and why it is chosen.

    None if `export` would fail: no trial has completed, or results are missing or damaged.
    """
    try:
        row, reason = _choose(_read_search(folder), None)
    except (TrialError, StudyError, ArtifactError):
        return None
    return row.number, reason


@dataclass(frozen=True, slots=True, kw_only=True)
class _Search:
    """The ended trials of a study, the completed ones also by rank, and the verdicts of `confirm` on the finalists."""

    folder: StudyFolder
    settings: Settings
    rows: Mapping[int, TrialRow]
    complete: Sequence[TrialRow]
    verdicts: Mapping[int, str]
    is_exploratory: bool


def _read_search(folder: StudyFolder) -> _Search:
    space = folder.space()
    rows = {row.number: row for row in Journal(folder.journal_path, space, writable=False).rows()}
    complete = ranked_on_val_b(rows.values())
    verdicts, is_exploratory = _verdicts(folder, rows)
    return _Search(
        folder=folder,
        settings=space.settings,
        rows=rows,
        complete=complete,
        verdicts=verdicts,
        is_exploratory=is_exploratory,
    )


def _verdicts(folder: StudyFolder, trials: Mapping[int, TrialRow]) -> tuple[dict[int, str], bool]:
    """Return the verdict on each finalist, by trial number, none before `confirm` has run, and whether it is exploratory."""
    with damage_explained(folder.path / CONFIRM_FOLDER / VERDICT_FILE, VERDICT_FIX) as file:
        record = read_verdict(file.parent)
        finalists = record.finalists if record else ()
        verdicts = {int(finalist.trial.removeprefix("#")): str(finalist.verdict) for finalist in finalists}
        if not verdicts.keys() <= trials.keys():
            raise ValueError("it is that of another study")
    return verdicts, bool(record and record.exploratory)


def _choose(search: _Search, trial: int | None) -> tuple[TrialRow, str]:
    """Return the trial of this number; otherwise the mix that `confirm` found to help, or the simplest good one; and why."""
    if trial is not None:
        return _completed(search, trial), "selected by its number"
    if not search.complete:
        reasons = reasons_of(row for row in search.rows.values() if row.status == "failed")
        fix = "continue the search; `xraytune status` shows its progress"
        raise TrialError(Problem(f"no trial has completed yet{reasons}", search.folder.path, fix))
    if helping := [number for number, word in search.verdicts.items() if word == "helps"]:
        of_verdict = " in an exploratory verdict" if search.is_exploratory else ""
        return _finished(search, search.rows[helping[0]]), f"the mix that `confirm` found to help{of_verdict}"
    return _simplest_good(search)


def _simplest_good(search: _Search) -> tuple[TrialRow, str]:
    """Return the best trial of the simplest mix within one standard error of the best on val-B, and why.

    The standard error is that of the paired difference over the patients of val-B. Sources that `confirm` found not to
    help, or to hurt, are excluded. Without several patients of each class on val-B, there is no standard error.

    Source: the one-standard-error rule, Breiman et al. 1984, "Classification and Regression Trees", section 3.4.3.
    """
    refused = {search.rows[number].parameters.source for number, word in search.verdicts.items() if word in _REFUSED}
    mixes: dict[tuple[int, float], TrialRow] = {}
    for row in search.complete:
        if row.parameters.source not in refused:
            mixes.setdefault(row.parameters.mix_simplicity, row)
    best = next(iter(mixes.values()), search.complete[0])
    simpler = [row for row in mixes.values() if row.parameters.mix_simplicity < best.parameters.mix_simplicity]
    if simpler and has_standard_error(search.folder):
        differences, errors = differences_on_val_b(search.folder, [row.number for row in (best, *simpler)])
        pairs = zip(simpler, differences[1:], errors[1:], strict=True)
        if good := [row for row, difference, error in pairs if -difference <= error]:
            simplest = min(good, key=lambda row: row.parameters.mix_simplicity)
            return simplest, f"the simplest mix within one standard error of the best on val-B, trial {best.number}"
    return best, "the best on val-B"


def _completed(search: _Search, trial: int) -> TrialRow:
    row = search.rows.get(trial)
    if row and row.status == "complete":
        return row
    what = f"{row.status}: {row.reason}" if row else "it has not ended, or does not exist"
    complete = [str(number) for number in sorted(row.number for row in search.complete)]
    fix = f"choose a completed one: {join_names(complete) or 'there is none yet'}"
    raise StudyError(Problem(f"trial {trial}: {what}", search.folder.path, fix))


def _finished(search: _Search, row: TrialRow) -> TrialRow:
    """Return the row of a finalist. If ASHA stopped it, `confirm` trained it to the end."""
    if row.status == "complete":
        return row
    top_up = StudyFolder(search.folder.path / CONFIRM_FOLDER / TOP_UP_FOLDER)
    for run in completed_runs(top_up).values():
        if run.label == finished_label(f"#{row.number}"):
            return row.model_copy(update={"value": run.value, "val_b_score": run.val_b_score})
    what = f"trial {row.number} has a verdict, but neither the search nor a confirmation completed it"
    raise StudyError(Problem(what, top_up.path, "run the same `xraytune confirm` again"))


def _benefit(search: _Search, row: TrialRow) -> str:
    """Return whether the benefit of its synthetic images is confirmed; "" if it has no such images."""
    if not row.parameters.has_synthetic_images:
        return ""
    verdict = search.verdicts.get(row.number)
    if verdict is None:
        return _UNTESTED
    return _EXPLORATORY if search.is_exploratory else _VERDICTS[verdict].format(metric=search.settings.metric)


def _experiment(search: _Search, row: TrialRow, benefit: str, prepared: Prepared, *, exact: bool) -> Experiment:
    """Return what the exported file trains: the trial itself, or a final model on all patients."""
    origin = ExportedFrom(study=search.folder.path, trial=row.number, synthetic=benefit)
    trial = Experiment(settings=search.settings.model_copy(update={"exported_from": origin}), parameters=row.parameters)
    if exact:
        return trial
    final = _final(trial)
    origin = origin.model_copy(
        update={
            "images": sum(prepared.train_counts),
            "patients": prepared.train_patients,
            "changes": tuple(_changes(trial, final)),
        }
    )
    return final.model_copy(update={"settings": final.settings.model_copy(update={"exported_from": origin})})


def _final(trial: Experiment) -> Experiment:
    """Return the final training of a trial's mix."""
    changes = trial.settings.final or FinalSettings()
    settings, parameters = changes.settings_of(trial.settings), trial.parameters.model_copy(update=changes.parameters)
    generator = parameters.gan
    if generator and changes.image_size in get_args(type(generator).model_fields["image_size"].annotation):
        parameters = parameters.with_gan(image_size=changes.image_size)
    return Experiment(settings=settings, parameters=parameters)


def _changes(trial: Experiment, final: Experiment) -> Iterator[str]:
    """Yield the settings and parameters that `final` changed, one line each."""
    for name in ("data.image_size", "budget.max_epochs"):
        if (now := final.settings.at(name)) != (before := trial.settings.at(name)):
            yield f"{name}: {now} (trial: {before})"
    values, before_values = flat_values(final.parameters), flat_values(trial.parameters)
    for name, now in values.items():
        if now != (before := before_values[name]):
            yield f"{name}: {now} (trial: {before})"


def _command(config: str) -> str:
    return f"xraytune train --config {quote(config)} -o model"


def _header(exported: Exported) -> str:
    synthetic = f"The benefit of its synthetic images is {exported.synthetic}.\n" if exported.synthetic else ""
    about = f"From {exported.sentence}.\n{synthetic}{exported.final_training}."
    return f"{about}\n\n    {_command(exported.path.name)}\n\nPaths are relative to this file."
