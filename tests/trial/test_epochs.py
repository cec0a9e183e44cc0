"""The training loop: it trains only unfrozen parts, keeps the best network, and stops early."""

import math
import shutil
from collections.abc import Iterator
from itertools import count, islice
from pathlib import Path
from typing import Any, Literal

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from safetensors.torch import load_file
from torch import Tensor

from tests.in_process import CPU
from xraytune.base.errors import ArtifactError, TrialError
from xraytune.base.records import Compute, ignore_progress
from xraytune.base.seeding import derive_seed, numpy_generator
from xraytune.data.prepare import ImageSet
from xraytune.nets.captured import Draws
from xraytune.nets.checkpoint import finished_epochs
from xraytune.nets.networks import build_classifier
from xraytune.space.settings import Parameters
from xraytune.tasks import TASKS
from xraytune.trial.batches import Batches
from xraytune.trial.training import TrialTraining

pytestmark = pytest.mark.slow


@pytest.fixture(autouse=True)
def checkpoint_after_each_epoch(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("xraytune.trial.training._CHECKPOINT_SECONDS", -1.0)


class TinyBatches(Batches):
    """Noise images; those of class 1 have a faint bright square."""

    def __init__(self) -> None:
        generator = torch.Generator().manual_seed(derive_seed(1, "tiny task"))
        pixels = torch.randn(96, 3, 32, 32, generator=generator)
        self.labels = torch.arange(96) % 2
        pixels[self.labels == 1, :, 8:20, 8:20] += 0.8
        self.train_pixels, self.norm_pixels, self.val_pixels = pixels[:56], pixels[:56], pixels[56:]

    def draws(self, steps: range) -> Iterator[Draws]:
        for step in steps:
            yield (torch.from_numpy(numpy_generator(1, "batch", step).integers(0, 56, 8)),)

    def load(self, draws: Draws, **_: Any) -> tuple[Tensor, Tensor]:
        (rows,) = draws
        return self.train_pixels[rows], self.labels[rows]

    def norm_batches(self) -> Iterator[Tensor]:
        yield from torch.split(self.norm_pixels, 28)


class TinyTraining(TrialTraining):
    """A classifier of these images."""

    batches: TinyBatches

    def __init__(
        self,
        parameters: Parameters,
        *,
        seed: int = 1,
        epochs: int = 3,
        precision: Literal["float32", "bfloat16"] = "float32",
    ) -> None:
        self.batches = TinyBatches()
        self.batches.pretraining_steps = parameters.pretraining_steps(4 * epochs)
        self.parameters = parameters
        self.trained = build_classifier(parameters, 2, weights=None, seed=seed)
        self.loss = F.cross_entropy
        self.is_trained = True
        self.max_epochs = epochs
        self.steps_per_epoch = 4
        self.seed = 5
        self.compute = Compute(device="cpu", threads=1, precision=precision)
        self.on_progress = ignore_progress

    def validate(self) -> tuple[float, float]:
        labels = self.batches.labels[56:].numpy()
        places = np.arange(len(labels))
        images = ImageSet(
            name="val", pixels=np.empty(0, np.uint8), rows=places, targets=labels, inputs={}
        )
        task, batches = TASKS["classification"], torch.split(self.batches.val_pixels, 16)
        loss, results, _ = task.predict(self.trained, batches, images, CPU)
        if not math.isfinite(loss):
            return loss, math.nan
        return loss, task.score(labels, results, positive=1)


FROZEN = {"trainable": "head", "weights": "given"}


def small(**changes: Any) -> Parameters:
    return Parameters.model_validate(
        {"backbone": "small_cnn", "weights": "none", "lr": 1e-3, **changes}
    )


def state_of(training: TrialTraining) -> dict[str, Tensor]:
    return {name: tensor.clone() for name, tensor in training.trained.state_dict().items()}


def assert_same_bits(first: dict[str, Tensor], second: dict[str, Tensor]) -> None:
    assert first.keys() == second.keys()
    assert all(torch.equal(first[name], second[name]) for name in first)


class Scored(TinyTraining):
    """A training whose epochs get given scores, and that keeps their networks."""

    def __init__(self, *scores: float, epochs: int) -> None:
        super().__init__(small(), epochs=epochs)
        self.scores = [*scores]
        self.networks: list[dict[str, Tensor]] = []

    def validate(self) -> tuple[float, float]:
        self.networks.append(state_of(self))
        return 1.0, self.scores.pop(0)


def kill_at_write(number: int, monkeypatch: pytest.MonkeyPatch) -> None:
    """Let the process end before its write of this number, from 1 on."""
    writes = count(1)
    replace = Path.replace

    def replace_or_end(path: Path, target: Path) -> Path:
        if next(writes) == number:
            raise KeyboardInterrupt
        return replace(path, target)

    monkeypatch.setattr(Path, "replace", replace_or_end)


@pytest.mark.parametrize("killed_at_write", [1, 2])
def test_a_killed_training_keeps_no_network_of_an_epoch_that_it_trains_again(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, killed_at_write: int
) -> None:
    """The best network is that of an epoch in the log, even if a machine rounds differently."""
    started = Scored(0.5, 0.6, 0.9, 0.7, epochs=4)
    epochs = started.epochs(tmp_path)
    [*islice(epochs, 2)]
    with monkeypatch.context() as patched:
        kill_at_write(killed_at_write, patched)
        with pytest.raises(KeyboardInterrupt):
            list(epochs)
    finished = finished_epochs(tmp_path)
    resumed = Scored(*[0.58, 0.57][len(finished) - 2 :], epochs=4)

    records = [*finished, *resumed.epochs(tmp_path)]

    assert [record.epoch for record in records] == [1, 2, 3, 4]
    networks = started.networks[: len(finished)] + resumed.networks
    best = max(records, key=lambda record: record.val_score)
    assert best.val_score == records[-1].best_val_score
    assert_same_bits(load_file(tmp_path / "best.safetensors"), networks[best.epoch - 1])


def test_a_changed_bit_of_an_unfinished_training_is_never_part_of_its_best_network(
    tmp_path: Path,
) -> None:
    started = Scored(0.9, 0.5, epochs=3)
    [*islice(started.epochs(tmp_path / "training"), 2)]
    for file in sorted((tmp_path / "training").iterdir()):
        folder = Path(shutil.copytree(file.parent, tmp_path / file.name))
        content = bytearray(file.read_bytes())
        content[len(content) // 2] ^= 1
        (folder / file.name).write_bytes(content)
        left = len(finished_epochs(folder))

        [*Scored(*[0.9, 0.5, 0.6][left:], epochs=3).epochs(folder)]

        assert_same_bits(load_file(folder / "best.safetensors"), started.networks[0])


def test_validated_network_has_estimated_running_statistics(tmp_path: Path) -> None:
    """Here, the training images are far brighter than those of the estimate."""
    training = TinyTraining(small(), epochs=1)
    training.batches.train_pixels = training.batches.norm_pixels + 3

    [*training.epochs(tmp_path)]

    with torch.no_grad():
        seen = training.trained.get_submodule("backbone.0.0")(training.batches.norm_pixels)
    kept = state_of(training)
    torch.testing.assert_close(kept["backbone.0.1.running_mean"], seen.mean(dim=(0, 2, 3)))
    torch.testing.assert_close(
        kept["backbone.0.1.running_var"], seen.var(dim=(0, 2, 3)), rtol=0.05, atol=0
    )
    assert_same_bits(load_file(tmp_path / "best.safetensors"), kept)


@pytest.mark.parametrize("trainable", ["head", "last_stage"])
def test_frozen_parts_keep_every_bit_batch_norm_statistics_included(
    tmp_path: Path, trainable: str
) -> None:
    changes = FROZEN | {"trainable": trainable}
    training = TinyTraining(small(weight_decay=0.1, optimizer="adamw", **changes))
    before = state_of(training)

    [*training.epochs(tmp_path)]

    trained = ("head.",) if trainable == "head" else ("head.", "backbone.6.", "backbone.7.")
    for name, tensor in state_of(training).items():
        assert torch.equal(tensor, before[name]) != name.startswith(trained), name


PRETRAIN = {"source": "duplicate", "mixing": "pretrain", "synthetic_ratio": 0.75}


@pytest.mark.parametrize(
    ("changes", "epochs", "at_full_rate"),
    [
        ({"early_stop_epochs": 2}, 3, 3),
        ({"early_stop_epochs": 2, **PRETRAIN}, 7, 7),
        ({"schedule": "plateau", **PRETRAIN}, 10, 8),
    ],
)
def test_patience_begins_with_real_images(
    tmp_path: Path, changes: dict[str, Any], epochs: int, at_full_rate: int
) -> None:
    """Nothing improves.

    In `PRETRAIN`, the first four of 10 epochs have extra images alone, and the fifth has some.
    """
    training = TinyTraining(small(**FROZEN | {"lr": 1e-12}, **changes), epochs=10)

    records = [*training.epochs(tmp_path)]

    assert len(records) == epochs
    at_full = [record.epoch for record in records if record.lr == 1e-12]
    assert at_full == [*range(1, at_full_rate + 1)]
    assert [*training.epochs(tmp_path)] == [], "a resumed run has stopped, too"


def test_a_loss_that_is_not_finite_ends_the_trial_and_leaves_the_last_good_checkpoint(
    tmp_path: Path,
) -> None:
    training = TinyTraining(small())
    epochs = training.epochs(tmp_path)
    next(epochs)
    training.batches.train_pixels.fill_(torch.inf)

    with pytest.raises(TrialError, match="not finite in epoch 2"):
        next(epochs)

    assert [record.epoch for record in finished_epochs(tmp_path)] == [1]


def test_a_network_that_is_not_finite_ends_the_trial_even_if_its_loss_is(tmp_path: Path) -> None:
    """Also in an epoch that is not the best, so that its network would not be kept."""
    training = TinyTraining(small(lr=1e-12))
    epochs = training.epochs(tmp_path)
    next(epochs)
    training.trained.register_buffer("running_var", torch.tensor(torch.inf))

    with pytest.raises(TrialError, match="the network is not finite in epoch 2"):
        next(epochs)


def test_bfloat16_trains_depthwise_convolutions_like_float32_up_to_rounding(tmp_path: Path) -> None:
    losses = []
    for precision in ("float32", "bfloat16"):
        parameters = small(backbone="mobilenet_v2", lr=1e-6)
        training = TinyTraining(parameters, epochs=1, precision=precision)
        losses += [record.train_loss for record in training.epochs(tmp_path / precision)]

    assert losses[1] != losses[0]
    assert losses[1] == pytest.approx(losses[0], abs=0.05)


def test_a_damaged_or_foreign_checkpoint_is_refused_with_a_fix(tmp_path: Path) -> None:
    next(TinyTraining(small()).epochs(tmp_path))
    file = tmp_path / "checkpoint.pt"

    with pytest.raises(ArtifactError, match="of another network"):
        next(TinyTraining(small(backbone="resnet18")).epochs(tmp_path))
    file.write_bytes(file.read_bytes()[:1000])
    with pytest.raises(ArtifactError, match=r"(?s)checkpoint\.pt: .*remove this folder"):
        next(TinyTraining(small()).epochs(tmp_path))
