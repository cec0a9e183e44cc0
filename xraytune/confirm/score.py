"""The scores of all runs on the sealed images, which are opened once, after all training.

All results, class probabilities or the Dice of each image, are in one file (`test.npy`, float64 [R,
N, C]), computed at once on one machine: scores that are compared come from one kind of device and
one release of torch.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np

from xraytune.base.errors import Problem, StudyError
from xraytune.base.files import require_recorded, sha256_of, write_array
from xraytune.base.records import Compute, Progress, ignore_progress
from xraytune.confirm.arms import Arm, Plan, write_plan
from xraytune.confirm.plan import mark_earlier_access
from xraytune.confirm.run_list import OpenStudy
from xraytune.confirm.sealed import SealedTest, load_test_images
from xraytune.confirm.test_access import accesses, log_test_access, study_logs
from xraytune.data.prepare import RunContext
from xraytune.nets.backbones import fold_batch_norms
from xraytune.nets.checkpoint import load_best
from xraytune.nets.compute import compute_like, pin
from xraytune.space.settings import DataSettings
from xraytune.stats.classification import Floats, Labels
from xraytune.stats.placements import StructuralComponents, structural_components
from xraytune.study.folder import StudyFolder, damage_explained
from xraytune.study.row import append_row, ended_rows
from xraytune.tasks import task_of
from xraytune.tasks.task import Task
from xraytune.trial.network import Network

_SCORES_FILE = "test.npy"
_CONFIRM = "confirm"
"""The command that scores sealed images, in the log."""


@dataclass(frozen=True, slots=True, kw_only=True)
class ArmScores:
    """The results of a plan's runs, [R, N, C].

    The images have labels, [N], or findings, [N, C], and patients, [N].
    """

    plan: Plan
    results: Floats
    labels: Labels
    patients: tuple[str, ...]
    positive: int
    task: Task

    def measure(self, *arms: Arm) -> StructuralComponents:
        """Return the scores [A, K] and structural components [A, K, P] of A arms."""
        results = np.concatenate([self.results[self.plan.numbers(arm)] for arm in arms])
        measured = structural_components(self.labels, results, self.patients, self.positive)
        shape = (len(arms), self.plan.replicates)
        return replace(
            measured,
            scores=measured.scores.reshape(shape),
            components=measured.components.reshape(*shape, -1),
        )


def score_sealed(
    study: OpenStudy,
    plan: Plan,
    sealed: SealedTest,
    *,
    before_test: Callable[[], None],
    reason: str,
) -> ArmScores:
    """Score all runs on sealed images, if it is not done yet.

    The first access to these is logged before.
    """
    folder = study.runs_folder
    if not (folder.path / _SCORES_FILE).exists():
        _require_trained_networks(folder)
        if not plan.order:
            before_test()
            plan = _open_test(study, plan, sealed, reason)
        compute = compute_like(study.compute, threads=study.compute.threads)
        pin(compute)
        data = study.settings.data
        progress = study.callbacks.on_progress
        score_runs(folder, plan, sealed, data, study.cache, compute, on_progress=progress)
    return read_scores(folder, plan, sealed, task_of(study.settings))


def score_runs(
    folder: StudyFolder,
    plan: Plan,
    sealed: SealedTest,
    data: DataSettings,
    cache: Path,
    compute: Compute,
    *,
    on_progress: Progress = ignore_progress,
) -> None:
    """Predict the test images with the network of each run's best val-A epoch; write results."""
    images = load_test_images(sealed, data, cache, on_progress=on_progress)
    results: list[Floats] = []
    count = plan.replicates * len(plan.trainings)
    for number in range(count):
        where = folder.trial_path(number)
        experiment = folder.experiment(number)
        prepared = folder.prepared(experiment.draw)
        context = RunContext(prepared=prepared, cache=cache, compute=compute)
        network = Network(experiment, context)
        trained = network.untrained(images)
        load_best(where / "checkpoint", trained)
        trained = fold_batch_norms(trained)
        batches = network.batches(images)
        results.append(
            network.task.results(
                trained, batches, images, compute=compute, error=StudyError, where=where
            )
        )
        on_progress(f"scoring {images.name} (replicates)", len(results), count)
    write_array(folder.path / _SCORES_FILE, np.stack(results), is_recorded=True)


def read_scores(folder: StudyFolder, plan: Plan, sealed: SealedTest, task: Task) -> ArmScores:
    """Return the results of all runs; StudyError if they are not what was written."""
    with damage_explained(
        folder.path / _SCORES_FILE, "remove it, and run the same command again"
    ) as file:
        require_recorded(file)
        return ArmScores(
            plan=plan,
            results=np.load(file),
            labels=sealed.images.targets,
            patients=sealed.images.patients,
            positive=sealed.prepared.positive,
            task=task,
        )


def _require_trained_networks(folder: StudyFolder) -> None:
    """Raise StudyError if the network of a run is not the one that was trained.

    The next start trains the run again.
    """
    problems = []
    for row in ended_rows(folder.runs_path).values():
        network = folder.network_path(row.number)
        trained = row.network_sha256
        if trained and not (network.exists() and sha256_of(network) == trained):
            what = "this is not the network that was trained"
            problems.append(Problem(what, network, "run the same command again"))
            append_row(
                folder.runs_path, row.model_copy(update={"status": "failed", "reason": what})
            )
    if problems:
        raise StudyError(*problems)


def _open_test(study: OpenStudy, plan: Plan, sealed: SealedTest, reason: str) -> Plan:
    """Log the access to sealed images; return the plan that records it."""
    path = study.folder.path
    earlier = accesses(path, sealed.fingerprint, sealed.contents, before=_CONFIRM)
    plan = mark_earlier_access(plan, earlier)
    log_test_access(
        *study_logs(path),
        command=_CONFIRM,
        study=path.name,
        reason=reason,
        image_count=len(sealed.images),
        fingerprint=sealed.fingerprint,
        order=sealed.order,
        contents=sealed.contents,
    )
    plan = plan.model_copy(update={"order": sealed.order})
    write_plan(plan, study.runs_folder.path)
    return plan
