"""What each run says of the images it is judged by: val-B, and, once all training is done, the test images.

A run's probabilities lie beside it (`val_b.npy`, `test.npy`, float64 [N, C]), so that they are computed once.
"""

from __future__ import annotations

import io
from dataclasses import asdict
from pathlib import Path
from typing import Literal

import numpy as np
from numpy.typing import NDArray
from pydantic import TypeAdapter

from xraytune.classifier.checkpoint import load_best
from xraytune.classifier.train import predict_probabilities
from xraytune.compute import compute_like
from xraytune.errors import StudyError
from xraytune.files import read_json, require_file, write_bytes, write_json
from xraytune.metrics.classification import require_finite
from xraytune.pipeline.artifacts import discard
from xraytune.pipeline.inputs import untrained
from xraytune.pipeline.training_set import ImageSource
from xraytune.records import Compute
from xraytune.search.study import StudyFolder, damage_explained, numeric_releases

VAL_B: Literal["val_b"] = "val_b"
TEST = "test"
SCORING_FILE = "scoring.json"


def scoring_compute(folder: StudyFolder, trained_on: Compute, *, is_complete: bool) -> Compute:
    """What computes the scores of all runs: what they were trained on, or the CPU where this machine has no GPU.

    Scores that are compared come from one kind of device and one release of torch. If some are missing and the earlier ones
    were computed otherwise than is possible here, the earlier ones are removed, so that all are computed again.

    Args:
        folder: Of the runs.
        trained_on: What they were trained on.
        is_complete: No score is missing.

    Raises:
        StudyError: The record of the earlier scores is damaged.
        MachineError: The disk is full.
    """
    file, recorded = folder.path / SCORING_FILE, trained_on
    scored_with = folder.releases()[-1]  # an earlier version, which left no record, scored as it trained
    if file.exists():
        with damage_explained(file):
            content = read_json(file)
            recorded = TypeAdapter(Compute).validate_python(content["compute"])
            scored_with = numeric_releases(content["packages"])
    if is_complete:
        return recorded
    compute = compute_like(recorded, threads=recorded.threads)
    if (compute, numeric_releases()) != (recorded, scored_with):
        for side in (VAL_B, TEST):
            for old in sorted(folder.path.glob(f"trials/*/{side}.npy")):
                discard(old)
    write_json(file, {"version": 1, "compute": {**asdict(compute)}, "packages": {**numeric_releases()}})
    return compute


def has_scores(folder: StudyFolder, number: int, side: str) -> bool:
    """Whether a run's probabilities for one side are there."""
    return _path(folder, number, side).exists()


def has_any_scores(folder: StudyFolder, side: str) -> bool:
    """Whether a run's probabilities for one side are there, of whichever run."""
    return any(folder.path.glob(f"trials/*/{side}.npy"))


def scores(folder: StudyFolder, number: int, side: str) -> NDArray[np.float64]:
    """A run's probabilities for one side, [N, C].

    Raises:
        StudyError: The file is missing or damaged, or holds NaN, as earlier versions could write.
    """
    with damage_explained(_path(folder, number, side)) as file:
        require_file(file, "table")
        # Mapped, because an array that is read takes the memory that its header asks for.
        loaded: NDArray[np.float64] = np.load(file, allow_pickle=False, mmap_mode="r")
        require_finite(loaded)
        return loaded


def score(folder: StudyFolder, number: int, side: str, group: ImageSource, *, compute: Compute, cache: Path) -> None:
    """Predict one side with the network of a run's best val-A epoch, and keep what it says.

    Raises:
        StudyError: The network's output is not finite.
        MachineError: The disk is full.
    """
    experiment, prepared = folder.experiment(number), folder.prepared()
    network, batches = untrained(experiment, prepared, group, cache=cache, compute=compute)
    load_best(folder.trial_path(number) / "checkpoint", network)
    where = folder.trial_path(number)
    probabilities = predict_probabilities(network, batches, compute=compute, error=StudyError, where=where)
    content = io.BytesIO()
    np.save(content, probabilities)
    write_bytes(_path(folder, number, side), content.getvalue())


def _path(folder: StudyFolder, number: int, side: str) -> Path:
    return folder.trial_path(number) / f"{side}.npy"
