"""Train generators, each once for all trials that need them.

A trained generator is an artifact. During training, its checkpoint is in a work folder with the
same fingerprint, from which any process can resume; a longer run starts from the longest finished
shorter one.

All randomness of step t follows from the seed and t. So on the CPU, a resumed or extended run is
bit-identical to an uninterrupted one.
"""

from __future__ import annotations

import logging
import math
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch.nn.utils import get_total_norm

from xraytune.base.arrays import Int64Array, UInt8Array
from xraytune.base.artifacts import (
    artifact_path,
    artifacts_of,
    build_once,
    fingerprint,
    is_intact,
    releases,
    start_work,
)
from xraytune.base.errors import ArtifactError, TrialError
from xraytune.base.files import read_bytes, sha256_of, write_bytes
from xraytune.base.records import Compute
from xraytune.base.tensors import explain_unreadable, load_content, save_content
from xraytune.data.prepare import Prepared, RunContext, side_images
from xraytune.nets.captured import replayed
from xraytune.nets.optimizer import load_optimizer
from xraytune.space.settings import GanSettings
from xraytune.synth.gan import GanTraining
from xraytune.synth.saved_generator import (
    NETWORK_FILE,
    load_generator,
    resize_planes,
    save_generator,
)

GAN_STAGE = "gan-5"
"""The stage of the artifacts of GANs."""
CHECKPOINT_FILE = "checkpoint.pt"
_logger = logging.getLogger(__name__)


def generator_inputs(settings: GanSettings, prepared: Prepared, compute: Compute) -> dict[str, Any]:
    """Return everything that a trained generator depends on."""
    inputs = {
        "settings": settings.model_dump(exclude={"start_from", "features"}),
        "makes_masks": prepared.has_masks,
        "train": prepared.train_fingerprint,
        "pixels_sha256": prepared.pixels_sha256,
        "image_size_px": prepared.image_size_px,
        "class_names": list(prepared.outputs),
        "compute": [compute.device, compute.threads, compute.precision],
        "releases": releases("torch"),
    }
    if settings.start_from:
        inputs["start"] = sha256_of(settings.start_from / NETWORK_FILE)
    if settings.features:
        inputs["features"] = sha256_of(settings.features)
    return inputs


def generator_need(
    settings: GanSettings | None, prepared: Prepared, compute: Compute, cache: Path
) -> str | None:
    """Return the lineage of the generator that a trial with these settings must train first.

    None if the cache has it.

    Runs of one lineage differ only in their number of steps, so that one can start from another.
    """
    if settings is None:
        return None
    inputs = generator_inputs(settings, prepared, compute)
    if is_intact(artifact_path(cache, GAN_STAGE, inputs)):
        return None
    return fingerprint(GAN_STAGE, _without_steps(inputs))


def _without_steps(inputs: dict[str, Any]) -> dict[str, Any]:
    return {**inputs, "settings": {**inputs["settings"], "steps": None}}


def trained_generator(settings: GanSettings, context: RunContext) -> Path:
    """Return the artifact of a generator, `generator.safetensors` and `checkpoint.pt`.

    See `train_generator`.
    """
    prepared = context.prepared
    cache = context.cache
    inputs = generator_inputs(settings, prepared, context.compute)
    work = artifact_path(cache, f"{GAN_STAGE}.work", inputs)
    what = "training the GAN (steps)"

    def build(folder: Path) -> None:
        start_work(cache, GAN_STAGE, inputs)
        _start_from_shorter_run(cache, inputs, work)
        if not (work / CHECKPOINT_FILE).exists():
            context.on_progress(what, 0, settings.steps)  # the pace is known sooner
        train = side_images("train", prepared, cache)
        for step in train_generator(
            settings,
            train.planes(np.arange(len(train.rows))),
            train.targets,
            len(prepared.outputs),
            compute=context.compute,
            folder=work,
        ):
            context.on_progress(what, step, settings.steps)
        for name in (CHECKPOINT_FILE, NETWORK_FILE):
            copy_file(work / name, folder / name)

    def wait() -> None:
        waits_for = "waiting for the GAN, which another process trains (steps)"
        context.on_progress(waits_for, 0, settings.steps)

    path = build_once(cache, GAN_STAGE, inputs, build, waiting=wait)
    shutil.rmtree(work, ignore_errors=True)
    return path


def _start_from_shorter_run(cache: Path, inputs: dict[str, Any], work: Path) -> None:
    """Copy the checkpoint of the longest finished run with fewer steps into the work folder."""
    if (work / CHECKPOINT_FILE).exists():
        return
    shorter = {
        other["settings"]["steps"]: path
        for path, other in artifacts_of(cache, GAN_STAGE)
        if _without_steps(other) == _without_steps(inputs)
    }
    for steps in sorted(shorter, reverse=True):
        if steps < inputs["settings"]["steps"] and is_intact(shorter[steps]):
            copy_file(shorter[steps] / CHECKPOINT_FILE, work / CHECKPOINT_FILE)
            return


def copy_file(file: Path, to: Path) -> None:
    """Copy a file. Errors of `shutil` neither name a full disk nor always say that it is full."""
    write_bytes(to, read_bytes(file))


def train_generator(
    settings: GanSettings,
    planes: UInt8Array,
    labels: Int64Array,
    class_count: int,
    *,
    compute: Compute,
    folder: Path,
    report_every_steps: int = 25,
    checkpoint_every_steps: int = 250,
) -> Iterator[int]:
    """Train up to step `settings.steps`, from the checkpoint in a folder if there is one.

    Yields the steps so far. Images are uint8 [N, C, h, w], possibly memory maps, and resized once;
    with C = 2, masks (0 and 255) are the second plane. `labels`, int64 [N] in [0, class_count),
    have each class at least once; all classes are drawn equally often. Or they are findings,
    [N, class_count]. The folder gets `generator.safetensors` at the end. The training waits for the
    device only at reports; the interval of checkpoints is a multiple of theirs.

    Raises:
        ArtifactError: The generator to start from is of another network.
        TrialError: A loss or a weight is not finite.
    """
    planes = resize_planes(planes, settings.image_size)
    training = GanTraining(settings, class_count, compute, planes.shape[1])
    if settings.start_from:
        start = settings.start_from / NETWORK_FILE
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
            raise TrialError(what, fix="lower gan.lr_g and gan.lr_d")
        if training.step % checkpoint_every_steps == 0:
            _save(training, checkpoint)
        yield training.step
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
