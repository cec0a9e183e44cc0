"""What one GPU, or several, do for a search: `make gpu-bench`, about ten minutes, writes gpu.json.

Its rows have the form of results.json. First come the tests of tests/gpu: results as on the CPU, interruptions, too little
memory, several trials on a GPU. Then the images per second of our training step, eager and replayed as a CUDA graph, beside
bare loops; a GAN's steps beside PyTorch's example; trials per hour with 1, 2, 4 and 8 trials on a GPU, and with all GPUs.

Without a GPU, it says so and runs the same code on a few images, which shows that the benchmark works and measures nothing.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from dataclasses import asdict, replace
from functools import partial
from itertools import pairwise
from pathlib import Path

import torch

from benchmarks import classifier, gan
from benchmarks.figures import Figure, figure, machine, table
from xraytune.data.phantom import draw_phantoms
from xraytune.data.prepare import RunContext, prepare
from xraytune.nets.captured import replayed
from xraytune.nets.compute import choose_compute, gpu_count, pin
from xraytune.nets.optimizer import optimizer_of
from xraytune.nets.train import train_step
from xraytune.space.settings import Experiment, Parameters, Settings
from xraytune.trial.inputs import TrialInputs
from xraytune.trial.run import training_of

GPUS = gpu_count()
_OUT = Path("gpu.json")
_IMAGE_PX, _PATIENTS, _STEPS, _WARM_UP = (128, 400, 200, 20) if GPUS else (32, 30, 2, 1)
_TRIALS, _EPOCHS, _EPOCH_STEPS = (16, 4, 50) if GPUS else (2, 1, 1)
_SPACE = f"""\
version: 1
name: NAME
data: {{path: xrays, image_size: {_IMAGE_PX}}}
parameters:
  backbone: {{value: {"mobilenet_v2" if GPUS else "small_cnn"}}}
  weights: {{value: none}}
  source: {{value: none}}
  classical: {{value: 2}}
  lr: {{min: 1e-5, max: 1e-3, distribution: log_uniform_values}}
budget: {{trials: {_TRIALS}, max_epochs: {_EPOCHS}, steps_per_epoch: {_EPOCH_STEPS}}}
scheduler: {{name: none}}
sampler: {{name: random}}
"""


def measure() -> Iterator[Figure]:
    """Yield all figures; those without a GPU are no measurements."""
    yield from _tests()
    with tempfile.TemporaryDirectory() as name:
        root = Path(name)
        draw_phantoms(root / "xrays", patients=_PATIENTS, seed=3, image_size_px=_IMAGE_PX)
        yield from _steps(root)
        if GPUS:
            yield from classifier.measure()
            yield from gan.measure()
        yield from _searches(root)


def _tests() -> Iterator[Figure]:
    """Run the tests that need a GPU; without one, all of them are skipped."""
    command = [sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider", "tests/gpu"]
    said = subprocess.run(command, capture_output=True, text=True, check=False).stdout.strip().splitlines()
    words = said[-1].replace(",", "").split()
    counts = {outcome: int(count) for count, outcome in pairwise(words) if count.isdigit()}
    print("tests/gpu:", said[-1], file=sys.stderr)
    yield figure("gpu: tests passed", counts.get("passed", 0), "tests", ">= 1" if GPUS else "")
    yield figure("gpu: tests failed", counts.get("failed", 0) + counts.get("error", 0), "tests", "<= 0")


def _steps(root: Path) -> Iterator[Figure]:
    """Images per second of a whole MobileNetV2 with augmentation, in batches of 32."""
    compute = choose_compute(gpus=min(1, GPUS), threads=1)
    pin(compute)
    data = {"path": root / "xrays", "image_size": _IMAGE_PX}
    settings = Settings.model_validate({"name": "speed", "data": data, "budget": {"max_epochs": 100}})
    prepared, _ = prepare(settings, root / "cache")
    context = RunContext(prepared=prepared, cache=root / "cache", compute=compute)
    values = {"backbone": "mobilenet_v2", "weights": "none", "batch_size": 32, "classical": 2}
    experiment = Experiment(settings=settings, parameters=Parameters.model_validate(values))
    speeds = []
    for how in ("eager", "replayed"):
        inputs = TrialInputs(experiment, context)
        training = training_of(experiment, context, inputs, root / how)
        step = partial(train_step, training, optimizer_of(experiment.parameters, inputs.trained.train()))
        update = step if how == "eager" else replayed(step, compute)
        loss = torch.zeros((), device=compute.device)
        started = time.perf_counter()
        for number, draws in enumerate(inputs.draws(range(_WARM_UP + _STEPS))):
            if number == _WARM_UP:
                float(loss)  # waits for the device
                started = time.perf_counter()
            loss += update(draws)
        float(loss)
        speeds.append(32 * _STEPS / (time.perf_counter() - started))
        bar = ">= 8000" if GPUS and how == "replayed" else ""
        yield figure(f"gpu: mobilenet_v2, {how}", speeds[-1], "images/s", bar)
    yield figure("gpu: mobilenet_v2, replayed / eager", speeds[1] / speeds[0], "x")


def _searches(root: Path) -> Iterator[Figure]:
    for at_once in (1, 2, 4, 8) if GPUS else (1,):
        speed = _trials_per_hour(root, f"{at_once}-on-a-gpu", 1 / at_once if GPUS else 0, devices="0")
        yield figure(f"gpu: trials per hour, {at_once} at once on one GPU", speed, "trials/h")
    if GPUS > 1:
        speed = _trials_per_hour(root, "all", 0.5, devices=os.environ.get("CUDA_VISIBLE_DEVICES"))
        yield figure(f"gpu: trials per hour, 2 at once on each of {GPUS} GPUs", speed, "trials/h")


def _trials_per_hour(root: Path, name: str, share: float, *, devices: str | None) -> float:
    """Run a search, and return its trials per hour from the start of the first to the end of the last."""
    (root / f"{name}.yaml").write_text(_SPACE.replace("NAME", name), encoding="utf-8")
    command = [sys.executable, "-m", "xraytune", "search", "--space", f"{name}.yaml"]
    command += ["--set", f"resources.gpus_per_trial={share}", "--cache", "cache"]
    visible = {} if devices is None or not GPUS else {"CUDA_VISIBLE_DEVICES": devices}
    subprocess.run(command, cwd=root, check=True, capture_output=True, env=os.environ | visible)
    rows = [json.loads(line) for line in (root / "studies" / name / "trials.jsonl").read_text("utf-8").splitlines()]
    assert all(row["status"] == "complete" for row in rows), [row.get("reason") for row in rows]
    configs = (root / "studies" / name / "trials").glob("*/config.json")
    first = min(config.stat().st_mtime for config in configs)
    last = (root / "studies" / name / "trials.jsonl").stat().st_mtime
    return 3600 * len(rows) / (last - first)


def main() -> int:
    """Write gpu.json and print its table; 1 where a bar is missed."""
    names = ", ".join(torch.cuda.get_device_name(number) for number in range(torch.cuda.device_count()))
    if not GPUS:
        print("NO GPU WAS FOUND: this run measures nothing, it only shows that the benchmark works", file=sys.stderr)
    where = f"{names or 'no GPU was found'}, {machine()}"
    prefix = "" if GPUS else "no GPU was found: "
    figures = [replace(one, name=prefix + one.name, command="make gpu-bench", machine=where) for one in measure()]
    _OUT.write_text(json.dumps([asdict(one) for one in figures], indent=1) + "\n", encoding="utf-8")
    print(table(figures), f"\n{prefix}written to {_OUT}")
    return int(any(one.holds is False for one in figures))


if __name__ == "__main__":
    sys.exit(main())
