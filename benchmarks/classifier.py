"""Images per second of a trial's training loop, compared with bare loops of the same network; the loops take turns.

The bare loops, eager and compiled, reuse one batch that is already on the device, in channels_last
and our precision. Ours draws, reads, scales, augments and normalises each batch.
"""

from __future__ import annotations

import statistics
import tempfile
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F
from torchvision.models import get_model

from benchmarks.figures import Figure, figure
from xraytune.base.records import Compute
from xraytune.data.phantom import paint_phantoms
from xraytune.data.prepare import RunContext, prepare
from xraytune.nets.compute import autocast, choose_compute, configure_torch, gpu_count
from xraytune.space.parameters import Parameters
from xraytune.space.settings import Experiment, Settings
from xraytune.trial.run import run_trial
from xraytune.trial.training import TrialTraining

_IMAGE_PX, _BATCH, _ROUNDS = 128, 32, 5
_HEADS = 20
_EPOCH_STEPS = 9
"""As in README's CPU search: 279 images in batches of 32. Each of our epochs writes a checkpoint."""
_WEIGHTS = "mobilenet_v2.pth"


@dataclass(frozen=True, slots=True, kw_only=True)
class _Case:
    """What is trained, and for how many steps in each round."""

    name: str
    parameters: dict[str, Any]
    steps: int


_CASES = (
    _Case(name="mobilenet_v2", parameters={}, steps=_EPOCH_STEPS),
    _Case(
        name="small_cnn, augmented",
        parameters={
            "backbone": "small_cnn",
            "weights": "none",
            "augmentation": "affine",
            "degrees": 7,
        },
        steps=_EPOCH_STEPS,
    ),
    _Case(
        name="last stage of mobilenet_v2",
        parameters={"trainable": "last_stage"},
        steps=_EPOCH_STEPS,
    ),
    _Case(name="head of mobilenet_v2", parameters={"trainable": "head"}, steps=1000),
)


def measure() -> Iterator[Figure]:
    """Yield medians of five rounds, on the first GPU or, without one, on one core, as a trial has by default."""
    compute = choose_compute(gpus=min(1, gpu_count()), threads=1)
    where, bar = ("a GPU", ">= 0.8") if compute.device == "cuda" else ("the CPU", ">= 0.9")
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        paint_phantoms(folder / "xrays", patients=200, seed=3, image_size_px=_IMAGE_PX)
        torch.save(
            get_model("mobilenet_v2", weights=None).state_dict(), folder / _WEIGHTS
        )  # frozen layers need a file
        for number, case in enumerate(
            _CASES[:-1] if compute.device == "cuda" else _CASES
        ):  # a head leaves a GPU idle
            speeds = _speeds(case, folder, folder / str(number), compute)
            for who, speed in speeds.items():
                yield figure(f"classifier: {case.name} on {where}, {who}", speed, "images/s")
            *bare, ours = speeds.values()
            yield figure(
                f"classifier: {case.name} on {where}, ours / faster bare loop",
                ours / max(bare),
                "x",
                bar,
            )
        if compute.device == "cpu":
            name = "classifier: 200 trials of a head on cached features, one after the other"
            yield figure(name, 200 * _seconds_of_a_head(folder, compute), "s of CPU time", "<= 4")


def _seconds_of_a_head(folder: Path, compute: Compute) -> float:
    """Return the median CPU time of whole trials: inputs, 27 epochs of 9 steps, each validated, and files."""
    settings = Settings.model_validate(
        {
            "name": "heads",
            "data": {"path": folder / "xrays", "image_size": _IMAGE_PX},
            "budget": {"max_epochs": 27, "steps_per_epoch": _EPOCH_STEPS},
        }
    )
    prepared, _ = prepare(settings, folder / "cache")
    context = RunContext(prepared=prepared, cache=folder / "cache", compute=compute)
    values = {"backbone": "mobilenet_v2", "weights": str(folder / _WEIGHTS), "trainable": "head"}
    configure_torch(compute)
    seconds = []
    for seed in range(_HEADS + 1):
        experiment = Experiment(
            settings=settings.model_copy(update={"seed": seed}),
            parameters=Parameters.model_validate(values),
        )
        started = time.process_time()
        run_trial(experiment, context, trial_dir=folder / f"head {seed}")
        seconds.append(time.process_time() - started)
    return statistics.median(seconds[1:])  # the first computes the features


def _speeds(case: _Case, folder: Path, own: Path, compute: Compute) -> dict[str, float]:
    """Return images per second of each loop; the first round, which includes all setup, is not counted."""
    document = f"""{{"name": "speed", "data": {{"path": "{folder / "xrays"}", "image_size": {_IMAGE_PX}}},
        "budget": {{"max_epochs": {_ROUNDS + 1}, "steps_per_epoch": {case.steps}}}}}"""
    settings = Settings.model_validate_json(document)
    prepared, _ = prepare(settings, folder / "cache")
    pretrained = {"backbone": "mobilenet_v2", "weights": str(folder / _WEIGHTS)}
    values = {"batch_size": _BATCH, **pretrained, **case.parameters}
    parameters = Parameters.model_validate(values)
    context = RunContext(prepared=prepared, cache=folder / "cache", compute=compute)
    experiment = Experiment(settings=settings, parameters=parameters)
    configure_torch(compute)
    loops = {
        "bare loop": _bare(TrialTraining(experiment, context), compute, case.steps),
        "bare loop, compiled": _bare(
            TrialTraining(experiment, context), compute, case.steps, is_compiled=True
        ),
        "ours": _ours(experiment, context, own),
    }
    clock = (
        time.perf_counter if compute.device == "cuda" else time.process_time
    )  # one thread, so valid on a busy machine
    seconds = {who: list[float]() for who in loops}
    for _ in range(_ROUNDS + 1):
        for who, run in loops.items():
            torch.set_deterministic_debug_mode(
                "error" if who == "ours" and compute.device == "cpu" else "default"
            )
            started = clock()
            run()
            seconds[who].append(clock() - started)
    return {
        who: case.steps * _BATCH / statistics.median(found[1:]) for who, found in seconds.items()
    }


class _WithoutValidation(TrialTraining):
    def validate(self) -> tuple[float, float]:
        return 0.0, 0.0


def _ours(experiment: Experiment, context: RunContext, folder: Path) -> Callable[[], object]:
    """Return a function that runs one epoch, with its checkpoint, without validation."""
    training = _WithoutValidation(experiment, context)
    # With so few steps per epoch, estimating batch norm statistics would weigh ten times as much as
    # in a trial.
    training.batches.norm_batches = lambda: iter(())  # type: ignore[method-assign]
    epochs = training.epochs(folder)
    return lambda: next(epochs)


def _bare(
    trial: TrialTraining, compute: Compute, steps: int, *, is_compiled: bool = False
) -> Callable[[], object]:
    """Return a training loop with nothing but the network, its loss and Adam, fused as ours is."""
    images, labels = trial.batches.load(next(trial.batches.step_inputs(range(1))))
    network: nn.Module = trial.trained.train()
    optimizer = torch.optim.Adam(
        [one for one in network.parameters() if one.requires_grad], lr=1e-4, fused=True
    )
    model: Callable[[Tensor], Tensor] = torch.compile(network) if is_compiled else network

    def run() -> None:
        for _ in range(steps):
            optimizer.zero_grad()
            with autocast(compute):
                outputs = model(images)
            loss = F.cross_entropy(outputs.float(), labels)
            loss.backward()  # type: ignore[no-untyped-call]
            optimizer.step()
        loss.item()  # waits for the device

    return run
