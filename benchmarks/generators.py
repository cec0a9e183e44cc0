"""Quality of the default GAN, compared with its predecessor and the DCGAN of PyTorch's tutorial: 200 patients.

Needs a folder of X-rays in Kaggle's layout and MobileNetV2's official weights:

    make bench ONLY=generators DATA=chest_xray WEIGHTS=weights [KEEP=folder] [SEEDS=3] [PX=64]

The default GAN, at width 16, and its predecessor are measured several times along the way. The tutorial's GAN is trained
twice: for 5,000 steps, on batches of the same size; and on its own batches of 128, for about as many seconds as the
predecessor. Reports the figures of `generator train`, and the KID of 523 images in val-A's class proportions. Takes about
half an hour per seed on two cores; KEEP continues an interrupted run.
"""

from __future__ import annotations

import os
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path
from statistics import mean, median, stdev

import numpy as np
from numpy.typing import NDArray

from benchmarks.figures import Figure, figure
from xraytune.base.artifacts import artifact_path
from xraytune.base.files import read_json, write_json
from xraytune.base.records import Compute
from xraytune.data.prepare import Prepared, RunContext, prepare, training_pixels
from xraytune.model.generator_folder import fixed_generator
from xraytune.nets.compute import choose_compute, pin
from xraytune.space.load import load_space
from xraytune.space.settings import Experiment
from xraytune.synth.generator_quality import kernel_inception_distance
from xraytune.synth.quality import Features, measure_quality, spread
from xraytune.synth.sources import first_images, pool_reader
from xraytune.synth.synthesize import generator_inputs, generator_stage, trained_generator

NEEDS = ("DATA", "WEIGHTS")
_SPACE = Path("search_spaces/gan_ratio_cpu.yaml")
_FIXED = (
    "source=gan",
    f"gan.image_size={os.environ.get('PX', '64')}",
    "gan.width=32",
    "data.train_patients=200",
    "quality.backbone=mobilenet_v2",
)
_STEPS = 5000
_SEEDS = int(os.environ.get("SEEDS", "3"))
_TUTORIAL = (
    *("gan.architecture=dcgan", "gan.z_dim=100", "gan.loss=bce", "gan.lr_g=2e-4", "gan.lr_d=2e-4"),
    *("gan.beta1=0.5", "gan.beta2=0.999"),
    *("gan.spectral_norm=false", "gan.diffaugment=false", "gan.ema_half_life_images=null"),
)
_DEFAULT = ("gan.width=16",)
_PREDECESSOR = ("gan.lr_g=3e-4", "gan.beta1=0.5", "gan.beta2=0.999")
_GANS = {
    **{f"default, {steps} steps": (*_DEFAULT, f"gan.steps={steps}") for steps in (600, 1350, 2700)},
    "default": (*_DEFAULT, "gan.steps=5400"),
    "default, longer": (*_DEFAULT, "gan.steps=9000"),
    **{f"predecessor, {steps} steps": (*_PREDECESSOR, f"gan.steps={steps}") for steps in (625, 1250, 2500)},
    "predecessor": (*_PREDECESSOR, f"gan.steps={_STEPS}"),
    "tutorial, equal steps": (*_TUTORIAL, f"gan.steps={_STEPS}", "gan.batch_size=16"),
    "tutorial, about equal seconds": (*_TUTORIAL, "gan.steps=1000", "gan.batch_size=128"),
}


def measure() -> Iterator[Figure]:
    """Train and measure each GAN with each seed."""
    compute = choose_compute(gpus=0, threads=2)
    pin(compute)
    with tempfile.TemporaryDirectory() as folder:
        cache = Path(os.environ.get("KEEP", folder)).resolve() / "cache"
        kids: dict[str, list[float]] = {}
        for name, changes in _GANS.items():
            found = [_measure(changes, seed, compute, cache) for seed in range(_SEEDS)]
            kids[name] = [row["kid"] for row in found]
            for column in found[0]:
                values = [row[column] for row in found]
                yield figure(f"generators: {name}, {column}, median of {_SEEDS} seeds", median(values), "")
            if _SEEDS > 1:
                yield figure(f"generators: {name}, standard error of kid", stdev(kids[name]) / _SEEDS**0.5, "")
        for name in (name for name in _GANS if name.startswith("tutorial")):
            yield figure(
                f"generators: kid, default over {name}", mean(kids["default"]) / mean(kids[name]), "", "<= 0.5"
            )


def _measure(changes: tuple[str, ...], seed: int, compute: Compute, cache: Path) -> dict[str, float]:
    """Return the seconds of the training, the pooled KID, and the quality columns of a study."""
    overrides = (*_FIXED, f"gan.seed={seed}", *changes)
    space = load_space(_SPACE, overrides, data=Path(os.environ["DATA"]), weights_dir=Path(os.environ["WEIGHTS"]))
    experiment = fixed_generator(space)
    settings = experiment.parameters.generator
    assert settings is not None, "the space trains a GAN"
    prepared, _ = prepare(space.settings, cache)
    started = time.monotonic()
    seconds = (
        cache
        / "seconds"
        / artifact_path(cache, generator_stage(settings), generator_inputs(settings, None, prepared, compute)).name
    )
    context = RunContext(prepared=prepared, cache=cache, compute=compute)
    trained_generator(settings, None, context)
    if not seconds.exists():
        write_json(seconds, {"seconds": time.monotonic() - started})
    quality = measure_quality(experiment, context)
    assert not isinstance(quality, str), quality
    figures = {name: value for name, value in quality.columns().items() if value is not None}
    for name, one in quality.classes.items():
        figures |= {f"coverage of {name}": one.full.coverage, f"recall of {name}, blurred": one.blurred.recall}
        figures |= {f"coverage of {name}, blurred": one.blurred.coverage}
    kid = _pooled_kid(experiment, prepared, compute, cache)
    return {"seconds": read_json(seconds)["seconds"], "kid": kid, **figures}


def _pooled_kid(experiment: Experiment, prepared: Prepared, compute: Compute, cache: Path) -> float:
    """Return the KID of as many synthetic images of each class as val-A has, minus that of val-B images."""
    context = RunContext(prepared=prepared, cache=cache, compute=compute)
    features = Features(experiment, experiment.parameters, 64, context)
    read = pool_reader(experiment, context)
    stored = training_pixels(prepared, cache)
    val_a, val_b = prepared.side("val_a"), prepared.side("val_b")
    sets: list[tuple[NDArray[np.uint8], NDArray[np.int64], float]] = [(stored, val_a.rows, 0.0)]
    for label in range(len(prepared.class_names)):
        count = int((val_a.labels == label).sum())
        sets.append((stored, spread(val_b.rows[val_b.labels == label], count), 0.0))
        sets.append((first_images(read, label, count)[0], np.arange(count), 0.0))
    real, *others = features.of("", sets)
    floor, distance = (kernel_inception_distance(real, np.concatenate(others[kind::2])) for kind in (0, 1))
    return distance - floor
