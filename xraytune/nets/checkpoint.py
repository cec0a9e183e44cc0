"""Files of a network's training: `checkpoint.pt` to resume from, and `best.safetensors`.

A checkpoint holds the state of the network and the optimizer, the network of the best epoch, and
the records of the epochs, from which the schedule, early stopping and the best value follow. Since
all of this is in one file, it always belongs together. `best.safetensors` has the network of the
best epoch, and is written once the training has ended. Readers raise `ArtifactError` for a file
that is damaged or from another network.
"""

import logging
import shutil
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from pydantic import TypeAdapter
from safetensors.torch import load_file
from torch import Tensor, nn
from torch.optim import Optimizer

from xraytune.base.errors import ArtifactError
from xraytune.base.records import EpochRecord
from xraytune.base.tensors import explain_unreadable, load_content, load_tensors, save_content
from xraytune.nets.optimizer import load_optimizer

BEST_FILE = "best.safetensors"
_CHECKPOINT_FILE = "checkpoint.pt"
_FIX = "remove this folder: the trial then starts from scratch"
_logger = logging.getLogger(__name__)
_EPOCHS = TypeAdapter(list[EpochRecord])


def save_checkpoint(
    folder: Path,
    network: nn.Module,
    optimizer: Optimizer,
    epochs: Sequence[EpochRecord],
    best: Mapping[str, Tensor],
) -> None:
    """Write a checkpoint with everything that `resume` needs."""
    content = {
        "network": network.state_dict(),
        "optimizer": optimizer.state_dict(),
        "best": dict(best),
        "epochs": _EPOCHS.dump_json([*epochs]).decode(),
    }
    save_content(content, folder / _CHECKPOINT_FILE)


def resume(
    folder: Path, network: nn.Module, optimizer: Optimizer
) -> tuple[list[EpochRecord], dict[str, Tensor]]:
    """Load the network and the optimizer from the checkpoint, if there is one.

    Returns the records of its epochs and the state of the best epoch's network, on the CPU.
    """
    content, epochs = _read(folder)
    if not epochs:
        return [], {}
    with explain_unreadable("this checkpoint is of another network", folder, _FIX):
        load_tensors(network, content["network"])
        load_optimizer(optimizer, content["optimizer"])
        return epochs, content["best"]


def finished_epochs(folder: Path) -> list[EpochRecord]:
    """Return the epochs of the checkpoint; a killed trial may not have reported the last one.

    A damaged checkpoint is removed, so that the same epochs are trained again.
    """
    try:
        return _read(folder)[1]
    except ArtifactError as error:
        _logger.warning("%s; training starts from scratch", error)
        shutil.rmtree(folder)
        return []


def _read(folder: Path) -> tuple[dict[str, Any], list[EpochRecord]]:
    file = folder / _CHECKPOINT_FILE
    if not file.exists():
        return {}, []
    with explain_unreadable("this checkpoint is damaged", file, _FIX):
        content = load_content(file)
        return content, _EPOCHS.validate_json(content["epochs"])


def load_best(folder: Path, network: nn.Module) -> None:
    """Load the state of the best network."""
    file = folder / BEST_FILE
    with explain_unreadable("the best network is missing or damaged", file, _FIX):
        load_tensors(network, load_file(file))
