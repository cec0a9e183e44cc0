"""Measure how fast this machine trains generators and networks, through the functions that trials use.

Each measurement takes a few seconds, on the study's images and in as many processes at once as a search will run, since they
share the machine's memory. On the CPU the seconds are CPU time over threads: those of an idle machine, even if this one is
busy. They are artifacts, so the next forecast measures only what is new.
"""

from __future__ import annotations

import platform
import time
from collections import Counter
from collections.abc import Callable, Iterable
from concurrent.futures import ProcessPoolExecutor
from dataclasses import asdict, dataclass, replace
from itertools import pairwise
from multiprocessing import get_context
from pathlib import Path
from tempfile import TemporaryDirectory

import numpy as np
import torch

from xraytune.compute import Allocation, pin
from xraytune.config.backbone_names import BACKBONES
from xraytune.config.settings import OBJECTIVES, Budget, Experiment, Objective, Parameters, Settings
from xraytune.cores import cpu_count
from xraytune.files import read_json, write_json
from xraytune.generators.checkpoint import CHECKPOINT_NAME, checkpoint_generator
from xraytune.generators.pool import draw_block
from xraytune.generators.train import train_generator
from xraytune.models.train import TRAINING_STEPS
from xraytune.pipeline.artifacts import artifact_path, build_once, is_intact, releases
from xraytune.pipeline.network import FEATURES_STAGE
from xraytune.pipeline.prepare import PIXELS_STAGE, Prepared, RunContext, side_images
from xraytune.pipeline.synthesize import makes_masks
from xraytune.pipeline.trial import trial_epochs
from xraytune.records import Compute, Progress

SPEED_STAGE = "speed-2"
BATCH = 8
"""Images of a measured training step."""
_SECONDS, _REPORT_STEPS, _NEVER, _EPOCH_STEPS = 3.0, 5, 10**9, 3
_PER_CLASS = {"train": 32, "val_a": 16, "val_b": 16}
_SPEEDLESS = {"steps", "seed", "lr_g", "lr_d", "lr", "beta1", "loss", "ema_half_life_images"}
"""Settings of a generator on which the time of a step does not depend."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Machine:
    """Where trials run: what they compute on, their resources, and how many run at once."""

    compute: Compute
    allocation: Allocation
    slots: int


@dataclass(frozen=True, slots=True, kw_only=True)
class Speed:
    """Seconds of one kind of work, in one of as many processes as run at once; 0 where it has no such work.

    Attributes:
        start: Of a trial's process, until it can work.
        before: Before a generator's first step.
        step: For a training step of a generator, or of a network on `BATCH` images (cached features: any number).
        block: Of drawing 256 images from a generator.
        image: Of a forward pass of an image.
        end: Of the end of an epoch, except for forward passes.
        size_bytes: A generator's artifact, or what is cached of an image: its features, or the inputs of the last stage.
        load: Wall time as a multiple of these seconds, because of other processes.
    """

    start: float = 0.0
    before: float = 0.0
    step: float
    block: float = 0.0
    image: float = 0.0
    end: float = 0.0
    size_bytes: float
    load: float = 1.0


def generator_kind(parameters: Parameters) -> Parameters | None:
    """Return the settings that the speed of a trial's generator depends on; None without a generator."""
    if (settings := parameters.generator) is None:
        return None
    kept = settings.model_dump(exclude=_SPEEDLESS)
    return Parameters.model_validate({"source": parameters.source, settings.block: {**kept, "steps": 1}})


def network_kind(parameters: Parameters) -> Parameters:
    """Return the settings that the speed of a trial's network depends on."""
    kept = parameters.model_dump(include={"backbone", "weights", "input_channels", "trainable", "head", "loss"})
    classical = 2 if parameters.classical else 0
    return Parameters.model_validate(
        {**kept, "classical": classical, "views": min(parameters.views, 1), "batch_size": BATCH}
    )


def measured_speeds(
    kinds: Iterable[Parameters],
    settings: Settings,
    prepared: Prepared,
    machine: Machine,
    cache: Path,
    *,
    may_measure: bool,
    on_progress: Progress,
) -> dict[Parameters, Speed]:
    """Return the speed of kinds of work; none if one is not in the cache and `may_measure` is False."""
    compute, allocation = machine.compute, machine.allocation
    about = {
        "machine": [_processor(compute), cpu_count(), machine.slots],
        "images": [prepared.image_size_px, prepared.has_masks, *prepared.train_counts],
        "compute": asdict(compute),
        "releases": releases("torch", "torchvision"),
    }
    paths = {}
    for kind in kinds:
        inputs = {**about, "kind": kind.model_dump(mode="json"), "backbone": BACKBONES.identity(kind.backbone)}
        paths[kind] = artifact_path(cache, SPEED_STAGE, inputs), inputs
    missing = [kind for kind, (path, _) in paths.items() if not is_intact(path)]
    if missing and not may_measure:
        return {}
    for done, kind in enumerate(missing):
        on_progress("measuring the speed of this machine", done, len(missing))
        share, slots = allocation.trial, machine.slots
        if kind.generator:
            share, slots = allocation.generator, machine.slots // allocation.generator_slots
        count = max(1, slots if compute.device == "cpu" else int(1 / share.gpus))
        with ProcessPoolExecutor(count, mp_context=get_context("spawn")) as processes:  # new ones: they measure `start`
            arguments = kind, settings, prepared, compute, min(share.gpus, 1.0), cache
            found = [one.result() for one in [processes.submit(_measure, *arguments) for _ in range(count)]]
        mean = {name: float(np.mean([getattr(one, name) for one in found])) for name in Speed.__slots__}

        def build(folder: Path, speed: dict[str, float] = mean) -> None:
            write_json(folder / "speed.json", speed)

        build_once(cache, SPEED_STAGE, paths[kind][1], build)
        on_progress("measuring the speed of this machine", done + 1, len(missing))
    return {kind: Speed(**read_json(path / "speed.json")) for kind, (path, _) in paths.items()}


def _processor(compute: Compute) -> str:
    if compute.device == "cuda":
        return torch.cuda.get_device_name()
    info = Path("/proc/cpuinfo")
    lines = info.read_text(encoding="utf-8").splitlines() if info.exists() else []
    return next((line for line in lines if line.startswith("model name")), platform.processor())


def _measure(
    kind: Parameters, settings: Settings, prepared: Prepared, compute: Compute, gpu_share: float, cache: Path
) -> Speed:
    """Measure one kind of work in a new process; only the record remains."""
    import xraytune.search.ray.actor
    import xraytune.search.worker  # noqa: F401  what a trial's process imports

    start, began = time.process_time(), time.perf_counter()
    threads = compute.generator_threads if kind.generator else compute.threads
    pin(replace(compute, threads=threads), gpu_share=gpu_share)

    def clock() -> float:
        return time.perf_counter() if compute.device == "cuda" else time.process_time() / threads

    with TemporaryDirectory(prefix="xraytune-") as folder:
        temporary = Path(folder)
        (temporary / PIXELS_STAGE).symlink_to((cache / PIXELS_STAGE).resolve())
        measure = _generator_speed if kind.generator else _network_speed
        context = RunContext(prepared=prepared, cache=temporary, compute=compute)
        speed = measure(Experiment(settings=settings, parameters=kind), context, clock)
    load = (time.perf_counter() - began) / (clock() - start / threads) if compute.device == "cpu" else 1.0
    return replace(speed, start=start, load=max(load, 1.0))


def _generator_speed(experiment: Experiment, context: RunContext, clock: Callable[[], float]) -> Speed:
    """Train a few seconds on the train side; then save, load and sample the generator of one step."""
    prepared, cache, compute = context.prepared, context.cache, context.compute
    settings, train = experiment.parameters.generator, side_images("train", prepared, cache)
    assert settings is not None, "of a generator's kind"
    labels = train.labels if settings.conditional else np.zeros_like(train.labels)
    masks = train.read_masks() if makes_masks(settings, prepared) else None

    def trained(steps: int) -> Iterable[object]:
        return train_generator(
            settings.model_copy(update={"steps": steps}),
            train.read(),
            labels,
            int(labels.max()) + 1,
            masks=masks,
            compute=compute,
            checkpoint_dir=cache / f"{steps}",
            report_every_steps=_REPORT_STEPS,
            checkpoint_every_steps=_NEVER,
        )

    times = [clock()]
    for _ in trained(_NEVER):
        times.append(clock())
        if len(times) > 3 and times[-1] - times[1] >= _SECONDS:
            break
    step = (times[-1] - times[1]) / (len(times) - 2) / _REPORT_STEPS
    list(trained(1))
    checkpoint = cache / "1" / CHECKPOINT_NAME
    network = checkpoint_generator(checkpoint).to(compute.device)
    drawn = clock()
    draw_block(network, 0, 0, seed=0, compute=compute)
    return Speed(
        before=max(0.0, times[1] - times[0] - _REPORT_STEPS * step),
        step=step,
        block=clock() - drawn,
        size_bytes=1.2 * checkpoint.stat().st_size,  # with the generator alone, and the sample grids
    )


def _network_speed(experiment: Experiment, context: RunContext, clock: Callable[[], float]) -> Speed:
    """Run a trial of two short epochs on a few images; the first one warms up."""
    settings, cache = experiment.settings, context.cache
    short = {
        "budget": Budget(max_epochs=2, steps_per_epoch=_EPOCH_STEPS),
        "objective": Objective(metric=OBJECTIVES[settings.task][0]),
    }
    seen = Counter[tuple[str, int]]()
    few = []
    for image in context.prepared.images:
        seen[image.side, image.label] += 1
        few += [image] if seen[image.side, image.label] <= _PER_CLASS[image.side] else []
    reported = list[tuple[str, int, float]]()
    epochs = trial_epochs(
        experiment.model_copy(update={"settings": settings.model_copy(update=short)}),
        replace(
            context,
            prepared=replace(context.prepared, images=tuple(few)),
            on_progress=lambda what, done, _: reported.append((what, done, clock())),
        ),
        trial_dir=cache / "trial",
    )
    (cache / "trial").mkdir()
    ended = [clock() for _ in epochs][-1]
    at = {done: when for what, done, when in reported if what == TRAINING_STEPS}
    after, images = ended - at[2 * _EPOCH_STEPS], len(few)
    step = (at[2 * _EPOCH_STEPS] - at[_EPOCH_STEPS]) / _EPOCH_STEPS
    if features := [*(cache / FEATURES_STAGE).glob("*/features.npy")]:
        # Of each source, what follows its first report, when the network has been built.
        reports = [(what, done, when) for what, done, when in reported if what.startswith("features")]
        pairs = [(one, other) for one, other in pairwise(reports) if one[1] < other[1]]
        forward = sum(other[2] - one[2] for one, other in pairs) / sum(other[1] - one[1] for one, other in pairs)
        size = sum(file.stat().st_size for file in features) / images
        return Speed(step=step, image=forward, end=after, size_bytes=size)
    passes = sum(image.side in ("val_a", "train") for image in few)
    return Speed(step=step, image=after / passes, size_bytes=0.0)
