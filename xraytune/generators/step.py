"""One training step of the GAN: losses, random draws, updates, and its replay as a CUDA graph.

Everything random in step t is drawn beforehand, from the seed and t. What remains runs the same operations on tensors of
the same shapes in each step, as a CUDA graph requires.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Literal, NamedTuple, TypeAlias

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.nn import functional as F
from torch.optim import Optimizer

from xraytune.compute import autocast
from xraytune.generators.augment import Augmentation, diff_augment, draw_augmentation
from xraytune.generators.checkpoint import TrainingState
from xraytune.generators.networks import ema_decay, update_ema
from xraytune.records import Compute
from xraytune.seeding import derive_seed

LossName: TypeAlias = Literal["bce", "non_saturating", "hinge"]


@dataclass(frozen=True, slots=True, kw_only=True)
class RealImages:
    """Training images on the device: uint8 [N, C, S, S], labels int64 [N], and sampling weights float32 [N]."""

    images: Tensor
    labels: Tensor
    weights: Tensor


class StepDraws(NamedTuple):
    """What differs between steps, on the device.

    Attributes:
        rows: Indices of the real images, int64 [B].
        z: float32 [B, z_dim].
        color: Of three `Augmentation`s, [3, ...]: for the real images, and for the fakes in the updates of the discriminator
            and of the generator; likewise `translation` and `cutout`.
        ema_decay: float64 [].
    """

    rows: Tensor
    z: Tensor
    color: Tensor
    translation: Tensor
    cutout: Tensor
    ema_decay: Tensor


Step: TypeAlias = Callable[[StepDraws], Tensor]


def discriminator_loss(name: LossName, real_logits: Tensor, fake_logits: Tensor) -> Tensor:
    """Return the discriminator's loss for float32 logits [B].

    Sources: Goodfellow et al. 2014 (arXiv:1406.2661), equation 1; hinge: Miyato et al. 2018 (arXiv:1802.05957), equation 16.
    """
    if name == "hinge":
        return F.relu(1 - real_logits).mean() + F.relu(1 + fake_logits).mean()
    return F.softplus(-real_logits).mean() + F.softplus(fake_logits).mean()


def generator_loss(name: LossName, fake_logits: Tensor) -> Tensor:
    """Return the generator's loss for float32 logits [B]; `bce` is the non-saturating loss, too.

    Sources: Goodfellow et al. 2014, section 3; hinge: Miyato et al. 2018, equation 17.
    """
    return -fake_logits.mean() if name == "hinge" else F.softplus(-fake_logits).mean()


def real_images(planes: NDArray[np.uint8], labels: NDArray[np.int64], compute: Compute) -> RealImages:
    """Copy images [N, C, S, S] to the device; weights make all classes equally frequent, so that rare ones are learned."""
    weights = 1 / np.bincount(labels)[labels]
    return RealImages(
        images=torch.from_numpy(planes).to(compute.device),
        labels=torch.tensor(labels, device=compute.device),
        weights=torch.from_numpy(weights.astype(np.float32)).to(compute.device),
    )


def draw_step(training: TrainingState, real: RealImages, compute: Compute) -> StepDraws:
    """Draw for the next step of a training."""
    settings, step = training.settings, training.step
    batch, device = settings.batch_size, compute.device

    def stream(purpose: str) -> torch.Generator:
        return torch.Generator(device).manual_seed(derive_seed(settings.seed, "gan", purpose, step))

    generator = stream("augmentation")
    augmentations = [draw_augmentation(batch, settings.image_size, generator) for _ in range(3)]
    decay = ema_decay(settings.ema_half_life_images, (step + 1) * batch, batch)
    color, translation, cutout = map(torch.stack, zip(*augmentations, strict=True))
    return StepDraws(
        rows=torch.multinomial(real.weights, batch, replacement=True, generator=stream("real images")),
        z=torch.randn(batch, settings.z_dim, generator=stream("noise"), device=device),
        color=color,
        translation=translation,
        cutout=cutout,
        ema_decay=torch.tensor(decay, dtype=torch.float64, device=device),
    )


def train_step(training: TrainingState, real: RealImages, compute: Compute, draws: StepDraws) -> Tensor:
    """Update discriminator, generator and EMA generator once; return [g_loss, d_loss], float32 [2] on the device."""
    settings = training.settings
    images, labels = real.images[draws.rows].float() / 127.5 - 1, real.labels[draws.rows]
    for_real, for_fake_d, for_fake_g = map(Augmentation, draws.color, draws.translation, draws.cutout)

    def discriminate(images: Tensor, augmentation: Augmentation) -> Tensor:
        if settings.diffaugment:
            images = diff_augment(images, augmentation)
        with autocast(compute):
            logits: Tensor = training.discriminator(images, labels)
        return logits.float()

    with autocast(compute):
        fake = training.generator(draws.z, labels)
    fake = fake.float()

    real_logits, fake_logits = discriminate(images, for_real), discriminate(fake.detach(), for_fake_d)
    d_loss = discriminator_loss(settings.loss, real_logits, fake_logits)
    _update(training.optimizer_d, d_loss)

    training.discriminator.requires_grad_(False)  # its own gradients are not needed here
    g_loss = generator_loss(settings.loss, discriminate(fake, for_fake_g))
    _update(training.optimizer_g, g_loss)
    training.discriminator.requires_grad_(True)

    update_ema(training.ema_generator, training.generator, draws.ema_decay)
    return torch.stack([g_loss.detach(), d_loss.detach()])


def _update(optimizer: Optimizer, loss: Tensor) -> None:
    optimizer.zero_grad()
    loss.backward()  # type: ignore[no-untyped-call]
    optimizer.step()


_WARM_UP_STEPS = 3
"""Before the capture, cuDNN chooses its algorithms and Adam allocates its state."""


def with_cuda_graph(step: Step) -> Step:
    """Capture `step` as a CUDA graph at its fourth call and replay it from then on. A result lasts until the next call.

    Args:
        step: Runs the same operations on tensors of the same shapes, whatever the draws.
    """
    graph = torch.cuda.CUDAGraph()
    stream = torch.cuda.Stream()  # type: ignore[no-untyped-call]
    calls = 0
    static_draws: StepDraws
    static_losses: Tensor

    def run(draws: StepDraws) -> Tensor:
        nonlocal calls, static_draws, static_losses
        calls += 1
        if calls <= _WARM_UP_STEPS:
            stream.wait_stream(torch.cuda.current_stream())
            with torch.cuda.stream(stream):
                losses = step(draws)
            torch.cuda.current_stream().wait_stream(stream)
            return losses
        if calls == _WARM_UP_STEPS + 1:
            static_draws = StepDraws(*(draw.clone() for draw in draws))
            # Other threads, such as a progress display's, may use the GPU meanwhile.
            with torch.cuda.graph(graph, stream=stream, capture_error_mode="thread_local"):
                static_losses = step(static_draws)
        for static, draw in zip(static_draws, draws, strict=True):
            static.copy_(draw)
        graph.replay()
        return static_losses

    return run
