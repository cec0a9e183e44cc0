"""Train generators, each once for all trials that need them.

A trained generator is an artifact. During training, its checkpoint is in a work folder with the
same fingerprint, from which any process can resume; a longer run starts from the longest finished
shorter one.
"""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import Any

import numpy as np

from xraytune.base.artifacts import (
    artifact_path,
    artifacts_of,
    build_once,
    fingerprint,
    is_intact,
    releases,
    start_work,
    work_path,
)
from xraytune.base.files import read_bytes, sha256_of, sync, write_bytes
from xraytune.base.records import Compute
from xraytune.data.prepare import Prepared, RunContext, side_images
from xraytune.space.settings import GanSettings
from xraytune.synth.saved_generator import NETWORK_FILE
from xraytune.synth.train import CHECKPOINT_FILE, train_generator

GAN_STAGE = "gan-5"
"""The stage of the artifacts of GANs."""


def generator_inputs(
    settings: GanSettings, prepared: Prepared, compute: Compute, *, torch: str | None = None
) -> dict[str, Any]:
    """Return everything that a trained generator depends on.

    `torch` is its release, by default the installed one.
    """
    inputs = {
        "settings": settings.model_dump(exclude={"start_from", "features"}),
        "makes_masks": prepared.has_masks,
        "train": prepared.train_fingerprint,
        "pixels_sha256": prepared.pixels_sha256,
        "image_size_px": prepared.image_size_px,
        "class_names": list(prepared.outputs),
        "compute": [compute.device, compute.threads, compute.precision],
        "releases": {"torch": torch} if torch else releases("torch"),
    }
    if settings.start_from:
        inputs["start"] = sha256_of(settings.start_from / NETWORK_FILE)
    if settings.features:
        inputs["features"] = sha256_of(settings.features)
    return inputs


def generator_path(
    settings: GanSettings,
    prepared: Prepared,
    compute: Compute,
    cache: Path,
    *,
    torch: str | None = None,
) -> Path:
    """Return the artifact of a generator, whether it exists or not."""
    inputs = generator_inputs(settings, prepared, compute, torch=torch)
    return artifact_path(cache, GAN_STAGE, inputs)


def generator_need(
    settings: GanSettings | None, prepared: Prepared, compute: Compute, cache: Path
) -> str | None:
    """Return the lineage of the generator that a trial with these settings must train first.

    None if the cache has it.

    Runs of one lineage differ only in their number of steps, so that one can start from another.
    """
    if settings is None or is_intact(generator_path(settings, prepared, compute, cache)):
        return None
    return fingerprint(GAN_STAGE, _without_steps(generator_inputs(settings, prepared, compute)))


def _without_steps(inputs: dict[str, Any]) -> dict[str, Any]:
    return {**inputs, "settings": {**inputs["settings"], "steps": None}}


def trained_generator(settings: GanSettings, context: RunContext) -> Path:
    """Return the artifact of a generator, `generator.safetensors` and `checkpoint.pt`.

    See `train_generator`.
    """
    prepared = context.prepared
    cache = context.cache
    inputs = generator_inputs(settings, prepared, context.compute)
    work = work_path(cache, GAN_STAGE, inputs)
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
            start=settings.start_from and settings.start_from / NETWORK_FILE,
            compute=context.compute,
            folder=work,
        ):
            context.on_progress(what, step, settings.steps)
        for name in (CHECKPOINT_FILE, NETWORK_FILE):
            copy_file(work / name, folder / name)

    waits_for = "waiting for the GAN, which another process trains (steps)"
    path = build_once(
        cache,
        GAN_STAGE,
        inputs,
        build,
        waiting=lambda: context.on_progress(waits_for, 0, settings.steps),
    )
    if work.exists():
        shutil.rmtree(work, ignore_errors=True)
        sync(work.parent)  # otherwise it is back after a power loss
    return path


def _start_from_shorter_run(cache: Path, inputs: dict[str, Any], work: Path) -> None:
    """Copy the checkpoint of the longest finished run with fewer steps into the work folder."""
    if (work / CHECKPOINT_FILE).exists():
        return
    shorter = [
        (other["settings"]["steps"], path)
        for path, other in artifacts_of(cache, GAN_STAGE)
        if other["settings"]["steps"] < inputs["settings"]["steps"]
        and _without_steps(other) == _without_steps(inputs)
    ]
    for _, artifact in sorted(shorter, reverse=True):
        if is_intact(artifact):
            copy_file(artifact / CHECKPOINT_FILE, work / CHECKPOINT_FILE)
            return


def copy_file(file: Path, to: Path) -> None:
    """Copy a file. Errors of `shutil` neither name a full disk nor always say that it is full."""
    write_bytes(to, read_bytes(file))
