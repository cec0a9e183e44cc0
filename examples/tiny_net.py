"""A backbone (`backbone: tiny_net`): a network from images to features. xraytune adds the head and trains it."""

from torch import Tensor, nn


class TinyNet(nn.Module):
    """Three stride-2 convolutions: float32 [B, 3, S, S] to features [B, 64]."""

    last_stage = "layers.4."
    """Optional: `trainable: last_stage` trains the parameters from the first one with this prefix on."""
    least_image_px = 32
    """Optional: the smallest supported image size."""

    def __init__(self) -> None:
        super().__init__()
        self.layers = nn.Sequential(
            nn.Conv2d(3, 16, kernel_size=3, stride=2, padding=1),
            nn.ReLU(),
            nn.Conv2d(16, 32, kernel_size=3, stride=2, padding=1),
            nn.ReLU(),
            nn.Conv2d(32, 64, kernel_size=3, stride=2, padding=1),
            nn.ReLU(),
            nn.AdaptiveAvgPool2d(1),
            nn.Flatten(),
        )

    def forward(self, images: Tensor) -> Tensor:
        """Return the features."""
        features: Tensor = self.layers(images)
        return features
