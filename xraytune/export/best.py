"""The best configuration of a study, as a file that `train` runs.

Takes a study, gives a YAML file in which nothing is left to choose. Trials were steered by val-A, so the one to take is
chosen by val-B, which no trial has seen; once a `confirm` has found a mix that helps, that one is. The file says which trial
it is, so that a final training finds the study, and what is known of its synthetic images.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from shlex import quote
from typing import Any

from xraytune.config.load import experiment_to_yaml
from xraytune.config.settings import Experiment, ExportedFrom, Parameters
from xraytune.confirm.plan import CONFIRM_FOLDER, TOP_UP_FOLDER, VERDICT_FILE, Arm, read_plan
from xraytune.confirm.runs import completed_rows
from xraytune.errors import ConfigError, Problem, StudyError, TrialError, listed
from xraytune.files import read_json, require_writable, write_text
from xraytune.records import Json
from xraytune.search.journal import Journal
from xraytune.search.study import StudyFolder

_SAID = {
    "helps": "confirmed: it beats every control",
    "hurts": "refuted: they make it worse",
    "no_better": "not confirmed: they do not improve AUROC over a control without them",
    "undecided": "not confirmed: inconclusive",
    "not_tested": "not confirmed: not tested, because a better mix does not help",
}
_UNTESTED = "not confirmed: `xraytune confirm` has not compared this mix with its controls"


@dataclass(frozen=True, slots=True, kw_only=True)
class Exported:
    """What was written.

    Attributes:
        path: The file.
        study: The study's name.
        trial: The number of the trial; None: a trial that a `confirm` added to tune a control.
        arm: Its arm, such as `classical+gan`.
        val_auroc: Its value, on val-A; None of an added trial.
        val_b_auroc: On val-B; None of an added trial.
        synthetic: What a `confirm` said of its synthetic images; empty where it has none.
        advice: A simpler arm to take instead, as a command; empty where there is no reason to.
        command: What goes on from here.
    """

    path: Path
    study: str
    trial: int | None
    arm: str
    val_auroc: float | None
    val_b_auroc: float | None
    synthetic: str
    advice: str
    command: str

    def to_json(self) -> dict[str, Json]:
        """The record as JSON values."""
        return asdict(self) | {"path": str(self.path)}


def export(study: Path, *, out: Path, trial: int | None = None, arm: str | None = None) -> Exported:
    """Write the confirmed mix, else the complete trial with the best val-B AUROC (of equals the earliest).

    Args:
        study: The study's folder; it may be searched meanwhile.
        out: The file; one with the same content may be there already.
        trial: The number of a complete trial, instead.
        arm: The best of this arm instead, such as `real_only`; after a `confirm`, its tuned control.

    Raises:
        ConfigError: `out` is there with other content, a file is where its folder should be, or both a trial and an arm
            are asked for.
        StudyError: There is no study, no complete trial `trial`, or none of this arm.
        TrialError: No trial completed.
        MachineError: The disk is full.
    """
    if trial is not None and arm is not None:
        raise ConfigError(
            Problem("a trial and an arm are asked for", f"--trial {trial} --arm {arm}", "give one of them")
        )
    require_writable(out.parent)
    folder = StudyFolder(study.resolve())
    space = folder.space()
    journal = Journal(folder.journal_path, space, writable=False)
    rows = journal.rows()
    for row in rows:
        if row["status"] == "complete" and row["val_b_auroc"] is None:
            what = f"the journal is damaged: it does not tell the val-B AUROC of trial {row['number']}"
            raise StudyError(Problem(what, folder.journal_path, "put it back from a copy"))
    verdicts = _verdicts(folder, {row["number"] for row in rows})
    tuned = None if arm is None else _tuned_control(folder, arm)
    if tuned is not None and not tuned.trial.startswith("#"):
        row = {"number": None, "arm": arm, "value": None, "val_b_auroc": None}
        parameters, origin = tuned.parameters, None
    else:
        row = (
            _chosen(rows, trial, len(journal.trials), study)
            if trial is not None
            else _best(rows, arm, tuned, verdicts, folder, study)
        )
        parameters = journal.parameters(row["number"])
        origin = ExportedFrom(study=folder.path, trial=row["number"])
    synthetic = _synthetic(parameters, row["number"], verdicts)
    simpler = "" if synthetic in {"", _SAID["helps"]} else _simpler(rows, journal)
    if trial is not None:
        chosen = "asked for by its number"
    elif arm is not None:
        chosen = "the best of its arm by val-B"
    else:
        chosen = "the mix that `confirm` found to help" if synthetic == _SAID["helps"] else "the best by val-B"
    exported = Exported(
        path=out,
        study=folder.path.name,
        trial=row["number"],
        arm=row["arm"],
        val_auroc=row["value"],
        val_b_auroc=row["val_b_auroc"],
        synthetic=synthetic,
        advice=f"xraytune export {quote(str(study))} --arm {simpler} -o {simpler}.yaml" if simpler else "",
        command=f"xraytune train --config {quote(str(out))} -o model",
    )
    settings = space.settings.model_copy(update={"exported_from": origin})
    experiment = Experiment(settings=settings, parameters=parameters)
    _write(out, experiment_to_yaml(experiment, out.resolve().parent, _header(exported, chosen)))
    return exported


def _verdicts(folder: StudyFolder, trials: set[int]) -> dict[int, str]:
    """What a confirm said of each finalist, by its trial; nothing where there was none.

    Raises:
        StudyError: The file is damaged.
    """
    path = folder.path / CONFIRM_FOLDER / VERDICT_FILE
    if not path.exists():
        return {}
    try:
        verdicts = {int(one["trial"].removeprefix("#")): str(one["verdict"]) for one in read_json(path)["finalists"]}
        if not verdicts.keys() <= trials or not set(verdicts.values()) <= _SAID.keys():
            raise ValueError("of another study, or another version")
    except (ValueError, LookupError, TypeError, AttributeError) as error:
        fix = "run the same `xraytune confirm` again: it trains nothing twice, and writes the file anew"
        raise StudyError(Problem("the verdict is damaged", path, fix)) from error
    return verdicts


def _tuned_control(folder: StudyFolder, arm: str) -> Arm | None:
    """The tuned control of this arm that a confirm chose: a trial of the search, or one that it added."""
    plan = read_plan(folder.path / CONFIRM_FOLDER)
    arms = plan.arms if plan else ()
    return next((one for one in arms if one.role == "tuned" and one.parameters.arm == arm), None)


def _synthetic(parameters: Parameters, trial: int | None, verdicts: dict[int, str]) -> str:
    if not parameters.has_synthetic_images:
        return ""
    return _SAID[verdicts[trial]] if trial in verdicts else _UNTESTED


def _best(
    rows: Sequence[dict[str, Any]],
    arm: str | None,
    tuned: Arm | None,
    verdicts: dict[int, str],
    folder: StudyFolder,
    study: Path,
) -> dict[str, Any]:
    complete = [row for row in rows if row["status"] == "complete"]
    if not complete:
        reasons = sorted({row["reason"] for row in rows if row["status"] == "failed"})
        what = "no trial completed yet" + "".join(f"\n    {reason}" for reason in reasons[:5])
        raise TrialError(
            Problem(what, study, "let the search go on until one has; `xraytune status` shows how far it is")
        )
    if arm is None:
        helping = [trial for trial, word in verdicts.items() if word == "helps"]
        among = [_at_its_end(row, folder) for row in rows if row["number"] == helping[0]] if helping else complete
    else:
        of_arm = [row for row in rows if row["arm"] == arm]
        among = [row for row in of_arm if row["status"] == "complete"]
        if tuned is not None and not among:  # ASHA let none of the arm get to its end
            among = [_at_its_end(row, folder) for row in of_arm if tuned.trial == f"#{row['number']}"]
        if not among:
            fix = f"choose one of: {', '.join(sorted({row['arm'] for row in complete}))}"
            raise StudyError(Problem(f"no trial of the arm {arm} ran to its end", folder.path, fix))
    return max(among, key=lambda row: (row["val_b_auroc"], -row["number"]))


def _simpler(rows: Sequence[dict[str, Any]], journal: Journal) -> str:
    """An arm without synthetic images that has a complete trial: real images alone, else the best; empty: none has."""
    complete = (row for row in rows if row["status"] == "complete")
    simple = (row for row in complete if not journal.parameters(row["number"]).has_synthetic_images)
    best = max(simple, key=lambda row: (row["arm"] == "real_only", row["val_b_auroc"]), default=None)
    return "" if best is None else str(best["arm"])


def _at_its_end(row: dict[str, Any], folder: StudyFolder) -> dict[str, Any]:
    """The row of a finalist or control; where ASHA let none get to its end, confirm trained the furthest ones to theirs.

    Raises:
        StudyError: There is nothing of that training.
    """
    if row["status"] == "complete":
        return row
    top_up = StudyFolder(folder.path / CONFIRM_FOLDER / TOP_UP_FOLDER)
    label = f"#{row['number']} to its end"
    finished = next((run for run in completed_rows(top_up).values() if run["label"] == label), None)
    if finished is None:
        what = f"the verdict is about trial {row['number']}, which neither the search nor a confirm brought to its end"
        raise StudyError(Problem(what, top_up.path, "run the same `xraytune confirm` again"))
    return {**row, "value": finished["value"], "val_b_auroc": finished["val_b_auroc"]}


def _chosen(rows: Sequence[dict[str, Any]], trial: int, trial_count: int, study: Path) -> dict[str, Any]:
    row = next((row for row in rows if row["number"] == trial), None)
    if row is not None and row["status"] == "complete":
        return row
    complete = [str(row["number"]) for row in rows if row["status"] == "complete"]
    if row is not None:
        ended = f"{row['status']}: {row['reason']}"
    elif trial < trial_count:
        ended = "has not ended"
    else:
        ended = f"there is none of this number; the study has {trial_count}, from 0"
    fix = f"choose one that ran to its end: {listed(complete) or 'there is none yet'}"
    raise StudyError(Problem(f"trial {trial}: {ended}", study, fix))


def _header(exported: Exported, chosen: str) -> str:
    if exported.trial is None:
        origin = (
            f"A trial that `confirm` added to the study {exported.study} to tune its controls, arm {exported.arm}.\n"
        )
    else:
        origin = (
            f"Trial {exported.trial} of the study {exported.study}, arm {exported.arm}: {chosen}.\n"
            f"AUROC {exported.val_auroc:.4f} on val-A, which steered the search, "
            f"and {exported.val_b_auroc:.4f} on val-B, which did not.\n"
        )
    synthetic = f"Its synthetic images are {exported.synthetic}.\n" if exported.synthetic else ""
    return (
        f"{origin}{synthetic}\n    xraytune train --config {quote(exported.path.name)} -o model\n\n"
        "Paths are relative to this file."
    )


def _write(out: Path, text: str) -> None:
    if out.exists():
        if out.is_file() and out.read_bytes() == text.encode():
            return
        fix = "give another path, or remove what is there"
        raise ConfigError(Problem("there is something else here already", out, fix))
    write_text(out, text)
