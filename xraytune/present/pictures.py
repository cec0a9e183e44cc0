"""Validation images with what a network makes of them: Grad-CAM maps, or masks.

Grad-CAM shows the regions of an image that support the predicted class. Source: Selvaraju et al.
2017, "Grad-CAM: Visual Explanations from Deep Networks via Gradient-based Localization".
"""

from __future__ import annotations

import io
from pathlib import Path
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from numpy.typing import NDArray
from PIL import Image
from torch import Tensor, nn

from xraytune.base.errors import ConfigError, Problem
from xraytune.base.records import Compute
from xraytune.data.masks import outlined
from xraytune.data.prepare import Prepared, RunContext, side_images
from xraytune.nets.augment import MASK_THRESHOLD
from xraytune.nets.checkpoint import load_best
from xraytune.nets.classifier import Classifier
from xraytune.nets.inputs import normalise
from xraytune.space.settings import Experiment
from xraytune.stats.classification import Floats
from xraytune.trial.network import Network

_CPU = Compute(device="cpu", threads=1, precision="float32")
_SHOWN_PX = 224
_ORANGE = np.array([255, 140, 0])
_OPACITY = 0.6


def explain_images(
    experiment: Experiment,
    trial_dir: Path,
    prepared: Prepared,
    places: NDArray[np.int64],
    *,
    cache: Path,
) -> list[bytes]:
    """Return pictures of a trial's images at these places in val-B, [n], as JPEG files.

    See `grad_cam`.

    Raises:
        MachineError: The backbone's weights are missing.
        ArtifactError: The decoded images or the trial's network are missing.
        ConfigError: The backbone has no feature maps.
    """
    images = side_images("val_b", prepared, cache)
    network = Network(experiment, RunContext(prepared=prepared, cache=cache, compute=_CPU))
    whole = network.whole
    pixels = images.read(places)
    inputs = normalise(network.scaled(images, places), network.form)
    if isinstance(whole, Classifier):
        load_best(trial_dir / "checkpoint", whole.head if network.has_cached_features else whole)
        whole.eval().requires_grad_(False)
        return [*map(_overlay, pixels, grad_cam(whole, inputs))]
    load_best(trial_dir / "checkpoint", whole)
    predicted = network.task.predict_probabilities(whole, [inputs], compute=_CPU, where=trial_dir)
    return [
        *map(
            _jpeg_of_pair,
            outlined(pixels, images.read_masks(places)),
            outlined(pixels, predicted > MASK_THRESHOLD),
        )
    ]


def grad_cam(network: Classifier, inputs: Tensor) -> Floats:
    """Return Grad-CAM maps of the predicted classes, float64 [n, S, S] in [0, 1], of [n, C, S, S].

    The network must be in eval mode, and its parameters must not require gradients. Raises
    ConfigError if the backbone, such as a ViT, has no feature maps.
    """
    last_maps: list[Tensor] = []

    def keep(_: nn.Module, __: Any, output: Any) -> None:
        if isinstance(output, Tensor) and output.ndim == 4 and min(output.shape[2:]) > 1:
            last_maps[:] = [output]

    hooks = [module.register_forward_hook(keep) for module in network.backbone.modules()]
    logits = network(inputs.requires_grad_())
    for hook in hooks:
        hook.remove()
    if not last_maps:
        what = "Grad-CAM needs feature maps, which this backbone does not have"
        raise ConfigError(Problem(what, fix="leave out Grad-CAM"))
    (gradient,) = torch.autograd.grad(logits.max(dim=1).values.sum(), last_maps)
    maps = F.relu(
        (gradient.mean(dim=(2, 3), keepdim=True) * last_maps[0].detach()).sum(dim=1, keepdim=True)
    )
    maps = maps / maps.amax(dim=(1, 2, 3), keepdim=True).clamp(min=1e-12)
    maps = F.interpolate(maps, size=inputs.shape[2:], mode="bilinear", align_corners=False)[:, 0]
    saliency: Floats = maps.double().cpu().numpy()
    return saliency


def _overlay(pixels: NDArray[np.uint8], saliency: Floats) -> bytes:
    """Return a JPEG: an image, uint8 [S, S], and the same with its map, [S, S], in orange."""
    grey = np.repeat(pixels[:, :, None].astype(float), 3, axis=2)
    share = _OPACITY * saliency[:, :, None]
    return _jpeg_of_pair(grey, grey * (1 - share) + _ORANGE * share)


def _jpeg_of_pair(left: NDArray[Any], right: NDArray[Any]) -> bytes:
    """Return a JPEG of two pictures side by side, [S, S, 3] of 0 to 255."""
    pair = np.concatenate([left, right], axis=1).round().astype(np.uint8)
    content = io.BytesIO()
    resized = Image.fromarray(pair).resize((2 * _SHOWN_PX, _SHOWN_PX), Image.Resampling.BICUBIC)
    resized.save(content, "jpeg", quality=85)
    return content.getvalue()
