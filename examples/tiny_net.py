"""A backbone, `backbone: tiny_net`: a network from images to features; its head and its training are xraytune's."""

from torch import Tensor, nn


class TinyNet(nn.Module):
    """Three convolutions, each half the side: float32 [B, 3, S, S] to features [B, 64]."""

    last_stage = "layers.4."
    """How the parameters begin that `trainable: last_stage` trains, with all after them; optional."""
    least_image_px = 32
    """The side of the smallest images that it takes; optional."""

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
        """The features."""
        features: Tensor = self.layers(images)
        return features
