"""How much slower two threads of torch become beside two busy processes, by the way in which its threads wait.

Each kind of work is timed in processes of its own, idle and beside the busy processes: linear heads
on features, a GAN of width 16 and one of width 64, frozen features, and a network whose layers are
all trained.
"""

from __future__ import annotations

import os
import statistics
import subprocess
import sys
import time
from collections.abc import Callable, Iterator

from benchmarks.figures import Figure, figure

_SETTINGS: dict[str, tuple[dict[str, str], int]] = {
    "default": ({}, 2),
    "passive": ({"OMP_WAIT_POLICY": "PASSIVE"}, 2),
    "spin 1,000": ({"GOMP_SPINCOUNT": "1000"}, 2),
    "spin 5,000": ({"GOMP_SPINCOUNT": "5000"}, 2),
    "one thread": ({}, 1),
}
"""The variables of libgomp, and the number of threads."""
_WORK = ("heads", "gan 16", "gan 64", "frozen", "all layers")
_BUSY = "while True: pass"


def measure() -> Iterator[Figure]:
    """Yield the seconds of each kind of work, idle and beside two busy processes."""
    for busy in (0, 2):
        others = [subprocess.Popen([sys.executable, "-c", _BUSY]) for _ in range(busy)]
        try:
            for work in _WORK:
                for name, (variables, threads) in _SETTINGS.items():
                    command = [sys.executable, "-m", "benchmarks.busy", work, str(threads)]
                    environment = {
                        key: value for key, value in os.environ.items() if "OMP" not in key
                    } | variables
                    done = subprocess.run(
                        command, env=environment, capture_output=True, text=True, check=True
                    )
                    yield figure(f"busy: {work}, {name}, beside {busy}", float(done.stdout), "s")
        finally:
            for other in others:
                other.kill()


def _seconds(work: str, threads: int) -> float:
    import torch

    torch.set_num_threads(threads)
    step, count = _step(work)
    step()
    times = []
    for _ in range(3):
        started = time.perf_counter()
        for _ in range(count):
            step()
        times.append(time.perf_counter() - started)
    return statistics.median(times)


def _step(work: str) -> tuple[Callable[[], object], int]:
    """Return one step of a kind of work, and how many to time."""
    import numpy as np
    import torch
    import torchvision

    from xraytune.base.records import Compute
    from xraytune.space.source_settings import GanSettings
    from xraytune.synth.gan import GanTraining

    def trained(network: torch.nn.Module, *shape: int) -> Callable[[], object]:
        optimizer, inputs = torch.optim.Adam(network.parameters()), torch.randn(*shape)

        def step() -> None:
            optimizer.zero_grad()
            network(inputs).square().mean().backward()
            optimizer.step()

        return step

    if work == "heads":
        return trained(torch.nn.Linear(1280, 2), 48, 1280), 400
    if work.startswith("gan"):
        compute = Compute(device="cpu", threads=torch.get_num_threads(), precision="float32")
        training = GanTraining(GanSettings(width=int(work.split()[1])), 2, compute)
        images = np.random.default_rng(0).integers(0, 256, (64, 1, 64, 64), dtype=np.uint8)
        training.fit(images, np.arange(64) % 2)
        return lambda: training.update(training.sample_inputs()), 40 if work == "gan 16" else 6
    network = torchvision.models.mobilenet_v2().to(memory_format=torch.channels_last)
    if work == "all layers":
        return trained(network.train(), 16, 3, 64, 64), 4
    shown = torch.randn(32, 3, 128, 128).to(memory_format=torch.channels_last)
    return torch.no_grad()(lambda: network.eval()(shown)), 4


if __name__ == "__main__":
    print(_seconds(sys.argv[1], int(sys.argv[2])))
