"""Train a generator, as an iterator of steps that can be closed and resumed.

All randomness of step t follows from the seed and t. So on the CPU, a resumed or extended run is
bit-identical to an uninterrupted one.
"""

from __future__ import annotations

import logging
import math
from collections.abc import Iterator
from pathlib import Path

import torch
from torch.nn.utils import get_total_norm

from xraytune.base.arrays import Int64Array, UInt8Array
from xraytune.base.errors import ArtifactError, Problem, TrialError
from xraytune.base.records import Compute
from xraytune.base.tensors import explain_unreadable, load_content, save_content
from xraytune.nets.captured import replayed
from xraytune.nets.optimizer import load_optimizer
from xraytune.space.settings import GanSettings
from xraytune.synth.gan import GanTraining
from xraytune.synth.networks import load_generator, save_generator
from xraytune.synth.pool import resize_planes
from xraytune.synth.saved_generator import NETWORK_FILE

CHECKPOINT_FILE = "checkpoint.pt"
_logger = logging.getLogger(__name__)


def train_generator(
    settings: GanSettings,
    planes: UInt8Array,
    labels: Int64Array,
    class_count: int,
    *,
    start: Path | None = None,
    compute: Compute,
    folder: Path,
    report_every_steps: int = 25,
    checkpoint_every_steps: int = 250,
) -> Iterator[int]:
    """Train up to step `settings.steps`, from the checkpoint in a folder if there is one.

    Yields the steps so far. Images are uint8 [N, C, h, w], possibly memory maps, and resized once;
    with C = 2, masks (0 and 255) are the second plane. `labels`, int64 [N] in [0, class_count),
    have each class at least once; all classes are drawn equally often. Or they are findings,
    [N, class_count]. `start` is the file of a trained generator whose weights the first step starts
    from. The folder gets `generator.safetensors` at the end. The training waits for the device only
    at reports; the interval of checkpoints is a multiple of theirs.

    Raises:
        ArtifactError: `start` is of another network.
        TrialError: A loss or a weight is not finite.
    """
    planes = resize_planes(planes, settings.image_size)
    training = GanTraining(settings, class_count, compute, planes.shape[1])
    if start is not None:
        weights = load_generator(start).state_dict()
        fix = "give it the same settings of the network"
        with explain_unreadable("this generator has a different network", start, fix):
            training.generator.load_state_dict(weights)
            training.ema_generator.load_state_dict(weights)
    checkpoint = folder / CHECKPOINT_FILE
    if checkpoint.exists():
        _resume(training, checkpoint)
    training.fit(planes, labels)
    update = replayed(training.update, compute)

    while training.step < settings.steps:
        losses = torch.zeros(2, device=compute.device)
        count = report_every_steps - training.step % report_every_steps
        for _ in range(min(count, settings.steps - training.step)):
            losses += update(training.draw())
            training.step += 1
        # The last losses are from before the last update.
        weight_norm = get_total_norm(training.generator.parameters()).item()
        if not math.isfinite(weight_norm + losses.sum().item()):
            what = f"the GAN diverged by step {training.step}: a loss or a weight is not finite"
            raise TrialError(Problem(what, fix="lower gan.lr_g and gan.lr_d"))
        if training.step == settings.steps or training.step % checkpoint_every_steps == 0:
            _save(training, checkpoint)
        yield training.step
    if not settings.steps:
        _save(training, checkpoint)
    save_generator(training.ema_generator, folder / NETWORK_FILE)


def _save(training: GanTraining, checkpoint: Path) -> None:
    """Write the checkpoint, without random state.

    That of a step follows from the seed and its number.
    """
    parts = {name: part.state_dict() for name, part in training.parts.items()}
    save_content({"step": training.step, **parts}, checkpoint)


def _resume(training: GanTraining, checkpoint: Path) -> None:
    """Load the checkpoint into a new training; a damaged one leaves it at step 0."""
    try:
        with explain_unreadable("cannot read this checkpoint", checkpoint):
            content = load_content(checkpoint)
            for name in ("optimizer_g", "optimizer_d"):
                load_optimizer(training.parts[name], content[name])
            for name in ("generator", "discriminator", "ema_generator"):
                training.parts[name].load_state_dict(content[name])
            training.step = content["step"]
    except ArtifactError as error:
        _logger.warning("%s; training starts from scratch", error)
