"""The generator that samples: a moving average of the one that trains, which jumps about from step to step.

Its half-life is counted in images, so it means the same at every batch size. Batch norm's running statistics are
averaged with the weights that they belong to.

Source: Karras et al. 2020, "Analyzing and Improving the Image Quality of StyleGAN"; half-life and warm-up in images as
in Karras et al. 2020, "Training Generative Adversarial Networks with Limited Data".
"""

from __future__ import annotations

import torch
from torch import Tensor, nn

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
