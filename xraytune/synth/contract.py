"""The interface of all generators: the network to sample from, the state of its training, and its training images.

GANs (gan.py) and diffusion models (diffusion.py) implement it, and share the training loop (train.py), the checkpoint
(checkpoint.py) and the pools (pool.py).
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from xraytune.base.records import Compute
from xraytune.base.seeding import derive_seed
from xraytune.nets.captured import Draws
from xraytune.space.settings import GeneratorSettings

_EMA_WARM_UP = 0.05


class LabelEmbedding(nn.Embedding):
    """An embedding of classes, int64 [B]; that of findings, [B, C], is linear: the sum of those of the present ones."""

    def forward(self, labels: Tensor) -> Tensor:
        """Return the embeddings, [B, D]."""
        return super().forward(labels) if labels.ndim == 1 else (labels == 1).to(self.weight.dtype) @ self.weight


class ImageGenerator(nn.Module):
    """Maps z [n, z_dim] and labels [n] int64, or findings [n, C], to images, float [n, channels, S, S] in [-1, 1].

    In evaluation mode, an image is a deterministic function of its own z and label.

    Attributes:
        channels: 1: the image; 2: the image and its mask, with -1 outside and 1 inside.
    """

    def __init__(self, settings: GeneratorSettings, class_count: int, channels: int, z_dim: int) -> None:
        super().__init__()
        self.settings, self.class_count, self.channels, self.z_dim = settings, class_count, channels, z_dim


@dataclass(frozen=True, slots=True, kw_only=True)
class RealImages:
    """Training images on the device: uint8 [N, C, S, S], labels int64 [N] or findings, and sampling weights float32 [N]."""

    images: Tensor
    labels: Tensor
    weights: Tensor

    def batch(self, rows: Tensor) -> tuple[Tensor, Tensor]:
        """Return images, float32 [B, C, S, S] in [-1, 1], and their labels [B]."""
        return self.images[rows].float() / 127.5 - 1, self.labels[rows]


@dataclass(slots=True, kw_only=True)
class Training:
    """The state of a training after `step` steps; `update` changes it in place.

    Attributes:
        ema_generator: Exponential moving average of `generator`, in evaluation mode: the network to sample from.
        losses: The names of the losses that `update` returns.
        if_diverged: Advice to the user when the training diverges.
        saved: The attributes that a checkpoint holds: modules and optimizers.
    """

    losses: ClassVar[tuple[str, ...]]
    if_diverged: ClassVar[str]
    saved: ClassVar[tuple[str, ...]]
    settings: GeneratorSettings
    generator: ImageGenerator
    ema_generator: ImageGenerator
    step: int = 0

    def fit(self, real: RealImages) -> None:
        """Compute what is not trained from all training images; called before the first step and when resuming."""

    def draw(self, real: RealImages, compute: Compute) -> Draws:
        """Draw all random numbers of the next step from the seed and the step's number, as tensors on the device."""
        raise NotImplementedError

    def update(self, real: RealImages, compute: Compute, draws: Draws) -> Tensor:
        """Train one step and return its losses, float32 [len(losses)] on the device; see `CapturedStep`."""
        raise NotImplementedError

    def stream(self, purpose: str, compute: Compute) -> torch.Generator:
        """Return the random numbers of the next step for a purpose."""
        seed = derive_seed(self.settings.seed, self.settings.block, purpose, self.step)
        return torch.Generator(compute.device).manual_seed(seed)

    def draw_rows(self, real: RealImages, compute: Compute) -> Tensor:
        """Draw the real images of the next step, int64 [B]."""
        stream = self.stream("real images", compute)
        return torch.multinomial(real.weights, self.settings.batch_size, replacement=True, generator=stream)

    def decay(self, compute: Compute) -> Tensor:
        """Return the decay of the moving average in the next step, float64 []."""
        batch_size = self.settings.batch_size
        decay = ema_decay(self.settings.ema_half_life_images, (self.step + 1) * batch_size, batch_size)
        return torch.full((), decay, dtype=torch.float64, device=compute.device)


def real_images(planes: NDArray[np.uint8], labels: NDArray[np.int64], compute: Compute) -> RealImages:
    """Copy images [N, C, S, S] to the device. Weights make all classes equally frequent, so that rare ones are learned.

    Images with findings, int64 [N, C], are as frequent as they are.
    """
    weights = 1 / np.bincount(labels)[labels] if labels.ndim == 1 else np.ones(len(labels))
    return RealImages(
        images=torch.from_numpy(planes).to(compute.device),
        labels=torch.tensor(labels, device=compute.device),
        weights=torch.from_numpy(weights.astype(np.float32)).to(compute.device),
    )


def ema_decay(half_life_images: int | None, images_seen: int, batch_size: int) -> float:
    """Return the decay of the moving average in one step; 0 without a half-life.

    The half-life is at most a twentieth of the images seen, so that the average soon forgets the initial weights (the EMA
    warm-up of StyleGAN2-ADA, arXiv:2006.06676).
    """
    if half_life_images is None:
        return 0.0
    half_life = min(float(half_life_images), _EMA_WARM_UP * images_seen)
    return float(0.5 ** (batch_size / half_life))


@torch.no_grad()
def update_ema(ema_network: nn.Module, network: nn.Module, decay: Tensor) -> None:
    """Move parameters and buffers to decay * ema_network + (1 - decay) * network; `decay` is float64 [], on their device."""
    weight = (1 - decay).float()
    for average, current in zip(ema_network.state_dict().values(), network.state_dict().values(), strict=True):
        if average.is_floating_point():
            average.lerp_(current, weight)
        else:
            average.copy_(current)
