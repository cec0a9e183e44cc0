"""Files of a classifier's training: `checkpoint.pt` to resume from, and `best.safetensors`, the best network so far.

A checkpoint holds the state of network and optimizer and the epochs' records, from which schedule, early stopping and the
best value follow. Readers raise `ArtifactError` for a file that is damaged or from another network.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

from pydantic import TypeAdapter
from safetensors.torch import load_file
from torch import nn

from xraytune.classifier.optimizer import Optimizer
from xraytune.classifier.weights import load_tensors
from xraytune.errors import ArtifactError, Problem
from xraytune.files import require_file
from xraytune.records import EpochRecord
from xraytune.tensors import UNREADABLE, load_content, save_content, save_state

_CHECKPOINT_NAME = "checkpoint.pt"
_BEST_NAME = "best.safetensors"
_EPOCHS = TypeAdapter(list[EpochRecord])
_FIX = "remove this folder: the trial then starts from scratch"


def save_checkpoint(folder: Path, network: nn.Module, optimizer: Optimizer, epochs: Sequence[EpochRecord]) -> None:
    """Write all that `resume` needs."""
    content = {
        "network": network.state_dict(),
        "optimizer": optimizer.state_dict(),
        "epochs": [asdict(record) for record in epochs],
    }
    save_content(content, folder / _CHECKPOINT_NAME)


def resume(folder: Path, network: nn.Module, optimizer: Optimizer) -> list[EpochRecord]:
    """Load network and optimizer from the checkpoint; return its epochs, none without a checkpoint."""
    content = _read(folder)
    if content["epochs"]:
        try:
            load_tensors(network, content["network"])
            optimizer.load_state_dict(content["optimizer"])
        except UNREADABLE as error:
            what = "this checkpoint is from another network"
            raise ArtifactError(Problem(what, folder / _CHECKPOINT_NAME, _FIX)) from error
    return list(content["epochs"])


def finished_epochs(folder: Path) -> list[EpochRecord]:
    """Return the checkpoint's epochs; a killed trial may not have reported the last one."""
    return list(_read(folder)["epochs"])


def _read(folder: Path) -> dict[str, Any]:
    file = folder / _CHECKPOINT_NAME
    if not file.exists():
        return {"epochs": []}
    try:
        content = load_content(file)
        return {**content, "epochs": _EPOCHS.validate_python(content["epochs"])}
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
