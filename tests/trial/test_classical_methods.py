"""Rivals of extra images: losses and samples that level rare classes."""

import numpy as np
import torch
from torch.nn import functional as F
from torchvision.ops import sigmoid_focal_loss

from tests.trial.conftest import Bench
from xraytune.space.parameters import Parameters
from xraytune.tasks.task import Findings, Task
from xraytune.trial.training import TrialTraining


def test_with_weights_each_class_counts_equally_in_the_loss() -> None:
    labels = np.repeat([0, 1], [30, 10])
    outputs = torch.randn(40, 2, generator=torch.Generator().manual_seed(0))
    targets = torch.from_numpy(labels)

    loss = Task().loss_of(Parameters(imbalance="weighted", batch_size=40), labels, "cpu")

    own = F.cross_entropy(outputs, targets, reduction="none")
    by_class = (own[labels == 0].mean() + own[labels == 1].mean()) / 2
    torch.testing.assert_close(loss(outputs, targets), by_class)
    torch.testing.assert_close(loss(outputs, torch.eye(2)[targets]), by_class)


def test_the_focal_loss_is_that_of_its_source() -> None:
    outputs = torch.randn(12, 3, generator=torch.Generator().manual_seed(0))
    labels = torch.arange(12) % 3
    chance = outputs.softmax(dim=1)[torch.arange(12), labels]
    expected = -((1 - chance) ** 2 * chance.log()).mean()
    loss = Task().loss_of(Parameters(imbalance="focal", batch_size=12), labels.numpy(), "cpu")
    torch.testing.assert_close(loss(outputs, labels), expected)
    torch.testing.assert_close(
        Task().balanced_loss(outputs, labels), F.cross_entropy(outputs, labels)
    )

    findings = (torch.rand(12, 3) > 0.5).long()
    of_findings = Findings().loss_of(
        Parameters(imbalance="focal", batch_size=12), findings.numpy(), "cpu"
    )
    published = sigmoid_focal_loss(outputs, findings.float(), alpha=-1, gamma=2, reduction="mean")
    outputs.requires_grad_()
    loss_of_findings = of_findings(outputs, findings)
    torch.testing.assert_close(loss_of_findings, published)
    loss_of_findings.backward()  # type: ignore[no-untyped-call]
    assert outputs.grad is not None
    assert outputs.grad.abs().sum() > 0


def test_oversampling_shows_real_images_of_each_class_equally_often(bench: Bench) -> None:
    """Extra images are the same as without it."""
    shown = {}
    for imbalance in ("none", "oversample"):
        experiment = bench.experiment(source="duplicate", imbalance=imbalance, batch_size=8)
        training = TrialTraining(experiment, bench.context)
        steps = [training.batches.images_of_step(step)[0] for step in range(60)]
        labels = training.images.targets
        real = np.concatenate([labels[numbers[:8]] for numbers in steps])
        shown[imbalance] = (real.mean(), np.concatenate([numbers[8:] for numbers in steps]))

    natural = shown["none"]
    levelled = shown["oversample"]
    assert abs(natural[0] - 0.5) > 0.1
    assert abs(levelled[0] - 0.5) < 0.03
    assert (natural[1] == levelled[1]).all()
