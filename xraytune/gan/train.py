"""Train one GAN on uint8 images, as an iterator of progress that can be closed between any two records.

It writes its own checkpoints and goes on from the one it finds, also to a later step than the run that wrote it was
asked for. The randomness of step t is derived from the seed and t, so on the CPU a resumed or prolonged run has the
bits of an unbroken one.
"""

from __future__ import annotations

import hashlib
import math
from collections.abc import Iterator
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from torch.nn import functional
from torch.nn.utils import get_total_norm

from xraytune.config.settings import GanSettings
from xraytune.errors import Problem, TrialError
from xraytune.files import write_bytes
from xraytune.gan.checkpoint import Training, new_training, resume, save_checkpoint
from xraytune.gan.pool import draw_grid, draw_noise, generate, png_bytes
from xraytune.gan.step import Step, draw_step, real_images, replayed, train_step
from xraytune.records import Compute
from xraytune.seeding import derive_seed, numpy_generator

_GRID_COLUMNS = 8
_GRID_ROWS = 8
_SCALING_BATCH = 256


@dataclass(frozen=True, slots=True, kw_only=True)
class GanProgress:
    """Where a training stands; losses are means over the steps since the record before."""

    step: int
    steps: int
    loss_g: float
    loss_d: float


def train_gan(
    settings: GanSettings,
    pixels: NDArray[np.uint8],
    labels: NDArray[np.int64],
    class_count: int,
    *,
    compute: Compute,
    checkpoint_dir: Path,
    grid_dir: Path | None = None,
    report_every_steps: int = 25,
    checkpoint_every_steps: int = 250,
    grid_every_steps: int = 500,
) -> Iterator[GanProgress]:
    """Train one network for `settings.steps` steps in all; nothing is yielded when the checkpoint is there already.

    Args:
        settings: Of the GAN; `conditional` is the caller's matter, who passes one class at a time where it is false.
        pixels: uint8 [N, h, w], may be a memory map of another size: scaled once to `image_size`, antialiased.
        labels: int64 [N], from 0 to `class_count` - 1, each at least once; the classes are drawn equally often.
        class_count: 1: the network is not told the class.
        compute: The caller has pinned its threads.
        checkpoint_dir: Read first, then written; at the end it holds the checkpoint of the last step.
        grid_dir: Where `real.png` and `step_000500.png` ... are drawn: the same noise each time, the classes in
            equal bands of rows.
        report_every_steps: A record each; the device is waited for only then.
        checkpoint_every_steps: Rounded up to the next report.
        grid_every_steps: Rounded up to the next report.

    Raises:
        ConfigError: The checkpoint is of other settings, other images or a longer run.
        MachineError: The disk is full.
        TrialError: A loss, or a weight, is not finite.
    """
    scaled = scale_pixels(pixels, settings.image_size)
    digest = _digest(scaled, labels)
    training = new_training(settings, class_count, compute)
    resume(training, digest, checkpoint_dir)
    if grid_dir is not None:
        _draw_real_grid(scaled, labels, class_count, settings.seed, grid_dir)
    real = real_images(scaled, labels, compute)
    step: Step = partial(train_step, training, real, compute)
    if compute.device == "cuda":
        step = replayed(step)

    while training.step < settings.steps:
        first = training.step
        loss_sums = torch.zeros(2, device=compute.device)
        for _ in range(min(report_every_steps - first % report_every_steps, settings.steps - first)):
            loss_sums += step(draw_step(training, real, compute))
            training.step += 1
        loss_g, loss_d = (loss_sums / (training.step - first)).tolist()
        _require_finite(loss_g, loss_d, training)
        # The picture first: a run killed in between repeats its steps and draws it again.
        if grid_dir is not None and _is_due(first, training, grid_every_steps):
            _draw_sample_grid(training, compute, grid_dir)
        if _is_due(first, training, checkpoint_every_steps):
            save_checkpoint(training, digest, checkpoint_dir)
        yield GanProgress(
            step=training.step,
            steps=settings.steps,
            loss_g=loss_g,
            loss_d=loss_d,
        )


def scale_pixels(pixels: NDArray[np.uint8], size_px: int) -> NDArray[np.uint8]:
    """Images [N, h, w] as [N, size, size] in memory, antialiased; a memory map is read in pieces."""
    scaled = np.empty((len(pixels), size_px, size_px), dtype=np.uint8)
    for start in range(0, len(pixels), _SCALING_BATCH):
        rows = np.arange(start, min(start + _SCALING_BATCH, len(pixels)))
        batch = torch.from_numpy(np.array(pixels[rows]))[:, None].float()
        small = functional.interpolate(batch, size=(size_px, size_px), mode="bilinear", antialias=True)
        scaled[rows] = small[:, 0].round().clamp(0, 255).to(torch.uint8).numpy()
    return scaled


def _require_finite(loss_g: float, loss_d: float, training: Training) -> None:
    """Also looks at the weights: the last step's losses were finite before its update."""
    weight_norm = get_total_norm(training.generator.parameters()).item()
    if not (math.isfinite(loss_g) and math.isfinite(loss_d) and math.isfinite(weight_norm)):
        what = f"the GAN diverged by step {training.step}: losses {loss_g}, {loss_d}; norm of weights {weight_norm}"
        raise TrialError(Problem(what, fix="lower gan.lr_g and gan.lr_d, or turn gan.spectral_norm on"))


def _is_due(first: int, training: Training, every_steps: int) -> bool:
    """Whether the steps after `first` have passed a multiple, or were the last: the same after a resume."""
    return training.step // every_steps > first // every_steps or training.step == training.settings.steps


def _digest(scaled: NDArray[np.uint8], labels: NDArray[np.int64]) -> str:
    return hashlib.sha256(scaled.tobytes() + labels.tobytes()).hexdigest()


def _draw_sample_grid(training: Training, compute: Compute, folder: Path) -> None:
    labels = torch.from_numpy(_grid_labels(training.class_count))
    z = draw_noise(training.average, len(labels), derive_seed(training.settings.seed, "gan", "grid"))
    sheet = draw_grid(generate(training.average, z, labels, compute), _GRID_COLUMNS)
    write_bytes(folder / f"step_{training.step:06d}.png", png_bytes(sheet))


def _draw_real_grid(
    scaled: NDArray[np.uint8], labels: NDArray[np.int64], class_count: int, seed: int, folder: Path
) -> None:
    random = numpy_generator(seed, "gan", "grid")
    rows = [random.choice(np.flatnonzero(labels == label)) for label in _grid_labels(class_count)]
    write_bytes(folder / "real.png", png_bytes(draw_grid(scaled[rows], _GRID_COLUMNS)))


def _grid_labels(class_count: int) -> NDArray[np.int64]:
    """The class of every place in a grid: whole rows of a class, at least one each."""
    rows_per_class = max(1, _GRID_ROWS // class_count)
    return np.repeat(np.arange(class_count, dtype=np.int64), rows_per_class * _GRID_COLUMNS)
