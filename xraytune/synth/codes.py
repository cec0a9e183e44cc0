"""Latent codes of a `pca` GAN: the principal components of its training images.

A DCGAN has to discover what a latent code means, and with a few hundred images it finds only a few
modes. Here, the code of an image is known from the start: its principal components, each scaled to
variance 1. The generator learns to decode the codes of the training images, and the discriminator
makes images of random codes look real. Codes to sample from combine those of a few training images
of a class: they are closer to typical patients than normally distributed ones. A generator trained
on such codes would learn to return the training images
(docs/decisions/0029-a-gan-of-principal-components.md).

From: Bojanowski et al. 2018, "Optimizing the Latent Space of Generative Networks"
(arXiv:1707.05776), initialises codes like this, but then trains them, and has no discriminator.
"""

import math
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from xraytune.base.errors import ArtifactError

_CODE_PX = 32
"""Images are downsampled to this side for the principal components."""
_LEAST_DEVIATION = 1e-6
"""Components with a smaller standard deviation, relative to the first, are rounding errors."""
_RIDGE = 1e-4
"""Added to the variances, so that the covariance of a small class has a Cholesky factor."""
_COMBINED = 24
_NOISE = 0.25
"""In evaluation mode, a code combines this many training images, but at most half of the class,
rounded up. This share of the code's variance is noise, and a larger one if it combines fewer
images. With fewer images or less noise, too many generated images would be copies."""


_SIMILAR = 2 * _COMBINED


class ClassCodes(nn.Module):
    """The distribution of the codes of each class: mean and covariance of training images.

    In training mode, and before `fit`, codes are normally distributed. In evaluation mode, a code
    is the class mean plus two deviations. The first is a weighted sum of the deviations of some
    training images. The second is normally distributed, with a quarter of the variance, or more in
    a small class. The weights have norm 1, and are the largest inner products of z and the images'
    random keys. With findings, a class consists of at least `_SIMILAR` images, those with the most
    similar findings.

    Attributes:
        means: float32 [K, D].
        factors: Lower triangular, float32 [K, D, D]; factor times its transpose is the covariance.
        origin: The mean of the images that the components were computed from, float32 [P].
        axes: Matrix that maps the deviation of an image from `origin` to its code, float32 [P, D].
        codes: Codes of the training images, float32 [N, D].
        keys: Random unit vectors, one for each training image, float32 [N, D].
        labels: Labels of the training images, int64 [N], or findings, [N, C].
    """

    means: Tensor
    factors: Tensor
    origin: Tensor
    axes: Tensor
    codes: Tensor
    keys: Tensor
    labels: Tensor

    def __init__(self, class_count: int, code_dim: int) -> None:
        super().__init__()
        buffers = {
            "means": torch.zeros(class_count, code_dim),
            "factors": torch.eye(code_dim).repeat(class_count, 1, 1),
            "codes": torch.zeros(0, code_dim),
            "keys": torch.zeros(0, code_dim),
            "labels": torch.zeros(0, dtype=torch.int64),
            "origin": torch.zeros(0),
            "axes": torch.zeros(0, code_dim),
        }
        for name, buffer in buffers.items():
            self.register_buffer(name, buffer)

    def _load_from_state_dict(self, state: dict[str, Any], prefix: str, *args: Any) -> None:
        for name, buffer in [*self.named_buffers()]:
            setattr(self, name, buffer.new_empty(state[prefix + name].shape))
        super()._load_from_state_dict(state, prefix, *args)

    def forward(self, z: Tensor, labels: Tensor) -> Tensor:
        """Map z [B, D] from N(0, 1) to codes [B, D] of classes [B] or findings [B, C]."""
        has_findings = labels.ndim == 2
        if has_findings:
            means = self.means[0]
            normal = z @ self.factors[0].T
        else:
            means = self.means[labels]
            normal = torch.bmm(self.factors[labels], z[:, :, None])[:, :, 0]
        if self.training or not len(self.codes):
            return means + normal

        with torch.autocast(z.device.type, enabled=False):
            if has_findings:
                different = ((labels == 1)[:, None] != (self.labels == 1)).sum(dim=2)
                similar = min(_SIMILAR, len(self.codes))
                is_own = different <= different.kthvalue(similar, dim=1, keepdim=True).values
            else:
                is_own = labels[:, None] == self.labels

            # The weights of training images in each code, [B, N], and the noise's share of the
            # variance, [B, 1].
            combined = ((is_own.sum(dim=1, keepdim=True) + 1) // 2).clamp(max=_COMBINED)
            weights = z @ self.keys.T
            same_class_weights = weights.masked_fill(~is_own, -torch.inf)
            largest = same_class_weights.topk(min(_COMBINED, len(self.codes)), dim=1).values
            is_combined = is_own & (weights >= largest.gather(1, combined - 1))
            weights = F.normalize(weights * is_combined, dim=1)
            noise = 1 - (1 - _NOISE) * combined / _COMBINED

            if has_findings:
                means = F.normalize(is_own.float(), p=1, dim=1) @ self.codes
                combination = weights @ self.codes - weights.sum(dim=1, keepdim=True) * means
            else:
                combination = weights @ (self.codes - self.means[self.labels])
        return means + (1 - noise).sqrt() * combination + noise.sqrt() * normal

    def keeps_features(self, channels: int) -> bool:
        """Return whether features have components too, besides the images' channels."""
        return len(self.origin) > channels * _CODE_PX**2

    def find_components(self, images: Tensor, features: Tensor | None = None) -> Tensor:
        """Find the principal components of images, uint8 [N, C, S, S], and keep their axes.

        Returns the components, float32 [N, D], each scaled to variance 1. If the features of the
        images, [N, F], are given, half of the components are computed from the features. If the
        images are few or similar, they have fewer components, and the missing ones are 0.
        """
        parts = _describe(images, features)
        size = self.means.shape[1] // len(parts)
        origins, codes, axes = zip(*(_find_components(part, size) for part in parts), strict=True)
        self.origin = torch.cat(origins).to(self.means)
        self.axes = torch.block_diag(*axes).to(self.means)  # type: ignore[no-untyped-call]
        return torch.cat(codes, dim=1).to(images.device)

    def project(self, images: Tensor, features: Tensor | None = None) -> Tensor:
        """Return the codes, float32 [N, D], of other images in the components that were found.

        Images are uint8 [N, C, S, S].

        Raises ArtifactError if the components were computed from other parts, such as from images
        alone if `features` are given.
        """
        descriptions = torch.cat(_describe(images, features), dim=1)
        if descriptions.shape[1] != len(self.origin):
            raise ArtifactError(
                "the generator has other components", fix="set gan.features as in its training"
            )
        deviations = descriptions - self.origin.cpu().double()
        return (deviations @ self.axes.cpu().double()).to(self.means)

    def fit(self, codes: Tensor, labels: Tensor) -> None:
        """Fit the distributions to codes [N, D] of images with labels [N] or findings [N, C]."""
        keys = torch.randn(codes.shape, generator=torch.Generator().manual_seed(0))
        self.keys = F.normalize(keys, dim=1).to(self.means)
        self.codes = codes.to(self.means)
        self.labels = labels
        for label in range(len(self.means)):
            class_codes = self.codes if labels.ndim == 2 else self.codes[labels == label]
            class_codes = class_codes.double()
            deviations = class_codes - class_codes.mean(dim=0)
            covariance = deviations.T @ deviations / max(len(class_codes) - 1, 1)
            ridge = _RIDGE * torch.eye(codes.shape[1], dtype=covariance.dtype, device=codes.device)
            self.means[label] = class_codes.mean(dim=0)
            self.factors[label] = torch.linalg.cholesky(covariance + ridge)


def _describe(images: Tensor, features: Tensor | None) -> list[Tensor]:
    """Return images, reduced to the size of the components, and features, float64 [N, P] each.

    Images are uint8 [N, C, S, S].
    """
    size = (_CODE_PX, _CODE_PX)
    small = F.interpolate(images.cpu().float(), size=size, mode="bilinear", antialias=True)
    parts = [small.flatten(1).double()]
    if features is not None:
        parts.append(features.cpu().double())
    return parts


def _find_components(rows: Tensor, code_dim: int) -> tuple[Tensor, Tensor, Tensor]:
    """Return the mean of rows [N, P], their components [N, code_dim], and axes [P, code_dim]."""
    origin = rows.mean(dim=0)
    scale = math.sqrt(max(len(rows) - 1, 1))
    components, deviations, axes = torch.linalg.svd(rows - origin, full_matrices=False)
    count = min(code_dim, int((deviations > _LEAST_DEVIATION * deviations[0]).sum()))
    codes = torch.zeros(len(rows), code_dim)
    axes_per_code = torch.zeros(len(origin), code_dim)
    codes[:, :count] = components[:, :count] * math.sqrt(len(rows) - 1)
    axes_per_code[:, :count] = axes[:count].T / deviations[:count] * scale
    return origin, codes, axes_per_code
