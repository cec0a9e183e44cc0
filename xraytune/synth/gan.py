"""The training of a GAN: losses, random numbers, steps and checkpoints.

All random numbers of step t are sampled before it, from the seed and t, so a GPU can replay the
rest of the step. On the CPU, a resumed or extended run is bit-identical to an uninterrupted one.

Losses from: Goodfellow et al. 2014 (arXiv:1406.2661), equation 1 and, non-saturating,
section 3; hinge: Miyato et al. 2018 (arXiv:1802.05957), equations 16 and 17.
"""

import copy
import logging
import math
from collections.abc import Iterator
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional as F
from torch.nn.utils import get_total_norm
from torch.optim import Optimizer

from xraytune.base.arrays import Int64Array, UInt8Array
from xraytune.base.errors import ArtifactError, TrialError
from xraytune.base.records import Compute
from xraytune.base.seeding import derive_seed
from xraytune.base.tensors import explain_unreadable, load_content, save_content
from xraytune.data.decoding import InputFormat
from xraytune.nets.backbones import build_backbone, fold_batch_norms, pixel_constants
from xraytune.nets.compute import autocast, seeded
from xraytune.nets.cuda_graph import StepInputs, with_cuda_graph
from xraytune.nets.inputs import normalise
from xraytune.nets.optimizer import build_optimizer, load_optimizer
from xraytune.space.source_settings import GanSettings
from xraytune.synth.gan_networks import Discriminator, Generator
from xraytune.synth.generator_inputs import FEATURE_BACKBONE, NETWORK_FILE
from xraytune.synth.saved_generator import load_generator, resize_images, save_generator

CHECKPOINT_FILE = "checkpoint.pt"
_logger = logging.getLogger(__name__)
_RECONSTRUCTION_WEIGHT = 10.0
"""Weight of the mean absolute error of reconstructions, with pixels in [-1, 1]."""
_FEATURE_WEIGHT = 2.0
"""Weight of the mean squared error between features of training images and of their
reconstructions, relative to the variance of the features.

It is part of each step's loss (docs/decisions/0061-features-in-every-step.md)."""
_FEATURE_PX = 128
_FEATURE_BATCH = 64
_MAX_SHIFT = 0.125
"""The largest shift of a real or generated image, as a share of its side."""
_BETAS = {"dcgan": (0.5, 0.999), "pca": (0.0, 0.99)}
"""Adam's momentum and the decay of its squared gradients."""
_HALF_LIFE_IMAGES = 10_000
"""Half-life of the average of the weights of a `pca` generator."""
_EMA_WARM_UP = 0.05


def translate(images: Tensor, shifts: Tensor) -> Tensor:
    """Shift each image, float [B, C, S, S], by its `shifts` down and right, [2, B, 1, 1].

    Pixels that are shifted in become 0, the middle.

    Both real and generated images are shifted, so that the discriminator cannot memorise a few
    hundred images. The shifts are products with 0-1 matrices, since the backward pass of a gather
    would not be deterministic. Of the policy "color,translation,cutout", only translation is used:
    with cutout, generated images became less like real ones, and changes of brightness and contrast
    brought no clear gain (docs/decisions/0029-a-gan-of-principal-components.md).

    From: Zhao et al. 2020, "Differentiable Augmentation for Data-Efficient GAN Training"
    (arXiv:2006.10738).
    """
    index = torch.arange(images.shape[-1], device=images.device)
    down, right = (index[:, None] - index[None, :] == shifts)[:, :, None].to(images.dtype)
    shifted: Tensor = down @ images @ right.transpose(2, 3)
    return shifted


class GanTraining:
    """The state of a GAN's training after `step` steps; `update` changes it in place.

    Networks are initialised from `settings.seed`, on the device.

    Attributes:
        parts: The networks and optimizers, whose state a checkpoint holds.
        ema_generator: Exponential moving average of `generator`, in evaluation mode, which
            generates the images.
        backbone: The frozen network of `settings.features`, if there are any.
    """

    def __init__(
        self, settings: GanSettings, class_count: int, compute: Compute, channels: int = 1
    ) -> None:
        self.settings = settings
        self._is_pca = settings.architecture == "pca"
        self.step = 0
        self._compute = compute
        self._features: Tensor | None = None
        self.backbone: nn.Module = nn.Identity()
        with seeded(settings.seed, "gan", "initial weights"):
            self.generator = Generator(settings, class_count, channels)
            self.discriminator = Discriminator(settings, class_count, channels)
            if settings.features:
                backbone, _ = build_backbone(FEATURE_BACKBONE, weights=Path(settings.features))
                self.backbone = fold_batch_norms(backbone).requires_grad_(False)
        for network in (self.generator, self.discriminator, self.backbone):
            network.to(  # type: ignore[call-overload]
                device=compute.device, memory_format=torch.channels_last
            )
        self.ema_generator = copy.deepcopy(self.generator).eval().requires_grad_(False)
        adam = partial(build_optimizer, "adam", betas=_BETAS[settings.architecture])
        self.parts: dict[str, Any] = {
            "generator": self.generator,
            "discriminator": self.discriminator,
            "ema_generator": self.ema_generator,
            "optimizer_g": adam(self.generator, lr=settings.lr_g),
            "optimizer_d": adam(self.discriminator, lr=settings.lr_d),
        }

    @torch.no_grad()
    def fit(self, images: UInt8Array, labels: Int64Array) -> None:
        """Copy the training images to the device, before step 0 and when resuming.

        Images are uint8 [N, C, S, S]; labels are int64 [N], or findings [N, C]. Classes are shown
        equally often, so that rare ones are learned; images with findings are shown as often as
        they occur. The images' features and, with `architecture: pca`, their codes are computed. A
        training that starts from another generator keeps the components of that generator.
        """
        device = self._compute.device
        weights = 1 / np.bincount(labels)[labels] if labels.ndim == 1 else np.ones(len(labels))
        self._weights = torch.from_numpy(weights.astype(np.float32)).to(device)
        self._images = torch.from_numpy(images).to(device)
        self._labels = torch.tensor(labels, device=device)
        if self.settings.features:
            parts = torch.split(self._images, _FEATURE_BATCH)
            features = [frozen_features(self.backbone, _to_signed(part)) for part in parts]
            self._features = torch.cat(features)
        prior = self.generator.prior
        if prior is not None:
            code = prior.find_components if self.settings.start_from is None else prior.project
            prior.fit(code(self._images, self._features), self._labels)
            self.ema_generator.get_submodule("prior").load_state_dict(prior.state_dict())

    def sample_inputs(self) -> StepInputs:
        """Sample all random numbers of the next step, on the device.

        They depend only on the seed and the number of the step. Returns the rows of the real
        images, int64 [B]; z, float32 [B, z_dim]; the shifts of the real images, and of the
        generated ones in the updates of the discriminator and of the generator, int64
        [3, 2, B, 1, 1]; and the decay of the moving average, float64 [].
        """
        settings = self.settings
        device = self._compute.device
        batch = settings.batch_size
        most = int(settings.image_size * _MAX_SHIFT + 0.5)

        def stream(purpose: str) -> torch.Generator:
            seed = derive_seed(settings.seed, "gan", purpose, self.step)
            return torch.Generator(device).manual_seed(seed)

        images = stream("real images")
        rows = torch.multinomial(self._weights, batch, replacement=True, generator=images)
        z = torch.randn(batch, settings.z_dim, generator=stream("noise"), device=device)
        shape = (3, 2, batch, 1, 1)
        augmentation = stream("augmentation")
        shifts = torch.randint(-most, most + 1, shape, generator=augmentation, device=device)
        # The half-life of the average is at most a twentieth of the images seen, so that it soon
        # forgets the initial weights (the EMA warm-up of StyleGAN2-ADA, arXiv:2006.06676).
        decay = 0.0
        if self._is_pca:
            half_life = min(_HALF_LIFE_IMAGES, _EMA_WARM_UP * (self.step + 1) * batch)
            decay = 0.5 ** (batch / half_life)
        return rows, z, shifts, torch.full((), decay, dtype=torch.float64, device=device)

    def update(self, step_inputs: StepInputs) -> Tensor:
        """Train one step; return the generator's and discriminator's losses, [2] on the device."""
        rows, z, shifts, decay = step_inputs
        images = _to_signed(self._images[rows])
        labels = self._labels[rows]
        half = len(images) // 2
        prior = self.generator.prior

        def discriminate(images: Tensor, shifts: Tensor) -> Tensor:
            if self._is_pca:
                images = translate(images, shifts)
            image_labels = torch.cat([labels] * (len(images) // len(labels)))
            with autocast(self._compute):
                logits: Tensor = self.discriminator(images, image_labels)
            return logits.float()

        with autocast(self._compute):
            codes = z
            if prior is not None:  # the codes of the real images make up the first half
                random_codes = prior(z[half:], labels[half:])
                codes = torch.cat([prior.codes[rows[:half]], random_codes])
            fake = self.generator.decode(codes, labels)
        fake = fake.float()

        detached = fake.detach()
        if self._is_pca:  # spectral norm allows one batch of both, which is faster
            logits_of_both = discriminate(
                torch.cat([images, detached]), torch.cat([*shifts[:2]], dim=1)
            )
            real_logits, fake_logits = logits_of_both.chunk(2)
            d_loss = F.relu(1 - real_logits).mean() + F.relu(1 + fake_logits).mean()
        else:  # batch norm needs separate statistics of real and of generated images
            real_logits = discriminate(images, shifts[0])
            fake_logits = discriminate(detached, shifts[1])
            d_loss = F.softplus(-real_logits).mean() + F.softplus(fake_logits).mean()
        _descend(self.parts["optimizer_d"], d_loss)

        self.discriminator.requires_grad_(False)  # its own gradients are not needed here
        logits = discriminate(fake, shifts[2])
        g_loss = -logits.mean() if self._is_pca else F.softplus(-logits).mean()
        if prior is not None:
            g_loss = g_loss + _RECONSTRUCTION_WEIGHT * F.l1_loss(fake[:half], images[:half])
        if self._features is not None:
            fake_features = frozen_features(self.backbone, fake[:half])
            error = F.mse_loss(fake_features, self._features[rows[:half]])
            g_loss = g_loss + _FEATURE_WEIGHT * error / self._features.var(dim=0).mean()
        _descend(self.parts["optimizer_g"], g_loss)
        self.discriminator.requires_grad_(True)

        # The average becomes decay * average + (1 - decay) * current.
        weight = (1 - decay).float()
        current = self.generator.state_dict()
        for name, average in self.ema_generator.state_dict().items():
            if average.is_floating_point():
                average.lerp_(current[name], weight)
            else:
                average.copy_(current[name])
        return torch.stack([g_loss.detach(), d_loss.detach()])


def _to_signed(pixels: Tensor) -> Tensor:
    """Return uint8 images as float32 in [-1, 1]."""
    return pixels.float() / 127.5 - 1


def _descend(optimizer: Optimizer, loss: Tensor) -> None:
    optimizer.zero_grad()
    loss.backward()  # type: ignore[no-untyped-call]
    optimizer.step()


def frozen_features(backbone: nn.Module, images: Tensor) -> Tensor:
    """Return the features, [n, D], of images, float32 [n, C, S, S] in [-1, 1], at 128 px.

    The images are resized by products with matrices, since the backward pass of `interpolate` would
    not be deterministic.
    """
    mean, std = pixel_constants(FEATURE_BACKBONE)
    image_format = InputFormat(image_size_px=_FEATURE_PX, mean=mean, std=std)
    side_px = images.shape[-1]
    unit = torch.eye(side_px, device=images.device)[None, None]
    shape = (_FEATURE_PX, side_px)
    resize = F.interpolate(unit, size=shape, mode="bilinear", antialias=side_px > _FEATURE_PX)
    resized = resize @ ((images[:, :1] + 1) / 2) @ resize.mT
    features: Tensor = backbone(normalise(resized, image_format))
    return features


def train_generator(
    settings: GanSettings,
    images: UInt8Array,
    labels: Int64Array,
    class_count: int,
    *,
    compute: Compute,
    folder: Path,
    report_every_steps: int = 25,
    checkpoint_every_steps: int = 250,
) -> Iterator[int]:
    """Train up to step `settings.steps`, from the checkpoint in a folder if there is one.

    Yields the number of steps so far. Images are uint8 [N, C, h, w], possibly memory-mapped, and
    are resized once; with C = 2, the second channel is a mask of 0 and 255. `labels` are int64 [N]
    in [0, class_count), with each class at least once; all classes are shown equally often. With
    findings, `labels` are [N, class_count]; a single finding, [N, 1], counts as two classes. At the
    end, `generator.safetensors` is written to the folder. The training waits for the device only at
    reports, and the interval of checkpoints is a multiple of the interval of reports.

    Raises:
        ArtifactError: The generator to start from has another network.
        TrialError: A loss or a weight is not finite.
    """
    images = resize_images(images, settings.image_size)
    training = GanTraining(settings, class_count, compute, images.shape[1])
    if settings.start_from:
        start = settings.start_from / NETWORK_FILE
        weights = load_generator(start).state_dict()
        fix = "give it the same settings of the network"
        with explain_unreadable("this generator has a different network", start, fix):
            training.generator.load_state_dict(weights)
            training.ema_generator.load_state_dict(weights)
    checkpoint = folder / CHECKPOINT_FILE
    if checkpoint.exists():
        _resume(training, checkpoint)
    training.fit(images, labels)
    update = with_cuda_graph(training.update, compute)

    while training.step < settings.steps:
        losses = torch.zeros(2, device=compute.device)
        count = report_every_steps - training.step % report_every_steps
        for _ in range(min(count, settings.steps - training.step)):
            losses += update(training.sample_inputs())
            training.step += 1
        # The last losses are from before the last update.
        weight_norm = get_total_norm(training.generator.parameters()).item()
        if not math.isfinite(weight_norm + losses.sum().item()):
            raise TrialError(
                f"the GAN diverged by step {training.step}: a loss or a weight is not finite",
                fix="lower gan.lr_g and gan.lr_d",
            )
        if training.step % checkpoint_every_steps == 0:
            _save(training, checkpoint)
        yield training.step
    _save(training, checkpoint)
    save_generator(training.ema_generator, folder / NETWORK_FILE)


def _save(training: GanTraining, checkpoint: Path) -> None:
    """Write the checkpoint, without random state, since a step's state follows from the seed."""
    parts = {name: part.state_dict() for name, part in training.parts.items()}
    save_content({"step": training.step, **parts}, checkpoint)


def _resume(training: GanTraining, checkpoint: Path) -> None:
    """Load the checkpoint into a new training; a damaged one leaves it at step 0."""
    try:
        with explain_unreadable("cannot read this checkpoint", checkpoint):
            content = load_content(checkpoint)
            for name in ("optimizer_g", "optimizer_d"):
                load_optimizer(training.parts[name], content[name])
            for name in ("generator", "discriminator", "ema_generator"):
                training.parts[name].load_state_dict(content[name])
            training.step = content["step"]
    except ArtifactError as error:
        _logger.warning("%s; training starts from scratch", error)
