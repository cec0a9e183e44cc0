"""The DCGAN: a generator and a discriminator for grey images of 32, 64, 128 or 256 px; several classes are told apart.

Each halving of the image's side has one convolution, and doubles the feature maps; so both networks follow from
`image_size` and `width`. With `spectral_norm: false` and one class they are those of PyTorch's DCGAN tutorial.

Sources: Radford et al. 2016 (layers, initial weights); Miyato et al. 2018, "Spectral Normalization for GANs";
Miyato & Koyama 2018, "cGANs with Projection Discriminator".
"""

from __future__ import annotations

from itertools import pairwise

import torch
from torch import Tensor, nn
from torch.nn import functional
from torch.nn.utils.parametrizations import spectral_norm

from xraytune.config.settings import GanSettings

_SMALLEST_MAP_PX = 4
_CLASS_WIDTH = 64
_INITIAL_STANDARD_DEVIATION = 0.02


class Generator(nn.Module):
    """Draws images from noise: z [B, z_dim] and labels [B] int64 to float [B, 1, S, S] in [-1, 1].

    With several classes, a learned vector for each scales and shifts the maps after every batch norm. Beside z, as
    further noise, it would drown z: the first layer's maps then differ more between the classes than between images,
    and a class's images all come out alike. With one class, labels are not looked at.
    """

    def __init__(self, settings: GanSettings, class_count: int) -> None:
        super().__init__()
        self.settings = settings
        self.class_count = class_count
        widths = _feature_maps(settings)[::-1]
        self.seed_layer = nn.ConvTranspose2d(settings.z_dim, widths[0], _SMALLEST_MAP_PX, bias=False)
        self.norms = nn.ModuleList(nn.BatchNorm2d(width) for width in widths)
        self.class_affines = nn.ModuleList(ClassAffine(width, class_count) for width in widths if class_count > 1)
        self.doublings = nn.ModuleList(
            nn.ConvTranspose2d(width, next_width, kernel_size=4, stride=2, padding=1, bias=False)
            for width, next_width in pairwise([*widths, 1])
        )
        self.apply(_set_initial_weights)

    def forward(self, z: Tensor, labels: Tensor) -> Tensor:
        """Images for noise z [B, z_dim] and labels [B]."""
        maps: Tensor = self.seed_layer(z[:, :, None, None])
        for level, (norm, doubling) in enumerate(zip(self.norms, self.doublings, strict=True)):
            maps = norm(maps)
            if self.class_count > 1:
                maps = self.class_affines[level](maps, labels)
            maps = doubling(functional.relu(maps, inplace=True))
        return maps.tanh()


class ClassAffine(nn.Module):
    """A gain and a bias for each class and map: with the batch norm before it, conditional batch norm.

    They are linear in class vectors of `_CLASS_WIDTH` numbers rather than learned one by one: at a GAN's learning
    rate a gain of its own would need thousands of steps to leave 1.

    Sources: de Vries et al. 2017, "Modulating early visual processing by language"; linear in a class vector as in
    Brock et al. 2019 (BigGAN).
    """

    def __init__(self, width: int, class_count: int) -> None:
        super().__init__()
        self.class_vectors = nn.Embedding(class_count, _CLASS_WIDTH)
        self.gains = nn.Linear(_CLASS_WIDTH, width, bias=False)
        self.biases = nn.Linear(_CLASS_WIDTH, width, bias=False)

    def forward(self, maps: Tensor, labels: Tensor) -> Tensor:
        """Maps [B, width, h, w] of labels [B], scaled by 1 + gain, plus bias."""
        vectors = self.class_vectors(labels)
        gains, biases = 1 + self.gains(vectors), self.biases(vectors)
        return torch.addcmul(biases[:, :, None, None].to(maps.dtype), maps, gains[:, :, None, None].to(maps.dtype))


class Discriminator(nn.Module):
    """Judges images: float [B, 1, S, S] in [-1, 1] and labels [B] int64 to logits [B], high for real ones.

    With several classes a projection adds the inner product of a class vector and the summed last features.
    """

    def __init__(self, settings: GanSettings, class_count: int) -> None:
        super().__init__()
        widths = _feature_maps(settings)
        # Batch norm would undo the Lipschitz bound that spectral norm gives, so there is one or the other.
        norm = nn.Identity if settings.spectral_norm else nn.BatchNorm2d
        has_bias = settings.spectral_norm
        layers: list[nn.Module] = [_halving(1, widths[0], has_bias), nn.LeakyReLU(0.2, inplace=True)]
        for width, next_width in pairwise(widths):
            layers += [_halving(width, next_width, has_bias), norm(next_width), nn.LeakyReLU(0.2, inplace=True)]
        self.features = nn.Sequential(*layers)
        self.verdict = nn.Conv2d(widths[-1], 1, _SMALLEST_MAP_PX, bias=has_bias)
        self.class_vectors = nn.Embedding(class_count, widths[-1]) if class_count > 1 else None
        self.apply(_set_initial_weights)
        if self.class_vectors is not None:
            nn.init.normal_(self.class_vectors.weight, 0.0, _INITIAL_STANDARD_DEVIATION)
        if settings.spectral_norm:
            _normalise_spectra(self)

    def forward(self, images: Tensor, labels: Tensor) -> Tensor:
        """Logits for images [B, 1, S, S] with labels [B]."""
        features: Tensor = self.features(images)
        logits: Tensor = self.verdict(features).flatten()
        if self.class_vectors is not None:
            logits = logits + (self.class_vectors(labels) * features.sum(dim=(2, 3))).sum(dim=1)
        return logits


def _feature_maps(settings: GanSettings) -> list[int]:
    """Feature maps from the image's side down to 4 px: at 64 px and width 64 they are 64, 128, 256, 512."""
    halvings = (settings.image_size // _SMALLEST_MAP_PX).bit_length() - 1
    return [settings.width * 2**level for level in range(halvings)]


def _halving(width: int, next_width: int, has_bias: bool) -> nn.Conv2d:
    return nn.Conv2d(width, next_width, kernel_size=4, stride=2, padding=1, bias=has_bias)


def _set_initial_weights(module: nn.Module) -> None:
    """Weights from N(0, 0.02), batch norm's gain from N(1, 0.02), biases 0 (Radford et al. 2016; the tutorial)."""
    if isinstance(module, nn.Conv2d | nn.ConvTranspose2d | nn.Linear):
        nn.init.normal_(module.weight, 0.0, _INITIAL_STANDARD_DEVIATION)
        if module.bias is not None:
            nn.init.zeros_(module.bias)
    elif isinstance(module, nn.BatchNorm2d):
        nn.init.normal_(module.weight, 1.0, _INITIAL_STANDARD_DEVIATION)
        nn.init.zeros_(module.bias)


def _normalise_spectra(network: nn.Module) -> None:
    for module in list(network.modules()):
        if isinstance(module, nn.Conv2d | nn.Embedding):
            spectral_norm(module)


_WARM_UP_SHARE = 0.05


def ema_decay(half_life_images: int | None, images_seen: int, batch_size: int) -> float:
    """What share of the average survives a step; 0 without a half-life: the average is then the last weights.

    The half-life is at most a twentieth of the images seen, so the average forgets the initial weights, and a short
    run has a useful one as well.
    """
    if half_life_images is None:
        return 0.0
    half_life = min(float(half_life_images), _WARM_UP_SHARE * images_seen)
    return float(0.5 ** (batch_size / half_life))


@torch.no_grad()
def update_ema(average: nn.Module, current: nn.Module, decay: Tensor) -> None:
    """Move every number of `average`, parameters and buffers, to decay * average + (1 - decay) * current.

    Args:
        average: Is changed.
        current: A network of the same kind.
        decay: float64 [], on their device.
    """
    share = (1 - decay).float()
    for averaged, latest in zip(average.state_dict().values(), current.state_dict().values(), strict=True):
        if averaged.is_floating_point():
            averaged.lerp_(latest, share)
        else:
            averaged.copy_(latest)
