"""The training of a GAN: losses, random draws, and one step.

All random numbers of step t are drawn beforehand, from the seed and t, so that a GPU can replay the rest of the step.
"""

from __future__ import annotations

import copy
from dataclasses import dataclass
from typing import ClassVar, Literal, NamedTuple, TypeAlias

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from xraytune.base.records import Compute
from xraytune.nets.backbones import build_backbone, pixel_constants
from xraytune.nets.captured import Draws
from xraytune.nets.compute import autocast, constants, seeded
from xraytune.nets.optimizer import Optimizer
from xraytune.space.settings import GanSettings
from xraytune.synth.contract import RealImages, Training, update_ema
from xraytune.synth.networks import Discriminator, Generator

_RECONSTRUCTION_WEIGHT = 10.0
"""Weight of the mean absolute error between training images and their reconstructions, with pixels in [-1, 1]."""
_FEATURE_WEIGHT = 2.0
"""Weight of the mean squared error between features of training images and of their reconstructions, relative to the
variance of the features."""
_FEATURE_BACKBONE, _FEATURE_PX, _FEATURE_BATCH = "mobilenet_v2", 128, 64
_MAX_SHIFT = 0.125
"""Of a real or generated image, as a share of its side."""
GanLoss: TypeAlias = Literal["bce", "non_saturating", "hinge"]


class GanDraws(NamedTuple):
    """The random draws of a step, on the device.

    Attributes:
        rows: Indices of the real images, int64 [B].
        z: float32 [B, z_dim].
        shifts: Of the real images, and of the fakes in the updates of the discriminator and of the generator, int64
            [3, 2, B, 1, 1].
        ema_decay: float64 [].
    """

    rows: Tensor
    z: Tensor
    shifts: Tensor
    ema_decay: Tensor


def draw_shifts(count: int, size_px: int, generator: torch.Generator, times: tuple[int, ...] = ()) -> Tensor:
    """Draw the shifts of `count` images of side `size_px`: down and right in pixels, int64 [*times, 2, count, 1, 1]."""
    shift = int(size_px * _MAX_SHIFT + 0.5)
    return torch.randint(-shift, shift + 1, (*times, 2, count, 1, 1), generator=generator, device=generator.device)


def translate(images: Tensor, shifts: Tensor) -> Tensor:
    """Shift each image, float [B, C, S, S], on its own, by `draw_shifts`; pixels that are shifted in become 0, the middle.

    Both images and fakes are shifted, so that the discriminator cannot memorise a few hundred images. Products with 0-1
    matrices, since a gather's backward pass would not be deterministic. Of the policy "color,translation,cutout", only
    translation is used: cutout moved the images away from real ones, and changes of brightness and contrast brought no clear
    gain (docs/decisions/0029-a-gan-of-principal-components.md).

    Source: Zhao et al. 2020, "Differentiable Augmentation for Data-Efficient GAN Training" (arXiv:2006.10738).
    """
    index = torch.arange(images.shape[-1], device=images.device)
    down, right = (index[:, None] - index[None, :] == shifts)[:, :, None].to(images.dtype)
    shifted: Tensor = down @ images @ right.transpose(2, 3)
    return shifted


def discriminator_loss(name: GanLoss, real_logits: Tensor, fake_logits: Tensor) -> Tensor:
    """Return the discriminator's loss for float32 logits [B].

    Sources: Goodfellow et al. 2014 (arXiv:1406.2661), equation 1; hinge: Miyato et al. 2018 (arXiv:1802.05957), equation 16.
    """
    if name == "hinge":
        return F.relu(1 - real_logits).mean() + F.relu(1 + fake_logits).mean()
    return F.softplus(-real_logits).mean() + F.softplus(fake_logits).mean()


def generator_loss(name: GanLoss, fake_logits: Tensor) -> Tensor:
    """Return the generator's loss for float32 logits [B]; `bce` is the non-saturating loss, too.

    Sources: Goodfellow et al. 2014, section 3; hinge: Miyato et al. 2018, equation 17.
    """
    return -fake_logits.mean() if name == "hinge" else F.softplus(-fake_logits).mean()


@dataclass(slots=True, kw_only=True)
class GanTraining(Training):
    """The state of a GAN's training.

    Attributes:
        backbone: The frozen network of `settings.features`; without them, None.
        features: Of the training images, float32 [N, D].
    """

    losses: ClassVar[tuple[str, ...]] = ("g_loss", "d_loss")
    if_diverged: ClassVar[str] = "lower gan.lr_g and gan.lr_d, or set gan.spectral_norm: true"
    saved: ClassVar[tuple[str, ...]] = ("generator", "discriminator", "ema_generator", "optimizer_g", "optimizer_d")
    settings: GanSettings
    generator: Generator
    discriminator: Discriminator
    ema_generator: Generator
    optimizer_g: Optimizer
    optimizer_d: Optimizer
    backbone: nn.Module | None = None
    features: Tensor | None = None

    @torch.no_grad()
    def fit(self, real: RealImages) -> None:
        """Compute the features and, with `architecture: pca`, the codes of the images; a start keeps its components."""
        prior, ema_prior, images = self.generator.prior, self.ema_generator.prior, real.images
        if self.backbone is not None:
            batches = torch.split(torch.arange(len(images), device=images.device), _FEATURE_BATCH)
            self.features = torch.cat([frozen_features(self.backbone, real.batch(rows)[0]) for rows in batches])
        if prior is not None and ema_prior is not None:
            code = prior.find_components if self.settings.start_from is None else prior.project
            prior.fit(code(images, self.features), real.labels)
            ema_prior.load_state_dict(prior.state_dict())

    def draw(self, real: RealImages, compute: Compute) -> GanDraws:
        """Draw for the next step."""
        settings, batch, augmentation = self.settings, self.settings.batch_size, self.stream("augmentation", compute)
        return GanDraws(
            rows=self.draw_rows(real, compute),
            z=torch.randn(batch, settings.z_dim, generator=self.stream("noise", compute), device=compute.device),
            shifts=draw_shifts(batch, settings.image_size, augmentation, times=(3,)),
            ema_decay=self.decay(compute),
        )

    def update(self, real: RealImages, compute: Compute, draws: Draws) -> Tensor:
        """Update discriminator, generator and EMA generator once."""
        settings, drawn = self.settings, GanDraws(*draws)
        images, labels = real.batch(drawn.rows)

        def discriminate(images: Tensor, shifts: Tensor) -> Tensor:
            if settings.diffaugment:
                images = translate(images, shifts)
            with autocast(compute):
                logits: Tensor = self.discriminator(images, torch.cat([labels] * (len(images) // len(labels))))
            return logits.float()

        with autocast(compute):
            fake = self.generator.decode(self._codes(drawn, labels), labels)
        fake = fake.float()

        both = images, fake.detach()
        if settings.spectral_norm:  # as one batch, which is faster
            shifts = torch.cat(tuple(drawn.shifts[:2]), dim=1)
            real_logits, fake_logits = discriminate(torch.cat(both), shifts).chunk(2)
        else:  # batch norm takes the statistics of real and of generated images separately
            real_logits, fake_logits = map(discriminate, both, drawn.shifts[:2])
        d_loss = discriminator_loss(settings.loss, real_logits, fake_logits)
        _update(self.optimizer_d, d_loss)

        self.discriminator.requires_grad_(False)  # its own gradients are not needed here
        g_loss = generator_loss(settings.loss, discriminate(fake, drawn.shifts[2]))
        if self.generator.prior is not None:
            half = len(images) // 2
            g_loss = g_loss + _RECONSTRUCTION_WEIGHT * F.l1_loss(fake[:half], images[:half])
            if self.backbone is not None and self.features is not None:
                error = F.mse_loss(frozen_features(self.backbone, fake[:half]), self.features[drawn.rows[:half]])
                g_loss = g_loss + _FEATURE_WEIGHT * error / self.features.var(dim=0).mean()
        _update(self.optimizer_g, g_loss)
        self.discriminator.requires_grad_(True)

        update_ema(self.ema_generator, self.generator, drawn.ema_decay)
        return torch.stack([g_loss.detach(), d_loss.detach()])

    def _codes(self, drawn: GanDraws, labels: Tensor) -> Tensor:
        """Return the latent codes of a batch; with `architecture: pca`, those of the real images make up its first half."""
        prior = self.generator.prior
        if prior is None:
            return drawn.z
        half = len(labels) // 2
        return torch.cat([prior.codes[drawn.rows[:half]], prior(drawn.z[half:], labels[half:])])


def new_gan(settings: GanSettings, class_count: int, compute: Compute, channels: int) -> GanTraining:
    """Initialise both networks from `settings.seed`, on the device."""
    with seeded(settings.seed, settings.block, "initial weights"):
        generator = Generator(settings, class_count, channels)
        discriminator = Discriminator(settings, class_count, channels)
        backbone = build_backbone(_FEATURE_BACKBONE, weights=settings.features)[0] if settings.features else None
    for network in (generator, discriminator, *([backbone] if backbone else [])):
        network.to(device=compute.device, memory_format=torch.channels_last)  # type: ignore[call-overload]
    betas = settings.beta1, settings.beta2
    return GanTraining(
        settings=settings,
        generator=generator,
        discriminator=discriminator,
        ema_generator=copy.deepcopy(generator).eval().requires_grad_(False),
        optimizer_g=Optimizer("adam", generator, lr=settings.lr_g, betas=betas),
        optimizer_d=Optimizer("adam", discriminator, lr=settings.lr_d, betas=betas),
        backbone=backbone.eval().requires_grad_(False) if backbone else None,
    )


def frozen_features(backbone: nn.Module, images: Tensor) -> Tensor:
    """Return the features, [n, D], of images, float32 [n, C, S, S] in [-1, 1], at 128 px, as a classifier sees them.

    They are resized by products with matrices, since the backward pass of `interpolate` would not be deterministic.
    """
    mean, std = (constants(values, images.device)[:, None, None] for values in pixel_constants(_FEATURE_BACKBONE))
    side_px = images.shape[-1]
    unit, shape = torch.eye(side_px, device=images.device)[None, None], (_FEATURE_PX, side_px)
    resize = F.interpolate(unit, size=shape, mode="bilinear", antialias=side_px > _FEATURE_PX)
    resized = resize @ ((images[:, :1] + 1) / 2) @ resize.mT
    features: Tensor = backbone(((resized - mean) / std).contiguous(memory_format=torch.channels_last))
    return features


def _update(optimizer: Optimizer, loss: Tensor) -> None:
    optimizer.zero_grad()
    loss.backward()  # type: ignore[no-untyped-call]
    optimizer.step()
