"""Steps a second of a GAN at 64 px beside PyTorch's DCGAN example, with the same networks and batch, in turns.

The example's loop is written out as the tutorial teaches it: float32, default memory format, Adam's
default, and a transfer of each loss to Python in each step. On a GPU, ours is replayed as a CUDA
graph.
"""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable, Iterator

import numpy as np
import torch
from torch import nn

from benchmarks.figures import Figure, figure
from benchmarks.peer_trial import GAN
from xraytune.base.cores import cpu_count
from xraytune.nets.compute import choose_compute, configure_torch, gpu_count
from xraytune.nets.cuda_graph import with_cuda_graph
from xraytune.space.source_settings import GanSettings
from xraytune.synth.gan import GanTraining
from xraytune.synth.gan_networks import Discriminator, Generator

_IMAGES, _WARM_UP, _STEPS, _RUNS = 256, 5, 20, 3
_TUTORIAL = GAN.model_copy(update={"image_size": 64, "width": 64, "batch_size": 64})
_PLANES = np.random.default_rng(0).integers(0, 256, (_IMAGES, 1, 64, 64), dtype=np.uint8)


def measure() -> Iterator[Figure]:
    """The example, ours on all cores, and our default GAN on one; each the median of three runs."""
    where = "a GPU" if gpu_count() else "the CPU"
    cores = cpu_count()
    steps = {
        f"gan: PyTorch's example on {where}": _example(cores),
        f"gan: the same networks, ours, on {where}": _ours(_TUTORIAL, 1, cores),
        f"gan: default (width 32, batches of 16) on {where}, one thread": _ours(
            GanSettings(width=32), 2, 1
        ),
    }
    runs = {name: list[float]() for name in steps}
    for _ in range(_RUNS):
        for place, (name, (threads, step)) in enumerate(steps.items()):
            runs[name].append(_steps_per_second(threads, step, is_example=not place))
    speeds = {name: statistics.median(found) for name, found in runs.items()}
    for name, speed in speeds.items():
        yield figure(name, speed, "steps/s")
    example, ours, _ = speeds.values()
    yield figure(
        f"gan: ours over PyTorch's example on {where}",
        ours / example,
        "x",
        f">= {2 if gpu_count() else 1.5}",
    )


def _steps_per_second(threads: int, step: Callable[[], object], *, is_example: bool) -> float:
    torch.set_num_threads(threads)
    torch.use_deterministic_algorithms(not (is_example or gpu_count()))  # as `configure_torch` does
    for _ in range(_WARM_UP):
        step()
    _wait()
    started = time.perf_counter()
    for _ in range(_STEPS):
        step()
    _wait()
    return _STEPS / (time.perf_counter() - started)


def _wait() -> None:
    if gpu_count():
        torch.cuda.synchronize()


def _ours(settings: GanSettings, classes: int, threads: int) -> tuple[int, Callable[[], object]]:
    compute = choose_compute(gpus=min(1, gpu_count()), threads=threads)
    configure_torch(compute)
    labels = np.arange(_IMAGES, dtype=np.int64) % classes
    training = GanTraining(settings, classes, compute)
    training.fit(_PLANES, labels)
    update = with_cuda_graph(training.update, compute)

    def step() -> None:
        update(training.sample_inputs())
        training.step += 1

    return threads, step


def _example(threads: int) -> tuple[int, Callable[[], object]]:
    """The training loop of pytorch.org/tutorials/beginner/dcgan_faces_tutorial.html; its networks are ours."""
    device = "cuda" if gpu_count() else "cpu"
    generator, discriminator = (
        Generator(_TUTORIAL, 1).to(device),
        Discriminator(_TUTORIAL, 1).to(device),
    )
    criterion, labels = nn.BCEWithLogitsLoss(), torch.zeros(64, dtype=torch.int64, device=device)
    betas = 0.5, 0.999
    optimizer_g = torch.optim.Adam(generator.parameters(), lr=2e-4, betas=betas)
    optimizer_d = torch.optim.Adam(discriminator.parameters(), lr=2e-4, betas=betas)
    images = torch.from_numpy(_PLANES).float() / 127.5 - 1
    ones, zeros = torch.ones(64, device=device), torch.zeros(64, device=device)

    def step() -> None:
        batch = images[torch.randperm(_IMAGES)[:64]].to(device)
        discriminator.zero_grad()
        error_real = criterion(discriminator(batch, labels), ones)
        error_real.backward()
        fake = generator(torch.randn(64, 100, device=device), labels)
        error_fake = criterion(discriminator(fake.detach(), labels), zeros)
        error_fake.backward()
        optimizer_d.step()
        generator.zero_grad()
        error_g = criterion(discriminator(fake, labels), ones)
        error_g.backward()
        optimizer_g.step()
        _ = error_real.item(), error_fake.item(), error_g.item()

    return threads, step
