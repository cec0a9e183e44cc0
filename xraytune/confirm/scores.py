"""What each run says of the images it is judged by: val-B, and, once all training is done, the test images.

A run's probabilities lie beside it (`val_b.npy`, `test.npy`, float64 [N, C]), so that they are computed once.
"""

from __future__ import annotations

import io
from pathlib import Path
from typing import Literal

import numpy as np
from numpy.typing import NDArray

from xraytune.classifier.checkpoint import load_best
from xraytune.classifier.train import predict_probabilities
from xraytune.files import write_bytes
from xraytune.pipeline.album import ImageGroup
from xraytune.pipeline.material import gather_material
from xraytune.records import Compute
from xraytune.search.study import StudyFolder, damage_explained

VAL_B: Literal["val_b"] = "val_b"
TEST = "test"


def has_scores(folder: StudyFolder, number: int, side: str) -> bool:
    """Whether a run's probabilities for one side are there."""
    return _path(folder, number, side).exists()


def has_any_scores(folder: StudyFolder, side: str) -> bool:
    """Whether a run's probabilities for one side are there, of whichever run."""
    return any(folder.path.glob(f"trials/*/{side}.npy"))


def scores(folder: StudyFolder, number: int, side: str) -> NDArray[np.float64]:
    """A run's probabilities for one side, [N, C].

    Raises:
        StudyError: The file is missing or damaged.
    """
    with damage_explained(_path(folder, number, side)) as file:
        loaded: NDArray[np.float64] = np.load(file, allow_pickle=False)
        return loaded


def score(folder: StudyFolder, number: int, side: str, group: ImageGroup, *, compute: Compute, cache: Path) -> None:
    """Predict one side with the network of a run's best val-A epoch, and keep what it says.

    Raises:
        MachineError: The disk is full.
    """
    experiment, prepared = folder.experiment(number), folder.prepared()
    material = gather_material(experiment, prepared, cache=cache, compute=compute)
    load_best(folder.trial_path(number) / "checkpoint", material.trained)
    probabilities = predict_probabilities(material.trained, material.feed.side(group), compute=compute)
    content = io.BytesIO()
    np.save(content, probabilities)
    write_bytes(_path(folder, number, side), content.getvalue())


def _path(folder: StudyFolder, number: int, side: str) -> Path:
    return folder.trial_path(number) / f"{side}.npy"
