"""The state of a GAN's training, its checkpoint, and the trained generator as a safetensors file.

A checkpoint belongs to its settings and images: no other training resumes from it. It stores no random state, since all
randomness of a step follows from the seed and the step's number. Readers raise `ArtifactError` for a damaged file.
"""

from __future__ import annotations

import copy
import json
import logging
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import torch
from safetensors import safe_open
from torch import Tensor
from torch.optim import Adam

from xraytune.config.settings import GanSettings
from xraytune.errors import ArtifactError, ConfigError, Problem
from xraytune.files import require_file
from xraytune.generators.networks import Discriminator, Generator
from xraytune.records import Compute
from xraytune.seeding import derive_seed
from xraytune.tensors import UNREADABLE, load_content, save_content, save_state

CHECKPOINT_NAME = "checkpoint.pt"
USE_SETTINGS = {"allow_memorised", "mask_from"}
"""Settings of how images are used. Apart from the number of channels, they do not change the GAN."""
_MAX_CLASSES = 1000
"""Limits the memory that a damaged file can ask for."""
_logger = logging.getLogger(__name__)


@dataclass(slots=True, kw_only=True)
class TrainingState:
    """A training after `step` steps; the training loop updates it in place.

    Attributes:
        ema_generator: Exponential moving average of `generator`, in evaluation mode: the network to sample from.
    """

    settings: GanSettings
    class_count: int
    channels: int
    generator: Generator
    discriminator: Discriminator
    ema_generator: Generator
    optimizer_g: Adam
    optimizer_d: Adam
    step: int = 0

    def parts(self) -> dict[str, Generator | Discriminator | Adam]:
        """Return everything with a state dict, by name."""
        names = ("generator", "discriminator", "ema_generator", "optimizer_g", "optimizer_d")
        return {name: getattr(self, name) for name in names}


def new_training(settings: GanSettings, class_count: int, compute: Compute, channels: int = 1) -> TrainingState:
    """Initialise both networks from `settings.seed`, on the device."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(derive_seed(settings.seed, "gan", "initial weights"))
        generator = Generator(settings, class_count, channels)
        discriminator = Discriminator(settings, class_count, channels)
    for network in (generator, discriminator):
        network.to(device=compute.device, memory_format=torch.channels_last)  # type: ignore[call-overload]
    # A CUDA graph (generators/step.py) needs the optimizer's step count on the GPU.
    adam = partial(Adam, betas=(settings.beta1, 0.999), fused=True, capturable=compute.device == "cuda")
    return TrainingState(
        settings=settings,
        class_count=class_count,
        channels=channels,
        generator=generator,
        discriminator=discriminator,
        ema_generator=copy.deepcopy(generator).eval().requires_grad_(False),
        optimizer_g=adam(generator.parameters(), lr=settings.lr_g),
        optimizer_d=adam(discriminator.parameters(), lr=settings.lr_d),
    )


def save_checkpoint(training: TrainingState, images_digest: str, folder: Path) -> None:
    """Write the checkpoint of `folder`, replacing the one before atomically."""
    content = {
        "identity": _identity(training, images_digest),
        "settings": training.settings.model_dump_json(exclude=USE_SETTINGS),
        "class_count": training.class_count,
        "channels": training.channels,
        "step": training.step,
        **{name: part.state_dict() for name, part in training.parts().items()},
    }
    save_content(content, folder / CHECKPOINT_NAME)


def resume(training: TrainingState, images_digest: str, folder: Path) -> None:
    """Load the checkpoint of `folder` into a new training; a missing or damaged one leaves it at step 0.

    Raises:
        ConfigError: The checkpoint has other settings, other images or more steps, and would be overwritten.
        ArtifactError: Its networks do not match its settings.
    """
    path = folder / CHECKPOINT_NAME
    if not path.exists():
        return
    try:
        content = _read_checkpoint(path)
    except ArtifactError as error:
        _logger.warning("%s; training starts from scratch", error)
        return
    fix = "use another folder, or remove this file"
    if content["channels"] != training.channels:
        what = f"this GAN generates {_product(content['channels'])}, not {_product(training.channels)}"
        raise ConfigError(Problem(what, path, fix))
    if content["identity"] != _identity(training, images_digest):
        raise ConfigError(Problem("this GAN was trained with other settings or other images", path, fix))
    if content["step"] > training.settings.steps:
        raise ConfigError(Problem(f"this GAN is already at step {content['step']}, beyond gan.steps", path, fix))
    try:
        for name, part in training.parts().items():
            part.load_state_dict(content[name])
    except UNREADABLE as error:
        raise ArtifactError(Problem("this checkpoint holds another network", path, fix)) from error
    training.step = content["step"]


def checkpoint_generator(path: Path) -> Generator:
    """Load the EMA generator of a checkpoint, in evaluation mode, on the CPU."""
    content = _read_checkpoint(path)
    try:
        return _load(content["settings"], content["class_count"], content["channels"], content["ema_generator"])
    except UNREADABLE as error:
        raise ArtifactError(Problem("this checkpoint holds another network", path, "train the GAN again")) from error


def checkpoint_step(path: Path) -> int:
    """Return the number of steps trained."""
    return int(_read_checkpoint(path)["step"])


def save_generator(generator: Generator, path: Path) -> None:
    """Write a generator as safetensors; the metadata has what `load_generator` needs to build it."""
    settings = generator.settings.model_dump_json(exclude=USE_SETTINGS)
    counts = {"class_count": str(generator.class_count), "channels": str(generator.channels)}
    save_state(generator, path, {"settings": settings, **counts})


def load_generator(path: Path) -> Generator:
    """Load a generator from its safetensors file, in evaluation mode, on the CPU."""
    try:
        require_file(path, "file of tensors")
        with safe_open(path, framework="pt") as file:
            metadata = file.metadata()
            weights = {name: file.get_tensor(name) for name in file.keys()}
        return _load(metadata["settings"], int(metadata["class_count"]), int(metadata["channels"]), weights)
    except UNREADABLE as error:
        raise ArtifactError(Problem("cannot read this generator", path, "train the GAN again")) from error


def _load(settings: str, class_count: int, channels: int, weights: dict[str, Tensor]) -> Generator:
    if not 1 <= class_count <= _MAX_CLASSES or channels not in (1, 2):
        raise ValueError(f"{class_count} classes, {channels} channels")
    with torch.random.fork_rng(devices=[]):
        generator = Generator(GanSettings.model_validate_json(settings), class_count, channels)
    generator.load_state_dict(weights)
    return generator.eval().requires_grad_(False)


def _read_checkpoint(path: Path) -> dict[str, Any]:
    try:
        content = load_content(path)
        kinds = {"identity": str, "step": int, "channels": int}
        if not all(isinstance(content[name], kind) for name, kind in kinds.items()):
            raise TypeError("not a checkpoint of a GAN")
    except UNREADABLE as error:
        raise ArtifactError(Problem("cannot read this checkpoint", path)) from error
    return content


def _product(channels: int) -> str:
    return "images without masks" if channels == 1 else "images with masks"


def _identity(training: TrainingState, images_digest: str) -> str:
    """Return all that determines the weights after a given number of steps; so a longer run continues a shorter one."""
    settings = training.settings.model_dump(mode="json", exclude={"steps", *USE_SETTINGS})
    return json.dumps([settings, training.class_count, images_digest])
