"""Validation images with what a trial's network makes of them: Grad-CAM maps of a classifier, masks of a segmenter."""

from __future__ import annotations

import io
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from numpy.typing import NDArray
from PIL import Image
from torch import Tensor, nn

from xraytune.config.settings import Experiment
from xraytune.data.masks import outlined
from xraytune.errors import ArtifactError
from xraytune.metrics.classification import Floats
from xraytune.models.checkpoint import load_best
from xraytune.models.classifier import Classifier
from xraytune.models.inputs import normalise
from xraytune.models.segmenter import MASK_THRESHOLD, mask_probabilities
from xraytune.pipeline.context import RunContext
from xraytune.pipeline.network import Network
from xraytune.pipeline.prepare import Prepared
from xraytune.pipeline.training_set import ImageSource, side_images
from xraytune.records import Compute

_SHOWN_PX = 224
_ORANGE = np.array([255, 140, 0])
_OPACITY = 0.6
_CPU = Compute(device="cpu", threads=1, precision="float32")


def grad_cam(
    experiment: Experiment, trial_dir: Path, prepared: Prepared, places: NDArray[np.int64], *, cache: Path
) -> tuple[NDArray[np.uint8], Floats]:
    """Return images of val-B, uint8 [n, S, S], and what speaks for their predicted class, float64 [n, S, S] in [0, 1].

    Args:
        experiment: The trial's.
        trial_dir: Its folder, with the best network.
        prepared: The study's images.
        places: Positions of the images in val-B, [n].
        cache: The artifact cache.

    Raises:
        MachineError: The backbone's weights are missing.
        ArtifactError: The decoded images or the trial's network are missing.

    Source: Selvaraju et al. 2017, "Grad-CAM: Visual Explanations from Deep Networks via Gradient-based Localization".
    """
    network, chosen = _network(experiment, prepared, places, cache)
    whole = network.whole
    assert isinstance(whole, Classifier), "only a classifier has classes"
    load_best(trial_dir / "checkpoint", whole.head if network.has_cached_features else whole)
    whole.eval().requires_grad_(False)
    maps = _maps(whole, normalise(network.scaled(chosen, slice(None)), network.form).requires_grad_())
    pixels = chosen.read(slice(None))
    maps = F.interpolate(maps, size=pixels.shape[1:], mode="bilinear", align_corners=False)[:, 0]
    return pixels, maps.double().numpy()


def segmented(
    experiment: Experiment, trial_dir: Path, prepared: Prepared, places: NDArray[np.int64], *, cache: Path
) -> tuple[NDArray[np.uint8], NDArray[np.uint8], NDArray[np.bool_]]:
    """Return images of val-B, their masks (0 or 255) and the predicted masks, each [n, S, S]; see `grad_cam`."""
    network, chosen = _network(experiment, prepared, places, cache)
    load_best(trial_dir / "checkpoint", network.whole)
    batches = [normalise(network.scaled(chosen, slice(None)), network.form)]
    found = mask_probabilities(network.whole, batches, compute=_CPU, error=ArtifactError, where=trial_dir)
    return chosen.read(slice(None)), chosen.read_masks(slice(None)), found > MASK_THRESHOLD


def _network(
    experiment: Experiment, prepared: Prepared, places: NDArray[np.int64], cache: Path
) -> tuple[Network, ImageSource]:
    source = side_images("val_b", prepared, cache)
    chosen = replace(source, rows=source.rows[places], labels=source.labels[places])
    return Network(experiment, RunContext(prepared=prepared, cache=cache, compute=_CPU)), chosen


def _maps(network: Classifier, inputs: Tensor) -> Tensor:
    """Return the maps at the resolution of the backbone's last feature maps, float32 [n, 1, h, w]."""
    found: list[Tensor] = []

    def keep(_: nn.Module, __: Any, output: Any) -> None:
        if isinstance(output, Tensor) and output.ndim == 4 and min(output.shape[2:]) > 1:
            found[:] = [output]

    hooks = [module.register_forward_hook(keep) for module in network.backbone.modules()]
    logits = network(inputs)
    for hook in hooks:
        hook.remove()
    (features,) = found
    (gradient,) = torch.autograd.grad(logits.max(dim=1).values.sum(), features)
    maps = F.relu((gradient.mean(dim=(2, 3), keepdim=True) * features.detach()).sum(dim=1, keepdim=True))
    return maps / maps.amax(dim=(1, 2, 3), keepdim=True).clamp(min=1e-12)


def overlay(pixels: NDArray[np.uint8], saliency: Floats) -> bytes:
    """Return a JPEG of an image, uint8 [S, S], on the left, and with its map, float64 [S, S], in orange, on the right."""
    grey = np.repeat(pixels[:, :, None].astype(float), 3, axis=2)
    share = _OPACITY * saliency[:, :, None]
    return _jpeg_of_pair(grey, grey * (1 - share) + _ORANGE * share)


def outlines(pixels: NDArray[np.uint8], true: NDArray[np.uint8], predicted: NDArray[np.bool_]) -> bytes:
    """Return a JPEG of an image, [S, S], with the outline of its mask on the left, and of the predicted one on the right."""
    return _jpeg_of_pair(outlined(pixels, true), outlined(pixels, predicted))


def _jpeg_of_pair(left: NDArray[Any], right: NDArray[Any]) -> bytes:
    pair, content = np.concatenate([left, right], axis=1).round().astype(np.uint8), io.BytesIO()
    resized = Image.fromarray(pair).resize((2 * _SHOWN_PX, _SHOWN_PX), Image.Resampling.BICUBIC)
    resized.save(content, "jpeg", quality=85)
    return content.getvalue()
