"""Choose the mix of the final model, and write its configuration to a YAML file for `train`.

This is the mix that `confirm` found to help or, otherwise, the simplest mix whose mean score is
within `confirm.rope` of the best. If `confirm` has run, the scores are those of its arms, on
patients not used in the search. Otherwise, they are scores on val-B, which did not guide the
search. `train` compares the trial's settings with those of `final`, and uses all patients, unless
the trial is exported exactly.
"""

from collections.abc import Mapping, Sequence
from operator import itemgetter
from pathlib import Path
from shlex import join
from typing import TypeAlias

from xraytune.base.errors import ArtifactError, StudyError, TrialError, join_names
from xraytune.base.files import StrPath, require_new, unused_path, write_text
from xraytune.base.records import frozen
from xraytune.confirm.arms import (
    TOP_UP_FOLDER,
    UNUSED_KINDS,
    Plan,
    finished_label,
    read_plan,
)
from xraytune.confirm.record import Confirmation, read_verdict
from xraytune.space.domains import Value
from xraytune.space.fields import flat_values
from xraytune.space.load import experiment_to_yaml
from xraytune.space.parameters import Parameters
from xraytune.space.recorded import code_places
from xraytune.space.settings import Experiment, ExportedFrom
from xraytune.study.folder import StudyFolder
from xraytune.study.journal import Journal
from xraytune.study.row import TrialRow, ended_runs, rank, reasons_of

RowOfTrial: TypeAlias = Mapping[str, TrialRow]
"""Ended trials by name, such as `#12`."""
_VERDICTS = {
    "helps": "confirmed: the mix beats all controls",
    "hurts": "refuted: the mix lowers {metric}",
    "no_better": "not confirmed: the mix does not improve {metric} over a control without them",
    "undecided": "not confirmed: the result is inconclusive",
    "invalid": "not confirmed: synthetic images are copies of images that were scored",
    "not_tested": "not confirmed: xraytune confirm has not compared the mix with its controls",
}
_OF_MIX = (
    "source",
    "synthetic_ratio",
    "pool_size",
    "synthetic_weight",
    "labels",
    "mixing",
    "balance",
    "backbone",
)
"""What a verdict on a mix holds for, besides the settings of its source."""


@frozen
class Exported:
    """An exported trial, and the command that trains its final model.

    Attributes:
        path: The file.
        trial: Number of the trial.
        arm: The arm of the trial, such as `gan`.
        val_score, val_b_score: Scores of the trial on val-A and on val-B.
        synthetic: Text on whether the benefit of the trial's synthetic images is confirmed; empty
            if the trial has no synthetic images.
        reason: The reason why this trial was chosen.
        sentence: A sentence with the trial, its scores, and the reason.
        command: The command that trains the final model.
    """

    path: Path
    trial: int
    arm: str
    val_score: float
    val_b_score: float
    synthetic: str
    reason: str
    sentence: str
    command: str


def export(
    study: StrPath, *, out: StrPath, trial: int | None = None, exact: bool = False
) -> Exported:
    """Write the configuration of the mix that the final model is trained with.

    The module `xraytune.model.export` describes how the mix is chosen. Whatever
    `data.train_patients` was in the search, `train` will use all training patients, unless `exact`
    is set.

    Args:
        study: Folder of the study; a search may be running on it.
        out: File to write.
        trial: Number of a completed trial to export instead.
        exact: Write the trial's own settings and not those of a final training, so that `train`
            reproduces the trial bit for bit.

    Raises:
        ConfigError: `out` exists, or its folder is a file.
        StudyError: There is no study, or no completed trial with this number.
        TrialError: No trial has completed.
    """
    out = Path(out)
    require_new(out)
    study_folder = StudyFolder(Path(study).resolve())
    settings = study_folder.space().settings
    trials = _read_trials(study_folder)
    if trial is None:
        row, reason = _choose(study_folder, trials)
    else:
        row = _find_complete(study_folder, trials, f"#{trial}")
        reason = "selected by its number"
    synthetic = describe_benefit(study_folder, row.number, row.parameters)
    value = row.value or 0.0
    val_b_score = row.val_b_score or 0.0
    scores = f"{settings.metric} {value:.4f} on val-A, {val_b_score:.4f} on val-B"
    sentence = f"trial {row.number} of {study_folder.path.name}, arm {row.arm}, {scores}: {reason}"
    lines = [f"From {sentence}."]
    if synthetic:
        lines.append(f"The benefit of its synthetic images is {synthetic}.")
    if settings.final and not exact:
        lines.append(
            f"`train` compares the trial's settings with those of `final`: {settings.final}."
        )
    lines.append(
        f"\n    {_train_command(Path(out.name), study_folder.path, out.resolve().parent)}\n"
    )
    lines.append("Paths are relative to this file.")
    experiment = _build_experiment(study_folder, row, exact=exact)
    write_text(out, experiment_to_yaml(experiment, out.resolve().parent, "\n".join(lines)))
    return Exported(
        path=out,
        trial=row.number,
        arm=row.arm,
        val_score=value,
        val_b_score=val_b_score,
        synthetic=synthetic,
        reason=reason,
        sentence=sentence,
        command=_train_command(out, study_folder.path, Path.cwd()),
    )


def _train_command(config: Path, study: Path, folder: Path) -> str:
    """Return the command that trains a file's configuration, with a study's code, in a folder."""
    model = unused_path(folder / "model").name
    extensions = [word for place in code_places(study, folder) for word in ("--extension", place)]
    return join(["xraytune", "train", "--config", str(config), "-o", model, *extensions])


def describe_benefit(study_folder: StudyFolder, number: int, parameters: Parameters) -> str:
    """Return a text on whether the benefit of a trial's synthetic images is confirmed.

    `parameters` are those of the training, which may differ from the trial's. The text is "" if
    they have no synthetic images.
    """
    if not parameters.has_synthetic_images:
        return ""
    confirmation = read_verdict(study_folder.confirm_path)
    finalists = confirmation.finalists if confirmation else ()
    verdicts = {finalist.trial: finalist.verdict for finalist in finalists}
    verdict = verdicts.get(f"#{number}", "not_tested")
    if confirmation is None or verdict == "not_tested":
        return _VERDICTS["not_tested"]
    if confirmation.exploratory:
        return "not confirmed: the verdict of xraytune confirm is exploratory"
    if _mix_of(parameters) != _mix_of(study_folder.experiment(number).parameters):
        return "not confirmed: the mix or the backbone was changed after the search"
    return _VERDICTS[verdict].format(metric=confirmation.metric)


def _mix_of(parameters: Parameters) -> dict[str, Value]:
    """Return the values, by dotted name, that a verdict on a mix holds for."""
    blocks = {*_OF_MIX, parameters.source}
    return {
        name: value
        for name, value in flat_values(parameters).items()
        if name.partition(".")[0] in blocks and name != "gan.image_size"  # `final` may change it
    }


def trial_to_export(study_folder: StudyFolder) -> tuple[int, str] | None:
    """Return the number of the trial that `export` writes, and why it is chosen.

    Returns None if `export` would fail, because no trial has completed, or results are missing or
    damaged.
    """
    try:
        row, reason = _choose(study_folder, _read_trials(study_folder))
    except (TrialError, StudyError, ArtifactError):
        return None
    return row.number, reason


def _read_trials(study_folder: StudyFolder) -> RowOfTrial:
    """Return the ended trials; trials that `confirm` trained to the end count as complete."""
    rows = Journal(study_folder.journal_path, study_folder.space(), is_writable=False).rows()
    trials = {f"#{row.number}": row for row in rows}
    top_up = StudyFolder(study_folder.confirm_path / TOP_UP_FOLDER)
    runs = ended_runs(top_up).values()
    finished = {run.label: run for run in runs if run.status == "complete"}
    for name, row in trials.items():
        run = finished.get(finished_label(name))
        if run:
            update = run.model_dump(include={"status", "value", "val_b_score"})
            trials[name] = row.with_values(update)
    return trials


def _choose(study_folder: StudyFolder, trials: RowOfTrial) -> tuple[TrialRow, str]:
    """Return the trial whose mix is trained in the end, and why."""
    settings = study_folder.space().settings
    complete = rank(trials.values())
    if not complete:
        reasons = reasons_of(row for row in trials.values() if row.status == "failed")
        raise TrialError(
            f"no trial has completed yet{reasons}",
            study_folder.path,
            "continue the search; `xraytune status` shows its progress",
        )
    confirmation = read_verdict(study_folder.confirm_path)
    if confirmation and confirmation.verdict == "helps":
        verdict_kind = " in an exploratory verdict" if confirmation.exploratory else ""
        finalist = _find_complete(study_folder, trials, confirmation.finalists[0].trial)
        return finalist, f"the mix that `confirm` found to help{verdict_kind}"

    scores = [(row, row.val_b_score or 0.0) for row in complete]
    margin = settings.confirm.rope
    what = f"{settings.metric} on val-B"
    plan = read_plan(study_folder.confirm_path)
    measured = _measure_by_confirm(plan, confirmation, complete) if plan and confirmation else []
    if confirmation and measured:
        whose = "unused" if confirmation.test.kind in UNUSED_KINDS else "test"
        where = f"in `confirm`, on {confirmation.test.patients:,} {whose} patients"
        scores = measured
        margin = confirmation.rope
        what = f"{confirmation.metric} {where}"

    # The best trial of the simplest mix within the margin.
    best, best_score = max(scores, key=itemgetter(1))
    good = [(row, score) for row, score in scores if score >= best_score - margin]
    simplest_row, score = min(
        good, key=lambda scored: (scored[0].parameters.mix_simplicity, -scored[1])
    )
    mix = _name_mix(simplest_row.parameters)
    best_mix = _name_mix(best.parameters)
    if mix == best_mix:
        return simplest_row, f"{mix} is the best mix ({what}: {score:.4f})"
    simplest = f"{mix} is the simplest mix within {margin:g} of the best, {best_mix}"
    return simplest_row, f"{simplest} ({what}: {score:.4f} against {best_score:.4f})"


def _measure_by_confirm(
    plan: Plan, confirmation: Confirmation, complete: Sequence[TrialRow]
) -> list[tuple[TrialRow, float]]:
    """Return the completed trials whose mixes `confirm` has measured, with their mean scores.

    A finalist is itself a trial, and is left out if it copies scored images. A control stands for
    the best trial of its mix on val-B, unless it uses a classifier from elsewhere, which is no mix.
    """
    scores = {}
    for finalist in confirmation.finalists:
        if not finalist.copied_files:
            scores[finalist.arm] = finalist.score
        for comparison in finalist.comparisons:
            scores[comparison.control] = comparison.control_score
    measured = []
    for arm in plan.arms:
        mix = arm.parameters.mix_simplicity
        candidates = [row for row in complete if row.parameters.mix_simplicity == mix]
        if arm.role == "finalist":
            candidates = [row for row in complete if row.label == arm.trial_label]
        if candidates and arm.name in scores and arm.role != "donor":
            measured.append((candidates[0], scores[arm.name]))
    return measured


def _name_mix(parameters: Parameters) -> str:
    if parameters.source == "none":
        return "real_only"
    return f"{parameters.source} r={parameters.synthetic_ratio:g}"


def _find_complete(study_folder: StudyFolder, trials: RowOfTrial, name: str) -> TrialRow:
    row = trials.get(name)
    if row and row.status == "complete":
        return row
    what = f"{row.status}: {row.reason}" if row else "it has not ended, or does not exist"
    complete = [name for name, row in trials.items() if row.status == "complete"]
    raise StudyError(
        f"trial {name}: {what}",
        study_folder.path,
        f"choose a completed one: {join_names(complete) or 'there is none yet'}",
    )


def _build_experiment(study_folder: StudyFolder, row: TrialRow, *, exact: bool) -> Experiment:
    """Return the exported experiment: the trial itself, or a final model on all patients."""
    settings = study_folder.space().settings
    images = None
    if exact:
        settings = settings.with_values({"final": None})
    else:
        settings = settings.for_all_patients()
        images = sum(study_folder.prepared().train_counts)
    origin = ExportedFrom(study=study_folder.path, trial=row.number, images=images)
    settings = settings.with_values({"exported_from": origin})
    return Experiment(settings=settings, parameters=row.parameters)
