"""Latent codes of a `pca` GAN: the principal components of its training images.

A DCGAN has to discover what a latent code means, and with a few hundred images it finds only a few modes. Here, the code of
an image is known from the start: its principal components, each scaled to variance 1. The generator learns to decode the
codes of the training images. Codes of new images are drawn from a normal distribution with the mean and covariance of their
class, and the discriminator makes these images look real.

Source: Bojanowski et al. 2018, "Optimizing the Latent Space of Generative Networks" (arXiv:1707.05776), initialises codes
like this, but then trains them, and has no discriminator.
"""

from __future__ import annotations

import numpy as np
import torch
import torch.nn.functional as F
from sklearn.decomposition import PCA
from torch import Tensor, nn

_CODE_PX = 32
"""Images are downsampled to this side for the principal components."""
_LEAST_DEVIATION = 1e-6
"""Components with a smaller standard deviation, relative to the first, are rounding errors."""
_RIDGE = 1e-4
"""Added to the variances, so that the covariance of a class with few images has a Cholesky factor."""


class ClassCodes(nn.Module):
    """The distribution of the codes of each class.

    Attributes:
        means: float32 [K, D].
        factors: Lower triangular, float32 [K, D, D]; factor times its transpose is the covariance.
    """

    means: Tensor
    factors: Tensor

    def __init__(self, class_count: int, code_dim: int) -> None:
        super().__init__()
        self.register_buffer("means", torch.zeros(class_count, code_dim))
        self.register_buffer("factors", torch.eye(code_dim).repeat(class_count, 1, 1))

    def forward(self, z: Tensor, labels: Tensor) -> Tensor:
        """Map z [B, D] from N(0, 1) to codes [B, D] of the classes `labels` [B]."""
        if len(self.means) == 1:
            labels = torch.zeros_like(labels)
        codes: Tensor = self.means[labels] + torch.bmm(self.factors[labels], z[:, :, None])[:, :, 0]
        return codes

    def fit(self, codes: Tensor, labels: Tensor) -> None:
        """Set mean and covariance of each class from codes [N, D] with labels [N]."""
        for label in range(len(self.means)):
            of_class = codes[labels == label].double()
            deviations = of_class - of_class.mean(dim=0)
            covariance = deviations.T @ deviations / max(len(of_class) - 1, 1)
            ridge = _RIDGE * torch.eye(codes.shape[1], dtype=covariance.dtype, device=codes.device)
            self.means[label] = of_class.mean(dim=0)
            self.factors[label] = torch.linalg.cholesky(covariance + ridge)


def image_codes(images: Tensor, code_dim: int) -> Tensor:
    """Return the principal components of images, uint8 [N, C, S, S]: float32 [N, code_dim], each of variance 1.

    Few or similar images have fewer components; the missing ones are 0.
    """
    small = F.interpolate(images.cpu().float(), size=(_CODE_PX, _CODE_PX), mode="bilinear", antialias=True)
    pixels = small.flatten(1).double().numpy()
    codes = np.zeros((len(pixels), code_dim), dtype=np.float32)
    if np.ptp(pixels, axis=0).any():
        found = PCA(min(code_dim, *pixels.shape), svd_solver="full").fit_transform(pixels)
        deviations = found.std(axis=0, ddof=1)
        real = deviations > _LEAST_DEVIATION * deviations[0]
        codes[:, : found.shape[1]][:, real] = found[:, real] / deviations[real]
    return torch.from_numpy(codes).to(images.device)
