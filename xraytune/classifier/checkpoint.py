"""What a training run keeps on the disk: `checkpoint.pt`, all that it needs to go on, and `best.safetensors`.

Both are written whole or not at all. The learning rate's schedule, early stopping and the best value so far follow from
the epochs' records, so the records are the only state beside the network's and the optimiser's.
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
from xraytune.classifier.weights import put_tensors
from xraytune.errors import ArtifactError, Problem
from xraytune.files import require_file
from xraytune.records import EpochRecord
from xraytune.tensors import UNREADABLE, load_content, save_content, save_state

_VERSION = 1
_EPOCHS = TypeAdapter(list[EpochRecord])
_FIX = "remove this folder: the trial then starts afresh"


def save_checkpoint(folder: Path, network: nn.Module, optimizer: Optimizer, epochs: Sequence[EpochRecord]) -> None:
    """Write all that `resume` needs.

    Raises:
        MachineError: The disk is full.
    """
    content = {
        "version": _VERSION,
        "network": network.state_dict(),
        "optimizer": optimizer.state_dict(),
        "epochs": [asdict(record) for record in epochs],
    }
    save_content(content, _checkpoint_file(folder))


def save_best(folder: Path, network: nn.Module) -> None:
    """Write the network's tensors, under their names in its state dict.

    Raises:
        MachineError: The disk is full.
    """
    save_state(network, folder / "best.safetensors")


def load_best(folder: Path, network: nn.Module) -> None:
    """Bring the network to where `save_best` found it.

    Raises:
        ArtifactError: The file is missing, damaged or of another network.
    """
    file = folder / "best.safetensors"
    try:
        require_file(file, "file of tensors")
        put_tensors(network, load_file(file))
    except UNREADABLE as error:
        raise ArtifactError(Problem("the best network is missing or damaged", file, _FIX)) from error


def resume(folder: Path, network: nn.Module, optimizer: Optimizer) -> list[EpochRecord]:
    """Bring network and optimiser to where the checkpoint is; gives its epochs, none without a checkpoint.

    Raises:
        ArtifactError: The checkpoint is damaged or of another network.
    """
    content = _read(folder)
    if content is None:
        return []
    try:
        put_tensors(network, content["network"])
        optimizer.load_state_dict(content["optimizer"])
    except UNREADABLE as error:
        raise ArtifactError(Problem("this checkpoint is of another network", _checkpoint_file(folder), _FIX)) from error
    return list(content["epochs"])


def finished_epochs(folder: Path) -> list[EpochRecord]:
    """The epochs that the checkpoint holds, for a caller who was killed before it had noted the last one.

    Raises:
        ArtifactError: The checkpoint is damaged.
    """
    content = _read(folder)
    return [] if content is None else list(content["epochs"])


def _read(folder: Path) -> dict[str, Any] | None:
    """What the checkpoint holds, its epochs as records; None where there is none."""
    file = _checkpoint_file(folder)
    if not file.exists():
        return None
    try:
        content = load_content(file)
        if content["version"] == _VERSION:
            return {**content, "epochs": _EPOCHS.validate_python(content["epochs"])}
    except UNREADABLE as error:
        raise ArtifactError(Problem("this checkpoint is damaged", file, _FIX)) from error
    raise ArtifactError(Problem("this checkpoint is of another version of xraytune", file, _FIX))


def _checkpoint_file(folder: Path) -> Path:
    return folder / "checkpoint.pt"
