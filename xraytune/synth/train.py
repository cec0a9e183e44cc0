"""Train a generator, as an iterator of progress that can be closed and resumed.

All randomness of step t follows from the seed and t. So on the CPU, a resumed or extended run is
bit-identical to an uninterrupted one.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from torch.nn import functional as F
from torch.nn.utils import get_total_norm

from xraytune.base.errors import Problem, TrialError
from xraytune.base.files import write_bytes
from xraytune.base.records import Compute
from xraytune.base.seeding import derive_seed
from xraytune.nets.captured import replayed
from xraytune.space.settings import GanSettings
from xraytune.synth.checkpoint import load_start, resume, save_checkpoint
from xraytune.synth.gan import GanTraining, new_training, real_images
from xraytune.synth.grids import image_grid, png_bytes, with_outlines
from xraytune.synth.masks import binarise
from xraytune.synth.pool import draw_noise, generate

_GRID_ROWS = 8
_GRID_COLUMNS = 8
_RESIZE_BATCH = 256


@dataclass(frozen=True, slots=True, kw_only=True)
class TrainingProgress:
    """The progress of a training; losses are means over the steps since the last record."""

    step: int
    losses: Mapping[str, float]


def train_generator(
    settings: GanSettings,
    pixels: NDArray[np.uint8],
    labels: NDArray[np.int64],
    class_count: int,
    *,
    masks: NDArray[np.uint8] | None = None,
    start: Path | None = None,
    compute: Compute,
    checkpoint_dir: Path,
    grid_dir: Path | None = None,
    report_every_steps: int = 25,
    checkpoint_every_steps: int = 250,
    grid_every_steps: int = 500,
) -> Iterator[TrainingProgress]:
    """Train up to step `settings.steps`, from a checkpoint if there is one.

    Images and masks (0 and 255, to generate pairs) are uint8 [N, h, w], possibly memory maps, and
    resized once. `labels`, int64 [N] in [0, class_count), have each class at least once; all
    classes are drawn equally often. Or they are findings, [N, class_count]. `start` is the file of
    a trained generator whose weights the first step starts from. `grid_dir` is for
    `step_000500.png` ...: grids from fixed noise, classes in bands of rows, masks as outlines. The
    training waits for the device only at reports; other intervals are rounded up to the next one.

    Raises:
        ArtifactError: The checkpoint is of another network.
        TrialError: A loss or a weight is not finite.
    """
    planes = resize_planes(pixels, masks, settings.image_size)
    training = new_training(settings, class_count, compute, planes.shape[1])
    if start is not None:
        load_start(training, start)
    resume(training, checkpoint_dir)
    real = real_images(planes, labels, compute)
    training.fit(real)
    step = replayed(partial(training.update, real, compute), compute)

    while training.step < settings.steps:
        first = training.step
        losses = torch.zeros(len(training.losses), device=compute.device)
        for _ in range(
            min(report_every_steps - first % report_every_steps, settings.steps - first)
        ):
            losses += step(training.draw(real, compute))
            training.step += 1
        means = dict(zip(training.losses, (losses / (training.step - first)).tolist(), strict=True))
        _require_finite(means, training)
        # The grid before the checkpoint: if the run is killed in between, the steps are repeated
        # and the grid is redrawn.
        if grid_dir is not None and _is_due(first, training, grid_every_steps):
            _save_sample_grid(training, compute, grid_dir)
        if _is_due(first, training, checkpoint_every_steps):
            save_checkpoint(training, checkpoint_dir)
        yield TrainingProgress(step=training.step, losses=means)
    if not settings.steps:
        save_checkpoint(training, checkpoint_dir)


def resize_planes(
    pixels: NDArray[np.uint8], masks: NDArray[np.uint8] | None, size_px: int
) -> NDArray[np.uint8]:
    """Resize images [N, h, w] and their masks, if any, to uint8 [N, C, size_px, size_px].

    Masks stay 0 and 255.
    """
    planes = [resize_pixels(pixels, size_px)]
    if masks is not None:
        planes.append(binarise(resize_pixels(masks, size_px)))
    return np.stack(planes, axis=1)


def resize_pixels(pixels: NDArray[np.uint8], size_px: int) -> NDArray[np.uint8]:
    """Resize images [N, h, w] to [N, size_px, size_px] with antialiasing.

    In batches, since `pixels` may be a memory map.
    """
    resized = np.empty((len(pixels), size_px, size_px), dtype=np.uint8)
    for start in range(0, len(pixels), _RESIZE_BATCH):
        batch = torch.from_numpy(np.array(pixels[start : start + _RESIZE_BATCH]))[:, None].float()
        small = F.interpolate(batch, size=(size_px, size_px), mode="bilinear", antialias=True)
        resized[start : start + _RESIZE_BATCH] = (
            small[:, 0].round().clamp(0, 255).to(torch.uint8).numpy()
        )
    return resized


def _require_finite(losses: Mapping[str, float], training: GanTraining) -> None:
    """Raise TrialError for losses or weights that are not finite.

    The last losses are from before the last update.
    """
    weight_norm = get_total_norm(training.generator.parameters()).item()
    if not all(map(math.isfinite, (*losses.values(), weight_norm))):
        shown = ", ".join(f"{name} {loss}" for name, loss in losses.items())
        what = f"the GAN diverged by step {training.step}: {shown}, weight norm {weight_norm}"
        raise TrialError(Problem(what, fix="lower gan.lr_g and gan.lr_d"))


def _is_due(first: int, training: GanTraining, every_steps: int) -> bool:
    """Return whether the steps since `first` passed a multiple, or ended the run."""
    return (
        training.step // every_steps > first // every_steps
        or training.step == training.settings.steps
    )


def _save_sample_grid(training: GanTraining, compute: Compute, folder: Path) -> None:
    generator = training.ema_generator
    settings = training.settings
    labels = torch.from_numpy(_grid_labels(generator.class_count))
    z = draw_noise(generator, len(labels), derive_seed(settings.seed, "gan", "grid"))
    sheet = image_grid(with_outlines(*generate(generator, z, labels, compute)), _GRID_COLUMNS)
    write_bytes(folder / f"step_{training.step:06d}.png", png_bytes(sheet))


def _grid_labels(class_count: int) -> NDArray[np.int64]:
    """Return the class of each cell: an equal number of whole rows per class."""
    rows_per_class = max(1, _GRID_ROWS // class_count)
    return np.repeat(np.arange(class_count, dtype=np.int64), rows_per_class * _GRID_COLUMNS)
