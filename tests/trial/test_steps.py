"""A training step, seen by its operators: a GPU can run it without the CPU, and replay it as a graph."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode

from tests.in_process import CPU
from tests.pair_files import write_pairs
from tests.synth.conftest import BLOBS
from tests.trial.conftest import Bench
from tests.trial.test_trial import gan
from xraytune.base.tensors import save_state
from xraytune.data.prepare import RunContext, prepare
from xraytune.nets.backbones import build_backbone
from xraytune.nets.captured import Draws
from xraytune.nets.optimizer import optimizer_of
from xraytune.nets.train import train_step
from xraytune.space.settings import Experiment, GanSettings, Parameters, Settings
from xraytune.synth.gan import new_training, real_images
from xraytune.trial.inputs import TrialInputs
from xraytune.trial.run import training_of

pytestmark = pytest.mark.slow

MOST_OUTSIDE = 10
"""Operators for each step outside the graph. A GPU also copies each draw to where the graph reads it, sums the loss and sets
the learning rate."""
_WAIT = {
    "_local_scalar_dense",
    "nonzero",
    "masked_select",
    "is_nonzero",
    "lift_fresh",
    "equal",
    "unique_dim",
    "_unique2",
}


class Operators(TorchDispatchMode):  # type: ignore[no-untyped-call]
    """Counts operators; `waiting` are those for which the CPU waits for a GPU, or that copy a value to it."""

    def __init__(self) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self.count, self.waiting = 0, list[str]()

    def __torch_dispatch__(self, operator: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        name = operator.overloadpacket.__name__
        self.count += 1
        indices = args[1] if name.startswith(("index", "_index")) and isinstance(args[1], list | tuple) else ()
        if name in _WAIT or any(isinstance(index, Tensor) and index.dtype == torch.bool for index in indices):
            self.waiting.append(name)
        return operator(*args, **(kwargs or {}))


@contextmanager
def no_host_arrays(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    def refuse(_: object) -> None:
        raise AssertionError("an array of the host becomes a tensor")

    with monkeypatch.context() as patched:
        patched.setattr(torch, "from_numpy", refuse)
        patched.setattr(torch, "as_tensor", refuse)
        yield


def assert_replayable(
    draw: Callable[[], Draws], step: Callable[[Draws], Tensor], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Neither waits for the device, and little is computed outside the step."""
    step(draw())
    with no_host_arrays(monkeypatch):
        with Operators() as outside:
            draws = draw()
        with Operators() as inside:
            step(draws)

    assert outside.count + len(draws) + 2 <= MOST_OUTSIDE
    assert inside.count > MOST_OUTSIDE
    assert inside.waiting == outside.waiting == []


def assert_trial_is_replayable(
    experiment: Experiment, context: RunContext, folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    inputs = TrialInputs(experiment, context)
    training = training_of(experiment, context, inputs, folder)
    optimizer = optimizer_of(experiment.parameters, inputs.trained)
    draws = inputs.draws(range(training.steps_per_epoch))
    assert_replayable(lambda: next(draws), lambda drawn: train_step(training, optimizer, drawn), monkeypatch)


@pytest.mark.parametrize("trainable", ["all", "last_stage", "head"])
def test_a_step_of_a_classifier_waits_for_nothing(
    bench: Bench, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, trainable: str
) -> None:
    save_state(build_backbone("small_cnn")[0].state_dict(), tmp_path / "backbone.safetensors")
    mix = {"source": "gan", "gan": gan(), "classical": 2, "views": 3, "synthetic_ratio": 2.0}
    weights = {"weights": str(tmp_path / "backbone.safetensors"), "trainable": trainable}

    assert_trial_is_replayable(bench.experiment(**mix, **weights), bench.context, tmp_path, monkeypatch)


def test_a_step_of_a_segmenter_waits_for_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    root = write_pairs(tmp_path / "pairs", [f"p{number}" for number in range(20)])
    settings = Settings.model_validate_json(
        f"""{{"name": "pairs", "task": "segmentation",
            "data": {{"path": "{root}", "image_size": 32, "split": {{"val_a": 0.2, "val_b": 0.2}}}}}}"""
    )
    prepared, _ = prepare(settings, tmp_path)
    mix = {"source": "duplicate", "synthetic_ratio": 1.0, "classical": 2}
    parameters = Parameters.model_validate({"backbone": "resnet18", "weights": "none", "batch_size": 4, **mix})
    context = RunContext(prepared=prepared, cache=tmp_path, compute=CPU)

    assert_trial_is_replayable(
        Experiment(settings=settings, parameters=parameters), context, tmp_path / "trial", monkeypatch
    )


@pytest.mark.parametrize(
    "settings",
    [gan(), gan(architecture="dcgan")],
    ids=["gan", "dcgan"],
)
def test_a_step_of_a_generator_waits_for_nothing(settings: GanSettings, monkeypatch: pytest.MonkeyPatch) -> None:
    images, labels = BLOBS
    real, training = real_images(images[:, None], np.asarray(labels), CPU), new_training(settings, 2, CPU)
    training.fit(real)

    assert_replayable(lambda: training.draw(real, CPU), lambda drawn: training.update(real, CPU, drawn), monkeypatch)
