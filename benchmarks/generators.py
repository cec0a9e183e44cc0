"""Quality of the default GAN, compared with the DCGAN of PyTorch's tutorial: 200 patients.

Needs a folder of X-rays in Kaggle's layout and MobileNetV2's official weights:

    make bench ONLY=generators DATA=chest_xray WEIGHTS=weights [KEEP=folder] [SEEDS=3]

The default GAN has width 16. The tutorial's GAN is trained twice: for 5,000 steps, on batches of
the same size; and on its own batches of 128, for 1,000 steps. Reports the figures of `generator
train`. Takes at most twenty minutes per seed on two cores; KEEP continues an interrupted run.
"""

from __future__ import annotations

import os
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path
from statistics import mean, median, stdev

from benchmarks.figures import Figure, figure
from xraytune.base.artifacts import artifact_path
from xraytune.base.files import read_json, write_json
from xraytune.base.records import Compute
from xraytune.data.prepare import RunContext, prepare
from xraytune.model.generator_folder import fixed_generator
from xraytune.nets.compute import choose_compute, configure_torch
from xraytune.space.load import load_space
from xraytune.synth.generator_inputs import GAN_STAGE, inputs_of
from xraytune.synth.sources.gan import trained_generator
from xraytune.trial.quality import measure_quality

NEEDS = ("DATA", "WEIGHTS")
_SPACE = Path("search_spaces/gan_ratio_cpu.yaml")
_FIXED = (
    "source=gan",
    "gan.image_size=64",
    "gan.width=32",
    "data.train_patients=200",
    "backbone=mobilenet_v2",
)
_SEEDS = int(os.environ.get("SEEDS", "3"))
_TUTORIAL = (*("gan.architecture=dcgan", "gan.z_dim=100", "gan.lr_g=2e-4", "gan.lr_d=2e-4"),)
_GANS = {
    "default": ("gan.width=16", "gan.steps=5400"),
    "tutorial, equal batches": (*_TUTORIAL, "gan.steps=5000", "gan.batch_size=16"),
    "tutorial, its own batches": (*_TUTORIAL, "gan.steps=1000", "gan.batch_size=128"),
}


def measure() -> Iterator[Figure]:
    """Train and measure each GAN with each seed."""
    compute = choose_compute(gpus=0, threads=2)
    configure_torch(compute)
    with tempfile.TemporaryDirectory() as folder:
        cache = Path(os.environ.get("KEEP", folder)).resolve() / "cache"
        kids: dict[str, list[float]] = {}
        for name, changes in _GANS.items():
            found = [_measure(changes, seed, compute, cache) for seed in range(_SEEDS)]
            kids[name] = [row["gan_kid"] for row in found]
            for column in found[0]:
                values = [row[column] for row in found]
                yield figure(
                    f"generators: {name}, {column}, median of {_SEEDS} seeds", median(values), ""
                )
            if _SEEDS > 1:
                yield figure(
                    f"generators: {name}, standard error of gan_kid",
                    stdev(kids[name]) / _SEEDS**0.5,
                    "",
                )
        for name in (name for name in _GANS if name.startswith("tutorial")):
            ratio = mean(kids["default"]) / mean(kids[name])
            yield figure(f"generators: gan_kid, default over {name}", ratio, "", "<= 0.5")


def _measure(
    changes: tuple[str, ...], seed: int, compute: Compute, cache: Path
) -> dict[str, float]:
    """Return the seconds of the training and the quality columns of a study."""
    overrides = (*_FIXED, f"gan.seed={seed}", *changes)
    space = load_space(
        _SPACE, overrides, data=Path(os.environ["DATA"]), weights_dir=Path(os.environ["WEIGHTS"])
    )
    experiment = fixed_generator(space)
    settings = experiment.parameters.gan
    assert settings is not None, "the space trains a GAN"
    prepared, _ = prepare(space.settings, cache)
    started = time.monotonic()
    seconds = (
        cache
        / "seconds"
        / artifact_path(cache, GAN_STAGE, inputs_of(settings, prepared, compute)).name
    )
    context = RunContext(prepared=prepared, cache=cache, compute=compute)
    trained_generator(settings, context)
    if not seconds.exists():
        write_json(seconds, {"seconds": time.monotonic() - started})
    quality = measure_quality(experiment, context)
    assert not isinstance(quality, str), quality
    figures = {name: value for name, value in quality.columns().items() if value is not None}
    for name, one in quality.classes.items():
        figures |= {f"coverage of {name}": one.coverage}
    return {"seconds": read_json(seconds)["seconds"], **figures}
