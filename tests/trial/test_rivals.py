"""Rivals of extra images: augmentation as the field uses it, and losses for rare classes."""

import numpy as np
import pytest
import torch
from torch.nn import functional as F
from torchvision.ops import sigmoid_focal_loss
from torchvision.transforms.v2 import functional as transforms

from tests.in_process import one_thread
from tests.nets.test_inputs import view
from tests.trial.conftest import Bench
from xraytune.nets.inputs import IDENTITY_VIEW, VIEW_COLUMNS, augment, view_table
from xraytune.space.settings import Parameters
from xraytune.tasks.task import Findings, Task, soft_cross_entropy
from xraytune.trial.training import TrialTraining

pytestmark = pytest.mark.slow


def test_a_trivial_view_has_at_most_one_change_of_a_random_amount() -> None:
    table = view_table(
        0, image_count=2000, parameters=Parameters(augmentation="trivial", views=2)
    ).reshape(-1, len(VIEW_COLUMNS))
    changes = table - np.array(IDENTITY_VIEW, dtype=np.float32)
    is_changed = np.abs(changes) > 1e-6

    assert (is_changed.sum(axis=1) <= 1).all()
    by_name = dict(zip(VIEW_COLUMNS, is_changed.mean(axis=0), strict=True))
    operations = {"angle_radians", "shift_x", "shift_y", "shear_x", "shear_y"}
    operations |= {"contrast", "exposure", "sharpness"}
    assert {name for name, share in by_name.items() if share > 0} == operations
    assert all(abs(by_name[name] - 30 / 31 / 9) < 0.02 for name in operations)
    angles = np.degrees(changes[:, VIEW_COLUMNS.index("angle_radians")])
    assert angles.max() == pytest.approx(30, abs=1e-3)
    assert angles.min() == pytest.approx(-30, abs=1e-3)


@pytest.mark.parametrize("factor", [0.1, 0.6, 1.4, 1.9])
def test_grey_values_change_as_in_torchvision(factor: float) -> None:
    images = torch.rand(3, 1, 16, 16, generator=torch.Generator().manual_seed(0))
    for name, function in (
        ("exposure", transforms.adjust_brightness),
        ("contrast", transforms.adjust_contrast),
        ("sharpness", transforms.adjust_sharpness),
    ):
        changed = augment(images, view(**{name: factor}).expand(3, -1))
        torch.testing.assert_close(changed, function(images, factor), atol=1e-5, rtol=0)


@pytest.mark.parametrize("name", ["shear_x", "shear_y"])
def test_a_shear_moves_rows_or_columns_in_proportion_to_their_distance_from_the_centre(
    name: str,
) -> None:
    images = torch.zeros(1, 1, 65, 65)
    images[..., 10, 32] = 1  # 22 pixels above the centre
    images[..., 32, 54] = 1  # 22 to the right of it

    moved = augment(images, view(**{name: 0.5}))[0, 0]

    found = [tuple(place) for place in torch.nonzero(moved > 0.4).tolist()]
    expected = {"shear_x": [(10, 21), (32, 54)], "shear_y": [(10, 32), (43, 54)]}
    assert found == expected[name]


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
        soft_cross_entropy(outputs, labels), F.cross_entropy(outputs, labels)
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
        with one_thread():
            training = TrialTraining(experiment, bench.context)
        steps = [training.batches.images_of_step(step)[0] for step in range(60)]
        labels = training.images.targets
        real = np.concatenate([labels[numbers[:8]] for numbers in steps])
        shown[imbalance] = (real.mean(), np.concatenate([numbers[8:] for numbers in steps]))

    natural, levelled = shown["none"], shown["oversample"]
    assert abs(natural[0] - 0.5) > 0.1
    assert abs(levelled[0] - 0.5) < 0.03
    assert (natural[1] == levelled[1]).all()
