"""DCGAN generator and discriminator for grey images of 32, 64, 128 or 256 px.

With several classes, both networks are class-conditional. Each convolution halves or doubles the
side and doubles or halves the feature maps, so `image_size` and `width` define both networks. With
one class and `architecture: dcgan`, both are the networks of PyTorch's DCGAN tutorial, with one
colour channel. A GAN of pairs has two channels: the image, and its mask with -1 outside and 1
inside.

From: Radford et al. 2016, DCGAN (arXiv:1511.06434); Miyato et al. 2018, spectral normalisation
(arXiv:1802.05957); Miyato & Koyama 2018, projection discriminator (arXiv:1802.05637).
"""

from itertools import pairwise

import torch
from torch import Tensor, nn
from torch.nn import functional as F
from torch.nn.utils.parametrizations import spectral_norm

from xraytune.space.source_settings import GanSettings
from xraytune.synth.codes import ClassCodes

_STEM_PX = 4
_CLASS_EMBEDDING_DIM = 64
_INITIAL_STD = 0.02


class _LabelEmbedding(nn.Embedding):
    """An embedding of classes, int64 [B], or findings, [B, C].

    The embedding of findings is the sum of the embeddings of the findings that are present. There
    may be more classes than findings.
    """

    def forward(self, labels: Tensor) -> Tensor:
        """Return the embeddings, [B, D]."""
        if labels.ndim == 1:
            return super().forward(labels)
        return (labels == 1).to(self.weight.dtype) @ self.weight[: labels.shape[1]]


class Generator(nn.Module):
    """Map z [B, z_dim] and labels to images, float [B, channels, S, S] in [-1, 1].

    Labels are int64 [B], or findings [B, C].

    The class enters by conditional batch norm only. If it were concatenated to z, it would dominate
    z, and all images of a class would look the same. With one class, labels are ignored. With
    `architecture: pca`, `prior` maps z to codes. In evaluation mode, an image is a deterministic
    function of its own z and label.

    Attributes:
        channels: 1 for images, or 2 for images with masks, with -1 outside and 1 inside the mask.
    """

    def __init__(self, settings: GanSettings, class_count: int, channels: int = 1) -> None:
        super().__init__()
        self.settings = settings
        self.class_count = class_count
        self.channels = channels
        widths = _widths(settings)[::-1]
        self.stem = nn.ConvTranspose2d(settings.z_dim, widths[0], _STEM_PX, bias=False)
        self.norms = nn.ModuleList(nn.BatchNorm2d(width) for width in widths)
        self.class_affines = nn.ModuleList(
            _ClassAffine(width, class_count) for width in widths if class_count > 1
        )
        self.upsamples = nn.ModuleList(
            nn.ConvTranspose2d(width, next_width, kernel_size=4, stride=2, padding=1, bias=False)
            for width, next_width in pairwise([*widths, channels])
        )
        self.apply(_init_weights)
        self.prior: ClassCodes | None = None
        if settings.architecture == "pca":
            self.prior = ClassCodes(class_count, settings.z_dim)

    def forward(self, z: Tensor, labels: Tensor) -> Tensor:
        """Generate images for z [B, z_dim] and labels [B]."""
        return self.decode(z if self.prior is None else self.prior(z, labels), labels)

    def decode(self, codes: Tensor, labels: Tensor) -> Tensor:
        """Generate images for codes [B, z_dim] and labels [B]."""
        x: Tensor = self.stem(codes[:, :, None, None])
        for level, (norm, upsample) in enumerate(zip(self.norms, self.upsamples, strict=True)):
            x = norm(x)
            if self.class_count > 1:
                x = self.class_affines[level](x, labels)
            x = upsample(F.relu(x, inplace=True))
        return x.tanh()


class _ClassAffine(nn.Module):
    """A gain and a bias for each class and feature map; after a batch norm, it is conditional.

    Gain and bias are linear in a class embedding, as in BigGAN (Brock et al. 2019,
    arXiv:1809.11096). At a GAN's learning rate, gains learned one by one (de Vries et al. 2017,
    arXiv:1707.00683) would need thousands of steps to leave 1.
    """

    def __init__(self, width: int, class_count: int) -> None:
        super().__init__()
        self.embedding = _LabelEmbedding(class_count, _CLASS_EMBEDDING_DIM)
        self.gain = nn.Linear(_CLASS_EMBEDDING_DIM, width, bias=False)
        self.bias = nn.Linear(_CLASS_EMBEDDING_DIM, width, bias=False)

    def forward(self, x: Tensor, labels: Tensor) -> Tensor:
        """Scale x [B, width, h, w] by 1 + gain and add the bias of its label."""
        embedded = self.embedding(labels)
        gain = (1 + self.gain(embedded))[:, :, None, None].to(x.dtype)
        bias = self.bias(embedded)[:, :, None, None].to(x.dtype)
        return torch.addcmul(bias, x, gain)


class Discriminator(nn.Module):
    """Map images, float [B, channels, S, S] in [-1, 1], and labels [B] to logits [B].

    Logits are high for real images.

    With several classes, a projection adds the inner product of a class embedding and the summed
    last features.
    """

    def __init__(self, settings: GanSettings, class_count: int, channels: int = 1) -> None:
        super().__init__()
        widths = _widths(settings)
        # Batch norm would break the Lipschitz bound of spectral norm, so only one of them is used.
        has_spectral_norm = settings.architecture == "pca"
        norm = nn.Identity if has_spectral_norm else nn.BatchNorm2d
        layers: list[nn.Module] = []
        for width, next_width in pairwise([channels, *widths]):
            layers.append(
                nn.Conv2d(
                    width, next_width, kernel_size=4, stride=2, padding=1, bias=has_spectral_norm
                )
            )
            if width > channels:
                layers.append(norm(next_width))
            layers.append(nn.LeakyReLU(0.2, inplace=True))
        self.features = nn.Sequential(*layers)
        self.head = nn.Conv2d(widths[-1], 1, _STEM_PX, bias=has_spectral_norm)
        self.class_embedding = _LabelEmbedding(class_count, widths[-1]) if class_count > 1 else None
        self.apply(_init_weights)
        if self.class_embedding is not None:
            nn.init.normal_(self.class_embedding.weight, 0.0, _INITIAL_STD)
        if has_spectral_norm:
            for module in [*self.modules()]:
                if isinstance(module, nn.Conv2d | nn.Embedding):
                    spectral_norm(module)

    def forward(self, images: Tensor, labels: Tensor) -> Tensor:
        """Compute the logits of images [B, channels, S, S] with labels [B]."""
        features: Tensor = self.features(images)
        logits: Tensor = self.head(features).flatten()
        if self.class_embedding is not None:
            logits = logits + (self.class_embedding(labels) * features.sum(dim=(2, 3))).sum(dim=1)
        return logits


def _widths(settings: GanSettings) -> list[int]:
    """Return the number of feature maps at each level, from the image down to 4 px.

    For 64 px and width 64, the numbers are 64, 128, 256 and 512.
    """
    levels = (settings.image_size // _STEM_PX).bit_length() - 1
    return [settings.width * 2**level for level in range(levels)]


def _init_weights(module: nn.Module) -> None:
    """Sample weights from N(0, 0.02) and batch norm gains from N(1, 0.02), and set biases to 0.

    These are the initial values of the DCGAN paper.
    """
    if isinstance(module, nn.Conv2d | nn.ConvTranspose2d | nn.Linear | nn.BatchNorm2d):
        nn.init.normal_(module.weight, float(isinstance(module, nn.BatchNorm2d)), _INITIAL_STD)
        if module.bias is not None:
            nn.init.zeros_(module.bias)
