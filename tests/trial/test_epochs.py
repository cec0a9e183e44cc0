"""The training loop: it trains only unfrozen parts, keeps the best network, and stops early."""

import shutil
from dataclasses import replace
from itertools import count, islice
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file
from torch import Tensor

from tests.trial.conftest import Bench, flip_a_bit, frozen
from xraytune.base.errors import ArtifactError, TrialError
from xraytune.base.records import Compute
from xraytune.nets.checkpoint import finished_epochs
from xraytune.nets.cuda_graph import StepInputs
from xraytune.trial.batches import Batches
from xraytune.trial.training import TrialTraining


@pytest.fixture(autouse=True)
def checkpoint_after_each_epoch(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("xraytune.trial.training._CHECKPOINT_SECONDS", -1.0)


def with_epochs(bench: Bench, count: int) -> Bench:
    """A bench whose trials have this many epochs instead of three, each of four steps."""
    budget = bench.settings.budget.model_copy(update={"max_epochs": count})
    return replace(bench, settings=bench.settings.model_copy(update={"budget": budget}))


class Brighter(Batches):
    """Batches whose images are far brighter than those of the batch norms, which load unblended."""

    def load(self, draws: StepInputs, *, blends: bool = True) -> tuple[Tensor, Tensor]:
        inputs, targets = super().load(draws, blends=blends)
        return (inputs + 3 if blends else inputs), targets


def state_of(training: TrialTraining) -> dict[str, Tensor]:
    return {name: tensor.clone() for name, tensor in training.whole_network().state_dict().items()}


def assert_same_bits(first: dict[str, Tensor], second: dict[str, Tensor]) -> None:
    assert first.keys() == second.keys()
    assert all(torch.equal(first[name], second[name]) for name in first)


class Scored(TrialTraining):
    """A training whose epochs get given scores, and that keeps their networks."""

    def __init__(self, bench: Bench, *scores: float) -> None:
        super().__init__(with_epochs(bench, 4).experiment(), bench.context)
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
    bench: Bench, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, killed_at_write: int
) -> None:
    """The best network is that of an epoch in the log, even if a machine rounds differently."""
    started = Scored(bench, 0.5, 0.6, 0.9, 0.7)
    epochs = started.epochs(tmp_path)
    [*islice(epochs, 2)]
    with monkeypatch.context() as patched:
        kill_at_write(killed_at_write, patched)
        with pytest.raises(KeyboardInterrupt):
            list(epochs)
    finished = finished_epochs(tmp_path)
    resumed = Scored(bench, *[0.58, 0.57][len(finished) - 2 :])

    records = [*finished, *resumed.epochs(tmp_path)]

    assert [record.epoch for record in records] == [1, 2, 3, 4]
    networks = started.networks[: len(finished)] + resumed.networks
    best = max(records, key=lambda record: record.val_score)
    assert best.val_score == records[-1].best_val_score
    assert_same_bits(load_file(tmp_path / "best.safetensors"), networks[best.epoch - 1])


def test_a_changed_bit_of_an_unfinished_training_is_never_part_of_its_best_network(
    bench: Bench, tmp_path: Path
) -> None:
    started = Scored(bench, 0.9, 0.5)
    [*islice(started.epochs(tmp_path / "training"), 2)]
    for file in sorted((tmp_path / "training").iterdir()):
        folder = Path(shutil.copytree(file.parent, tmp_path / file.name))
        flip_a_bit(folder / file.name)
        left = len(finished_epochs(folder))

        [*Scored(bench, *[0.9, 0.5, 0.6, 0.7][left:]).epochs(folder)]

        assert_same_bits(load_file(folder / "best.safetensors"), started.networks[0])


def test_validated_network_has_estimated_running_statistics(bench: Bench, tmp_path: Path) -> None:
    training = TrialTraining(with_epochs(bench, 1).experiment(), bench.context)
    training.batches = Brighter(training.images, training.network, total_steps=4)

    [*training.epochs(tmp_path)]

    with torch.no_grad():
        images = torch.cat([*training.batches.norm_batches()])
        seen = training.trained.get_submodule("backbone.0.0")(images)
    kept = state_of(training)
    torch.testing.assert_close(kept["backbone.0.1.running_mean"], seen.mean(dim=(0, 2, 3)))
    torch.testing.assert_close(
        kept["backbone.0.1.running_var"], seen.var(dim=(0, 2, 3)), rtol=0.05, atol=0
    )
    assert_same_bits(load_file(tmp_path / "best.safetensors"), kept)


@pytest.mark.parametrize("trainable", ["head", "last_stage"])
def test_frozen_parts_keep_every_bit_batch_norm_statistics_included(
    bench: Bench, tmp_path: Path, trainable: str
) -> None:
    experiment = frozen(bench, tmp_path, trainable=trainable, weight_decay=0.1, optimizer="adamw")
    training = TrialTraining(experiment, bench.context)
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
    bench: Bench, tmp_path: Path, changes: dict[str, Any], epochs: int, at_full_rate: int
) -> None:
    """Nothing improves.

    In `PRETRAIN`, the first four of 10 epochs have extra images alone, and the fifth has some.
    """
    experiment = frozen(with_epochs(bench, 10), tmp_path, lr=1e-12, **changes)
    training = TrialTraining(experiment, bench.context)

    records = [*training.epochs(tmp_path)]

    assert len(records) == epochs
    at_full = [record.epoch for record in records if record.lr == 1e-12]
    assert at_full == [*range(1, at_full_rate + 1)]
    assert [*training.epochs(tmp_path)] == [], "a resumed run has stopped, too"


def test_a_loss_that_is_not_finite_ends_the_trial_and_leaves_the_last_good_checkpoint(
    bench: Bench, tmp_path: Path
) -> None:
    training = TrialTraining(bench.experiment(), bench.context)
    epochs = training.epochs(tmp_path)
    next(epochs)
    next(training.trained.parameters()).data.fill_(torch.inf)

    with pytest.raises(TrialError, match="the loss is not finite in epoch 2"):
        next(epochs)

    assert [record.epoch for record in finished_epochs(tmp_path)] == [1]


def test_a_network_that_is_not_finite_ends_the_trial_even_if_its_loss_is(
    bench: Bench, tmp_path: Path
) -> None:
    """Also in an epoch that is not the best, so that its network would not be kept."""
    training = TrialTraining(bench.experiment(lr=1e-12), bench.context)
    epochs = training.epochs(tmp_path)
    next(epochs)
    training.trained.register_buffer("running_var", torch.tensor(torch.inf))

    with pytest.raises(TrialError, match="the network is not finite in epoch 2"):
        next(epochs)


def test_bfloat16_trains_depthwise_convolutions_like_float32_up_to_rounding(
    bench: Bench, tmp_path: Path
) -> None:
    parameters = {"backbone": "mobilenet_v2", "batch_size": 32, "lr": 1e-6}
    experiment = with_epochs(bench, 1).experiment(**parameters)
    losses = []
    for precision in ("float32", "bfloat16"):
        compute = Compute(device="cpu", threads=1, precision=precision)
        training = TrialTraining(experiment, replace(bench.context, compute=compute))
        losses += [record.train_loss for record in training.epochs(tmp_path / precision)]

    assert losses[1] != losses[0]
    assert losses[1] == pytest.approx(losses[0], abs=0.05)


def test_a_damaged_or_foreign_checkpoint_is_refused_with_a_fix(
    bench: Bench, tmp_path: Path
) -> None:
    training = TrialTraining(bench.experiment(), bench.context)
    next(training.epochs(tmp_path))
    other = TrialTraining(bench.experiment(backbone="resnet18"), bench.context)
    file = tmp_path / "checkpoint.pt"

    with pytest.raises(ArtifactError, match="of another network"):
        next(other.epochs(tmp_path))
    file.write_bytes(file.read_bytes()[:1000])
    with pytest.raises(ArtifactError, match=r"(?s)checkpoint\.pt: .*remove this folder"):
        next(training.epochs(tmp_path))
