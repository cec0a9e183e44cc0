"""Train a generator, as an iterator of steps that can be closed and resumed.

All randomness of step t follows from the seed and t. So on the CPU, a resumed or extended run is
bit-identical to an uninterrupted one.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from pathlib import Path

import torch
from torch.nn.utils import get_total_norm

from xraytune.base.arrays import Int64Array, UInt8Array
from xraytune.base.errors import Problem, TrialError
from xraytune.base.records import Compute
from xraytune.nets.captured import replayed
from xraytune.space.settings import GanSettings
from xraytune.synth.checkpoint import load_start, resume, save_checkpoint, save_generator
from xraytune.synth.gan import GanTraining
from xraytune.synth.pool import resize_planes
from xraytune.synth.saved_generator import NETWORK_FILE


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
    with C = 2, masks (0 and 255) are the second plane. `labels`, int64 [N] in [0, class_count), have
    each class at least once; all classes are drawn equally often. Or they are findings, [N,
    class_count]. `start` is the file of a trained generator whose weights the first step starts
    from. The folder gets `generator.safetensors` at the end. The training waits for the device only
    at reports; the interval of checkpoints is a multiple of theirs.

    Raises:
        ArtifactError: `start` is of another network.
        TrialError: A loss or a weight is not finite.
    """
    planes = resize_planes(planes, settings.image_size)
    training = GanTraining(settings, class_count, compute, planes.shape[1])
    if start is not None:
        load_start(training, start)
    resume(training, folder)
    training.fit(planes, labels)
    update = replayed(training.update, compute)

    while training.step < settings.steps:
        losses = torch.zeros(2, device=compute.device)
        count = report_every_steps - training.step % report_every_steps
        for _ in range(min(count, settings.steps - training.step)):
            losses += update(training.draw())
            training.step += 1
        _require_finite(losses, training)
        if training.step == settings.steps or training.step % checkpoint_every_steps == 0:
            save_checkpoint(training, folder)
        yield training.step
    if not settings.steps:
        save_checkpoint(training, folder)
    save_generator(training.ema_generator, folder / NETWORK_FILE)


def _require_finite(losses: torch.Tensor, training: GanTraining) -> None:
    """Raise TrialError for losses or weights that are not finite.

    The last losses are from before the last update.
    """
    weight_norm = get_total_norm(training.generator.parameters()).item()
    if not math.isfinite(weight_norm + losses.sum().item()):
        what = f"the GAN diverged by step {training.step}: a loss or a weight is not finite"
        raise TrialError(Problem(what, fix="lower gan.lr_g and gan.lr_d"))
