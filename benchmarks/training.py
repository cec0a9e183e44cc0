"""How fast a GAN and a classifier train, on the first GPU or, without one, on all cores.

On phantom X-rays: the speed does not depend on what the images show. The weights are random for the same reason.
"""

from __future__ import annotations

import tempfile
import time
from collections.abc import Iterator
from functools import partial
from pathlib import Path

from benchmarks.figures import Figure, figure
from xraytune.compute import choose_compute, gpu_count, pin
from xraytune.config.settings import Experiment, GanSettings, Parameters, Settings
from xraytune.cores import cpu_count
from xraytune.data.phantom import draw_phantoms
from xraytune.generators.checkpoint import new_training
from xraytune.generators.contract import Step, real_images
from xraytune.generators.train import resize_planes, with_cuda_graph
from xraytune.pipeline.prepare import RunContext, prepare, training_pixels
from xraytune.pipeline.trial import trial_epochs
from xraytune.records import Compute

_EPOCHS, _STEPS, _BATCH = 3, 20, 64
_BACKBONES = ("mobilenet_v2", "resnet18", "resnet50")


def measure() -> Iterator[Figure]:
    """Images per second: a GAN's of 64 px, and those of classifiers on 128 px, val-A after each epoch included."""
    compute = choose_compute(gpus=min(1, gpu_count()), threads=cpu_count())
    pin(compute)
    where = f"training on {'a GPU' if compute.device == 'cuda' else 'the CPU'}"
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        draw_phantoms(folder / "xrays", patients=60, seed=3, image_size_px=128)
        document = f"""{{"name": "speed", "data": {{"path": "{folder / "xrays"}", "image_size": 128}},
            "budget": {{"max_epochs": {_EPOCHS}, "steps_per_epoch": {_STEPS}}}}}"""
        settings = Settings.model_validate_json(document)
        for how, speed in _gan_speeds(settings, folder, compute):
            yield figure(f"{where}: GAN, 64 px{how}", speed, "images/s")
        for backbone in _BACKBONES:
            yield figure(
                f"{where}: {backbone}, 128 px", _classifier_speed(settings, folder, compute, backbone), "images/s"
            )


def _gan_speeds(settings: Settings, folder: Path, compute: Compute) -> Iterator[tuple[str, float]]:
    """As it trains; on a GPU also each kernel started from Python, on the same images, one after the other."""
    prepared, _ = prepare(settings, folder / "cache")
    train = prepared.side("train")
    gan = GanSettings(image_size=64, steps=2 * _STEPS)
    pixels = training_pixels(prepared, folder / "cache")[train.rows]
    real = real_images(resize_planes(pixels, None, gan.image_size), train.labels, compute)
    training = new_training(gan, 2, compute)
    training.fit(real)
    step: Step = partial(training.update, real, compute)
    runs = {"": with_cuda_graph(step), ", not replayed": step} if compute.device == "cuda" else {"": step}
    for how, run in runs.items():
        for timed in (False, True):
            started = time.perf_counter()
            for _ in range(gan.steps):
                losses = run(training.draw(real, compute))
                training.step += 1
            losses.tolist()  # waits for the device
            if timed:
                yield how, gan.steps * gan.batch_size / (time.perf_counter() - started)


def _classifier_speed(settings: Settings, folder: Path, compute: Compute, backbone: str) -> float:
    """Of the fastest epoch: the first one also chooses cuDNN's algorithms."""
    prepared, _ = prepare(settings, folder / "cache")
    values = {"backbone": backbone, "weights": "none", "classical": 2, "views": 0, "batch_size": _BATCH}
    parameters = Parameters.model_validate(values)
    experiment = Experiment(settings=settings, parameters=parameters)
    trial = trial_epochs(
        experiment, RunContext(prepared=prepared, cache=folder / "cache", compute=compute), trial_dir=folder / backbone
    )
    return _STEPS * _BATCH / min(record.seconds for record in trial)
