"""The runs of a confirmation: replicates, which train to their last step, and top-up trials, which ASHA prunes."""

from __future__ import annotations

import json
import shutil
from collections.abc import Sequence
from pathlib import Path

from xraytune.config.settings import Experiment, Settings, without_gates
from xraytune.confirm.plan import Arm
from xraytune.files import append_jsonl, explain_disk_errors, new_folder, read_jsonl
from xraytune.pipeline.prepare import Prepared
from xraytune.records import EpochRecord
from xraytune.search.asha import Rungs
from xraytune.search.runs import Run, completed_rows
from xraytune.search.study import StudyFolder, damage_explained
from xraytune.seeding import derive_seed


def replicate(arm: Arm, settings: Settings, gan_seed: int, classifier_seed: int) -> Experiment:
    """Return the settings (`settings_of`) that train an arm with fresh seeds, each counted from 0, to its last step.

    A pair of seeds gives the same stream of real images in every arm, with or without a generator.
    """
    seed = derive_seed(settings.seed, "confirm", gan_seed, classifier_seed) % 2**31
    parameters = arm.parameters.model_copy(update={"early_stop_epochs": None})
    if parameters.generator is not None:
        own = derive_seed(parameters.generator.seed, "confirm", gan_seed) % 2**31
        parameters = parameters.with_generator(seed=own)
    return Experiment(
        # Without gates: excluding replicates would select among them.
        settings=without_gates(settings.model_copy(update={"seed": seed})),
        parameters=parameters,
        inherited_resolution_px=arm.resolution_px,
        has_own_split=arm.train_patients is not None,
    )


def settings_of(arm: Arm, settings: Settings, prepared: Prepared) -> Settings:
    """Return the settings of an arm; on another number of patients it takes as many steps as on the study's."""
    if arm.train_patients is None:
        return settings
    data = settings.data.model_copy(update={"train_patients": arm.train_patients})
    budget = settings.budget.model_copy(update={"steps_per_epoch": prepared.steps_per_epoch(settings)})
    return settings.model_copy(update={"data": data, "budget": budget})


class TopUpRungs:
    """Decide which top-up trials ASHA prunes, on the rungs that the search's trials have already reached.

    `reports.jsonl` records each epoch of a top-up in its order of arrival, before the decision on it. After a restart these
    values are replayed in that order, after those of the search, so a resumed confirmation decides as an uninterrupted one.

    Args:
        folder: The top-up trials.
        rungs: Those of the search; top-ups are added to them.

    Raises:
        StudyError: `reports.jsonl` is damaged.
    """

    def __init__(self, folder: StudyFolder, rungs: Rungs) -> None:
        self._path, self._rungs = folder.path / "reports.jsonl", rungs
        self._reported: set[tuple[int, int]] = set()
        with damage_explained(self._path) as file:
            for row in read_jsonl(file):
                self._replay(int(row["number"]), int(row["epoch"]), float(row["value"]))

    def should_continue(self, number: int, record: EpochRecord) -> bool:
        """Return whether a top-up continues after an epoch; repeated calls return the same answer."""
        value = record.best_val_score
        if (number, record.epoch) not in self._reported:
            append_jsonl(self._path, {"version": 1, "number": number, "epoch": record.epoch, "value": value})
        return self._replay(number, record.epoch, value)

    def _replay(self, number: int, epoch: int, value: float) -> bool:
        self._reported.add((number, epoch))
        return self._rungs.should_continue(-1 - number, epoch, value)  # trials of the search have numbers from 0


def adopt_runs(folder: StudyFolder, runs: Sequence[Run], other: StudyFolder) -> int:
    """Copy from a folder, or within it, complete runs that equal ones that were not started here; return how many.

    Equal runs have the same settings and seeds, device and releases of torch: training them again would repeat them.
    """
    if not other.runs_path.exists() or (other.compute(), other.releases()) != (folder.compute(), folder.releases()):
        return 0
    ended = completed_rows(other)
    known = {_identity(other.experiment(number)): number for number in ended}
    adopted = 0
    for run in runs:
        number = known.get(_identity(run.experiment))
        if number is None or folder.trial_path(run.number).exists():
            continue
        with new_folder(folder.trial_path(run.number)) as path:
            # Scores belong to the device that scored them, and W&B's folder has links.
            unwanted = shutil.ignore_patterns("*.npy", "wandb")
            shutil.copytree(other.trial_path(number), path, dirs_exist_ok=True, ignore=unwanted, copy_function=_copy)
        row = {**ended[number], "number": run.number, "label": run.label, "adopted": True}
        append_jsonl(folder.runs_path, row)
        adopted += 1
    return adopted


def _copy(source: str, target: str) -> None:
    with explain_disk_errors(Path(target)):  # here, since `copytree` wraps errors
        shutil.copy2(source, target)


def _identity(experiment: Experiment) -> str:
    return json.dumps(experiment.identity(), sort_keys=True)


def finished_label(name: str) -> str:
    """Return the label of the run that trains a pruned trial, such as `#12`, to the end."""
    return f"{name} to its end"
