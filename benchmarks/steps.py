"""What a training step costs besides its network: its batch of 32 real and 128 synthetic images at 128 px.

The training set has 4,096 real images, and 64 blocks of 256 synthetic ones at 64 px, a ratio of 4. All batches are those of
one epoch, on one thread, in CPU time. Copies from NumPy are counted within a step; a GPU would wait for each of them.
"""

from __future__ import annotations

import statistics
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path
from unittest.mock import patch

import numpy as np
import torch

from benchmarks.figures import Figure, figure
from xraytune.base.records import Compute
from xraytune.data.phantom import draw_phantoms
from xraytune.data.prepare import ImageSource, RunContext, prepare
from xraytune.nets.compute import pin
from xraytune.space.settings import Experiment, Parameters, Settings
from xraytune.trial.inputs import TrialInputs
from xraytune.trial.training_set import TrainingSet

_IMAGE_PX, _GAN_PX, _REAL, _BLOCK, _BLOCKS, _STEPS = 128, 64, 4096, 256, 64, 48
_CPU = Compute(device="cpu", threads=1, precision="float32")
_RANDOM = np.random.default_rng(0)


def measure() -> Iterator[Figure]:
    """Yield the time and the copies of a batch, without and with augmentation."""
    pin(_CPU)
    with tempfile.TemporaryDirectory() as name:
        root = Path(name)
        draw_phantoms(root / "xrays", patients=30, seed=3, image_size_px=32)
        data = {"path": root / "xrays", "image_size": _IMAGE_PX}
        settings = Settings.model_validate({"name": "steps", "data": data})
        prepared, _ = prepare(settings, root / "cache")
        context = RunContext(prepared=prepared, cache=root / "cache", compute=_CPU)
        images = _images(root)
        for classical in (0, 2):
            mix = {"source": "gan", "gan": {"image_size": _GAN_PX}, "synthetic_ratio": 4.0, "classical": classical}
            values = {"backbone": "small_cnn", "weights": "none", "batch_size": 32, **mix}
            experiment = Experiment(settings=settings, parameters=Parameters.model_validate(values))
            inputs = TrialInputs(experiment, context, images)
            seconds, copies = list[float](), 0
            draws = inputs.draws(range(_STEPS))
            for _ in range(_STEPS):
                started = time.process_time()
                drawn = next(draws)
                with patch.object(torch, "from_numpy", side_effect=torch.from_numpy) as copied:
                    inputs.load(*drawn)
                copies += copied.call_count
                seconds.append(time.process_time() - started)
            milliseconds = 1000 * statistics.mean(seconds)
            yield figure(f"steps: batch at ratio 4, classical {classical}", milliseconds, "ms", "<= 120")
            yield figure(
                f"steps: copies from NumPy in a step, classical {classical}", copies / _STEPS, "copies", "<= 0"
            )


def _images(root: Path) -> TrainingSet:
    blocks = [_source(root, f"gan {number % 2} {number // 2}", _BLOCK, _GAN_PX) for number in range(_BLOCKS)]
    sources = (_source(root, "real", _REAL, _IMAGE_PX), *blocks)
    labels = np.concatenate([source.labels for source in sources])
    return TrainingSet(sources=sources, targets=labels, real=np.arange(_REAL), extra=np.arange(_REAL, len(labels)))


def _source(root: Path, name: str, count: int, size_px: int) -> ImageSource:
    file = root / f"{name}.npy"
    np.save(file, _RANDOM.integers(0, 256, (count, size_px, size_px), dtype=np.uint8))
    labels, pixels = _RANDOM.integers(0, 2, count), np.load(file, mmap_mode="r")
    return ImageSource(name=name, pixels=pixels, rows=np.arange(count), labels=labels, inputs={"name": name})
