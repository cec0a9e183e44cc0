"""The codes of a `pca` GAN: principal components, and their distribution in each class."""

from pathlib import Path

import numpy as np
import pytest
import torch
from torch.nn import functional as F

from tests.synth.conftest import BLOBS, tiny, train, trained_in
from xraytune.synth.codes import ClassCodes


def _moons(count: int) -> torch.Tensor:
    """Images that differ in two ways: the brightness of the left and of the right half."""
    sides = torch.from_numpy(np.random.default_rng(1).integers(0, 256, (count, 2), dtype=np.uint8))
    return sides.repeat_interleave(16, dim=1)[:, None, None, :].expand(count, 1, 32, 32)


def test_codes_are_uncorrelated_components_of_variance_1() -> None:
    codes = ClassCodes(1, 5).find_components(_moons(200)).double()

    covariance = torch.cov(codes.T)
    torch.testing.assert_close(covariance[:2, :2], torch.eye(2).double(), atol=1e-5, rtol=0)


@pytest.mark.parametrize(("training", "within"), [(True, 0.03), (False, 0.15)])
def test_codes_have_mean_and_covariance_of_their_class(training: bool, within: float) -> None:
    codes = torch.randn(400, 16, generator=torch.Generator().manual_seed(2)) * torch.linspace(
        1, 0.2, 16
    )
    codes[:200, 1] = codes[:200, 0] / 2 + 4
    labels = torch.arange(400) // 200
    prior = ClassCodes(2, 16).train(training)
    prior.fit(codes, labels)

    z = torch.randn(20_000, 16, generator=torch.Generator().manual_seed(3))
    sampled = prior(z, torch.zeros(20_000, dtype=torch.int64))

    torch.testing.assert_close(sampled.mean(dim=0), codes[:200].mean(dim=0), atol=within, rtol=0)
    torch.testing.assert_close(torch.cov(sampled.T), torch.cov(codes[:200].T), atol=within, rtol=0)


def test_codes_to_sample_from_combine_half_of_a_small_class_and_at_most_24_images() -> None:
    """Orthogonal codes of images: deviations from the mean are mostly in few directions."""
    prior = ClassCodes(2, 128)
    prior.fit(torch.eye(128)[:110], torch.tensor([0] * 100 + [1] * 10))
    z = torch.randn(200, 128, generator=torch.Generator().manual_seed(4))
    labels = torch.arange(200) // 100
    prior.factors.zero_()  # leaves what the training images contribute

    codes = prior.eval()(z, labels)
    large, small = (codes - prior.means[labels]).split(100)

    for deviations, combined in ((large[:, :100], 24), (small[:, 100:110], 5)):
        unused = deviations.median(dim=1, keepdim=True).values
        assert ((deviations - unused).abs() > 1e-4).sum(dim=1).eq(combined).float().mean() > 0.9
    assert small.square().sum(dim=1).mean() < large.square().sum(dim=1).mean() / 2, (
        "more of a small class is noise"
    )
    assert len(codes.unique(dim=0)) == 200


def test_the_generator_learns_to_reconstruct_training_images(tmp_path: Path) -> None:
    """Better than their mean does."""
    pixels, labels = BLOBS
    settings = tiny(architecture="pca", steps=120, width=8, lr_g=2e-3, lr_d=2e-3)
    train(settings, tmp_path, report_every_steps=50)
    generator = trained_in(tmp_path)
    assert generator.prior is not None

    images = torch.from_numpy(pixels)[:, None]
    real = images.float() / 127.5 - 1
    classes = torch.from_numpy(labels)
    reconstructed = generator.decode(generator.prior.project(images), classes)
    assert F.l1_loss(reconstructed, real) < 0.7 * F.l1_loss(real.mean(dim=0).expand_as(real), real)
