"""A small class-conditional diffusion model: a U-Net that removes noise from images, built with Hugging Face's diffusers.

It uses a cosine noise schedule, predicts the velocity, and samples with DPM-Solver++; see docs/generators.md. The solver is
deterministic, so the initial noise z and the class determine an image, as in a GAN.

Sources: Ho et al. 2020, DDPM (arXiv:2006.11239); Nichol & Dhariwal 2021, cosine schedule (arXiv:2102.09672); Salimans & Ho
2022, velocity (arXiv:2202.00512); Lu et al. 2022, DPM-Solver++ (arXiv:2211.01095); Kingma et al. 2021, stratified times
(arXiv:2107.00630, appendix I.1).
"""

from __future__ import annotations

import copy
import math
from dataclasses import dataclass
from typing import TYPE_CHECKING, ClassVar, NamedTuple

import torch
from torch import Tensor
from torch.nn import functional as F

from xraytune.base.errors import MachineError, Problem
from xraytune.base.records import Compute
from xraytune.nets.captured import Draws
from xraytune.nets.compute import autocast, seeded
from xraytune.nets.optimizer import Optimizer
from xraytune.space.settings import DiffusionSettings
from xraytune.synth.contract import ImageGenerator, LabelEmbedding, RealImages, Training, update_ema

if TYPE_CHECKING:
    from diffusers import DDPMScheduler

_TIMES = 1000
_LOWEST_PX = 8
_AT_ONCE = 64
_WEIGHT_DECAY = 0.01


class DiffusionGenerator(ImageGenerator):
    """The U-Net and its sampler. z is the initial noise, [n, channels * S * S]. With one class, labels are ignored.

    Raises MachineError if diffusers is not installed.
    """

    settings: DiffusionSettings

    def __init__(self, settings: DiffusionSettings, class_count: int, channels: int = 1) -> None:
        super().__init__(settings, class_count, channels, channels * settings.image_size**2)
        try:
            from diffusers import UNet2DModel
        except ImportError as error:
            what = "source: diffusion needs diffusers, which is not installed"
            raise MachineError(Problem(what, fix="pip install 'xraytune[diffusion]'")) from error
        patch_px, width = settings.patch_size, settings.width
        size_px, planes = settings.image_size // patch_px, channels * patch_px**2
        levels = (size_px // _LOWEST_PX).bit_length()
        self.unet = UNet2DModel(
            sample_size=size_px,
            in_channels=planes,
            out_channels=planes,
            block_out_channels=[width, *[2 * width] * (levels - 1)],
            down_block_types=[*["DownBlock2D"] * (levels - 1), "AttnDownBlock2D"],
            up_block_types=["AttnUpBlock2D", *["UpBlock2D"] * (levels - 1)],
            layers_per_block=1,
            norm_num_groups=math.gcd(width, 8),
            attention_head_dim=width,
            num_class_embeds=class_count if class_count > 1 else None,
        )
        if class_count > 1:
            weight = self.unet.class_embedding.weight
            self.unet.class_embedding = LabelEmbedding(weight.shape[0], weight.shape[1], device="meta")
            self.unet.class_embedding.weight = weight

    def velocity(self, noisy: Tensor, times: Tensor, labels: Tensor) -> Tensor:
        """Return the U-Net's estimate for noisy images [B, C, S, S] at schedule steps `times`, [B] or []."""
        patches = F.pixel_unshuffle(noisy, self.settings.patch_size)
        velocity: Tensor = self.unet(patches, times, labels if self.class_count > 1 else None).sample
        return F.pixel_shuffle(velocity.float(), self.settings.patch_size)

    def forward(self, z: Tensor, labels: Tensor) -> Tensor:
        """Denoise z [n, z_dim] to images of `labels` [n]."""
        parts = zip(torch.split(z, _AT_ONCE), torch.split(labels, _AT_ONCE), strict=True)
        return torch.cat([self._denoise(*part) for part in parts])

    def _denoise(self, z: Tensor, labels: Tensor) -> Tensor:
        from diffusers import DPMSolverMultistepScheduler

        solver = DPMSolverMultistepScheduler.from_config(noise_schedule().config, timestep_spacing="trailing")
        solver.set_timesteps(self.settings.sampling_steps, device=z.device)
        size_px = self.settings.image_size
        images = z.reshape(-1, self.channels, size_px, size_px)
        for time in solver.timesteps:
            images = solver.step(self.velocity(images, time, labels), time, images).prev_sample
        return images.clamp(-1, 1)


def noise_schedule() -> DDPMScheduler:
    """Return the cosine schedule. Its last step is pure noise, like the start of sampling, so brightness is not biased."""
    from diffusers import DDPMScheduler

    return DDPMScheduler(_TIMES, beta_schedule="squaredcos_cap_v2", prediction_type="v_prediction")


class DiffusionDraws(NamedTuple):
    """The random draws of a step, on the device.

    Attributes:
        rows: Indices of the real images, int64 [B].
        noise: float32 [B, C, S, S].
        places: Of the times, each in its own one of B equal parts of the noise schedule, so that losses vary less; float32
            [B] in [0, 1).
        ema_decay: float64 [].
    """

    rows: Tensor
    noise: Tensor
    places: Tensor
    ema_decay: Tensor


@dataclass(slots=True, kw_only=True)
class DiffusionTraining(Training):
    """The state of a diffusion model's training."""

    losses: ClassVar[tuple[str, ...]] = ("loss",)
    if_diverged: ClassVar[str] = "lower diffusion.lr"
    saved: ClassVar[tuple[str, ...]] = ("generator", "ema_generator", "optimizer")
    settings: DiffusionSettings
    generator: DiffusionGenerator
    ema_generator: DiffusionGenerator
    optimizer: Optimizer
    schedule: DDPMScheduler

    def draw(self, real: RealImages, compute: Compute) -> DiffusionDraws:
        """Draw for the next step."""
        batch, size_px, device = self.settings.batch_size, self.settings.image_size, compute.device
        noise_shape = (batch, self.generator.channels, size_px, size_px)
        return DiffusionDraws(
            rows=self.draw_rows(real, compute),
            noise=torch.randn(noise_shape, generator=self.stream("noise", compute), device=device),
            places=torch.rand(batch, generator=self.stream("times", compute), device=device),
            ema_decay=self.decay(compute),
        )

    def update(self, real: RealImages, compute: Compute, draws: Draws) -> Tensor:
        """Update the network and its average once."""
        drawn = DiffusionDraws(*draws)
        images, labels = real.batch(drawn.rows)
        shares = torch.arange(len(labels), device=labels.device) + drawn.places
        times = (shares * (_TIMES / len(labels))).long().clamp(max=_TIMES - 1)
        noisy = self.schedule.add_noise(images, drawn.noise, times)
        target = self.schedule.get_velocity(images, drawn.noise, times)
        with autocast(compute):
            velocity = self.generator.velocity(noisy, times, labels)
        loss = F.mse_loss(velocity, target)
        self.optimizer.zero_grad()
        loss.backward()  # type: ignore[no-untyped-call]
        self.optimizer.step()
        update_ema(self.ema_generator, self.generator, drawn.ema_decay)
        return loss.detach()[None]


def new_diffusion(settings: DiffusionSettings, class_count: int, compute: Compute, channels: int) -> DiffusionTraining:
    """Initialise the network from `settings.seed`, on the device."""
    with seeded(settings.seed, settings.block, "initial weights"):
        generator = DiffusionGenerator(settings, class_count, channels)
    generator.to(device=compute.device, memory_format=torch.channels_last)  # type: ignore[call-overload]
    return DiffusionTraining(
        settings=settings,
        generator=generator,
        ema_generator=copy.deepcopy(generator).eval().requires_grad_(False),
        optimizer=Optimizer("adamw", generator, lr=settings.lr, weight_decay=_WEIGHT_DECAY),
        schedule=noise_schedule(),
    )
