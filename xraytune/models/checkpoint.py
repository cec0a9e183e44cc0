"""Files of a network's training: `checkpoint.pt` to resume from, and `best.safetensors`, the best network so far.

A checkpoint holds the state of network and optimizer and the epochs' records, from which schedule, early stopping and the
best value follow. Readers raise `ArtifactError` for a file that is damaged or from another network.
"""

from __future__ import annotations

import logging
import shutil
from collections.abc import Callable, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any, TypeVar

from pydantic import TypeAdapter
from safetensors.torch import load_file
from torch import nn

from xraytune.errors import ArtifactError, Problem
from xraytune.files import require_file
from xraytune.models.optimizer import Optimizer
from xraytune.models.weights import load_tensors
from xraytune.records import EpochRecord, FittedEpoch
from xraytune.tensors import UNREADABLE, load_content, save_content, save_state

_CHECKPOINT_NAME = "checkpoint.pt"
_BEST_NAME = "best.safetensors"
_EPOCHS = TypeAdapter(list[EpochRecord])
_FITTED = TypeAdapter(list[FittedEpoch])
_FIX = "remove this folder: the trial then starts from scratch"
_logger = logging.getLogger(__name__)
T = TypeVar("T")


def save_checkpoint(
    folder: Path, network: nn.Module, optimizer: Optimizer, epochs: Sequence[EpochRecord] | Sequence[FittedEpoch]
) -> None:
    """Write all that `resume` or `resume_fit` needs."""
    content = {
        "network": network.state_dict(),
        "optimizer": optimizer.state_dict(),
        "epochs": [asdict(record) for record in epochs],
    }
    save_content(content, folder / _CHECKPOINT_NAME)


def resume(folder: Path, network: nn.Module, optimizer: Optimizer) -> list[EpochRecord]:
    """Load network and optimizer from the checkpoint; return its epochs, none without a checkpoint."""
    return _resume(folder, network, optimizer, _EPOCHS)


def resume_fit(folder: Path, network: nn.Module, optimizer: Optimizer) -> list[FittedEpoch]:
    """Like `resume`, for a training without validation."""
    return _resume(folder, network, optimizer, _FITTED)


def _resume(folder: Path, network: nn.Module, optimizer: Optimizer, kind: TypeAdapter[list[T]]) -> list[T]:
    content, epochs = _read(folder, kind)
    if epochs:
        try:
            load_tensors(network, content["network"])
            optimizer.load_state_dict(content["optimizer"])
        except UNREADABLE as error:
            what = "this checkpoint is from another network"
            raise ArtifactError(Problem(what, folder / _CHECKPOINT_NAME, _FIX)) from error
    return epochs


def finished_epochs(folder: Path) -> list[EpochRecord]:
    """Return the checkpoint's epochs; a killed trial may not have reported the last one."""
    return _read(folder, _EPOCHS)[1]


def fitted_epochs(folder: Path) -> list[FittedEpoch]:
    """Like `finished_epochs`, for a training without validation."""
    return _read(folder, _FITTED)[1]


def intact_epochs(folder: Path, read: Callable[[Path], list[T]]) -> list[T]:
    """Return `read(folder)`; a damaged checkpoint is removed, so that the same epochs are trained again."""
    try:
        return read(folder)
    except ArtifactError as error:
        _logger.warning("%s; the training starts afresh", error)
        shutil.rmtree(folder)
        return []


def _read(folder: Path, kind: TypeAdapter[list[T]]) -> tuple[dict[str, Any], list[T]]:
    """Return the content and the epochs; both are empty without a checkpoint."""
    file = folder / _CHECKPOINT_NAME
    if not file.exists():
        return {}, []
    try:
        content = load_content(file)
        return content, kind.validate_python(content["epochs"])
    except UNREADABLE as error:
        raise ArtifactError(Problem("this checkpoint is damaged", file, _FIX)) from error


def save_best(folder: Path, network: nn.Module) -> None:
    """Write the network's state dict."""
    save_state(network, folder / _BEST_NAME)


def load_best(folder: Path, network: nn.Module) -> None:
    """Load what `save_best` wrote into the network."""
    file = folder / _BEST_NAME
    try:
        require_file(file, "file of tensors")
        load_tensors(network, load_file(file))
    except UNREADABLE as error:
        raise ArtifactError(Problem("the best network is missing or damaged", file, _FIX)) from error
