"""The checkpoint of a generator's training, and the trained generator as a safetensors file.

The work folder of a training is named after its settings and images, so its checkpoint is always of
the same ones. Checkpoints store no random state, since all randomness of a step follows from the
seed and the step's number. Readers raise `ArtifactError` for a damaged file.
"""

from __future__ import annotations

import json
import logging
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from safetensors import safe_open
from torch import Tensor

from xraytune.base.errors import ArtifactError
from xraytune.base.files import require_file
from xraytune.base.tensors import explain_unreadable, load_content, save_content, save_state
from xraytune.space.settings import GanSettings
from xraytune.synth.gan import GanTraining
from xraytune.synth.networks import Generator
from xraytune.synth.saved_generator import known_settings

CHECKPOINT_NAME = "checkpoint.pt"
_OTHER_NETWORK = "this generator has a different network"
_logger = logging.getLogger(__name__)


def save_checkpoint(training: GanTraining, folder: Path) -> None:
    """Write the checkpoint of `folder`, atomically replacing the previous one."""
    content = {
        **_about(training.generator),
        "step": training.step,
        **{name: getattr(training, name).state_dict() for name in training.saved},
    }
    save_content(content, folder / CHECKPOINT_NAME)


def resume(training: GanTraining, folder: Path) -> None:
    """Load the checkpoint of `folder` into a new training.

    A missing or damaged one leaves it at step 0.

    Raises ArtifactError if its networks are not those of the training.
    """
    path = folder / CHECKPOINT_NAME
    if not path.exists():
        return
    try:
        content = _read_checkpoint(path)
    except ArtifactError as error:
        _logger.warning("%s; training starts from scratch", error)
        return
    with explain_unreadable(_OTHER_NETWORK, path, "remove this file"):
        for name in training.saved:
            getattr(training, name).load_state_dict(content[name])
    training.step = content["step"]


def load_start(training: GanTraining, file: Path) -> None:
    """Give a new training the weights of a saved generator.

    Raise ArtifactError if its network is another one.
    """
    weights = load_generator(file).state_dict()
    with explain_unreadable(_OTHER_NETWORK, file, "give it the same settings of the network"):
        for network in (training.generator, training.ema_generator):
            network.load_state_dict(weights)


def checkpoint_generator(path: Path) -> Generator:
    """Load the EMA generator of a checkpoint, in evaluation mode, on the CPU."""
    content = _read_checkpoint(path)
    with explain_unreadable(_OTHER_NETWORK, path, "train the generator again"):
        return _load(content, content["ema_generator"])


def save_generator(generator: Generator, path: Path) -> None:
    """Write a generator as safetensors.

    The metadata holds what `load_generator` needs to rebuild it.
    """
    about = {"generator": json.dumps(_about(generator))}  # one entry: their order is random
    save_state(generator.state_dict(), path, about)


def load_generator(path: Path) -> Generator:
    """Load a generator from its safetensors file, in evaluation mode, on the CPU."""
    with explain_unreadable("cannot read this generator", path, "train the generator again"):
        require_file(path)
        with safe_open(path, framework="pt") as file:
            about = json.loads(file.metadata()["generator"])
            return _load(about, {name: file.get_tensor(name) for name in file.keys()})


def _about(generator: Generator) -> dict[str, str | int]:
    """Return all that `_load` needs to rebuild a generator, apart from its weights."""
    settings = generator.settings
    counts = {"class_count": generator.class_count, "channels": generator.channels}
    return {
        "kind": "gan",
        "settings": settings.model_dump_json(exclude={"start_from", "features"}),
        **counts,
    }


def _load(about: Mapping[str, Any], weights: dict[str, Tensor]) -> Generator:
    class_count = int(about["class_count"])
    channels = int(about["channels"])
    settings = GanSettings.model_validate_json(
        json.dumps(known_settings(json.loads(about["settings"])))
    )
    with torch.random.fork_rng(devices=[]):
        generator = Generator(settings, class_count, channels)
    generator.load_state_dict(weights)
    return generator.eval().requires_grad_(False)


def _read_checkpoint(path: Path) -> dict[str, Any]:
    with explain_unreadable("cannot read this checkpoint", path):
        content = load_content(path)
        if not isinstance(content["step"], int):
            raise TypeError("not a checkpoint of a generator")
        return content
