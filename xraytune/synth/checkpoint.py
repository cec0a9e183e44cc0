"""A trained generator as a safetensors file, and the checkpoint of a generator's training.

The work folder of a training is named after its settings and images, so its checkpoint is always of
the same ones. Checkpoints store no random state, since all randomness of a step follows from the
seed and the step's number.
"""

from __future__ import annotations

import json
import logging
from pathlib import Path

import torch
from safetensors import safe_open

from xraytune.base.errors import ArtifactError
from xraytune.base.tensors import explain_unreadable, load_content, save_content, save_state
from xraytune.nets.optimizer import load_optimizer
from xraytune.space.settings import GanSettings
from xraytune.synth.gan import GanTraining
from xraytune.synth.networks import Generator
from xraytune.synth.saved_generator import known_settings

CHECKPOINT_FILE = "checkpoint.pt"
_logger = logging.getLogger(__name__)


def save_checkpoint(training: GanTraining, folder: Path) -> None:
    """Write the checkpoint of `folder`, atomically replacing the previous one."""
    parts = {name: part.state_dict() for name, part in training.parts.items()}
    save_content({"step": training.step, **parts}, folder / CHECKPOINT_FILE)


def resume(training: GanTraining, folder: Path) -> None:
    """Load the checkpoint of `folder` into a new training.

    A missing or damaged one leaves it at step 0.
    """
    file = folder / CHECKPOINT_FILE
    if not file.exists():
        return
    try:
        with explain_unreadable("cannot read this checkpoint", file):
            content = load_content(file)
            for name in ("optimizer_g", "optimizer_d"):
                load_optimizer(training.parts[name], content[name])
            for name in ("generator", "discriminator", "ema_generator"):
                training.parts[name].load_state_dict(content[name])
            training.step = content["step"]
    except ArtifactError as error:
        _logger.warning("%s; training starts from scratch", error)


def load_start(training: GanTraining, file: Path) -> None:
    """Give a new training the weights of a saved generator.

    Raise ArtifactError if its network is another one.
    """
    weights = load_generator(file).state_dict()
    fix = "give it the same settings of the network"
    with explain_unreadable("this generator has a different network", file, fix):
        for network in (training.generator, training.ema_generator):
            network.load_state_dict(weights)


def save_generator(generator: Generator, path: Path) -> None:
    """Write a generator as safetensors.

    The metadata holds what `load_generator` needs to rebuild it.
    """
    about = {
        "kind": "gan",
        "settings": generator.settings.model_dump_json(exclude={"start_from", "features"}),
        "class_count": generator.class_count,
        "channels": generator.channels,
    }
    # One entry: their order is random.
    save_state(generator.state_dict(), path, {"generator": json.dumps(about)})


def load_generator(path: Path) -> Generator:
    """Load a generator from its safetensors file, in evaluation mode, on the CPU."""
    with explain_unreadable("cannot read this generator", path, "train the generator again"):
        with safe_open(path, framework="pt") as file:
            about = json.loads(file.metadata()["generator"])
            weights = {name: file.get_tensor(name) for name in file.keys()}
        settings = json.dumps(known_settings(json.loads(about["settings"])))
        with torch.random.fork_rng(devices=[]):
            generator = Generator(
                GanSettings.model_validate_json(settings),
                int(about["class_count"]),
                int(about["channels"]),
            )
        generator.load_state_dict(weights)
    return generator.eval().requires_grad_(False)
