"""mixup and cutmix blend the images of a step in pairs, and their labels with them."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from tests.trial.conftest import Bench, batch_of
from xraytune.space.parameters import Parameters
from xraytune.trial.batches import blend, sample_pairs
from xraytune.trial.training import TrialTraining


def pairs(steps: int = 1, images: int = 6, **alphas: float) -> tuple[torch.Tensor, ...]:
    drawn = sample_pairs(range(steps), images, Parameters.model_validate(alphas), seed=3)
    return tuple(torch.from_numpy(column) for column in drawn)


def of_step(drawn: tuple[torch.Tensor, ...], step: int) -> tuple[torch.Tensor, ...]:
    return tuple(column[step] for column in drawn)


def test_mixup_is_the_weighted_mean_of_two_images_and_of_their_labels() -> None:
    images = torch.rand(6, 3, 8, 8)
    labels = torch.tensor([0, 1, 2, 0, 1, 2])
    partner, share, box = of_step(pairs(mixup=0.4), 0)

    blended, targets = blend(images, labels, (partner, share, box), class_count=3)

    one_hot = torch.eye(3)[labels]
    torch.testing.assert_close(blended, share * images + (1 - share) * images[partner])
    torch.testing.assert_close(targets, share * one_hot + (1 - share) * one_hot[partner])


def test_features_are_blended_like_images() -> None:
    features = torch.rand(6, 5)
    partner, share, box = of_step(pairs(mixup=0.4), 0)
    blended, _ = blend(
        features, torch.zeros(6, dtype=torch.int64), (partner, share, box), class_count=2
    )
    torch.testing.assert_close(blended, share * features + (1 - share) * features[partner])


def test_cutmix_replaces_a_rectangle_and_labels_count_its_pixels() -> None:
    images = torch.arange(6.0).reshape(6, 1, 1, 1).expand(6, 1, 64, 64).clone()
    masks = (images > 2).float()
    drawn = pairs(steps=50, cutmix=1.0)
    shares = []
    for step in range(50):
        partner, *rest = of_step(drawn, step)
        draws = (partner, *rest)
        blended, targets = blend(images, torch.arange(6), draws, class_count=6)
        is_own = blended[:, 0] == torch.arange(6.0)[:, None, None]
        is_others = blended[:, 0] == partner[:, None, None]
        assert (is_own | is_others).all()
        moved = partner != torch.arange(6)
        own = is_own[moved].float().mean(dim=(1, 2))
        torch.testing.assert_close(targets[moved, torch.arange(6)[moved]], own)
        shares += own[:1].tolist()
        _, blended_masks = blend(images, masks, draws, class_count=1)
        assert torch.equal(blended_masks, torch.where(is_own[:, None], masks, masks[partner]))
    assert 0.5 <= min(shares) < 0.7
    assert max(shares) > 0.9


def test_a_finding_that_is_unknown_for_one_of_a_pair_is_unknown() -> None:
    findings = torch.tensor([[1, -1], [0, 1]])
    draws = (torch.tensor([1, 0]), torch.tensor([0.75]), torch.zeros(4))
    _, targets = blend(torch.rand(2, 5), findings, draws, class_count=2)
    assert targets.tolist() == [[0.75, -1], [0.25, -1]]


def test_the_larger_share_is_an_images_own_and_follows_the_beta_distribution() -> None:
    _, shares, _ = pairs(steps=2000, mixup=0.2)
    expected = np.random.default_rng(0).beta(0.2, 0.2, size=200_000)
    assert shares.min() >= 0.5
    assert float(shares.mean()) == pytest.approx(
        np.maximum(expected, 1 - expected).mean(), abs=0.01
    )
    both = pairs(steps=400, mixup=0.2, cutmix=1.0)[2]
    is_cut = (both[:, 2] > both[:, 0]).float().mean()
    assert 0.4 < float(is_cut) < 0.6, "each step is of one kind or the other"


def test_real_and_extra_images_are_pairs_in_steps_that_can_be_repeated(
    bench: Bench, tmp_path: Path
) -> None:
    """A resumed training is bit-identical to an uninterrupted one."""
    values: dict[str, Any] = {"source": "duplicate", "mixup": 0.4, "cutmix": 1.0}
    experiment = bench.experiment(trainable="all", **values)
    training = TrialTraining(experiment, bench.context)
    inputs, targets = batch_of(training.batches, 1)
    again, _ = batch_of(training.batches, 1)
    records = [*training.epochs(tmp_path / "whole")]
    stopped: Any = TrialTraining(experiment, bench.context).epochs(tmp_path / "resumed")
    next(stopped)
    stopped.close()
    rest = [*TrialTraining(experiment, bench.context).epochs(tmp_path / "resumed")]

    assert torch.equal(inputs, again)
    assert targets.shape == (len(inputs), 2)
    (partner, *_) = sample_pairs([1], len(inputs), experiment.parameters, experiment.settings.seed)
    count = experiment.parameters.batch_size
    assert (partner[0][:count] >= count).any(), "an extra image is the partner of a real one"
    last = [(record.train_loss, record.val_loss) for record in records[-len(rest) :]]
    assert last == [(record.train_loss, record.val_loss) for record in rest]


def test_mixing_changes_what_a_network_learns_and_zero_does_not(bench: Bench) -> None:
    losses = []
    for mixup in (0.0, 0.4):
        training = TrialTraining(bench.experiment(mixup=mixup), bench.context)
        inputs, targets = batch_of(training.batches, 0)
        losses.append(inputs)
        assert (targets.ndim == 2) == (mixup > 0)
    assert not torch.equal(*losses)
