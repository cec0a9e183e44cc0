"""Choose the mix of the final model, and write its configuration to a YAML file for `train`.

It is the mix that `confirm` found to help; otherwise, the simplest one whose mean score is within
`confirm.rope` of the best. `confirm` gives the scores if it has run: those of its arms, on patients
not used in the search. If not, they are those on val-B, which did not guide the search. `train`
then uses the settings of `final` and all training patients, unless the trial is exported exactly.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from shlex import quote
from typing import get_args

from xraytune.base.errors import ArtifactError, Problem, StudyError, TrialError, join_names
from xraytune.base.files import require_new, write_text
from xraytune.confirm.arms import CONFIRM_FOLDER, TOP_UP_FOLDER, finished_label, read_plan
from xraytune.confirm.record import Confirmation, read_verdict
from xraytune.space.load import experiment_to_yaml
from xraytune.space.settings import Experiment, ExportedFrom, FinalSettings, Parameters, Settings
from xraytune.study.folder import StudyFolder
from xraytune.study.journal import Journal
from xraytune.study.row import TrialRow, completed_runs, ranked_on_val_b, reasons_of

_VERDICTS = {
    "helps": "confirmed: the mix beats all controls",
    "hurts": "refuted: the mix lowers {metric}",
    "no_better": "not confirmed: the mix does not improve {metric} over a control without them",
    "undecided": "not confirmed: the result is inconclusive",
    "not_tested": "not confirmed: xraytune confirm has not compared the mix with its controls",
}


@dataclass(frozen=True, slots=True, kw_only=True)
class Exported:
    """An exported trial, and the command that trains its final model.

    Attributes:
        trial: Number of the trial.
        is_exact: Whether `train` will reproduce the trial exactly.
        synthetic: Whether the benefit of its synthetic images is confirmed; empty if it has no such
            images.
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
    """Write the configuration of the mix that the final model is trained with.

    See the top of this file.

    Whatever `data.train_patients` was in the search, `train` will use all training patients, unless
    `exact` is set.

    Args:
        study: Folder of the study; a search may be running on it.
        out: File to write.
        trial: Number of a completed trial to export instead.
        exact: Write the trial's own settings, so that `train` reproduces it bit for bit, not those
            of a final training.

    Raises:
        ConfigError: `out` exists, or its folder is a file.
        StudyError: There is no study, or no completed trial with this number.
        TrialError: No trial has completed.
    """
    require_new(out)
    search = _read_search(StudyFolder(study.resolve()))
    if trial is None:
        row, reason = _choose(search)
    else:
        row = _find_complete(search, f"#{trial}")
        reason = "selected by its number"
    assert row.value is not None, "it is complete"
    assert row.val_b_score is not None, "as above"
    command = "xraytune train --config {} -o model"
    exported = Exported(
        path=out,
        study=search.folder.path.name,
        trial=row.number,
        arm=row.arm,
        metric=search.settings.metric,
        is_exact=exact,
        val_score=row.value,
        val_b_score=row.val_b_score,
        synthetic=_describe_benefit(search, row),
        reason=reason,
        command=command.format(quote(str(out))),
    )
    lines = [f"From {exported.sentence}."]
    if exported.synthetic:
        lines.append(f"The benefit of its synthetic images is {exported.synthetic}.")
    lines.append(f"{exported.final_training}.\n\n    {command.format(quote(out.name))}\n")
    lines.append("Paths are relative to this file.")
    experiment = _build_experiment(search, row, exact=exact)
    write_text(out, experiment_to_yaml(experiment, out.resolve().parent, "\n".join(lines)))
    return exported


def trial_to_export(folder: StudyFolder) -> tuple[int, str] | None:
    """Return the number of the trial that `export` writes, and why it is chosen.

    None if `export` would fail: no trial has completed, or results are missing or damaged.
    """
    try:
        row, reason = _choose(_read_search(folder))
    except (TrialError, StudyError, ArtifactError):
        return None
    return row.number, reason


@dataclass(frozen=True, slots=True, kw_only=True)
class _Search:
    """The ended trials of a study by name, such as `#12`, and what `confirm` found.

    Attributes:
        complete: The completed trials, the best on val-B first; also those that `confirm` trained
            to the end.
    """

    folder: StudyFolder
    settings: Settings
    trials: Mapping[str, TrialRow]
    complete: Mapping[str, TrialRow]
    confirmation: Confirmation | None


def _read_search(folder: StudyFolder) -> _Search:
    space = folder.space()
    rows = Journal(folder.journal_path, space, writable=False).rows()
    trials = {f"#{row.number}": row for row in rows}
    top_up = StudyFolder(folder.path / CONFIRM_FOLDER / TOP_UP_FOLDER)
    finished = {run.label: run for run in completed_runs(top_up).values()}
    for name, row in trials.items():
        if run := finished.get(finished_label(name)):
            update = {"status": "complete", "value": run.value, "val_b_score": run.val_b_score}
            trials[name] = row.model_copy(update=update)
    return _Search(
        folder=folder,
        settings=space.settings,
        trials=trials,
        complete={f"#{row.number}": row for row in ranked_on_val_b(trials.values())},
        confirmation=read_verdict(folder.path / CONFIRM_FOLDER),
    )


def _choose(search: _Search) -> tuple[TrialRow, str]:
    """Return the trial whose mix is trained in the end, and why."""
    if not search.complete:
        reasons = reasons_of(row for row in search.trials.values() if row.status == "failed")
        fix = "continue the search; `xraytune status` shows its progress"
        raise TrialError(Problem(f"no trial has completed yet{reasons}", search.folder.path, fix))
    confirmation = search.confirmation
    if confirmation and confirmation.verdict == "helps":
        of_verdict = " in an exploratory verdict" if confirmation.exploratory else ""
        finalist = _find_complete(search, confirmation.finalists[0].trial)
        return finalist, f"the mix that `confirm` found to help{of_verdict}"
    if confirmation and (measured := _measure_by_confirm(search, confirmation)):
        whose = "unused" if confirmation.test.kind == "unused" else "test"
        where = f"in `confirm`, on {confirmation.test.patients:,} {whose} patients"
        return _find_simplest(measured, confirmation.rope, f"{confirmation.metric} {where}")
    scores = [(row, row.val_b_score or 0.0) for row in search.complete.values()]
    return _find_simplest(
        scores, search.settings.confirm.rope, f"{search.settings.metric} on val-B"
    )


def _measure_by_confirm(
    search: _Search, confirmation: Confirmation
) -> list[tuple[TrialRow, float]]:
    """Return the completed trials whose mixes `confirm` has measured, with their mean scores.

    A finalist is itself a trial; a control stands for the best trial of its mix on val-B.
    """
    plan = read_plan(search.folder.path / CONFIRM_FOLDER)
    scores = {finalist.arm: finalist.score for finalist in confirmation.finalists}
    for finalist in confirmation.finalists:
        scores |= {
            comparison.control: comparison.control_score for comparison in finalist.comparisons
        }
    best_of_mix: dict[tuple[int, float], TrialRow] = {}
    for row in search.complete.values():
        best_of_mix.setdefault(row.parameters.mix_simplicity, row)
    measured = []
    for arm in plan.arms if plan else ():
        trial = best_of_mix.get(arm.parameters.mix_simplicity)
        if arm.role == "finalist":
            trial = search.complete.get(arm.trial)
        if trial and arm.name in scores:
            measured.append((trial, scores[arm.name]))
    return measured


def _find_simplest(
    scores: Sequence[tuple[TrialRow, float]], margin: float, what: str
) -> tuple[TrialRow, str]:
    """Return the best trial of the simplest mix within a margin of the best score, and why."""
    best, best_score = max(scores, key=lambda scored: scored[1])
    good = [(row, score) for row, score in scores if score >= best_score - margin]
    chosen, score = min(good, key=lambda scored: (scored[0].parameters.mix_simplicity, -scored[1]))
    mix = _name_mix(chosen.parameters)
    best_mix = _name_mix(best.parameters)
    if mix == best_mix:
        reason = (
            f"is the best mix, and none within {margin:g} of it is simpler ({what}: {score:.4f})"
        )
    else:
        against = f"{what}: {score:.4f} against {best_score:.4f}"
        reason = f"is the simplest mix within {margin:g} of the best, {best_mix} ({against})"
    return chosen, f"{mix} {reason}"


def _name_mix(parameters: Parameters) -> str:
    if parameters.source == "none":
        return "real_only"
    return f"{parameters.source} r={parameters.synthetic_ratio:g}"


def _find_complete(search: _Search, name: str) -> TrialRow:
    if name in search.complete:
        return search.complete[name]
    row = search.trials.get(name)
    what = f"{row.status}: {row.reason}" if row else "it has not ended, or does not exist"
    fix = f"choose a completed one: {join_names([*search.complete]) or 'there is none yet'}"
    raise StudyError(Problem(f"trial {name}: {what}", search.folder.path, fix))


def describe_benefit(folder: StudyFolder, number: int) -> str:
    """Return whether the benefit of the synthetic images of a complete trial is confirmed; "" if it has none."""
    search = _read_search(folder)
    return _describe_benefit(search, _find_complete(search, f"#{number}"))


def _describe_benefit(search: _Search, row: TrialRow) -> str:
    if not row.parameters.has_synthetic_images:
        return ""
    finalists = search.confirmation.finalists if search.confirmation else ()
    verdicts = {finalist.trial: finalist.verdict for finalist in finalists}
    verdict = verdicts.get(f"#{row.number}", "not_tested")
    if search.confirmation and search.confirmation.exploratory and verdict != "not_tested":
        return "not confirmed: the verdict of xraytune confirm is exploratory"
    return _VERDICTS[verdict].format(metric=search.settings.metric)


def _build_experiment(search: _Search, row: TrialRow, *, exact: bool) -> Experiment:
    """Return what the exported file trains: the trial itself, or a final model on all patients."""
    origin = ExportedFrom(study=search.folder.path, trial=row.number)
    settings = search.settings.model_copy(update={"exported_from": origin})
    trial = Experiment(settings=settings, parameters=row.parameters)
    if exact:
        return trial
    final = settings.final or FinalSettings()
    parameters = row.parameters.model_copy(update=final.parameters)
    generator = parameters.gan
    if generator and final.image_size in get_args(
        type(generator).model_fields["image_size"].annotation
    ):
        parameters = parameters.with_gan(image_size=final.image_size)
    settings = final.settings_of(settings)

    images = sum(search.folder.prepared().train_counts)
    origin = origin.model_copy(update={"images": images})
    settings = settings.model_copy(update={"exported_from": origin})
    return Experiment(settings=settings, parameters=parameters)
