"""The training of a GAN: losses, random draws, and one step.

All random numbers of step t are drawn beforehand, from the seed and t, so that a GPU can replay the
rest of the step.
"""

from __future__ import annotations

import copy
from dataclasses import dataclass
from typing import ClassVar, NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn
from torch.nn import functional as F

from xraytune.base.records import Compute
from xraytune.base.seeding import derive_seed
from xraytune.nets.backbones import build_backbone, fold_batch_norms, pixel_constants
from xraytune.nets.captured import Draws
from xraytune.nets.compute import autocast, constants, seeded
from xraytune.nets.optimizer import Optimizer
from xraytune.space.settings import GanSettings
from xraytune.synth.networks import Discriminator, Generator

_RECONSTRUCTION_WEIGHT = 10.0
"""Weight of the mean absolute error of reconstructions, with pixels in [-1, 1]."""
_FEATURE_WEIGHT = 2.0
"""Weight of the mean squared error between features of training images and of their
reconstructions, relative to the variance of the features."""
_FEATURE_BACKBONE = "mobilenet_v2"
_FEATURE_PX = 128
_FEATURE_BATCH = 64
_MAX_SHIFT = 0.125
"""Of a real or generated image, as a share of its side."""
_EMA_WARM_UP = 0.05


@dataclass(frozen=True, slots=True, kw_only=True)
class RealImages:
    """Training images on the device: uint8 [N, C, S, S].

    With labels, int64 [N], or findings, and sampling weights, float32 [N].
    """

    images: Tensor
    labels: Tensor
    weights: Tensor

    def batch(self, rows: Tensor) -> tuple[Tensor, Tensor]:
        """Return images, float32 [B, C, S, S] in [-1, 1], and their labels [B]."""
        return self.images[rows].float() / 127.5 - 1, self.labels[rows]


class GanDraws(NamedTuple):
    """The random draws of a step, on the device.

    Attributes:
        rows: Indices of the real images, int64 [B].
        z: float32 [B, z_dim].
        shifts: Of the real images, and of the fakes in the updates of the discriminator and of the
            generator, int64 [3, 2, B, 1, 1].
        ema_decay: float64 [].
    """

    rows: Tensor
    z: Tensor
    shifts: Tensor
    ema_decay: Tensor


def draw_shifts(
    count: int, size_px: int, generator: torch.Generator, times: tuple[int, ...] = ()
) -> Tensor:
    """Draw the shifts of images: down and right in pixels, int64 [*times, 2, count, 1, 1]."""
    shift = int(size_px * _MAX_SHIFT + 0.5)
    return torch.randint(
        -shift, shift + 1, (*times, 2, count, 1, 1), generator=generator, device=generator.device
    )


def translate(images: Tensor, shifts: Tensor) -> Tensor:
    """Shift each image, float [B, C, S, S], on its own, by `draw_shifts`.

    Pixels that are shifted in become 0, the middle.

    Both images and fakes are shifted, so that the discriminator cannot memorise a few hundred
    images. Products with 0-1 matrices, since a gather's backward pass would not be deterministic.
    Of the policy "color,translation,cutout", only translation is used: cutout moved the images away
    from real ones, and changes of brightness and contrast brought no clear gain
    (docs/decisions/0029-a-gan-of-principal-components.md).

    Source: Zhao et al. 2020, "Differentiable Augmentation for Data-Efficient GAN Training"
    (arXiv:2006.10738).
    """
    index = torch.arange(images.shape[-1], device=images.device)
    down, right = (index[:, None] - index[None, :] == shifts)[:, :, None].to(images.dtype)
    shifted: Tensor = down @ images @ right.transpose(2, 3)
    return shifted


def discriminator_loss(real_logits: Tensor, fake_logits: Tensor, *, is_hinge: bool) -> Tensor:
    """Return the discriminator's loss for float32 logits [B]: hinge, or binary cross-entropy.

    Sources: Goodfellow et al. 2014 (arXiv:1406.2661), equation 1; hinge: Miyato et al. 2018
    (arXiv:1802.05957), equation 16.
    """
    if is_hinge:
        return F.relu(1 - real_logits).mean() + F.relu(1 + fake_logits).mean()
    return F.softplus(-real_logits).mean() + F.softplus(fake_logits).mean()


def generator_loss(fake_logits: Tensor, *, is_hinge: bool) -> Tensor:
    """Return the generator's loss for float32 logits [B].

    With binary cross-entropy, the non-saturating one.

    Sources: Goodfellow et al. 2014, section 3; hinge: Miyato et al. 2018, equation 17.
    """
    return -fake_logits.mean() if is_hinge else F.softplus(-fake_logits).mean()


@dataclass(slots=True, kw_only=True)
class GanTraining:
    """The state of a GAN's training after `step` steps; `update` changes it in place.

    Attributes:
        losses: The names of the losses that `update` returns.
        saved: The attributes that a checkpoint holds: networks and optimizers.
        ema_generator: Exponential moving average of `generator`, in evaluation mode: the network to
            sample from.
        backbone: The frozen network of `settings.features`; without them, None.
        features: Of the training images, float32 [N, D].
    """

    losses: ClassVar[tuple[str, ...]] = ("g_loss", "d_loss")
    saved: ClassVar[tuple[str, ...]] = (
        "generator",
        "discriminator",
        "ema_generator",
        "optimizer_g",
        "optimizer_d",
    )
    settings: GanSettings
    generator: Generator
    discriminator: Discriminator
    ema_generator: Generator
    optimizer_g: Optimizer
    optimizer_d: Optimizer
    backbone: nn.Module | None = None
    features: Tensor | None = None
    step: int = 0

    @torch.no_grad()
    def fit(self, real: RealImages) -> None:
        """Compute features and, with `architecture: pca`, codes, before step 0 and when resuming.

        A training that starts from another generator keeps its components.
        """
        prior = self.generator.prior
        ema_prior = self.ema_generator.prior
        images = real.images
        if self.backbone is not None:
            batches = torch.split(torch.arange(len(images), device=images.device), _FEATURE_BATCH)
            self.features = torch.cat(
                [frozen_features(self.backbone, real.batch(rows)[0]) for rows in batches]
            )
        if prior is not None and ema_prior is not None:
            code = prior.find_components if self.settings.start_from is None else prior.project
            prior.fit(code(images, self.features), real.labels)
            ema_prior.load_state_dict(prior.state_dict())

    def draw(self, real: RealImages, compute: Compute) -> GanDraws:
        """Draw all random numbers of the next step, on the device.

        They depend on the seed and the step's number alone.
        """
        settings = self.settings
        device = compute.device
        batch = settings.batch_size

        def stream(purpose: str) -> torch.Generator:
            return torch.Generator(device).manual_seed(
                derive_seed(settings.seed, "gan", purpose, self.step)
            )

        decay = ema_decay(settings.ema_half_life_images, (self.step + 1) * batch, batch)
        return GanDraws(
            rows=torch.multinomial(
                real.weights, batch, replacement=True, generator=stream("real images")
            ),
            z=torch.randn(batch, settings.z_dim, generator=stream("noise"), device=device),
            shifts=draw_shifts(batch, settings.image_size, stream("augmentation"), times=(3,)),
            ema_decay=torch.full((), decay, dtype=torch.float64, device=device),
        )

    def update(self, real: RealImages, compute: Compute, draws: Draws) -> Tensor:
        """Train one step and return its losses, float32 [len(losses)] on the device.

        See `CapturedStep`.
        """
        settings = self.settings
        drawn = GanDraws(*draws)
        images, labels = real.batch(drawn.rows)

        def discriminate(images: Tensor, shifts: Tensor) -> Tensor:
            if settings.shifts_images:
                images = translate(images, shifts)
            with autocast(compute):
                logits: Tensor = self.discriminator(
                    images, torch.cat([labels] * (len(images) // len(labels)))
                )
            return logits.float()

        with autocast(compute):
            fake = self.generator.decode(self._codes(drawn, labels), labels)
        fake = fake.float()

        both = images, fake.detach()
        is_hinge = settings.architecture == "pca"
        if is_hinge:  # with spectral norm; as one batch, which is faster
            shifts = torch.cat(tuple(drawn.shifts[:2]), dim=1)
            real_logits, fake_logits = discriminate(torch.cat(both), shifts).chunk(2)
        else:  # batch norm takes the statistics of real and of generated images separately
            real_logits, fake_logits = map(discriminate, both, drawn.shifts[:2])
        d_loss = discriminator_loss(real_logits, fake_logits, is_hinge=is_hinge)
        _update(self.optimizer_d, d_loss)

        self.discriminator.requires_grad_(False)  # its own gradients are not needed here
        g_loss = generator_loss(discriminate(fake, drawn.shifts[2]), is_hinge=is_hinge)
        if self.generator.prior is not None:
            half = len(images) // 2
            g_loss = g_loss + _RECONSTRUCTION_WEIGHT * F.l1_loss(fake[:half], images[:half])
            if self.backbone is not None and self.features is not None:
                error = F.mse_loss(
                    frozen_features(self.backbone, fake[:half]), self.features[drawn.rows[:half]]
                )
                g_loss = g_loss + _FEATURE_WEIGHT * error / self.features.var(dim=0).mean()
        _update(self.optimizer_g, g_loss)
        self.discriminator.requires_grad_(True)

        update_ema(self.ema_generator, self.generator, drawn.ema_decay)
        return torch.stack([g_loss.detach(), d_loss.detach()])

    def _codes(self, drawn: GanDraws, labels: Tensor) -> Tensor:
        """Return the latent codes of a batch.

        With `architecture: pca`, those of the real images make up its first half.
        """
        prior = self.generator.prior
        if prior is None:
            return drawn.z
        half = len(labels) // 2
        return torch.cat([prior.codes[drawn.rows[:half]], prior(drawn.z[half:], labels[half:])])


def new_training(
    settings: GanSettings, class_count: int, compute: Compute, channels: int = 1
) -> GanTraining:
    """Initialise the networks of a training from `settings.seed`, on the device."""
    with seeded(settings.seed, "gan", "initial weights"):
        generator = Generator(settings, class_count, channels)
        discriminator = Discriminator(settings, class_count, channels)
        backbone = (
            build_backbone(_FEATURE_BACKBONE, weights=settings.features)[0]
            if settings.features
            else None
        )
    for network in (generator, discriminator, *([backbone] if backbone else [])):
        network.to(device=compute.device, memory_format=torch.channels_last)  # type: ignore[call-overload]
    betas = settings.betas
    return GanTraining(
        settings=settings,
        generator=generator,
        discriminator=discriminator,
        ema_generator=copy.deepcopy(generator).eval().requires_grad_(False),
        optimizer_g=Optimizer("adam", generator, lr=settings.lr_g, betas=betas),
        optimizer_d=Optimizer("adam", discriminator, lr=settings.lr_d, betas=betas),
        backbone=fold_batch_norms(backbone).requires_grad_(False) if backbone else None,
    )


def frozen_features(backbone: nn.Module, images: Tensor) -> Tensor:
    """Return the features, [n, D], of images, float32 [n, C, S, S] in [-1, 1], at 128 px.

    They are resized by products with matrices, since the backward pass of `interpolate` would not
    be deterministic.
    """
    mean, std = (
        constants(values, images.device)[:, None, None]
        for values in pixel_constants(_FEATURE_BACKBONE)
    )
    side_px = images.shape[-1]
    unit = torch.eye(side_px, device=images.device)[None, None]
    shape = (_FEATURE_PX, side_px)
    resize = F.interpolate(unit, size=shape, mode="bilinear", antialias=side_px > _FEATURE_PX)
    resized = resize @ ((images[:, :1] + 1) / 2) @ resize.mT
    features: Tensor = backbone(
        ((resized - mean) / std).contiguous(memory_format=torch.channels_last)
    )
    return features


def _update(optimizer: Optimizer, loss: Tensor) -> None:
    optimizer.zero_grad()
    loss.backward()  # type: ignore[no-untyped-call]
    optimizer.step()


def real_images(
    planes: NDArray[np.uint8], labels: NDArray[np.int64], compute: Compute
) -> RealImages:
    """Copy images [N, C, S, S] to the device.

    Weights make all classes equally frequent, so that rare ones are learned.

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

    The half-life is at most a twentieth of the images seen, so that the average soon forgets the
    initial weights (the EMA warm-up of StyleGAN2-ADA, arXiv:2006.06676).
    """
    if half_life_images is None:
        return 0.0
    half_life = min(float(half_life_images), _EMA_WARM_UP * images_seen)
    return float(0.5 ** (batch_size / half_life))


@torch.no_grad()
def update_ema(ema_network: nn.Module, network: nn.Module, decay: Tensor) -> None:
    """Move parameters and buffers to decay * ema_network + (1 - decay) * network.

    `decay` is float64 [], on their device.
    """
    weight = (1 - decay).float()
    for average, current in zip(
        ema_network.state_dict().values(), network.state_dict().values(), strict=True
    ):
        if average.is_floating_point():
            average.lerp_(current, weight)
        else:
            average.copy_(current)
