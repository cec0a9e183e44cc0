"""What a GAN's training keeps on disk: a checkpoint to go on from, and the generator alone, to sample from.

A checkpoint holds tensors and plain Python values only, so it loads with `weights_only=True`. It names the settings
and the images that it belongs to, and is continued by nobody else. There is no generator state in it: a step's
randomness follows from its number.
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
from xraytune.gan.networks import Discriminator, Generator
from xraytune.records import Compute
from xraytune.seeding import derive_seed
from xraytune.tensors import UNREADABLE, load_content, save_content, save_state

CHECKPOINT_NAME = "checkpoint.pt"
_VERSION = 1
_MOST_CLASSES = 1000
"""A damaged number would fill the memory."""
_OF_ITS_USE = {"allow_memorised"}
"""Settings that say what becomes of a GAN's images, and nothing of the GAN: two runs that differ in them are one."""
_logger = logging.getLogger(__name__)


@dataclass(slots=True, kw_only=True)
class Training:
    """A training as it stands after `step` steps; the loop changes it in place.

    Attributes:
        average: The moving average of `generator`, in evaluation mode: the one to sample from.
    """

    settings: GanSettings
    class_count: int
    generator: Generator
    discriminator: Discriminator
    average: Generator
    optimizer_g: Adam
    optimizer_d: Adam
    step: int


def new_training(settings: GanSettings, class_count: int, compute: Compute) -> Training:
    """Both networks with the initial weights of `settings.seed`, on the device, at step 0."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(derive_seed(settings.seed, "gan", "initial weights"))
        generator, discriminator = Generator(settings, class_count), Discriminator(settings, class_count)
    for network in (generator, discriminator):
        network.to(device=compute.device, memory_format=torch.channels_last)  # type: ignore[call-overload]
    # What a GPU is to replay (`gan/replay.py`) must keep its count of steps there.
    adam = partial(Adam, betas=(settings.beta1, 0.999), fused=True, capturable=compute.device == "cuda")
    return Training(
        settings=settings,
        class_count=class_count,
        generator=generator,
        discriminator=discriminator,
        average=copy.deepcopy(generator).eval().requires_grad_(False),
        optimizer_g=adam(generator.parameters(), lr=settings.lr_g),
        optimizer_d=adam(discriminator.parameters(), lr=settings.lr_d),
        step=0,
    )


def save_checkpoint(training: Training, images_digest: str, folder: Path) -> None:
    """Write the folder's checkpoint durably, over the one before.

    Raises:
        MachineError: The disk is full.
    """
    content = {
        "version": _VERSION,
        "identity": _identity(training.settings, training.class_count, images_digest),
        "settings": training.settings.model_dump_json(exclude=_OF_ITS_USE),
        "class_count": training.class_count,
        "step": training.step,
        **{name: part.state_dict() for name, part in _parts(training).items()},
    }
    save_content(content, folder / CHECKPOINT_NAME)


def resume(training: Training, images_digest: str, folder: Path) -> None:
    """Bring a new training to where the folder's checkpoint stands; a missing or damaged one leaves it at step 0.

    Raises:
        ConfigError: The checkpoint is of other settings, other images or a longer run: it would be overwritten.
        ArtifactError: It names these settings and these images, and holds another network.
    """
    path = folder / CHECKPOINT_NAME
    if not path.exists():
        return
    try:
        content = _read_checkpoint(path)
    except ArtifactError as error:
        _logger.warning("%s; training starts anew", error)
        return
    fix = "give another folder, or remove this file"
    if content["identity"] != _identity(training.settings, training.class_count, images_digest):
        raise ConfigError(Problem("this GAN was trained with other settings or other images", path, fix))
    if content["step"] > training.settings.steps:
        raise ConfigError(Problem(f"this GAN is already at step {content['step']}, beyond steps", path, fix))
    try:
        for name, part in _parts(training).items():
            part.load_state_dict(content[name])
    except UNREADABLE as error:
        raise ArtifactError(Problem("this checkpoint is of another network", path, fix)) from error
    training.step = content["step"]


def checkpoint_generator(path: Path) -> Generator:
    """The averaged generator of a checkpoint, in evaluation mode, on the CPU.

    Raises:
        ArtifactError: The file is damaged.
    """
    content = _read_checkpoint(path)
    try:
        return _sampler(content["settings"], content["class_count"], content["average"])
    except UNREADABLE as error:
        raise ArtifactError(Problem("this checkpoint is of another network", path, "make it again")) from error


def checkpoint_step(path: Path) -> int:
    """After how many steps a checkpoint was written.

    Raises:
        ArtifactError: The file is damaged.
    """
    return int(_read_checkpoint(path)["step"])


def save_generator(generator: Generator, path: Path) -> None:
    """Write a generator as safetensors, with what is needed to build it again in the metadata.

    Raises:
        MachineError: The disk is full.
    """
    settings = generator.settings.model_dump_json(exclude=_OF_ITS_USE)
    save_state(generator, path, {"settings": settings, "class_count": str(generator.class_count)})


def load_generator(path: Path) -> Generator:
    """A generator from its safetensors file, in evaluation mode, on the CPU.

    Raises:
        ArtifactError: The file is damaged.
    """
    try:
        require_file(path, "file of tensors")
        with safe_open(path, framework="pt") as file:
            metadata = file.metadata()
            weights = {name: file.get_tensor(name) for name in file.keys()}
        return _sampler(metadata["settings"], int(metadata["class_count"]), weights)
    except UNREADABLE as error:
        raise ArtifactError(Problem("this generator cannot be read", path, "make it again")) from error


def _sampler(settings: str, class_count: int, weights: dict[str, Tensor]) -> Generator:
    if not 1 <= class_count <= _MOST_CLASSES:
        raise ValueError(f"{class_count} classes")
    with torch.random.fork_rng(devices=[]):
        generator = Generator(GanSettings.model_validate_json(settings), class_count)
    generator.load_state_dict(weights)
    return generator.eval().requires_grad_(False)


def _read_checkpoint(path: Path) -> dict[str, Any]:
    try:
        content = load_content(path)
        if content["version"] == _VERSION and isinstance(content["identity"], str) and isinstance(content["step"], int):
            return content
    except UNREADABLE as error:
        raise ArtifactError(Problem("this checkpoint cannot be read", path)) from error
    raise ArtifactError(Problem(f"this checkpoint is of version {content['version']}", path))


def _parts(training: Training) -> dict[str, Generator | Discriminator | Adam]:
    return {
        "generator": training.generator,
        "discriminator": training.discriminator,
        "average": training.average,
        "optimizer_g": training.optimizer_g,
        "optimizer_d": training.optimizer_d,
    }


def _identity(settings: GanSettings, class_count: int, images_digest: str) -> str:
    """All that a training's bits depend on but its length: a longer run continues the shorter."""
    return json.dumps([settings.model_dump(mode="json", exclude={"steps", *_OF_ITS_USE}), class_count, images_digest])
