"""The checkpoint of a generator's training, and the trained generator as a safetensors file.

The work folder of a training is named after its settings and images, so its checkpoint is always of the same ones.
Checkpoints store no random state, since all
randomness of a step follows from the seed and the step's number. Readers raise `ArtifactError` for a damaged file.
"""

from __future__ import annotations

import json
import logging
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, NamedTuple

import torch
from safetensors import safe_open
from torch import Tensor

from xraytune.base.errors import ArtifactError
from xraytune.base.files import require_file
from xraytune.base.records import Compute
from xraytune.base.tensors import explain_unreadable, load_content, save_content, save_state
from xraytune.space.settings import GENERATORS, GeneratorSettings
from xraytune.synth.contract import ImageGenerator, Training
from xraytune.synth.diffusion import DiffusionGenerator, new_diffusion
from xraytune.synth.gan import new_gan
from xraytune.synth.networks import Generator

CHECKPOINT_NAME = "checkpoint.pt"
_MAX_CLASSES = 1000
"""Limits the memory that a damaged file can ask for."""
_OTHER_NETWORK = "this generator has a different network"
_logger = logging.getLogger(__name__)


class GeneratorKind(NamedTuple):
    """A kind of generator: the stage of its artifacts, a function for a new training, and its network."""

    stage: str
    new_training: Callable[..., Training]
    network: Callable[..., ImageGenerator]


KINDS = {
    "gan": GeneratorKind("gan-4", new_gan, Generator),
    "diffusion": GeneratorKind("diffusion-2", new_diffusion, DiffusionGenerator),
}
"""The kinds by their blocks of settings."""


def new_training(settings: GeneratorSettings, class_count: int, compute: Compute, channels: int = 1) -> Training:
    """Initialise the networks of a generator's training from `settings.seed`, on the device."""
    return KINDS[settings.block].new_training(settings, class_count, compute, channels)


def save_checkpoint(training: Training, folder: Path) -> None:
    """Write the checkpoint of `folder`, atomically replacing the previous one."""
    content = {
        **_about(training.generator),
        "step": training.step,
        **{name: getattr(training, name).state_dict() for name in training.saved},
    }
    save_content(content, folder / CHECKPOINT_NAME)


def resume(training: Training, folder: Path) -> None:
    """Load the checkpoint of `folder` into a new training; a missing or damaged one leaves it at step 0.

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


def load_start(training: Training, file: Path) -> None:
    """Give a new training the weights of a saved generator; raise ArtifactError if its network is another one."""
    weights = load_generator(file).state_dict()
    with explain_unreadable(_OTHER_NETWORK, file, "give it the same settings of the network"):
        for network in (training.generator, training.ema_generator):
            network.load_state_dict(weights)


def checkpoint_generator(path: Path) -> ImageGenerator:
    """Load the EMA generator of a checkpoint, in evaluation mode, on the CPU."""
    content = _read_checkpoint(path)
    with explain_unreadable(_OTHER_NETWORK, path, "train the generator again"):
        return _load(content, content["ema_generator"])


def checkpoint_step(path: Path) -> int:
    """Return the number of steps trained."""
    return int(_read_checkpoint(path)["step"])


def save_generator(generator: ImageGenerator, path: Path) -> None:
    """Write a generator as safetensors; the metadata holds what `load_generator` needs to rebuild it."""
    about = {"generator": json.dumps(_about(generator))}  # one entry: their order is random
    save_state(generator.state_dict(), path, about)


def without_images(generator: ImageGenerator) -> ImageGenerator:
    """Return a generator that holds no codes of its training images; it samples from what they have in common."""
    if isinstance(generator, Generator) and generator.prior is not None:
        generator.prior.forget_images()
    return generator


def load_generator(path: Path) -> ImageGenerator:
    """Load a generator from its safetensors file, in evaluation mode, on the CPU."""
    with explain_unreadable("cannot read this generator", path, "train the generator again"):
        require_file(path, "file of tensors")
        with safe_open(path, framework="pt") as file:
            about = json.loads(file.metadata()["generator"])
            return _load(about, {name: file.get_tensor(name) for name in file.keys()})


def _about(generator: ImageGenerator) -> dict[str, str | int]:
    """Return all that `_load` needs to rebuild a generator, apart from its weights."""
    settings = generator.settings
    counts = {"class_count": generator.class_count, "channels": generator.channels}
    return {"kind": settings.block, "settings": settings.model_dump_json(exclude={"start_from", "features"}), **counts}


def _load(about: Mapping[str, Any], weights: dict[str, Tensor]) -> ImageGenerator:
    class_count, channels = int(about["class_count"]), int(about["channels"])
    if not 1 <= class_count <= _MAX_CLASSES or channels not in (1, 2):
        raise ValueError(f"{class_count} classes, {channels} channels")
    settings = GENERATORS[about["kind"]].model_validate_json(about["settings"])
    with torch.random.fork_rng(devices=[]):
        generator = KINDS[settings.block].network(settings, class_count, channels)
    generator.load_state_dict(weights)
    return generator.eval().requires_grad_(False)


def _read_checkpoint(path: Path) -> dict[str, Any]:
    with explain_unreadable("cannot read this checkpoint", path):
        content = load_content(path)
        if not isinstance(content["step"], int) or content["kind"] not in GENERATORS:
            raise TypeError("not a checkpoint of a generator")
        return content
