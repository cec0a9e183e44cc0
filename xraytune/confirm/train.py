"""The training of a plan's replicates, each to its last step. Equal ones are trained once, and copied."""

from __future__ import annotations

import json
import shutil
from collections.abc import Sequence
from dataclasses import asdict, replace
from pathlib import Path

from xraytune.base.files import CHECKSUMS_FILE, explain_disk_errors, new_folder
from xraytune.confirm.arms import CONFIRM_FOLDER, REHEARSAL_FOLDER, Plan, replicate
from xraytune.confirm.run_list import Run, complete_folder, train_runs
from xraytune.confirm.study import OpenStudy
from xraytune.space.settings import Experiment
from xraytune.study.folder import StudyFolder
from xraytune.study.row import append_row, completed_runs


def train_replicates(study: OpenStudy, plan: Plan) -> None:
    """Train the runs of a plan that have not ended and equal no other; copy the others, also from a rehearsal or to it.

    Raises TrialError if runs failed.
    """
    runs, distinct, arms = list[Run](), dict[object, Run](), {arm.name: arm for arm in plan.arms}
    for number, run in enumerate(plan.runs):
        arm, (_, *seeds) = arms[run.arm], run
        label = f"{run.arm}, GAN seed {run.gan_seed}, seed {run.classifier_seed}"
        runs.append(Run(number=number, label=label, experiment=replicate(arm, study.settings, *seeds)))
        distinct.setdefault((arm.content, *seeds), runs[-1])
    # Generators of several seeds are trained faster side by side, on one core each, than one by one on more cores.
    compute = replace(study.compute, generator_threads=study.compute.threads)
    folder = study.runs_folder
    complete_folder(folder, study.prepared, lambda: {**study.machine(), "compute": {**asdict(compute)}})
    _copy_equal(study, runs)
    train_runs(study, folder, list(distinct.values()), "replicates")
    _copy_equal(study, runs)
    train_runs(study, folder, runs, "replicates")


def _copy_equal(study: OpenStudy, runs: Sequence[Run]) -> None:
    """Copy complete runs of a rehearsal and of this confirmation for equal runs that were not started here.

    Equal runs have the same settings and seeds, device and releases of torch: training them again would repeat them.
    """
    folder = study.runs_folder
    for place in (REHEARSAL_FOLDER, CONFIRM_FOLDER):
        other = StudyFolder(study.folder.path / place)
        if not other.runs_path.exists() or (other.compute(), other.releases()) != (folder.compute(), folder.releases()):
            continue
        ended, copied = completed_runs(other), 0
        known = {_identity(other.experiment(number)): number for number in ended}
        for run in runs:
            number = known.get(_identity(run.experiment))
            if number is None or folder.trial_path(run.number).exists():
                continue
            with new_folder(folder.trial_path(run.number)) as path:
                # Scores belong to the device that scored them, and W&B's folder has links.
                unwanted = shutil.ignore_patterns("*.npy", CHECKSUMS_FILE, "wandb")
                shutil.copytree(
                    other.trial_path(number), path, dirs_exist_ok=True, ignore=unwanted, copy_function=_copy
                )
            row = ended[number].model_copy(update={"number": run.number, "label": run.label, "adopted": True})
            append_row(folder.runs_path, row)
            copied += 1
        if copied:
            study.callbacks.note(f"copied {copied} replicates with the same settings from {place}/")


def _copy(source: str, target: str) -> None:
    with explain_disk_errors(Path(target)):  # here, since `copytree` wraps errors
        shutil.copy2(source, target)


def _identity(experiment: Experiment) -> str:
    return json.dumps(experiment.identity(), sort_keys=True)
