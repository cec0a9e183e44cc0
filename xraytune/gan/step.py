"""One training step of a GAN, as a function of its draws: whatever is random in it, or differs from step to step.

The draws of step t are derived from the seed and t. The rest always does the same operations on tensors of the same
shapes, which is what lets a GPU replay it (`gan/replay.py`).
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Literal, NamedTuple, TypeAlias

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.nn import functional
from torch.optim import Optimizer

from xraytune.compute import autocast
from xraytune.gan.augment import Changes, diff_augment, draw_changes
from xraytune.gan.checkpoint import Training
from xraytune.gan.networks import ema_decay, update_ema
from xraytune.records import Compute
from xraytune.seeding import derive_seed

LossName: TypeAlias = Literal["bce", "non_saturating", "hinge"]


def discriminator_loss(name: LossName, real_logits: Tensor, fake_logits: Tensor) -> Tensor:
    """The discriminator's loss, a scalar; logits are float32 [B].

    Sources: Goodfellow et al. 2014, equation 1, with log sigmoid written as softplus; hinge: Lim & Ye 2017, and
    Miyato et al. 2018, equation 16.
    """
    if name == "hinge":
        return functional.relu(1 - real_logits).mean() + functional.relu(1 + fake_logits).mean()
    return functional.softplus(-real_logits).mean() + functional.softplus(fake_logits).mean()


def generator_loss(name: LossName, fake_logits: Tensor) -> Tensor:
    """The generator's loss, a scalar; logits are float32 [B].

    Sources: Goodfellow et al. 2014, section 3 (non-saturating); hinge: Miyato et al. 2018, equation 17.
    """
    if name == "hinge":
        return -fake_logits.mean()
    return functional.softplus(-fake_logits).mean()


@dataclass(frozen=True, slots=True, kw_only=True)
class RealImages:
    """On the device: uint8 [N, S, S], their labels int64 [N], and how often each is drawn, float32 [N]."""

    images: Tensor
    labels: Tensor
    weights: Tensor


class StepDraws(NamedTuple):
    """On the device.

    Attributes:
        rows: Of the real images, int64 [B].
        z: Noise, float32 [B, z_dim].
        tones: Of the changes of the real images, of the fakes that the discriminator learns from, and of the same fakes
            that the generator learns from: [3, *Changes.tones].
        shifts: Likewise.
        holes: Likewise.
        ema_decay_per_step: Share of the average that survives the step, float64 [].
    """

    rows: Tensor
    z: Tensor
    tones: Tensor
    shifts: Tensor
    holes: Tensor
    ema_decay_per_step: Tensor


def real_images(scaled: NDArray[np.uint8], labels: NDArray[np.int64], compute: Compute) -> RealImages:
    """Images [N, S, S] on the device. The classes are drawn equally often, so that a rare one is learned as well."""
    weights = 1 / np.bincount(labels)[labels]
    return RealImages(
        images=torch.from_numpy(scaled).to(compute.device),
        labels=torch.tensor(labels, device=compute.device),
        weights=torch.from_numpy(weights.astype(np.float32)).to(compute.device),
    )


def draw_step(training: Training, real: RealImages, compute: Compute) -> StepDraws:
    """The draws of the training's next step."""
    settings, step = training.settings, training.step
    batch, device = settings.batch_size, compute.device

    def stream(purpose: str) -> torch.Generator:
        return torch.Generator(device).manual_seed(derive_seed(settings.seed, "gan", purpose, step))

    augmentation = stream("augmentation")
    changes = [draw_changes(batch, settings.image_size, augmentation) for _ in range(3)]
    tones, shifts, holes = (torch.stack(each) for each in zip(*changes, strict=True))
    decay = ema_decay(settings.ema_half_life_images, (step + 1) * batch, batch)
    return StepDraws(
        rows=torch.multinomial(real.weights, batch, replacement=True, generator=stream("real images")),
        z=torch.randn(batch, settings.z_dim, generator=stream("noise"), device=device),
        tones=tones,
        shifts=shifts,
        holes=holes,
        ema_decay_per_step=torch.tensor(decay, dtype=torch.float64, device=device),
    )


def train_step(training: Training, real: RealImages, compute: Compute, draws: StepDraws) -> Tensor:
    """Update each network once, and the average. Gives both losses, generator first: float32 [2], on the device."""
    settings = training.settings
    images, labels = real.images[draws.rows][:, None].float() / 127.5 - 1, real.labels[draws.rows]
    for_real, for_discriminator, for_generator = map(Changes, draws.tones, draws.shifts, draws.holes)

    def judge(images: Tensor, changes: Changes) -> Tensor:
        seen = diff_augment(images, changes) if settings.diffaugment else images
        with autocast(compute):
            logits: Tensor = training.discriminator(seen, labels)
        return logits.float()

    with autocast(compute):
        fake = training.generator(draws.z, labels)
    fake = fake.float()

    loss_d = discriminator_loss(settings.loss, judge(images, for_real), judge(fake.detach(), for_discriminator))
    _update(training.optimizer_d, loss_d)

    training.discriminator.requires_grad_(False)  # spares the backward pass the discriminator's own gradients
    loss_g = generator_loss(settings.loss, judge(fake, for_generator))
    _update(training.optimizer_g, loss_g)
    training.discriminator.requires_grad_(True)

    update_ema(training.average, training.generator, draws.ema_decay_per_step)
    return torch.stack([loss_g.detach(), loss_d.detach()])


def _update(optimizer: Optimizer, loss: Tensor) -> None:
    optimizer.zero_grad()
    loss.backward()  # type: ignore[no-untyped-call]
    optimizer.step()


Step = Callable[[StepDraws], Tensor]
_EAGER_STEPS = 3
"""Run one by one first: cuDNN chooses its algorithms then, and what a first step sets up is no part of the recording."""


def replayed(step: Step) -> Step:
    """`step`, recorded at its fourth call; a result lasts until the next call.

    Args:
        step: Does the same operations on tensors of the same shapes each time, whatever the draws.
    """
    graph = torch.cuda.CUDAGraph()
    stream = torch.cuda.Stream()  # type: ignore[no-untyped-call]
    calls = 0
    recorded: tuple[StepDraws, Tensor]

    def run(draws: StepDraws) -> Tensor:
        nonlocal calls, recorded
        calls += 1
        if calls <= _EAGER_STEPS:
            stream.wait_stream(torch.cuda.current_stream())
            with torch.cuda.stream(stream):
                result = step(draws)
            torch.cuda.current_stream().wait_stream(stream)
            return result
        if calls == _EAGER_STEPS + 1:
            kept = StepDraws(*(draw.clone() for draw in draws))
            # Other threads may use the GPU meanwhile: a tracker's, a progress display's.
            with torch.cuda.graph(graph, stream=stream, capture_error_mode="thread_local"):
                result = step(kept)
            recorded = kept, result
        kept, result = recorded
        for place, draw in zip(kept, draws, strict=True):
            place.copy_(draw)
        graph.replay()
        return result

    return run
