"""Train generators, each once for all trials that need them.

A trained generator is an artifact. During training, its checkpoint is in a work folder with the
same fingerprint, from which any process can resume; a longer run starts from the longest finished
shorter one.
"""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import Any

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
from xraytune.synth.checkpoint import (
    CHECKPOINT_NAME,
    checkpoint_generator,
    save_generator,
)
from xraytune.synth.saved_generator import NETWORK_FILE
from xraytune.synth.train import train_generator

GAN_STAGE = "gan-5"
"""The stage of the artifacts of GANs."""


def generator_inputs(
    settings: GanSettings, prepared: Prepared, compute: Compute, *, torch: str | None = None
) -> dict[str, Any]:
    """Return everything that a trained generator depends on.

    `torch` is its release, by default the installed one.
    """
    started = (
        {}
        if settings.start_from is None
        else {"start": sha256_of(settings.start_from / NETWORK_FILE)}
    )
    if settings.features is not None:
        started["features"] = sha256_of(settings.features)
    return {
        "settings": settings.model_dump(exclude={"start_from", "features"}),
        **started,
        "makes_masks": prepared.has_masks,
        "train": prepared.train_fingerprint,
        "pixels_sha256": prepared.pixels_sha256,
        "image_size_px": prepared.image_size_px,
        "class_names": list(prepared.outputs),
        "compute": [compute.device, compute.threads, compute.precision],
        "releases": releases("torch") if torch is None else {"torch": torch},
    }


def generator_path(
    settings: GanSettings,
    prepared: Prepared,
    compute: Compute,
    cache: Path,
    *,
    torch: str | None = None,
) -> Path:
    """Return the artifact of a generator, whether it exists or not.

    `torch` is as in `generator_inputs`.
    """
    return artifact_path(
        cache, GAN_STAGE, generator_inputs(settings, prepared, compute, torch=torch)
    )


def generator_need(
    settings: GanSettings | None, prepared: Prepared, compute: Compute, cache: Path
) -> str | None:
    """Return the lineage of the generator that a trial with these settings must train first.

    None if the cache has it.

    Runs of one lineage differ only in their number of steps, so that one can start from another.
    """
    if settings is None:
        return None
    if is_intact(generator_path(settings, prepared, compute, cache)):
        return None
    return fingerprint(GAN_STAGE, _without_steps(generator_inputs(settings, prepared, compute)))


def _without_steps(inputs: dict[str, Any]) -> dict[str, Any]:
    return {**inputs, "settings": {**inputs["settings"], "steps": None}}


def trained_generator(settings: GanSettings, context: RunContext) -> Path:
    """Return the artifact of a generator, `generator.safetensors`, `checkpoint.pt` and `grids/`.

    See `train_generator`.
    """
    prepared = context.prepared
    compute = context.compute
    cache = context.cache
    on_progress = context.on_progress
    stage = GAN_STAGE
    inputs = generator_inputs(settings, prepared, compute)
    work = work_path(cache, stage, inputs)
    what = "training the GAN (steps)"

    def build(folder: Path) -> None:
        train = side_images("train", prepared, cache)
        masks = train.read_masks() if prepared.has_masks else None
        start_work(cache, stage, inputs)
        _start_from_shorter_run(cache, stage, inputs, work)
        if not (work / CHECKPOINT_NAME).exists():
            on_progress(what, 0, settings.steps)  # the pace is known sooner
        for progress in train_generator(
            settings,
            train.read(),
            train.targets,
            len(prepared.outputs),
            masks=masks,
            start=None if settings.start_from is None else settings.start_from / NETWORK_FILE,
            compute=compute,
            checkpoint_dir=work,
            grid_dir=work / "grids",
        ):
            on_progress(what, progress.step, settings.steps)
        copy_file(work / CHECKPOINT_NAME, folder / CHECKPOINT_NAME)
        save_generator(checkpoint_generator(work / CHECKPOINT_NAME), folder / NETWORK_FILE)
        copy_grids(work / "grids", folder / "grids")

    path = build_once(
        cache,
        stage,
        inputs,
        build,
        waiting=lambda: on_progress(
            "waiting for the GAN, which another process trains (steps)", 0, settings.steps
        ),
    )
    if work.exists():
        shutil.rmtree(work, ignore_errors=True)
        sync(work.parent)  # otherwise it is back after a power loss
    return path


def _start_from_shorter_run(cache: Path, stage: str, inputs: dict[str, Any], work: Path) -> None:
    """Copy the checkpoint of the longest finished run with fewer steps into the work folder."""
    if (work / CHECKPOINT_NAME).exists():
        return
    shorter = [
        (other["settings"]["steps"], path)
        for path, other in artifacts_of(cache, stage)
        if other["settings"]["steps"] < inputs["settings"]["steps"]
        and _without_steps(other) == _without_steps(inputs)
    ]
    for _, artifact in sorted(shorter, reverse=True):
        if is_intact(artifact):
            copy_grids(artifact / "grids", work / "grids")
            write_bytes(work / CHECKPOINT_NAME, (artifact / CHECKPOINT_NAME).read_bytes())
            return


def copy_grids(grids: Path, to: Path) -> None:
    """Copy the images of a training run, but no temporary files of a killed writer."""
    for grid in sorted(grids.glob("[!.]*.png")):
        copy_file(grid, to / grid.name)


def copy_file(file: Path, to: Path) -> None:
    """Copy a file. Errors of `shutil` neither name a full disk nor always say that it is full."""
    write_bytes(to, read_bytes(file))
