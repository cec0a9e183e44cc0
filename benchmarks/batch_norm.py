"""What the running statistics of batch norms are worth, by the images that they are estimated on.

Needs a folder of X-rays in Kaggle's layout and MobileNetV2's official weights:

    make bench ONLY=batch_norm DATA=chest_xray WEIGHTS=weights

Extra images of two kinds: training images blurred, dimmed and made noisy, which hold nothing new about the disease and have
other grey levels; and those of a GAN that was trained far too briefly. `batch_norm` changes no weight, so each network is
trained once and judged with the moving average of its training, then with the estimates on the mix and on real images.
"""

from __future__ import annotations

import os
import tempfile
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from statistics import mean, stdev
from typing import Any

import numpy as np
import torch.nn.functional as F
from numpy.typing import NDArray
from PIL import Image
from scipy.ndimage import gaussian_filter  # type: ignore[import-untyped]

from benchmarks.figures import Figure, figure
from xraytune.compute import choose_compute, pin
from xraytune.config.settings import Experiment, Parameters, Settings
from xraytune.metrics.classification import auroc
from xraytune.models.train import Training, estimate_batch_norms, predict_probabilities, train_network
from xraytune.pipeline.inputs import TrialInputs
from xraytune.pipeline.prepare import Prepared, RunContext, prepare
from xraytune.records import Compute
from xraytune.seeding import numpy_generator

NEEDS = ("DATA", "WEIGHTS")
_STEPS, _RATIOS = 16, (1.0, 4.0)
_SEEDS = {"last_stage": 4, "all": 3}
_GAN = {"steps": 300, "width": 16, "batch_size": 32}


@dataclass(frozen=True, slots=True, kw_only=True)
class Judged:
    """One network: its val-B AUROC by running statistics, and the CPU seconds of its training and of the estimate."""

    moving: float
    mix: float
    real: float
    training_seconds: float
    estimate_seconds: float


def measure() -> Iterator[Figure]:
    """Val-B AUROC of each arm under each setting, their differences network by network, and the CPU time of the estimate."""
    compute = choose_compute(gpus=0, threads=1)
    pin(compute)
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        settings = Settings.model_validate(
            {
                "name": "batch-norm",
                "weights_dir": Path(os.environ["WEIGHTS"]).resolve(),
                "data": {"path": Path(os.environ["DATA"]).resolve(), "image_size": 64, "train_patients": 100},
                "budget": {"max_epochs": 1, "steps_per_epoch": _STEPS},
            }
        )
        prepared, _ = prepare(settings, folder / "cache")
        _write_poor_copies(prepared, settings.data.path, folder / "extra")
        for trainable, seeds in _SEEDS.items():
            for arm, mix in _arms(folder / "extra").items():
                values = {**mix, "backbone": "mobilenet_v2", "trainable": trainable, "lr": 3e-4, "batch_norm": "moving"}
                parameters = Parameters.model_validate(values)
                networks = [
                    _judged(settings.model_copy(update={"seed": seed}), parameters, prepared, folder, compute)
                    for seed in range(seeds)
                ]
                yield from _figures(f"batch_norm: {trainable}, {arm}", networks)


def _arms(extra: Path) -> dict[str, dict[str, Any]]:
    copies = {"source": "folder", "folder": {"path": extra}, "synthetic_ratio": max(_RATIOS)}
    gans = {f"gan r={ratio:g}": {"source": "gan", "gan": _GAN, "synthetic_ratio": ratio} for ratio in _RATIOS}
    return {"none": {"source": "none"}, **gans, f"copies r={max(_RATIOS):g}": copies}


def _judged(settings: Settings, parameters: Parameters, prepared: Prepared, folder: Path, compute: Compute) -> Judged:
    trial_inputs, of_real_images = (
        TrialInputs(
            Experiment(settings=settings, parameters=parameters.model_copy(update={"batch_norm": batch_norm})),
            RunContext(prepared=prepared, cache=folder / "cache", compute=compute),
        )
        for batch_norm in ("mix", "real")
    )
    val_b = prepared.side("val_b").labels

    def val_b_score() -> float:
        return auroc(
            val_b,
            predict_probabilities(
                trial_inputs.trained, trial_inputs.network.batches(trial_inputs.val_b), compute=compute
            ),
            positive=prepared.positive,
        )

    with tempfile.TemporaryDirectory(dir=folder) as checkpoint:
        started = time.process_time()
        for _ in train_network(
            Training(
                parameters=parameters,  # with the moving average
                network=trial_inputs.trained,
                batch=trial_inputs.batch,
                loss=F.cross_entropy,
                norm_batches=trial_inputs.norm_batches,
                max_epochs=settings.budget.max_epochs,
                steps_per_epoch=_STEPS,
                seed=settings.seed,
                compute=compute,
                checkpoint_dir=Path(checkpoint),
            ),
            validate=trial_inputs.validate,
        ):
            trained = time.process_time()
    moving = val_b_score()
    begun = time.process_time()
    estimate_batch_norms(trial_inputs.trained, trial_inputs.norm_batches, compute=compute)
    estimated = time.process_time()
    mix = val_b_score()
    estimate_batch_norms(trial_inputs.trained, of_real_images.norm_batches, compute=compute)
    return Judged(
        moving=moving,
        mix=mix,
        real=val_b_score(),
        training_seconds=trained - started,
        estimate_seconds=estimated - begun,
    )


def _figures(what: str, networks: list[Judged]) -> Iterator[Figure]:
    columns = {
        "moving": [one.moving for one in networks],
        "mix": [one.mix for one in networks],
        "real": [one.real for one in networks],
        "mix - moving": [one.mix - one.moving for one in networks],
        "real - mix": [one.real - one.mix for one in networks],
    }
    for name, values in columns.items():
        yield figure(f"{what}: val-B AUROC, {name}", mean(values), "AUROC")
        yield figure(f"{what}: val-B AUROC, {name}, standard deviation of {len(values)} seeds", stdev(values), "AUROC")
    training, estimate = (
        sum(seconds) for seconds in zip(*((n.training_seconds, n.estimate_seconds) for n in networks), strict=True)
    )
    yield figure(f"{what}: CPU time of the estimate, share of an epoch's", estimate / training, "")


def _write_poor_copies(prepared: Prepared, root: Path, out: Path) -> None:
    """Each training image several times, as `NORMAL/IM-0001-0001_1.png`: more than the largest ratio takes."""
    for image in (image for image in prepared.images if image.side == "train"):
        with Image.open(root / image.file) as opened:
            pixels = np.asarray(opened.convert("L").resize((64, 64), Image.Resampling.BILINEAR), dtype=np.float32)
        folder = out / prepared.class_names[image.label]
        folder.mkdir(parents=True, exist_ok=True)
        for copy in range(int(max(_RATIOS)) + 1):
            name = f"{Path(image.file).stem}_{copy}.png"
            Image.fromarray(_poor(pixels, numpy_generator(copy, image.sha256))).save(folder / name)


def _poor(pixels: NDArray[np.float32], random: np.random.Generator) -> NDArray[np.uint8]:
    dimmed = 0.6 * gaussian_filter(pixels, 1.0) + 64 + random.normal(0, 4, pixels.shape)
    return np.asarray(dimmed.clip(0, 255), dtype=np.uint8)
