"""mixup and cutmix: images of a step are blended in pairs, and their labels with them.

The pairs and the share are random numbers of the step, drawn before it, so that a resumed training
and a captured step blend the same. Any two images of a step may be a pair, also a real and an extra
one. Each keeps the larger share of its own, so that `synthetic_weight` weighs what it says.

Sources: Zhang et al. 2018, "mixup" (arXiv:1710.09412); Yun et al. 2019, "CutMix"
(arXiv:1905.04899). That the larger share stays is of Berthelot et al. 2019, "MixMatch"
(arXiv:1905.02249), equation 9.
"""

from collections.abc import Iterable
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.nn.functional import one_hot

from xraytune.base.seeding import numpy_generator
from xraytune.space.settings import Parameters

BLENDED = 3
"""How many of a step's draws are for `blend`."""
_UNKNOWN = -1
"""The state of an unknown finding."""


def draw_pairs(
    steps: Iterable[int], images_per_step: int, parameters: Parameters, seed: int
) -> list[NDArray[Any]]:
    """Return what `blend` needs for steps of one shape.

    The partner of each image, int64 [steps, B]; the share of its own, float32 [steps, 1]; and the
    corners of the rectangle that comes from the partner, as shares of a side, float32 [steps, 4]:
    top, left, bottom, right. It is empty for mixup.
    """
    partners, shares, boxes = [], [], []
    alphas = {"mixup": parameters.mixup, "cutmix": parameters.cutmix}
    kinds = [name for name, alpha in alphas.items() if alpha]
    for step in steps:
        generator = numpy_generator(seed, "blending", step)
        kind = kinds[generator.integers(len(kinds))]
        share = generator.beta(alphas[kind], alphas[kind])
        share = max(share, 1 - share)
        partners.append(generator.permutation(images_per_step))
        half = np.sqrt(1 - share) / 2 if kind == "cutmix" else 0.0
        centre = generator.random(2)
        box = np.clip([*(centre - half), *(centre + half)], 0, 1)
        boxes.append(box)
        shares.append([share])
    return [
        np.stack(partners),
        np.array(shares, dtype=np.float32),
        np.array(boxes, dtype=np.float32),
    ]


def blend(
    inputs: Tensor, targets: Tensor, draws: tuple[Tensor, ...], *, class_count: int
) -> tuple[Tensor, Tensor]:
    """Return blended inputs, [B, ...], and their targets as probabilities.

    Targets are labels, int64 [B], findings or probabilities, [B, C], or masks, [B, 1, S, S]. A
    finding that is unknown for either image of a pair is unknown.
    """
    partner, share, box = draws
    if targets.ndim == 1:
        targets = one_hot(targets, class_count)
    targets = targets.to(torch.float32)
    others = targets[partner]
    is_unknown = (targets == _UNKNOWN) | (others == _UNKNOWN)
    top, left, bottom, right = box.unbind(dim=-1)
    is_cut = bottom > top
    if inputs.ndim == 4:
        side = inputs.shape[-1]
        centres = (torch.arange(side, device=inputs.device) + 0.5) / side
        rows = (centres >= top) & (centres < bottom)
        columns = (centres >= left) & (centres < right)
        is_others = (rows[:, None] & columns[None, :]).to(inputs.dtype)
        # Of cutmix, the share of the labels is that of the pixels.
        share = torch.where(is_cut, 1 - is_others.mean(), share)
        own = torch.where(is_cut, 1 - is_others, share.expand_as(is_others))
        if targets.ndim == 4:
            return torch.lerp(inputs[partner], inputs, own), torch.lerp(others, targets, own)
        inputs = torch.lerp(inputs[partner], inputs, own)
    else:
        inputs = torch.lerp(inputs[partner], inputs, share)
    mixed = torch.lerp(others, targets, share)
    return inputs, torch.where(is_unknown, torch.full_like(mixed, _UNKNOWN), mixed)
