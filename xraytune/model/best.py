"""Write the best configuration of a study to a YAML file for `train`.

The search optimizes val-A, so the best trial is chosen on val-B, which no trial has seen. Once `confirm` has found a mix
that helps, that mix is exported. `train` then uses all patients, also those that the search left out for speed
(`data.train_patients`), unless the trial is exported exactly. The file names its trial.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from shlex import quote
from typing import Any, TypeAlias

from xraytune.base.errors import ConfigError, Problem, StudyError, TrialError, join_names
from xraytune.base.files import read_jsonl, require_writable, write_text
from xraytune.confirm.plan import (
    CONFIRM_FOLDER,
    TOP_UP_FOLDER,
    VERDICT_FILE,
    VERDICT_FIX,
    Arm,
    finished_label,
    read_plan,
    read_verdict,
)
from xraytune.confirm.run_list import completed_rows
from xraytune.data.sides import SideSize, side_sizes
from xraytune.space.fields import parameters_from
from xraytune.space.load import experiment_to_yaml
from xraytune.space.settings import Experiment, ExportedFrom, FinalSettings, Objective
from xraytune.study.folder import StudyFolder, damage_explained
from xraytune.study.journal import Journal

_CONFIRMED = "confirmed: the mix beats all controls"
_VERDICTS = {
    "helps": _CONFIRMED,
    "hurts": "refuted: the mix lowers {metric}",
    "no_better": "not confirmed: the mix does not improve {metric} over a control without them",
    "undecided": "not confirmed: the result is inconclusive",
    "not_tested": "not confirmed: the mix was not tested, because a better-ranked mix does not help",
}
_UNTESTED = "not confirmed: xraytune confirm has not compared the mix with its controls"

Row: TypeAlias = dict[str, Any]


@dataclass(frozen=True, slots=True, kw_only=True)
class Exported:
    """An exported trial, with the sizes of its training set and of all sides, and the command that trains its final model.

    Attributes:
        trial: Number of the trial; like its scores, None for one that `confirm` added to tune a control.
        train_patients: `data.train_patients` of the study; None if the trial trained on the whole train side.
        is_exact: Whether `train` will repeat the trial exactly.
        synthetic: Whether the benefit of its synthetic images is confirmed; empty if it has none.
        advice: Command that exports a simpler arm; empty if there is no reason to.
        generator_steps: In a search for a generator, its steps at the best epoch; else None.
    """

    path: Path
    study: str
    trial: int | None
    arm: str
    metric: str
    trial_images: int
    trial_patients: int
    train_patients: int | None
    is_exact: bool
    val_score: float | None
    val_b_score: float | None
    synthetic: str
    advice: str
    command: str
    sides: tuple[SideSize, ...] = ()
    generator_steps: int | None = None

    @property
    def final_training(self) -> str:
        """What `train` will use, in words."""
        if self.is_exact:
            return "`train` reproduces the trial bit for bit, on the same images"
        return "`train` uses all patients except those of val-A and val-B"


def export(
    study: Path,
    *,
    out: Path,
    trial: int | None = None,
    arm: str | None = None,
    exact: bool = False,
) -> Exported:
    """Write the confirmed mix, else the completed trial with the best val-B score.

    Of equals it is the simplest. `train` will use all patients with it, whatever `data.train_patients` was in the search.

    Args:
        study: Folder of the study; a search may be running on it.
        out: File to write; it may exist with the same content.
        trial: Number of a completed trial to export instead.
        arm: Export the best of this arm instead, e.g. `real_only`; after a `confirm`, its tuned control.
        exact: Write the trial's own settings, which `train` repeats to the bit, instead of those of a final training.

    Raises:
        ConfigError: `out` has other content, its folder is a file, or two options contradict each other.
        StudyError: There is no study, no completed trial `trial`, or none of this arm.
        TrialError: No trial has completed.
    """
    if trial is not None and arm is not None:
        raise ConfigError(Problem("both a trial and an arm are given", f"--trial {trial} --arm {arm}", "leave one out"))
    require_writable(out.parent)
    folder = StudyFolder(study.resolve())
    space = folder.space()
    objective = space.settings.objective
    journal = Journal(folder.journal_path, space, writable=False)
    rows = {row["number"]: row for row in journal.rows()}
    complete = [row for row in rows.values() if row["status"] == "complete"]
    for row in complete:
        if row[objective.selection_score] is None:
            what = f"the journal is damaged: trial {row['number']} has no val-B score"
            raise StudyError(Problem(what, folder.journal_path, "restore it from a backup"))
    verdicts = _verdicts(folder, rows)
    helping = next((number for number, word in verdicts.items() if word == "helps"), None)
    tuned = _tuned_control(folder, arm) if arm else None
    added = tuned if tuned and not tuned.trial.startswith("#") else None
    if added:
        row, reason = {"number": None, "arm": arm, "value": None, "val_b_score": None}, ""
    elif trial is not None:
        row, reason = _completed(rows, trial, len(journal.trials), study), "selected by its number"
    elif not complete:
        reasons = sorted({row["reason"] for row in rows.values() if row["status"] == "failed"})
        what = "no trial has completed yet" + "".join(f"\n    {reason}" for reason in reasons[:5])
        raise TrialError(Problem(what, study, "continue the search; `xraytune status` shows its progress"))
    elif arm is not None:
        row, reason = _best_of_arm(rows, arm, tuned, folder, objective), "the best of its arm on val-B"
    elif helping is not None:
        row, reason = _finished(rows[helping], folder), "the mix that `confirm` found to help"
    else:
        row, reason = _best_row(complete, objective), "the best on val-B"
    number = row["number"]
    parameters = added.parameters if added else journal.parameters(number)
    metric = space.settings.metric
    verdict = _VERDICTS.get(verdicts.get(number, ""), _UNTESTED).format(metric=metric)
    synthetic = verdict if parameters.has_synthetic_images and not objective.is_of_generator else ""
    simpler = "" if synthetic in {"", _CONFIRMED} else _simpler_arm(complete, journal)
    origin = None if number is None else ExportedFrom(study=folder.path, trial=number, synthetic=synthetic)
    settings = space.settings.model_copy(update={"exported_from": origin})
    prepared = folder.prepared()
    images = {"trial_images": sum(prepared.train_counts), "trial_patients": prepared.train_patients}
    if objective.is_of_generator:
        parameters = best_stage(folder, Experiment(settings=settings, parameters=parameters), number).parameters
    elif not exact:
        data = settings.data.model_copy(update={"train_patients": None})
        settings = settings.model_copy(update={"data": data, "final": FinalSettings(**images)})
    exported = Exported(
        path=out,
        study=folder.path.name,
        trial=number,
        arm=row["arm"],
        metric=metric,
        **images,
        train_patients=space.settings.data.train_patients,
        is_exact=settings.final is None,
        val_score=row["value"],
        val_b_score=row["val_b_score"],
        synthetic=synthetic,
        advice=f"xraytune export {quote(str(study))} --arm {simpler} -o {simpler}.yaml" if simpler else "",
        command=_command(str(out), objective),
        generator_steps=parameters.gan.steps if objective.is_of_generator and parameters.gan else None,
        sides=side_sizes(prepared),
    )
    experiment = Experiment(settings=settings, parameters=parameters)
    text = experiment_to_yaml(experiment, out.resolve().parent, _header(exported, reason, objective))
    if out.is_file() and out.read_bytes() == text.encode():
        return exported
    if out.exists():
        raise ConfigError(
            Problem("the file already exists with different content", out, "give another path, or remove it")
        )
    write_text(out, text)
    return exported


def _command(config: str, objective: Objective) -> str:
    """Return the command that trains an exported file."""
    if objective.is_of_generator:
        return f"xraytune generator train --space {quote(config)} -o gan"
    return f"xraytune train --config {quote(config)} -o model"


def best_stage(folder: StudyFolder, experiment: Experiment, trial: int) -> Experiment:
    """In a search for a generator, return the trial with the generator of its best epoch; else return it unchanged."""
    objective, stages = experiment.settings.objective, experiment.generator_stages
    if not objective.is_of_generator:
        return experiment
    with damage_explained(folder.trial_path(trial) / "epochs.jsonl") as file:
        best = min(read_jsonl(file), key=lambda row: (objective.rank(row["val_score"]), row["epoch"]), default=None)
        return stages[-1] if best is None else stages[best["epoch"] - 1]


def _verdicts(folder: StudyFolder, trials: dict[int, Row]) -> dict[int, str]:
    """Return the verdict of `confirm` for each finalist, by trial number; empty before a confirm."""
    with damage_explained(folder.path / CONFIRM_FOLDER / VERDICT_FILE, VERDICT_FIX) as file:
        finalists = (read_verdict(file.parent) or {"finalists": ()})["finalists"]
        verdicts = {int(one["trial"].removeprefix("#")): str(one["verdict"]) for one in finalists}
        if not verdicts.keys() <= trials.keys() or not set(verdicts.values()) <= _VERDICTS.keys():
            raise ValueError("it is that of another study")
    return verdicts


def _tuned_control(folder: StudyFolder, arm: str) -> Arm | None:
    plan = read_plan(folder.path / CONFIRM_FOLDER)
    arms = plan.arms if plan else ()
    return next((one for one in arms if one.role == "tuned" and one.parameters.arm == arm), None)


def _best_row(rows: Iterable[Row], objective: Objective) -> Row:
    """Return the best on val-B, of equals the simplest."""

    def rank(row: Row) -> tuple[Any, ...]:
        score = objective.rank(row[objective.selection_score])
        return score, parameters_from(row["parameters"]).simplicity, row["number"]

    return min(rows, key=rank)


def _best_of_arm(rows: dict[int, Row], arm: str, tuned: Arm | None, folder: StudyFolder, objective: Objective) -> Row:
    of_arm = [row for row in rows.values() if row["arm"] == arm]
    if complete := [row for row in of_arm if row["status"] == "complete"]:
        return _best_row(complete, objective)
    for row in of_arm:
        if tuned and tuned.trial == f"#{row['number']}":  # ASHA stopped all trials of the arm
            return _finished(row, folder)
    arms = sorted({row["arm"] for row in rows.values() if row["status"] == "complete"})
    raise StudyError(Problem(f"no trial of arm {arm} has completed", folder.path, f"choose one of: {', '.join(arms)}"))


def _finished(row: Row, folder: StudyFolder) -> Row:
    """Return the row of a finalist or control. If ASHA stopped it, `confirm` trained it to the end."""
    if row["status"] == "complete":
        return row
    top_up = StudyFolder(folder.path / CONFIRM_FOLDER / TOP_UP_FOLDER)
    label = finished_label(f"#{row['number']}")
    if run := next((run for run in completed_rows(top_up).values() if run["label"] == label), None):
        return row | {"value": run["value"], "val_b_score": run["val_b_score"]}
    what = f"trial {row['number']} has a verdict, but neither the search nor a confirmation completed it"
    raise StudyError(Problem(what, top_up.path, "run the same `xraytune confirm` again"))


def _completed(rows: dict[int, Row], trial: int, trial_count: int, study: Path) -> Row:
    if row := rows.get(trial):
        if row["status"] == "complete":
            return row
        what = f"{row['status']}: {row['reason']}"
    else:
        what = "has not ended" if trial < trial_count else f"does not exist; the study has {trial_count}, from 0"
    complete = [str(row["number"]) for row in rows.values() if row["status"] == "complete"]
    fix = f"choose a completed one: {join_names(complete) or 'there is none yet'}"
    raise StudyError(Problem(f"trial {trial}: {what}", study, fix))


def _simpler_arm(complete: Sequence[Row], journal: Journal) -> str:
    """Return `real_only`, or else the best arm without synthetic images; empty if none has a completed trial."""
    simple = [row for row in complete if not journal.parameters(row["number"]).has_synthetic_images]
    best = max(simple, key=lambda row: (row["arm"] == "real_only", row["val_b_score"]), default=None)
    return str(best["arm"]) if best else ""


def _header(exported: Exported, reason: str, objective: Objective) -> str:
    command, end = _command(exported.path.name, objective), "Paths are relative to this file."
    if exported.generator_steps is not None:
        return (
            f"The generator of trial {exported.trial} of study {exported.study} after {exported.generator_steps:,} steps, "
            f"{exported.metric} {exported.val_score:.4f} minus its floor.\n\n"
            f"    {command}\n\nTo use it in a search, copy gan.* into the parameters of its space. {end}"
        )
    if exported.trial is None:
        origin = f"A control that `confirm` added to study {exported.study}, arm {exported.arm}.\n"
    else:
        origin = (
            f"Trial {exported.trial} of study {exported.study}, arm {exported.arm}: {reason}.\n"
            f"{exported.metric} {exported.val_score:.4f} on val-A, which guided the search, "
            f"{exported.val_b_score:.4f} on val-B.\n"
        )
    synthetic = f"The benefit of its synthetic images is {exported.synthetic}.\n" if exported.synthetic else ""
    return f"{origin}{synthetic}{exported.final_training}.\n\n    {command}\n\n{end}"
