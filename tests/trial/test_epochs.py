"""The training loop: it resumes bit-identically, trains only unfrozen parts, keeps the best network, and stops early."""

from collections.abc import Callable, Iterable, Iterator
from dataclasses import asdict, dataclass, replace
from itertools import islice
from pathlib import Path
from typing import Any, Literal

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from numpy.typing import NDArray
from safetensors.torch import load_file
from torch import Tensor, nn

from tests.in_process import CPU, one_thread
from tests.tiny_training import TinyTraining
from xraytune.base.errors import ArtifactError, TrialError
from xraytune.base.records import Compute, EpochRecord
from xraytune.base.seeding import derive_seed, numpy_generator
from xraytune.data.prepare import ImageSource
from xraytune.nets.checkpoint import finished_epochs
from xraytune.nets.classifier import Classifier, build_classifier
from xraytune.nets.infer import predict_logits
from xraytune.space.settings import Parameters
from xraytune.stats.classification import auroc
from xraytune.tasks import TASKS
from xraytune.trial.training import TRAINING_STEPS

STEPS_PER_EPOCH = 4


@pytest.fixture(autouse=True)
def _one_thread() -> Iterator[None]:
    with one_thread():
        yield


@dataclass(frozen=True, slots=True)
class TinyTask:
    """Noise images; those of class 1 have a faint bright square."""

    train_images: Tensor
    train_labels: Tensor
    val_images: Tensor
    val_labels: NDArray[np.int64]
    norm_images: Tensor | None = None

    def draws(self, steps: range) -> Iterable[tuple[Tensor]]:
        """Eight training images, drawn from each step."""
        for step in steps:
            yield (
                torch.from_numpy(
                    numpy_generator(1, "batch", step).integers(0, len(self.train_images), 8)
                ),
            )

    def load(self, drawn: Tensor) -> tuple[Tensor, Tensor]:
        return self.train_images[drawn], self.train_labels[drawn]

    def norm_batches(self) -> Iterable[Tensor]:
        return torch.split(self.train_images if self.norm_images is None else self.norm_images, 28)

    def val_batches(self) -> Iterable[Tensor]:
        return torch.split(self.val_images, 16)

    def validate(self, network: nn.Module) -> tuple[float, float]:
        """Loss and AUROC on the validation images."""
        places = np.arange(len(self.val_labels))
        images = ImageSource(
            name="val", pixels=np.empty(0, np.uint8), rows=places, labels=self.val_labels, inputs={}
        )
        return TASKS["classification"].validate(
            network, self.val_batches(), images, positive=1, compute=CPU
        )


def tiny_task() -> TinyTask:
    generator = torch.Generator().manual_seed(derive_seed(1, "tiny task"))
    images = torch.randn(96, 3, 32, 32, generator=generator)
    labels = torch.arange(96) % 2
    images[labels == 1, :, 8:20, 8:20] += 0.8
    return TinyTask(images[:56], labels[:56], images[56:], labels[56:].numpy())


FROZEN = {"trainable": "head", "weights": "given"}


def small(**changes: Any) -> Parameters:
    return Parameters.model_validate(
        {"backbone": "small_cnn", "weights": "none", "lr": 1e-3, **changes}
    )


def built(parameters: Parameters, seed: int = 1) -> Classifier:
    return build_classifier(parameters, 2, weights=None, seed=seed)


def train(
    parameters: Parameters,
    network: nn.Module,
    folder: Path,
    *,
    task: TinyTask | None = None,
    epochs: int = 3,
    stop_after: int | None = None,
    compute: Compute = CPU,
    **options: Any,
) -> list[EpochRecord]:
    run = epochs_of(
        parameters, network, folder, task=task, epochs=epochs, compute=compute, **options
    )
    return list(islice(run, stop_after))


def epochs_of(
    parameters: Parameters,
    network: nn.Module,
    folder: Path,
    *,
    task: TinyTask | None = None,
    epochs: int = 3,
    compute: Compute = CPU,
    validate: Callable[[nn.Module], tuple[float, float]] | None = None,
    **options: Any,
) -> Iterator[EpochRecord]:
    task = task or tiny_task()
    training = TinyTraining(
        parameters,
        network,
        draws=task.draws,
        load=task.load,
        norm_batches=task.norm_batches,
        validate=validate or task.validate,
        loss=F.cross_entropy,
        max_epochs=epochs,
        steps_per_epoch=STEPS_PER_EPOCH,
        compute=compute,
        **options,
    )
    return training.epochs(folder)


def without_seconds(records: list[EpochRecord]) -> list[dict[str, Any]]:
    return [asdict(record) | {"seconds": 0} for record in records]


def state_of(network: nn.Module) -> dict[str, Tensor]:
    return {name: tensor.clone() for name, tensor in network.state_dict().items()}


def best_of(folder: Path) -> dict[str, Tensor]:
    return load_file(folder / "best.safetensors")


def assert_same_bits(first: dict[str, Tensor], second: dict[str, Tensor]) -> None:
    assert first.keys() == second.keys()
    assert all(torch.equal(first[name], second[name]) for name in first)


def assert_same_values(network: nn.Module, score: float) -> None:
    """The network has this AUROC on the validation images."""
    task = tiny_task()
    probabilities = TASKS["classification"].predict_probabilities(
        network, task.val_batches(), compute=CPU, where=Path()
    )
    assert auroc(task.val_labels, probabilities, positive=1) == score


@pytest.mark.slow
def test_a_stopped_training_repeats_the_epochs_since_its_checkpoint(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The best network is one of the repeated epochs, or of those before, even on a machine that rounds differently."""
    parameters, networks = small(), list[dict[str, Tensor]]()

    def scored(network: nn.Module) -> tuple[float, float]:
        networks.append(state_of(network))
        return 1.0, scores.pop(0)

    def run() -> Iterator[EpochRecord]:
        return epochs_of(parameters, built(parameters), tmp_path, epochs=4, validate=scored)

    scores = [0.5, 0.6, 0.9]
    [*islice(run(), 2)]
    monkeypatch.setattr("xraytune.trial.training._CHECKPOINT_SECONDS", 3600.0)
    assert next(run()).val_score == 0.9  # and the process is killed
    scores = [0.58, 0.57]

    after = [*run()]

    assert [(record.epoch, record.val_score, record.best_val_score) for record in after] == [
        (3, 0.58, 0.6),
        (4, 0.57, 0.6),
    ]
    assert_same_bits(best_of(tmp_path), networks[1])


@pytest.fixture(autouse=True)
def checkpoint_after_each_epoch(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("xraytune.trial.training._CHECKPOINT_SECONDS", -1.0)


@pytest.mark.slow
def test_an_epoch_is_in_the_checkpoint_before_it_is_reported_and_progress_begins_at_0(
    tmp_path: Path,
) -> None:
    parameters, seen = small(schedule="cosine"), list[tuple[str, int, int]]()
    network = built(parameters)

    first = train(
        parameters, network, tmp_path, stop_after=1, on_progress=lambda *event: seen.append(event)
    )

    assert finished_epochs(tmp_path) == first
    assert_same_bits(
        torch.load(tmp_path / "checkpoint.pt", weights_only=True)["network"], state_of(network)
    )
    assert seen == [
        (TRAINING_STEPS, step, 3 * STEPS_PER_EPOCH) for step in range(STEPS_PER_EPOCH + 1)
    ]
    records = first + train(
        parameters, network, tmp_path, on_progress=lambda *event: seen.append(event)
    )
    assert seen[STEPS_PER_EPOCH + 1] == (TRAINING_STEPS, STEPS_PER_EPOCH, 3 * STEPS_PER_EPOCH)
    assert [record.steps for record in records] == [4, 8, 12]
    assert records[-1].lr == pytest.approx(1e-3 * 0.5 * (1 + np.cos(np.pi * 11 / 12)))
    assert train(parameters, network, tmp_path) == [], "a finished run yields no more epochs"
    assert finished_epochs(tmp_path) == records


@pytest.mark.parametrize(
    ("schedule", "optimizer", "precision"),
    [
        ("constant", "adamw", "float32"),
        ("cosine", "sgd", "float32"),
        ("plateau", "adamw", "bfloat16"),
    ],
)
@pytest.mark.slow
def test_two_epochs_and_a_resumed_third_equal_three_to_the_bit(
    tmp_path: Path, schedule: str, optimizer: str, precision: Literal["float32", "bfloat16"]
) -> None:
    parameters = small(schedule=schedule, optimizer=optimizer, dropout=0.3, weight_decay=0.01)
    compute = replace(CPU, precision=precision)
    unbroken, first, resumed = (built(parameters, seed) for seed in (1, 1, 2))
    torch.manual_seed(7)
    before_training = torch.get_rng_state()

    all_epochs = train(parameters, unbroken, tmp_path / "unbroken", compute=compute)
    assert torch.equal(torch.get_rng_state(), before_training), (
        "dropout leaves torch's generator as it was"
    )
    torch.manual_seed(8)  # dropout depends on the seed of the training alone
    before = train(parameters, first, tmp_path / "broken", stop_after=2, compute=compute)
    after = train(parameters, resumed, tmp_path / "broken", compute=compute)

    assert [record.epoch for record in after] == [3]
    assert without_seconds(before + after) == without_seconds(all_epochs)
    assert_same_bits(state_of(resumed), state_of(unbroken))
    assert_same_bits(best_of(tmp_path / "unbroken"), best_of(tmp_path / "broken"))
    if precision == "bfloat16":  # it rounds images alone
        (exact,) = train(parameters, built(parameters), tmp_path / "float32", stop_after=1)
        assert exact.train_loss == pytest.approx(before[0].train_loss, abs=0.02)
        assert exact.train_loss != before[0].train_loss


@pytest.mark.slow
def test_plateau_lowers_the_rate_across_a_resume(tmp_path: Path) -> None:
    """With such a small rate, val-A's loss stalls at once, so the rate falls after epoch 4."""
    parameters = small(schedule="plateau", **FROZEN | {"lr": 1e-9})

    before = train(parameters, built(parameters), tmp_path, epochs=6, stop_after=3)
    after = train(parameters, built(parameters), tmp_path, epochs=6)

    assert [record.lr for record in before + after] == [1e-9] * 4 + [pytest.approx(0.3e-9)] * 2


@pytest.mark.slow
def test_best_network_reproduces_best_value(tmp_path: Path) -> None:
    network = built(small())

    records = train(small(), network, tmp_path, epochs=6)

    values, losses = (
        [record.val_score for record in records],
        [record.train_loss or 0 for record in records],
    )
    assert 0 < losses[-1] < losses[0]
    assert records[-1].best_val_score == max(values) > 0.7
    network.load_state_dict(best_of(tmp_path))
    assert_same_values(network, max(values))


@pytest.mark.slow
def test_of_equally_good_epochs_the_earliest_is_kept(tmp_path: Path) -> None:
    """With such a small rate, the ranking of val-A never changes, so the first epoch stays the best."""
    parameters = small(optimizer="sgd", **FROZEN | {"lr": 1e-6})
    network = built(parameters)

    train(parameters, network, tmp_path, stop_after=1)
    best_of_first = best_of(tmp_path)
    records = train(parameters, network, tmp_path)

    assert len({record.best_val_score for record in records}) == 1
    assert_same_bits(best_of(tmp_path), best_of_first)
    assert not torch.equal(network.state_dict()["head.1.bias"], best_of_first["head.1.bias"])


@pytest.mark.slow
def test_validated_network_has_estimated_running_statistics(tmp_path: Path) -> None:
    """Here, the training images are far brighter than those of the estimate."""
    task = tiny_task()
    brighter = replace(task, train_images=task.train_images + 3)
    network = built(small())

    (record,) = train(
        small(),
        network,
        tmp_path,
        task=replace(brighter, norm_images=task.train_images),
        stop_after=1,
    )

    with torch.no_grad():
        seen = network.get_submodule("backbone.0.0")(task.train_images)
    kept = network.state_dict()
    torch.testing.assert_close(kept["backbone.0.1.running_mean"], seen.mean(dim=(0, 2, 3)))
    torch.testing.assert_close(
        kept["backbone.0.1.running_var"], seen.var(dim=(0, 2, 3)), rtol=0.05, atol=0
    )
    assert_same_values(network, record.val_score)
    assert_same_bits(best_of(tmp_path), state_of(network))


@pytest.mark.parametrize("trainable", ["head", "last_stage"])
@pytest.mark.slow
def test_frozen_parts_keep_every_bit_batch_norm_statistics_included(
    tmp_path: Path, trainable: str
) -> None:
    parameters = small(weight_decay=0.1, optimizer="adamw", **FROZEN | {"trainable": trainable})
    network = built(parameters)
    before = state_of(network)

    train(parameters, network, tmp_path)

    trained = ("head.",) if trainable == "head" else ("head.", "backbone.6.", "backbone.7.")
    for name, tensor in network.state_dict().items():
        assert torch.equal(tensor, before[name]) != name.startswith(trained), name


PRETRAIN = {"source": "duplicate", "mixing": "pretrain", "synthetic_ratio": 0.75}


@pytest.mark.slow
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
    """Nothing improves. In `PRETRAIN`, the first four of 10 epochs have extra images alone, and the fifth has some."""
    parameters = small(**FROZEN | {"lr": 1e-12}, **changes)
    network = built(parameters)

    records = train(parameters, network, tmp_path, epochs=10)

    assert len(records) == epochs
    assert [record.epoch for record in records if record.lr == 1e-12] == [
        *range(1, at_full_rate + 1)
    ]
    assert train(parameters, network, tmp_path, epochs=10) == [], "a resumed run has stopped, too"


@pytest.mark.slow
def test_a_loss_that_is_not_finite_ends_the_trial_and_leaves_the_last_good_checkpoint(
    tmp_path: Path,
) -> None:
    network, task = built(small()), tiny_task()
    train(small(), network, tmp_path, stop_after=1)
    task.train_images.fill_(torch.inf)

    with pytest.raises(TrialError, match="not finite in epoch 2"):
        train(small(), network, tmp_path, task=task)

    assert [record.epoch for record in finished_epochs(tmp_path)] == [1]


@pytest.mark.slow
def test_bfloat16_trains_depthwise_convolutions_like_float32_up_to_rounding(tmp_path: Path) -> None:
    parameters = small(backbone="mobilenet_v2", lr=1e-6)
    losses = {}
    for precision in ("float32", "bfloat16"):
        compute = Compute(device="cpu", threads=1, precision=precision)
        records = train(
            parameters, built(parameters), tmp_path / precision, epochs=1, compute=compute
        )
        losses[precision] = records[0].train_loss

    assert losses["bfloat16"] != losses["float32"]
    assert losses["bfloat16"] == pytest.approx(losses["float32"], abs=0.05)


def test_prediction_is_in_eval_mode_restores_the_mode_and_keeps_the_order() -> None:
    task, network = tiny_task(), built(small(dropout=0.5))

    in_batches = predict_logits(network, task.val_batches(), compute=CPU)
    at_once = predict_logits(network, [task.val_images], compute=CPU)
    probabilities = TASKS["classification"].predict_probabilities(
        network, [task.val_images], compute=CPU, where=Path()
    )

    assert network.training
    assert in_batches.dtype == np.float32
    assert probabilities.dtype == np.float64
    np.testing.assert_allclose(in_batches, at_once, atol=1e-5)
    np.testing.assert_allclose(probabilities.sum(axis=1), 1)


@pytest.mark.slow
def test_a_damaged_or_foreign_checkpoint_is_refused_with_a_fix(tmp_path: Path) -> None:
    network, file = built(small()), tmp_path / "checkpoint.pt"
    train(small(), network, tmp_path, stop_after=1)

    with pytest.raises(ArtifactError, match="a different network"):
        train(small(), build_classifier(small(), 3, weights=None, seed=1), tmp_path)
    file.write_bytes(file.read_bytes()[:1000])
    with pytest.raises(ArtifactError, match=r"(?s)checkpoint\.pt: .*remove this folder"):
        train(small(), network, tmp_path)
