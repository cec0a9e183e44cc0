"""The scores of each run on sealed images.

Results, class probabilities or the Dice of each image, are stored with the run (as `test.npy`,
float64 [N, C]), so that they are computed only once.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
from pydantic import TypeAdapter

from xraytune.base.artifacts import discard
from xraytune.base.errors import Problem, StudyError
from xraytune.base.files import read_json, sha256_of, write_array, write_json
from xraytune.base.records import Compute
from xraytune.confirm.arms import Arm, Plan
from xraytune.confirm.sealed import TEST, SealedTest, load_test_images
from xraytune.confirm.study import OpenStudy
from xraytune.confirm.test_access import (
    CONFIRM,
    TEST_ACCESS_FILE,
    last_access,
    log_test_access,
    study_logs,
)
from xraytune.data.prepare import ImageSource, RunContext
from xraytune.nets.backbones import fold_batch_norms
from xraytune.nets.checkpoint import load_best
from xraytune.nets.compute import compute_like, pin
from xraytune.stats.classification import Floats, Labels
from xraytune.stats.placements import StructuralComponents
from xraytune.study.folder import StudyFolder, damage_explained, numeric_releases
from xraytune.study.row import append_row, ended_runs
from xraytune.tasks import task_of
from xraytune.tasks.task import Task
from xraytune.trial.network import Network

ArmResults = Callable[[Arm], Floats]
"""From an arm to its results per image, float64 [K, N, C]: class probabilities, or Dice with C = 1."""


@dataclass(frozen=True, slots=True, kw_only=True)
class ArmScores:
    """The results of a plan's arms on images with labels, [N], or the named findings, [N, C], and patients, [N]."""

    plan: Plan
    results: ArmResults
    labels: Labels
    patients: tuple[str, ...]
    positive: int
    task: Task
    findings: tuple[str, ...] = ()

    def measure(self, *arms: Arm) -> StructuralComponents:
        """Return the scores [A, K] and structural components [A, K, P] of A arms."""
        results = np.concatenate([self.results(arm) for arm in arms])
        measured = self.task.components(self.labels, results, self.patients, self.positive)
        scores = measured.scores.reshape(len(arms), -1)
        return replace(
            measured, scores=scores, components=measured.components.reshape(*scores.shape, -1)
        )


def scoring_compute(study: OpenStudy, plan: Plan) -> Compute:
    """Return the device for scoring sealed images, pinned: that of the training, or the CPU if there is no GPU.

    Scores that are compared come from one kind of device and one release of torch. If some of the
    needed ones are missing, and the existing ones were computed differently than is possible here,
    the existing ones are removed and all are computed again.
    """
    folder = study.runs_folder
    file = folder.path / "scoring.json"
    recorded, scored_with = study.compute, folder.releases()[-1]
    if file.exists():
        with damage_explained(file):
            content = read_json(file)
            recorded = TypeAdapter(Compute).validate_python(content["compute"])
            scored_with = numeric_releases(content["packages"])
    compute = recorded
    if not is_scored(folder, plan.runs):
        compute = compute_like(recorded, threads=recorded.threads)
        if (compute, numeric_releases()) != (recorded, scored_with):
            for old in sorted(folder.path.glob(f"trials/*/{TEST}.npy")):
                discard(old)
        write_json(
            file, {"version": 1, "compute": {**asdict(compute)}, "packages": {**numeric_releases()}}
        )
    pin(compute)
    return compute


def is_scored(folder: StudyFolder, runs: Iterable[int]) -> bool:
    """Return whether all of these runs have been scored on the test images."""
    return all(folder.results_path(number, TEST).exists() for number in runs)


def has_any_results(folder: StudyFolder) -> bool:
    """Return whether any run has been scored on the test images."""
    return any(folder.path.glob(f"trials/*/{TEST}.npy"))


def arm_scores(folder: StudyFolder, plan: Plan, images: SealedTest, task: Task) -> ArmScores:
    """Return the results on these images; they are read when they are needed."""
    prepared = folder.prepared()

    def of_arm(arm: Arm) -> Floats:
        results = (
            folder.results(number, TEST, len(images.images), prepared)
            for number in plan.numbers(arm)
        )
        return np.array([*results])

    return ArmScores(
        plan=plan,
        results=of_arm,
        labels=images.targets,
        patients=images.patients,
        positive=prepared.positive,
        task=task,
        findings=prepared.findings,
    )


def score_sealed(
    study: OpenStudy, plan: Plan, sealed: SealedTest, compute: Compute, *, reason: str
) -> ArmScores:
    """Score all runs on sealed images, after logging the access, if it is not done yet."""
    folder = study.runs_folder
    if not is_scored(folder, plan.runs):
        missing = [number for number in plan.runs if not is_scored(folder, [number])]
        require_trained_networks(folder, missing)
        path = study.folder.path
        access: dict[str, Any] = {
            "fingerprint": sealed.fingerprint,
            "order": sealed.order,
            "runs": len(plan.runs),
        }
        access |= {"contents": [*sealed.contents]} if sealed.contents else {}
        last = last_access(path / TEST_ACCESS_FILE, CONFIRM) or {}
        # A scoring that was killed has already logged it.
        if not has_any_results(folder) or access != {name: last.get(name) for name in access}:
            log_test_access(
                *study_logs(path),
                command=CONFIRM,
                study=path.name,
                reason=reason,
                image_count=len(sealed.images),
                **access,
            )
        data, progress = study.settings.data, study.callbacks.on_progress
        images = load_test_images(sealed, study.prepared, data, study.cache, on_progress=progress)
        for done, number in enumerate(missing, start=1):
            score(folder, number, images, compute=compute, cache=study.cache)
            progress(f"scoring {images.name} (replicates)", done, len(missing))
    return arm_scores(folder, plan, sealed, task_of(study.settings))


def require_trained_networks(folder: StudyFolder, numbers: Iterable[int]) -> None:
    """Raise StudyError if the network of a run is not the one that was trained; the next start trains the run again."""
    rows = ended_runs(folder)
    problems = []
    for number in numbers:
        network, trained = folder.network_path(number), rows[number].network_sha256
        if trained and not (network.exists() and sha256_of(network) == trained):
            problems.append(
                Problem(
                    "this is not the network that was trained",
                    network,
                    "run the same command again",
                )
            )
            reason = "its network was changed after the training"
            append_row(
                folder.runs_path,
                rows[number].model_copy(update={"status": "failed", "reason": reason}),
            )
    if problems:
        raise StudyError(*problems)


def score(
    folder: StudyFolder, number: int, images: ImageSource, *, compute: Compute, cache: Path
) -> None:
    """Predict the test images with the network of a run's best val-A epoch and store the results."""
    where, experiment = folder.trial_path(number), folder.experiment(number)
    context = RunContext(prepared=folder.prepared(experiment.draw), cache=cache, compute=compute)
    network, batches = Network(experiment, context).untrained(images)
    load_best(where / "checkpoint", network)
    results_of = task_of(experiment.settings).results
    results = results_of(
        fold_batch_norms(network), batches, images, compute=compute, error=StudyError, where=where
    )
    write_array(folder.results_path(number, TEST), results, is_recorded=True)
