"""Compute what needs no gradient: the outputs of a network, and its batch norm statistics."""

from collections.abc import Callable, Iterable, Iterator
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from xraytune.base.arrays import Float32Array
from xraytune.base.errors import TrialError
from xraytune.base.records import Compute
from xraytune.nets.compute import autocast

_LEAST_SPREAD = 0.02
"""The least mean distance of features from their mean, relative to its length.

It is .5 for chest X-rays and a MobileNetV2, and .015 if the pixels have a 500th of their range.
"""
_BATCH_NORMS = (nn.BatchNorm1d, nn.BatchNorm2d, nn.BatchNorm3d)


def require_different(features: NDArray[np.floating[Any]], backbone: str) -> None:
    """Raise TrialError if the features of different images, [n, D], are nearly equal."""
    centre = features.mean(axis=0, dtype=np.float64)
    spread = np.linalg.norm(features - centre, axis=1).mean()
    if len(features) > 1 and spread < _LEAST_SPREAD * np.linalg.norm(centre):
        raise TrialError(
            "the features of different images are nearly equal",
            f"backbone: {backbone}",
            "for weights of pixels of another range, set pixel_mean and pixel_std",
        )


def autocast_images(inputs: Tensor, compute: Compute) -> torch.autocast:
    """Return a context for autocast of images; features, [B, D], stay in float32."""
    return autocast(compute, is_used=inputs.ndim == 4)


def outputs_of(
    network: nn.Module, batches: Iterable[Tensor], *, compute: Compute
) -> Iterator[Tensor]:
    """Yield the outputs of a network in eval mode, float32 [B, ...], on the device."""
    was_training = network.training
    network.eval()
    # Batches are read outside inference mode, since they may be trained on later.
    for inputs in batches:
        with torch.inference_mode(), autocast_images(inputs, compute):
            outputs = network(inputs).float()
        yield outputs
    network.train(was_training)


def predict_logits(
    network: nn.Module, batches: Iterable[Tensor], *, compute: Compute
) -> Float32Array:
    """Return the outputs of a network in eval mode, float32 [N, ...], N >= 1."""
    outputs = [*outputs_of(network, batches, compute=compute)]
    logits: Float32Array = torch.cat(outputs).cpu().numpy()
    return logits


@torch.no_grad()
def estimate_batch_norms(
    network: nn.Module, batches: Callable[[], Iterable[Tensor]], *, compute: Compute
) -> None:
    """Replace the running statistics of batch norms in train mode by their means over the batches.

    Moving averages lag behind the weights in a short training, and the lag differs between arms.
    Each batch [B, C, S, S] must be a sample of all images, since layers normalise it by its own
    statistics; B is at least 2, and similar for all batches. `batches` is not called without a
    batch norm in train mode.

    From: Ioffe & Szegedy 2015 (arXiv:1502.03167), section 3.1; `torch.optim.swa_utils.update_bn`
        would reset frozen batch norms, too.
    """
    momenta = {
        module: module.momentum
        for module in network.modules()
        if isinstance(module, _BATCH_NORMS) and module.training and module.track_running_stats
    }
    network.eval()
    for norm in momenta:
        norm.train()
        norm.reset_running_stats()
    for number, images in enumerate(batches() if momenta else (), start=1):
        for norm in momenta:
            # This gives the cumulative mean; with None, each norm would wait for the device.
            norm.momentum = 1 / number
        with autocast(compute):
            network(images)
    for norm, momentum in momenta.items():
        norm.momentum = momentum
    network.train()
