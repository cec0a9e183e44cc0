"""Trials on a GPU: every arm trains, resumes, and matches the CPU's results up to rounding."""

from collections.abc import Iterable
from contextlib import closing
from dataclasses import replace
from functools import partial
from itertools import islice
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import nn

from tests.in_process import CPU
from tests.synth.conftest import train, trained_in
from tests.trial.conftest import ARMS, Bench, frozen
from xraytune.base.records import Compute, EpochRecord
from xraytune.nets.compute import configure_torch
from xraytune.nets.cuda_graph import Step, with_cuda_graph
from xraytune.nets.infer import predict_logits
from xraytune.nets.networks import build_classifier
from xraytune.nets.optimizer import build_optimizer, set_lr
from xraytune.search.worker import next_message
from xraytune.space.parameters import Parameters
from xraytune.space.settings import Experiment
from xraytune.space.source_settings import GanSettings
from xraytune.study.trial import TrialFailed
from xraytune.synth.gan import GanTraining
from xraytune.trial.run import trial_epochs
from xraytune.trial.training import TrialTraining

pytestmark = pytest.mark.gpu

GAN = GanSettings(image_size=32, width=8, batch_size=16, z_dim=16, steps=40)


def epochs(
    bench: Bench, experiment: Experiment, folder: Path, compute: Compute, count: int | None = None
) -> list[EpochRecord]:
    """Return the epochs of a trial, all or the first `count`."""
    with closing(
        trial_epochs(experiment, replace(bench.context, compute=compute), folder)
    ) as trial:
        return [*islice(trial, count)]


def gan_steps(compute: Compute, folder: Path, stop_after: int | None = None) -> list[int]:
    return train(
        GAN,
        folder,
        compute=compute,
        stop_after=stop_after,
        report_every_steps=5,
        checkpoint_every_steps=10,
    )


def weights_of(networks: Iterable[nn.Module]) -> list[torch.Tensor]:
    return [
        torch.cat([weights.detach().flatten() for weights in network.parameters()])
        for network in networks
    ]


@pytest.mark.parametrize("trainable", ["head", "last_stage", "all"])
@pytest.mark.parametrize("arm", ARMS)
def test_every_arm_trains_the_same_steps(
    bench: Bench, tmp_path: Path, gpu: Compute, arm: str, trainable: str
) -> None:
    experiment = frozen(bench, tmp_path, **ARMS[arm], trainable=trainable)

    records = epochs(bench, experiment, tmp_path, gpu)

    assert [record.steps for record in records] == [4, 8, 12]
    assert np.isfinite(
        [[record.train_loss, record.val_loss, record.val_score] for record in records]
    ).all()


@pytest.mark.parametrize("arm", ["augmented", "gan"])
def test_a_trial_matches_the_cpu_up_to_rounding(
    bench: Bench, tmp_path: Path, gpu: Compute, arm: str
) -> None:
    """Compare the CPU's float32 with the GPU's bfloat16, from the same weights and images."""
    experiment = bench.experiment(**ARMS[arm], trainable="all")
    on_cpu = epochs(bench, experiment, tmp_path / "cpu", CPU, count=1)
    configure_torch(gpu)
    on_gpu = epochs(bench, experiment, tmp_path / "gpu", gpu, count=1)

    assert on_gpu[0].train_loss == pytest.approx(on_cpu[0].train_loss, abs=0.02)
    assert on_gpu[0].val_loss == pytest.approx(on_cpu[0].val_loss, abs=0.05)


def test_an_interrupted_gan_resumes(tmp_path: Path, gpu: Compute) -> None:
    gan_steps(gpu, tmp_path / "straight")

    gan_steps(gpu, tmp_path / "resumed", stop_after=20)
    rest = gan_steps(gpu, tmp_path / "resumed")

    assert rest[0] == 25, "it resumes from its checkpoint"
    one, other = weights_of(trained_in(tmp_path / name) for name in ("straight", "resumed"))
    assert float((one - other).norm() / one.norm()) < 0.05


def test_cuda_graph_equals_the_plain_step(gpu: Compute) -> None:
    random = np.random.default_rng(0)
    images = random.integers(0, 255, (40, 1, 32, 32), dtype=np.uint8)
    one_by_one = GanTraining(GAN, 2, gpu)
    recorded = GanTraining(GAN, 2, gpu)
    for training in (one_by_one, recorded):
        training.fit(images, np.arange(40) % 2)
    replay = with_cuda_graph(recorded.update, gpu)

    for _ in range(10):
        expected = one_by_one.update(one_by_one.sample_inputs())
        losses = replay(recorded.sample_inputs())
        assert losses.tolist() == pytest.approx(expected.tolist(), abs=0.05)
        one_by_one.step += 1
        recorded.step += 1

    for name in ("generator", "discriminator", "ema_generator"):
        one, other = weights_of(training.parts[name] for training in (one_by_one, recorded))
        assert float((one - other).norm() / one.norm()) < 0.02, name


class Waits(nn.Linear):
    """A layer that reads a value from the device, as that of a custom backbone may."""

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        return super().forward(images) * (1 if images.mean().item() < 1e9 else 2)


@pytest.mark.parametrize("waits", [False, True])
def test_a_step_of_a_classifier_is_replayed_or_else_called(
    bench: Bench, gpu: Compute, caplog: pytest.LogCaptureFixture, waits: bool
) -> None:
    """Either way, each step has its own draws, learning rate and dropout."""
    experiment = bench.experiment(
        source="none", augmentation="affine", trainable="all", dropout=0.3
    )
    context = replace(bench.context, compute=gpu)
    losses = []
    networks = []
    for how in ("called", "replayed"):
        torch.manual_seed(1)
        training = TrialTraining(experiment, context)
        if waits:
            layers = (training.trained, nn.Dropout(0.3), Waits(2, 2))
            training.trained = nn.Sequential(*layers).to("cuda")
        optimizer = build_optimizer("adam", training.trained, lr=1e-3)
        step: Step = partial(training.step, optimizer)
        step = with_cuda_graph(step, gpu) if how == "replayed" else step
        for number, draws in enumerate(training.batches.step_inputs(range(8))):
            set_lr(optimizer, 1e-4 * number)
            losses.append(float(step(draws)))
        networks.append(training.trained)

    assert losses[8:] == pytest.approx(losses[:8], abs=0.1)
    assert len({*losses[8:]}) == 8
    if not waits:
        one, other = weights_of(networks)
        assert float((one - other).norm() / one.norm()) < 0.02
    assert ("cannot be replayed" in caplog.text) == waits


@pytest.mark.parametrize(
    "backbone", ["small_cnn", "resnet18", "mobilenet_v2", "densenet121", "vgg16"]
)
def test_a_network_gives_the_same_on_gpu_and_cpu(gpu: Compute, backbone: str) -> None:
    parameters = Parameters(backbone=backbone, weights="none")
    network = build_classifier(parameters, 2, weights=None, seed=1)
    images = torch.rand(4, 3, 96, 96)
    exact = Compute(device="cuda", threads=2, precision="float32")

    on_cpu = predict_logits(network, [images], compute=CPU)
    on_gpu = predict_logits(network.to("cuda"), [images.to("cuda")], compute=exact)
    in_bfloat16 = predict_logits(network, [images.to("cuda")], compute=gpu)

    scale = np.abs(on_cpu).max()
    assert np.abs(on_gpu - on_cpu).max() < 0.01 * scale + 1e-3
    assert np.abs(in_bfloat16 - on_cpu).max() < 0.1 * scale + 0.02


def test_out_of_memory_is_reported_as_such(bench: Bench, tmp_path: Path, gpu: Compute) -> None:
    """The search then retries the trial with twice the share."""
    share = 24 * 2**20 / torch.cuda.get_device_properties(0).total_memory
    configure_torch(gpu, gpu_share=share)
    experiment = bench.experiment(source="none", backbone="vgg16", trainable="all")

    message = next_message(
        trial_epochs(experiment, replace(bench.context, compute=gpu), tmp_path), tmp_path
    )

    assert isinstance(message, TrialFailed)
    assert message.cause == "memory"
    assert "out of memory" in message.reason
